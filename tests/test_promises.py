"""What a run promises of its numbers: which rows they rest on, which training they are of, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from world import Said, refused, small, tell


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def weights_of(folder: Path) -> dict[str, Any]:
    return {name: tensor.tobytes() for name, tensor in load_file(folder / "model" / "model.safetensors").items()}


@pytest.fixture(scope="module")
def plan(finished: tuple[Path, Said], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan in which everything learns, for the network of `trained`."""
    return tmp_path_factory.mktemp("plans") / "plan.json"


def trained(place: Path, out: Path, plan: Path, *more: object, data: str = "parted") -> Said:
    return tell("train", place / data, *small(place), "--plan", plan, "--out", out, *more)


@pytest.fixture(scope="module")
def quick(place: Path) -> Path:
    """A quick run whose last rung is shorter than a full training, with a test folder."""
    out = place / "quick"
    said = tell("find", place / "parted", *small(place), "--effort", "quick", "--epochs", 9, "--out", out)
    assert said.code == 0, said.err
    return out


def test_a_quick_run_scores_the_model_that_it_hands_back_on_the_test_folder(quick: Path) -> None:
    summary = summary_of(quick)
    assert summary["score"]["kind"] == "held_out"
    assert summary["score"]["n"] == summary["data"]["certification"] == 36
    assert all(baseline["certified"] is not None for baseline in summary["baselines"].values())


def test_without_a_test_folder_baselines_are_judged_on_all_the_rows_of_the_score(finished: tuple[Path, Said]) -> None:
    summary = summary_of(finished[0])
    assert summary["score"]["kind"] == "cross_validated"
    arms = {arm["id"]: arm for arm in summary["arms"]}
    ended = [each for each in summary["baselines"].values() if each["stage"] == "finalist"]
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
    config.write_text("refit_all = true\nthreads = 1\n")
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


def test_a_search_is_not_resumed_as_a_training(quick: Path, place: Path, plan: Path) -> None:
    before = (quick / "summary.json").read_bytes()
    file = quick.with_name("quick.toml")
    file.write_text('effort = "quick"\nthreads = 1\n')
    words = [*small(place)[:4], "--config", file, "--epochs", 9]
    said = tell("train", place / "parted", *words, "--plan", plan_of(quick, plan), "--out", quick, "--resume")
    refused(said, "a search", "--out")
    assert (quick / "summary.json").read_bytes() == before
