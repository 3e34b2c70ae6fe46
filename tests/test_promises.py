"""What a run promises of its numbers: which rows they rest on, which training they are of, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stage
from safetensors.numpy import load_file
from stage import CALIBRATION
from world import Said, once, refused, small, tell

import frostline
from frostline import plan as plans
from frostline.bench.bench import Source
from frostline.bench.curve import probe_cuts
from frostline.errors import OptionError
from frostline.run import course, entrants, terms
from frostline.run.comparisons import exhaustive_seconds
from frostline.settings import settings

EPOCHS = 4  # two in the last rung


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def weights_of(folder: Path) -> dict[str, Any]:
    return {name: tensor.tobytes() for name, tensor in load_file(folder / "model" / "model.safetensors").items()}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Where a test writes a plan for the network of `trained`."""
    return tmp_path / "plan.json"


def trained(place: Path, out: Path, plan: Path, *more: object, data: str = "parted") -> Said:
    return tell("train", place / data, *small(place), "--plan", plan, "--out", out, *more)


@pytest.fixture(scope="module")
def quick(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run whose last rung is shorter than a full training, with a test folder."""

    def make(folder: Path) -> Path:
        words = (place / "parted", *small(place), "--effort", "quick", "--epochs", EPOCHS, "--out", folder / "run")
        said = tell("find", *words)
        assert said.code == 0, said.err
        return folder / "run"

    return once(tmp_path_factory, "quick", make)


def test_a_quick_run_scores_the_model_that_it_hands_back_on_the_test_folder(quick: Path) -> None:
    summary = summary_of(quick)
    assert summary["score"]["kind"] == "held_out"
    assert summary["score"]["n"] == summary["data"]["certification"] == 36
    for name in ("scratch", "linear_probe", "full_finetune"):
        assert summary["baselines"][name]["certified"] is not None, name
    at = {arm["id"]: arm["certified"] for arm in summary["arms"] if arm["certified"] is not None}
    assert summary["decision"]["arm"] in at  # of the others, no full training was made
    assert all(found["low"] <= found["mean"] <= found["high"] for found in at.values())


def test_every_stage_is_one_of_the_contract(quick: Path) -> None:
    summary = summary_of(quick)
    stages = {arm["stage"] for arm in (*summary["arms"], *summary["baselines"].values())}
    assert stages <= {"dropped@1", "dropped@2", "finalist", "probe"}


def test_the_sweep_beside_the_search_has_every_cut_three_rates_and_three_seeds(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path)
    race = terms.entered(bench, {"": probe_cuts(bench)})
    recipe = replace(entrants.base_recipe(bench), epochs=race.schedule.epochs)
    once = sum(
        terms.cost_of(bench, plans.plan(bench.anatomy.layers, recipe, freeze=depth), stored=frozenset()).training
        for depth in plans.legal_depths(bench.anatomy.layers)
    )
    assert exhaustive_seconds(bench, race) == pytest.approx(9 * once)


def test_a_run_goes_on_with_the_schedule_that_its_budget_afforded(place: Path, tmp_path: Path) -> None:
    """More workers would afford more, and then one arm's trainings of two lengths would be taken for the same."""
    given = {"data": str(place / "data"), "backbone": small(tmp_path)[1], "weights": "none"}
    given |= {"threads": 1, "workers": 1, "precision": "fp32"}
    with course.begun(settings({**given, "budget": 20.0, "out": str(tmp_path / "run")})) as run:
        bench = replace(course.laid(run, Source()), calibration=replace(CALIBRATION, forward=(1e-5,) * 2,
                        backward=(2e-5,) * 2, carry=(1e-5,) * 2, decode=0.0))  # fmt: skip
        evidence = probe_cuts(bench)
        first = course.entered(bench, {"": evidence}, run).schedule
        faster = replace(bench, workers=4)
        assert terms.afforded(faster, entrants.proposed(faster, evidence)) != first
        assert course.entered(faster, {"": evidence}, run).schedule == first


@pytest.mark.parametrize(
    ("file", "content"), [("data.jsonl", "[1, 2]\n3\n"), ("set/dataset_dict.json", "[]"), ("set/state.json", "[1]")]
)
def test_files_of_a_strange_shape_are_refused_and_leave_nothing(file: str, content: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    source = tmp_path / file.partition("/")[0]
    refused(tell("find", source, *small(tmp_path), "--out", tmp_path / "run"), str(source))
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_the_wrong_kind_is_refused(tmp_path: Path, place: Path) -> None:
    (tmp_path / "net").mkdir()
    card = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "hidden_sizes": "wide"}
    (tmp_path / "net" / "config.json").write_text(json.dumps(card))
    said = tell("find", place / "data", "--backbone", f"hf/{tmp_path / 'net'}", "--out", tmp_path / "run")
    refused(said, "no classifier of pictures, texts or recordings")
    assert not (tmp_path / "run").exists()


def test_the_data_are_missed_before_a_network_is_loaded(tmp_path: Path) -> None:
    said = tell("find", tmp_path / "absent", *small(tmp_path), "--out", tmp_path / "run")
    refused(said, "absent does not exist")
    assert "layers" not in said.err


def test_an_empty_name_and_a_picture_too_large_are_refused(place: Path, tmp_path: Path) -> None:
    refused(tell("find", place / "data", *small(tmp_path), "--out", ""), "out is empty")
    wide = ("--image-size", 200_000, "--out", tmp_path / "run")
    refused(tell("find", place / "data", *small(tmp_path), *wide), "image_size is 200000", "at most 8192")


def test_a_plan_without_layers_is_refused(quick: Path, place: Path, plan: Path, tmp_path: Path) -> None:
    document = json.loads(plan_of(quick, plan).read_text())
    plan.write_text(json.dumps({**document, "layers": [], "keep": 0, "freeze": 0, "train": [], "above": "tune"}))
    refused(trained(place, tmp_path / "run", plan), "no layers")


def test_a_training_says_what_it_has_no_use_for(quick: Path, place: Path, plan: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('threads = 1\nprecision = "fp32"\nbudget = "30m"\neffort = "thorough"\n')
    said = trained(place, tmp_path / "run", plan_of(quick, plan, epochs=1), "--config", config)
    assert said.code == 0, said.err
    assert "budget = 1800.0" in said.err
    assert "effort = 'thorough'" in said.err
    assert summary_of(tmp_path / "run")["checks"]["cached_vs_live"] < 1e-4
    with pytest.raises(OptionError, match=r"budget is 60\.0, and train has no use for it"):
        frostline.train(str(place / "data"), small(place)[1], plans.read(plan), budget="60s", weights="none")


def test_without_a_test_folder_baselines_are_judged_on_all_the_rows_of_the_score(finished: tuple[Path, Said]) -> None:
    summary = summary_of(finished[0])
    assert summary["score"]["kind"] == "cross_validated"
    arms = {arm["id"]: arm for arm in summary["arms"]}
    ended = [each for each in summary["baselines"].values() if each["stage"] == "finalist" and each["id"] in arms]
    assert ended
    for baseline in ended:
        assert baseline["certified"] == arms[baseline["id"]]["score"]
    apart = [file.name for file in (finished[0] / "outcomes").glob("scratch-*-r0-*-s1-*.npz")]
    assert sorted(name.partition("-f")[2][0] for name in apart) == ["0", "1", "2", "3", "4"]


def plan_of(quick: Path, plan: Path, **recipe: Any) -> Path:
    """The plan of a run as an initialiser: everything learns, with these parts of its recipe changed."""
    document = json.loads((quick / "model" / "plan.json").read_text())
    depth = len(document["layers"])
    document |= {"keep": depth, "freeze": 0, "above": "tune", "train": [True] * depth, "thaw": [], "statistics": "eval"}
    document["head"] |= {"start": "random"}
    document["recipe"] |= {"epochs": 2, "lr": 1e-2, **recipe}
    plan.write_text(json.dumps(document))
    return plan


def test_a_model_of_everything_has_the_score_of_one_that_did_not_see_the_rows(
    quick: Path, place: Path, plan: Path, tmp_path: Path
) -> None:
    plan_of(quick, plan)
    config = tmp_path / "all.toml"
    config.write_text('refit_all = true\nthreads = 1\nprecision = "fp32"\n')
    assert trained(place, tmp_path / "one", plan).code == 0
    flags = [word for word in small(place) if word != "--config" and not word.endswith(".toml")]
    said = tell("train", place / "parted", *flags, "--plan", plan, "--out", tmp_path / "all", "--config", config)
    assert said.code == 0, said.err
    one, everything = summary_of(tmp_path / "one"), summary_of(tmp_path / "all")
    assert everything["score"] == one["score"] | {"refit": True}
    assert weights_of(tmp_path / "one") != weights_of(tmp_path / "all")
    assert json.loads((tmp_path / "all" / "model" / "model.json").read_text())["trained_on"] == "all examples"


def test_a_training_that_diverged_hands_nothing_back(quick: Path, place: Path, plan: Path, tmp_path: Path) -> None:
    plan_of(quick, plan, optimiser="sgd", lr=1e30, clip=None)
    said = trained(place, tmp_path / "run", plan)
    assert said.code == 1
    assert "diverged" in said.err and "learning rate" in said.err and "Traceback" not in said.err
    assert not (tmp_path / "run" / "model").exists()


def test_the_augmentation_of_a_plan_is_done_and_told(quick: Path, place: Path, plan: Path, tmp_path: Path) -> None:
    assert trained(place, tmp_path / "still", plan_of(quick, plan)).code == 0
    assert trained(place, tmp_path / "flag", plan, "--augment", "flip").code == 0
    assert trained(place, tmp_path / "own", plan_of(quick, plan, augment="flip")).code == 0
    assert weights_of(tmp_path / "own") == weights_of(tmp_path / "flag") != weights_of(tmp_path / "still")
    for name in ("own", "flag"):
        told = json.loads((tmp_path / name / "model" / "plan.json").read_text())
        assert told["recipe"]["augment"] == "flip"


def test_a_training_is_not_resumed_with_another_plan(quick: Path, place: Path, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert trained(place, out, plan_of(quick, plan)).code == 0
    assert trained(place, out, plan, "--resume").code == 0
    refused(trained(place, out, plan_of(quick, plan, lr=2e-2), "--resume"), "plan", "--out")


def test_a_search_is_not_resumed_as_a_training(quick: Path, place: Path, plan: Path, tmp_path: Path) -> None:
    run, file = shutil.copytree(quick, tmp_path / "run"), tmp_path / "quick.toml"
    before = (run / "summary.json").read_bytes()
    file.write_text('effort = "quick"\nthreads = 1\nprecision = "fp32"\n')
    words = [*small(place)[:4], "--config", file, "--epochs", EPOCHS]
    said = tell("train", place / "parted", *words, "--plan", plan_of(quick, plan), "--out", run, "--resume")
    refused(said, "a search", "--out")
    assert (run / "summary.json").read_bytes() == before
