"""A whole comparison on a small world: every strategy comes to the end, and what each took adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from world import LETTERS, Said, once, small, tell

from frostline import journey
from frostline.bench import forgetting
from frostline.bench.bench import Bench, Source
from frostline.bench.forgetting import answers, forgotten, likeness
from frostline.bench.lay import lay
from frostline.bench.unit import perform
from frostline.plan import plan
from frostline.report import page
from frostline.run.compared import _break_even, _passing
from frostline.settings import settings
from frostline.values import Arm, Examples, Head, Recipe, Unit


@pytest.fixture(scope="module")
def run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    def make(folder: Path) -> tuple[Path, Said]:
        out = folder / "run"
        options = ("--epochs", 2, "--effort", "quick", "--image-size", 8, "--out", out, "--json")
        return out, tell("compare", place / "parted", *small(place), *options)

    return once(tmp_path_factory, "compare", make)


def rows(run: tuple[Path, Said]) -> dict[str, Any]:
    return run[1].document["comparison"]


def test_every_strategy_comes_to_the_end_and_is_told_of(run: tuple[Path, Said]) -> None:
    summary = run[1].document
    assert run[1].code == 0
    assert {arm["stage"] for arm in summary["arms"]} == {"finalist"}
    assert set(summary["comparison"]) == set(summary["baselines"]) >= {"scratch", "scratch_equal", "lora", "l2_sp"}
    assert all(row["certified"] for row in summary["baselines"].values())
    assert (run[0] / "model" / "model.safetensors").exists()


def test_what_a_strategy_took_is_its_training_its_tuning_and_its_pass_over_the_data(run: tuple[Path, Said]) -> None:
    found = rows(run)
    arms = {arm["id"]: arm for arm in run[1].document["arms"]}
    for name, row in found.items():
        assert row["total"] == pytest.approx(row["training"] + row["tuning"] + row["filling"])
        for against, key in (("scratch", "saved_against_scratch"), ("full_finetune", "saved_against_full")):
            expected = None if name == against else pytest.approx(1 - row["total"] / found[against]["total"])
            assert row[key] == expected
        if name not in ("scratch", "scratch_equal", "linear_probe", "best_probe", "multi_layer_probe"):
            spent = arms[row["arm"]]["seconds"]  # with two seeds, two trainings
            assert 2 * row["training"] + row["tuning"] == pytest.approx(spent)
    assert found["lp_ft"]["filling"] > found["full_finetune"]["filling"] == found["scratch"]["filling"] > 0
    assert found["linear_probe"]["tuning"] == 0 < found["scratch"]["tuning"] == found["scratch_equal"]["tuning"]


def test_a_network_that_never_learned_has_nothing_to_forget(run: tuple[Path, Said]) -> None:
    found = rows(run)
    assert all(row["forgotten"] is None for row in found.values())  # this network never learned anything


@pytest.fixture(scope="module")
def bench(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    given = {"data": str(place / "parted"), "backbone": LETTERS[1], "weights": LETTERS[3]}
    given |= {"device": "cpu", "threads": 1, "workers": 1, "precision": "fp32"}
    resolved = settings({**given, "epochs": 2, "batch_size": 16})
    return lay(resolved, Source(), folder=tmp_path_factory.mktemp("forget"))


def test_what_moved_more_answers_otherwise_more_often_and_what_stood_still_never(bench: Bench) -> None:
    layers, recipe = bench.anatomy.layers, Recipe(epochs=2, lr=1e-3, batch=16)
    plans = {
        "probe": plan(layers, recipe, freeze=len(layers)),
        "head": plan(layers, recipe, freeze=len(layers), head=Head(start="random")),
        "gentle": plan(layers, recipe),
        "rough": plan(layers, replace(recipe, lr=3e-2, kept_lr=1.0)),
        "dropped": plan(layers, recipe, keep=4, above="drop"),
    }
    models = list[tuple[Arm, Unit]]()
    for name, of in plans.items():
        arm = Arm(name, of, (of.recipe.lr,))
        models.append((arm, Unit(name, of.recipe.lr, 1, 0, 0, 2)))
        perform(bench, *models[-1], keep=True)
    kept = forgotten(bench, models)
    assert kept is not None and kept.how == "answers"
    found = {name: kept.lost(name) for name in plans}
    assert found["probe"] == found["head"] == 0
    assert found["dropped"] is None
    assert 0 <= found["gentle"] < found["rough"] <= 1  # type: ignore[operator]
    alike = {arm.id: likeness(bench, arm, unit) for arm, unit in models}
    assert alike["dropped"] is None
    assert alike["probe"].mean == pytest.approx(1)  # type: ignore[union-attr]
    assert alike["rough"].high < alike["gentle"].mean < 1  # type: ignore[union-attr]


@pytest.mark.parametrize(("classes", "learned"), [(None, True), (0, False), (7, False)])
def test_only_an_output_layer_that_learned_can_forget(bench: Bench, classes: int | None, learned: bool) -> None:
    head = bench.anatomy.head if classes != 0 else ()
    names = [name for name, _ in bench.backbone.module.named_parameters()]
    unloaded = tuple(n for n in names if n.startswith(f"{bench.anatomy.head[0]}.")) if classes == 7 else ()
    known = replace(bench.backbone, unloaded=unloaded)
    assert answers(known, replace(bench.anatomy, head=head)) == learned
    assert not answers(replace(known, weights="none"), replace(bench.anatomy, head=head))


def test_rows_that_come_class_by_class_are_looked_at_in_all_classes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()

    def pictures(given: Bench, examples: Examples, rows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        seen.extend(rows.tolist())
        return [{given.anatomy.data: torch.zeros(len(rows), 1, 16, 16)}]

    monkeypatch.setattr(forgetting, "_inputs", pictures)
    monkeypatch.setattr(forgetting, "LOOKED", 12)
    forgotten(bench, [])
    assert len(seen) == 12
    assert set(bench.examples.targets[seen]) == {0, 1, 2}


def test_a_strategy_pays_for_opening_the_pictures_and_for_the_layers_it_reads_behind(tmp_path: Path) -> None:
    """A layer takes 10 ms an example here, opening a picture 1 ms, and its weights' gradients 20 ms more."""
    staged = stage.bench(tmp_path)
    fold = staged.split.folds[0]
    rows, layers = len(fold.train) + len(fold.validation), staged.anatomy.layers
    recipe, fresh = Recipe(epochs=4, lr=1e-3, batch=8), Head(start="random")
    for of, behind in (
        (plan(layers, recipe, head=fresh), 0),
        (plan(layers, recipe), len(layers)),  # its first head was fitted on all layers
        (plan(layers, recipe, freeze=2, head=fresh), 2),
        (plan(layers, recipe, keep=3, freeze=3, above="drop"), 3),
    ):
        assert _passing(staged, of) == pytest.approx(rows * (1e-3 + 1e-2 * behind))
    assert _break_even(staged, plan(layers, recipe)) is None
    assert _break_even(staged, plan(layers, recipe, freeze=len(layers))) is None
    half = _break_even(staged, plan(layers, recipe, freeze=2, head=fresh))
    assert half == pytest.approx(
        rows / len(fold.train)
    )  # what is saved in an epoch is what the pass took, but for rows


def test_fewer_numbers_learn_where_more_is_frozen(run: tuple[Path, Said]) -> None:
    found = rows(run)
    learning = [found[name]["trainable"] for name in ("linear_probe", "stem_frozen", "lp_ft")]
    assert learning == sorted(set(learning))
    assert found["linear_probe"]["break_even"] is None


def test_the_page_and_the_command_say_that_it_was_a_comparison(run: tuple[Path, Said]) -> None:
    result = journey.load(run[0])
    text = page.render(result.report)
    assert "What each strategy took" in text
    assert result.report.command.startswith("frostline compare ")
    assert "--strategies" not in result.report.command
    told = tell("report", run[0]).out
    assert "What each took, the search for its rate counted" in told
    assert "probe over several cuts" in told or "from scratch" in told


def test_a_search_compares_nothing_of_the_kind(finished: tuple[Path, Said]) -> None:
    assert finished[1].document["comparison"] == {}
    assert "What each strategy took" not in (finished[0] / "report.html").read_text()


def test_a_dry_run_names_the_strategies(place: Path, tmp_path: Path) -> None:
    said = tell("compare", place / "parted", *small(place), "--dry-run", "--json", "--out", tmp_path / "run")
    assert {"l2_sp", "wise_ft", "lora", "lp_ft"} <= set(said.document["forecast"]["arms"])
    assert not (tmp_path / "run").exists()
