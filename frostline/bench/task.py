"""What a unit of the search asks for: the plan, the examples on either side, and where its inputs come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.bench.bench import Bench
from frostline.data.intake import Varied
from frostline.plan import with_epochs, with_rate
from frostline.training.feed import Read
from frostline.training.prepare import refuse_untrained
from frostline.values import Arm, Fold, Plan, Unit

ALL = -1  # the fold that has every example on both sides: for the model that is trained on everything


@dataclass(frozen=True, slots=True)
class Training:
    """How one unit is to be trained."""

    plan: Plan
    rows: NDArray[np.int64]  # to learn from
    predict: NDArray[np.int64]  # to predict afterwards
    fold: int
    seed: int
    start: int  # depth at which stored activations are read
    live: bool  # examples are read and varied anew each epoch instead
    views: int  # of each example, that epochs take in turn where it is not live


def plan_training(bench: Bench, arm: Arm, unit: Unit, *, live: bool = False) -> Training:
    """The unit's own plan, rows and start. Raises PlanError for what this version does not train."""
    refuse_untrained(arm.plan)
    plan = with_epochs(with_rate(arm.plan, unit.rate), unit.epochs)
    fold = fold_of(bench, unit.fold)
    rows = np.concatenate([fold.train, fold.validation])
    usable = [depth for depth in bench.whole if depth <= plan.freeze and bench.stores(depth, rows)]
    start = 0 if live else max(usable, default=0)
    views = 1 if live or plan.recipe.augment == "none" else bench.views
    seed = int(np.random.SeedSequence((bench.settings.seed, unit.seed)).generate_state(1)[0])
    return Training(plan, fold.train, by_length(bench, fold.validation), unit.fold, seed, start, live, views)


def by_length(bench: Bench, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows, short ones first where examples differ in length: batches of them are then filled up least."""
    sizes = bench.intake.sizes
    return rows if sizes is None else rows[np.argsort(sizes[rows], kind="stable")]


def lengths(bench: Bench, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """How long each of these examples is; None where all are alike."""
    return None if bench.intake.sizes is None else bench.intake.sizes[rows]


def fold_of(bench: Bench, number: int) -> Fold:
    """A fold of the split, or everything but what is shifted."""
    everything = np.setdiff1d(np.arange(len(bench.examples)), bench.split.shifted)
    return Fold(everything, everything) if number == ALL else bench.split.folds[number]


def reader(bench: Bench, training: Training) -> Read:
    """What gives the loop its inputs: the store, or examples that are read and varied anew each epoch."""
    if not training.live:
        return stored(bench, training, training.views)

    def read(rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.generic], ...]:
        return bench.read(rows, Varied(training.plan.recipe.augment, training.seed, epoch))

    return read


def stored(bench: Bench, training: Training, views: int) -> Read:
    """One fixed view after the other, epoch by epoch, from what is stored of it or from the examples."""

    def read(rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.generic], ...]:
        number = epoch % views
        if bench.stores(training.start, rows):
            return bench.stored(training.start, rows, view=number)
        assert training.start == 0, "only raw inputs can be read anew"
        varied = Varied(training.plan.recipe.augment, bench.settings.seed, number) if number else None
        return bench.read(rows, varied)

    return read
