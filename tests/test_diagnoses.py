"""Each verdict in a world where what it tells of was planted, and in a healthy one, from the engine's own trainings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.predictions import read
from benchmarks.truth import surgical
from benchmarks.truth.world import TABLES, Pictures, taught, trained
from frostline.plan import plan
from frostline.run import verdicts
from frostline.search.decide import Aim
from frostline.search.standing import difference
from frostline.values import Arm, Estimate, Head, Layer, Outcome, Recipe, Unit

AIM = Aim("accuracy", 0.01, 0.95, "training")


def gap(table: str, ours: str, theirs: str) -> Estimate:
    """How far one strategy lies above another in a table of trainings, at the rates that select best."""
    found = read(TABLES / f"{table}.npz")
    examples = np.flatnonzero(found.truth)

    def told(name: str) -> list[Outcome]:
        rows = [found.first(found.arm == name, seed) for seed in found.seeds[:1]]
        return [found.outcome(row, examples, Unit(name, 1e-3, 1, 0, 0, 1), np.arange(len(examples))) for row in rows]

    return difference(told(ours), told(theirs), found.target[examples].astype(np.int64), AIM)


def test_a_source_that_learned_random_labels_hurts_and_one_of_a_related_task_helps() -> None:
    planted = verdicts.negative_transfer(gap("crowd-random", "lp_ft", "scratch"), "accuracy")
    assert (planted.kind, planted.holds) == ("negative_transfer", True)
    assert "train from scratch" in planted.advice
    healthy = verdicts.negative_transfer(gap("crossover-60", "freeze@1", "scratch"), "accuracy")
    assert (healthy.kind, healthy.holds) == ("negative_transfer", False)


def turned(pictures: Pictures) -> Pictures:
    return Pictures(np.ascontiguousarray(np.rot90(pictures.pixels, axes=(1, 2))), pictures.labels)


def tuned(learn: Pictures, judge: Pictures, *, epochs: int) -> dict[str, Outcome]:
    """A linear probe, and all layers trained, on a network that knows the upright pictures well."""
    source = taught(surgical.Mlp(0), surgical.drawn(6000, 100), epochs=20, mean=0.5, std=surgical.STEP)
    recipe = Recipe(epochs, 3e-3, batch=16, kept_lr=1.0)

    def arms(layers: Sequence[Layer]) -> Iterable[Arm]:
        yield Arm("probe", plan(layers, recipe, freeze=len(layers)), (recipe.lr,))
        yield Arm("all", plan(layers, recipe, head=Head(start="random")), (recipe.lr,))

    return {outcome.unit.arm: outcome for outcome in trained(learn, judge, source, arms).outcomes}


@pytest.mark.parametrize("turn", [True, False])
def test_on_a_rotated_domain_freezing_everything_misses_much_and_upright_it_does_not(turn: bool) -> None:
    learn, judge = surgical.drawn(1200, 1), surgical.drawn(600, 2)
    found = tuned(*(turned(p) if turn else p for p in (learn, judge)), epochs=12)
    between = difference([found["all"]], [found["probe"]], judge.labels, AIM)
    assert verdicts.too_much_frozen(between, "accuracy", 0.01).holds == turn


@pytest.mark.parametrize(("count", "epochs", "holds"), [(20, 60, True), (4000, 3, False)])
def test_twenty_examples_are_learned_by_heart_and_thousands_are_not(count: int, epochs: int, holds: bool) -> None:
    learn, judge = surgical.drawn(count, 3, angle=0.9), surgical.drawn(400, 2, angle=0.9)
    outcome = tuned(learn, judge, epochs=epochs)["all"]
    verdict = verdicts.overfitting(outcome, judge.labels, confidence=0.95)
    assert verdict.holds == holds, verdict.evidence


def test_a_source_is_irrelevant_where_its_features_are_no_better_than_untaught_ones() -> None:
    from frostline.values import Cut, Evidence

    curve = [Evidence(Cut(d, f"blocks.{d}"), Estimate(0.5, 0.45, 0.55), 1.0, 8, random=0.52) for d in (1, 2)]
    told = verdicts.irrelevant_source(curve)
    assert told is not None and told.holds
    better = verdicts.irrelevant_source([replace(e, score=Estimate(0.7, 0.65, 0.75)) for e in curve])
    assert better is not None and not better.holds
