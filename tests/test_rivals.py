"""Several backbones in one race: on the same examples and folds, and each called what it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
from safetensors.torch import save_file
from world import LETTERS, ONE, Said, once, refused, tell

import frostline
from benchmarks.truth import surgical
from benchmarks.truth.world import taught
from frostline.bench.bench import Bench
from frostline.bench.curve import probe_cuts
from frostline.demo.network import glyphs
from frostline.errors import OptionError
from frostline.report import facts
from frostline.run import entrants, verdicts
from frostline.search import race as races
from frostline.search.arms import exact
from frostline.search.schedule import schedule
from frostline.settings import apart, settings, tags

NETWORK = """
from benchmarks.truth.surgical import Mlp


def reader():
    return Mlp(0)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in a file, weights of a related task, weights that say nothing, and pictures in `data`."""
    return once(tmp_path_factory, "sources", _sources)


def _sources(folder: Path) -> Path:
    (folder / "network.py").write_text(NETWORK)
    knowing = taught(surgical.Mlp(0), surgical.drawn(4000, 100), epochs=10, mean=0.5, std=surgical.STEP)
    save_file(knowing.state_dict(), folder / "taught.safetensors")
    save_file(surgical.Mlp(5).state_dict(), folder / "noise.safetensors")
    for part, count, seed in (("train", 120, 1), ("test", 60, 2)):
        surgical.drawn(count, seed, angle=0.3).laid(folder / "data" / part)
    return folder


def race(sources: Path, out: Path, *more: object) -> Said:
    network = ("--backbone", f"{sources / 'network.py'}:reader", "--weights")
    both = (*network, sources / "noise.safetensors", *network, sources / "taught.safetensors")
    return tell("find", sources / "data", *both, *ONE, "--epochs", 1, "--effort", "quick", "--out", out, *more)


@pytest.fixture(scope="module")
def run(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    def make(folder: Path) -> tuple[Path, Said]:
        return folder / "run", race(sources, folder / "run", "--json")

    return once(tmp_path_factory, "rivals", make)


def test_one_race_tries_both_and_the_model_of_the_better_one_is_handed_back(run: tuple[Path, Said]) -> None:
    _, said = run
    assert said.code == 0, said.err
    summary = said.document
    first, second = summary["backbones"]
    assert (first["tag"], second["tag"]) == ("taught", "noise")  # by the weights: the network is the same
    assert first["chosen"] and not second["chosen"]
    assert first["probe"]["mean"] > second["probe"]["mean"]
    assert summary["decision"]["arm"].startswith("taught.")
    arms = [arm["id"] for arm in summary["arms"]]
    assert {name.partition(".")[0] for name in arms} == {"taught", "noise"}
    assert {"noise.lp_ft", "taught.lp_ft", "taught.full_finetune"} <= set(arms)
    assert {arm["id"].partition(".")[0] for arm in summary["baselines"].values()} == {"taught"}


def test_what_is_handed_back_predicts_and_needs_nothing_of_the_other(run: tuple[Path, Said], sources: Path) -> None:
    rows = list(frostline.load(run[0]).predict([next((sources / "data" / "test").rglob("*.png"))]))
    assert sum(rows[0]["scores"].values()) == pytest.approx(1, abs=1e-4)
    card = json.loads((run[0] / "model" / "model.json").read_text())
    assert card["spec"] == f"{sources / 'network.py'}:reader"


def test_an_untaught_source_is_called_irrelevant_by_its_name_and_the_other_is_not(run: tuple[Path, Said]) -> None:
    told: dict[str, Any] = {}
    for verdict in run[1].document["verdicts"]:
        if verdict["kind"] == "irrelevant_source":
            told[verdict["evidence"].split(",")[0]] = verdict["holds"]
    assert told == {"of taught": False, "of noise": True}
    none = next(v for v in run[1].document["verdicts"] if v["kind"] == "no_relevant_source")
    assert not none["holds"] and "taught" in none["evidence"]


def test_a_source_whose_features_are_shown_to_be_worse_is_called_weaker(run: tuple[Path, Said]) -> None:
    told = [v for v in run[1].document["verdicts"] if v["kind"] == "weaker_source"]
    assert [v["holds"] for v in told] == [True]
    assert "of noise recognises" in told[0]["evidence"]
    right = {"a": np.arange(100) < 90, "b": np.arange(100) < 88}
    assert not verdicts.weaker_source("b", "a", right, 0.999).holds
    assert verdicts.weaker_source("b", "a", {**right, "b": np.arange(100) < 60}, 0.95).holds


def test_how_far_a_network_lies_behind_the_best_is_told_with_an_interval(run: tuple[Path, Said]) -> None:
    best, other = run[1].document["backbones"]
    assert set(best["behind"].values()) == {0}
    gap = other["behind"]
    assert gap["mean"] == pytest.approx(best["probe"]["mean"] - other["probe"]["mean"], abs=1e-9)
    assert 0 < gap["low"] < gap["mean"] < gap["high"]


def test_a_network_is_called_weaker_in_the_table_where_the_whole_interval_lies_behind(run: tuple[Path, Said]) -> None:
    best, other = run[1].document["backbones"]
    for low, said in ((0.02, "relevant, shown to be weaker"), (-0.02, "relevant")):
        row = {**other, "relevant": True, "behind": {"mean": 0.03, "low": low, "high": 0.08}}
        assert [n.judged for n in facts.networks((best, row))] == ["relevant", said]


def test_among_equal_networks_one_is_called_weaker_in_5_of_100_at_most() -> None:
    rng, told = np.random.default_rng(0), 0
    for _ in range(200):
        right = {name: rng.random(150) < 0.8 for name in "abcd"}
        best = max(right, key=lambda name: right[name].mean())
        told += any(verdicts.weaker_source(name, best, right, 0.95).holds for name in right if name != best)
    assert told <= 18  # 5% of 200 is 10, and 18 would be one in 100


def test_the_report_repeats_the_race_and_not_the_network_that_won(run: tuple[Path, Said]) -> None:
    said = json.loads((run[0] / "report.json").read_text())["command"]
    assert said.count("--backbone") == 2 and said.count("--weights") == 2


def test_where_a_schedule_has_room_for_few_every_network_still_races() -> None:
    rivals = dict[str, Bench]()
    rivals |= {tag: replace(stage.bench(None), tag=tag, rivals=rivals) for tag in ("one", "two", "three")}
    curves = {tag: probe_cuts(bench) for tag, bench in rivals.items()}
    arms = entrants.together(rivals["one"], curves)
    assert len({arm.id for arm in arms}) == len(arms)
    assert {arm.id.partition(".")[0] for arm in arms if arm.protected} == {"one"}
    few = races.start(arms, replace(schedule("quick", 6), arms=6))
    trained = [arm.id for arm in few.arms if not exact(arm)]
    assert {name.partition(".")[0] for name in trained} == set(rivals)
    assert {"two.lp_ft", "two.full_finetune", "three.lp_ft"} <= set(trained)


def test_where_no_backbone_is_relevant_that_is_said() -> None:
    assert verdicts.no_relevant_source(["a", "b"], [True, True]).holds
    assert not verdicts.no_relevant_source(["a", "b"], [True, False]).holds


def test_the_page_and_the_terminal_show_every_backbone(run: tuple[Path, Said]) -> None:
    page = (run[0] / "report.html").read_text()
    assert "The networks that were tried" in page
    said = tell("report", run[0])
    assert "noise" in said.out and "taught" in said.out


def test_an_interrupted_race_of_several_goes_on_in_two_processes_to_the_same_answer(
    run: tuple[Path, Said], sources: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(run[0], tmp_path / "run")
    (out / "summary.json").unlink()
    for file in sorted((out / "outcomes").glob("*.npz"))[::3]:
        file.unlink()
    again = race(sources, out, "--workers", 2, "--resume", "--json")
    assert again.code == 0, again.err
    assert again.document["decision"] == run[1].document["decision"]
    assert again.document["score"] == run[1].document["score"]


def test_a_forecast_says_what_each_probe_comes_to(sources: Path, tmp_path: Path) -> None:
    said = race(sources, tmp_path / "nowhere", "--dry-run")
    assert said.code == 0
    assert "noise: the best linear probe scores" in said.err
    assert "taught.lp_ft" in said.out


def test_several_are_told_apart_by_name_weights_or_number() -> None:
    def called(**given: Any) -> tuple[str, ...]:
        return tags(settings({"data": "d", **given}))

    assert called(backbone="timm/resnet18") == ("",)
    assert called(backbone=["timm/resnet18", "timm/vit_tiny"]) == ("resnet18", "vit_tiny")
    assert called(backbone=["timm/a", "timm/a"], weights=["x/one.pt", "x/two.pt"]) == ("one", "two")
    assert called(backbone=["timm/a", "timm/a"], weights=["one/w.pt", "two/w.pt"]) == ("one", "two")
    assert called(backbone=["timm/a", "timm/a"]) == ("a-1", "a-2")
    assert called(backbone=["timm/net_one", "timm/net_two_b"]) == ("one", "two_b")
    assert called(backbone=["timm/net_", "timm/net_two"]) == ("net_", "net_two")
    assert called(backbone=["timm/net one", "timm/net-one"]) == ("net-one-1", "net-one-2")
    assert called(backbone=["nets.py:small", "nets.py:large"]) == ("small", "large")
    first, second = apart(settings({"data": "d", "backbone": ["a", "b"], "weights": ["own", "none"]}))
    assert (first.backbone, first.weights, second.backbone, second.weights) == ("a", None, "b", "none")


def test_what_cannot_be_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="2 backbones and weights for 1"):
        settings({"data": "d", "backbone": ["a", "b"], "weights": "w"})
    both = ("--backbone", LETTERS[1], "--backbone", LETTERS[1])
    refused(tell("compare", place / "data", *both), "give one, or use find")
    refused(tell("train", place / "data", *both, "--strategy", "lp_ft", "--out", tmp_path / "no"), "one plan is of one")
    assert not (tmp_path / "no").exists()
    with pytest.raises(OptionError, match="each is given by its name"):
        frostline.find(str(place / "data"), [glyphs(), glyphs()])
    first = settings({"data": "d", "backbone": ["a", "b"], "weights": [None, "w"]})
    assert (first.weights, first.rival_weights) == (None, ("w",))
