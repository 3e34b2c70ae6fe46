"""Each verdict in a world where what it tells of was planted, and in a healthy one, from the engine's own trainings."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from benchmarks.predictions import read
from benchmarks.truth import surgical
from benchmarks.truth.world import TABLES, Pictures, taught, trained
from frostline.plan import plan
from frostline.run import verdicts
from frostline.run.ended import Ended
from frostline.run.judging import relevance
from frostline.search import scores
from frostline.search.decide import Aim
from frostline.search.standing import difference
from frostline.values import Arm, Estimate, Head, Layer, Outcome, Recipe, Unit
from tests.planted import layers as planted_layers

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
    behind, ahead = gap("crowd-random", "lp_ft", "scratch"), gap("crossover-60", "freeze@1", "scratch")
    planted = verdicts.negative_transfer(behind, "accuracy", behind)
    assert (planted.kind, planted.holds) == ("negative_transfer", True)
    assert "train from scratch" in planted.advice
    healthy = verdicts.negative_transfer(ahead, "accuracy", ahead)
    assert (healthy.kind, healthy.holds) == ("negative_transfer", False)


def turned(pictures: Pictures) -> Pictures:
    return Pictures(np.ascontiguousarray(np.rot90(pictures.pixels, axes=(1, 2))), pictures.labels)


@cache
def knowing() -> surgical.Mlp:
    """A network that knows the upright pictures well."""
    return taught(surgical.Mlp(0), surgical.drawn(6000, 100), epochs=20, mean=0.5, std=surgical.STEP)


def tuned(learn: Pictures, judge: Pictures, *, epochs: int) -> dict[str, Outcome]:
    """A linear probe, and all layers trained, on the network that knows the upright pictures."""
    source = copy.deepcopy(knowing())
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


@pytest.mark.parametrize(("count", "epochs", "holds"), [(20, 60, True), (2000, 4, False)])
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


def test_a_source_that_helps_as_a_start_is_not_called_irrelevant_for_its_features() -> None:
    from frostline.values import Cut, Evidence

    curve = [Evidence(Cut(1, "blocks.1"), Estimate(0.5, 0.45, 0.55), 1.0, 8, random=0.52)]
    told = verdicts.irrelevant_source(curve, helps=True)
    assert told is not None and not told.holds
    assert "as a start" in told.advice
    bench = SimpleNamespace(examples=SimpleNamespace(targets=np.array([0, 1])), rivals={})
    ended = cast(Ended, SimpleNamespace(bench=bench, evidence=curve))
    assert [verdict and verdict.holds for helps in (True, False) for verdict in relevance(ended, helps)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("kept", "warmup", "holds"), [(30.0, 0.0, True), (0.1, 0.25, False)])
def test_layers_that_thaw_at_a_wild_rate_make_the_loss_jump_and_gentle_ones_do_not(
    kept: float, warmup: float, holds: bool
) -> None:
    source = copy.deepcopy(knowing())
    recipe = Recipe(8, 3e-3, batch=16, kept_lr=kept, warmup=warmup, schedule="constant")

    def arms(layers: Sequence[Layer]) -> Iterable[Arm]:
        thawing = plan(layers, recipe, train=(False,) * len(layers), thaw=[(4, (True,) * len(layers))])
        yield Arm("gradual", thawing, (recipe.lr,))

    (outcome,) = trained(surgical.drawn(400, 1), surgical.drawn(200, 2), source, arms).outcomes
    of = plan(planted_layers(3), recipe, train=(False,) * 3, thaw=[(4, (True,) * 3)])
    told = verdicts.jump_on_unfreezing(of, outcome.epochs, 0.95)
    assert told is not None and told.holds == holds, told
    assert "thawed in epoch 5" in told.evidence


@pytest.mark.parametrize(("rates", "best"), [((1e-6, 3e-6, 1e-5, 3e-5), 3e-5), ((1e-3, 3e-3, 1e-2), 3e-3)])
def test_a_grid_whose_best_rate_lies_at_its_edge_is_called_saturated(rates: tuple[float, ...], best: float) -> None:
    """From trainings at every rate of two grids: one lies far below what this network needs, one about it."""
    source = copy.deepcopy(knowing())
    recipe = Recipe(10, rates[1], batch=16, kept_lr=1.0)

    def arms(layers: Sequence[Layer]) -> Iterable[Arm]:
        yield Arm("all", plan(layers, recipe, head=Head(start="random")), rates)

    judge = surgical.drawn(300, 2, angle=0.9)
    found = trained(surgical.drawn(300, 1, angle=0.9), judge, source, arms)
    losses = {o.unit.rate: scores.losses(o.log_probabilities, judge.labels).mean() for o in found.outcomes}
    assert min(losses, key=lambda rate: losses[rate]) == best
    (arm, _), *_ = found.arms.values()
    assert verdicts.saturated_grid(arm, best).holds == (best in (rates[0], rates[-1]))
