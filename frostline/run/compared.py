"""All known strategies side by side: what each scored, what it took in all, and what it kept of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from frostline.bench.bench import Bench
from frostline.bench.forgetting import Kept
from frostline.run import terms
from frostline.run.comparisons import Baseline
from frostline.search.arms import EQUAL
from frostline.training.prepare import top
from frostline.values import Outcome, Plan


@dataclass(frozen=True, slots=True)
class Taken:
    """What one strategy took, beside its scores."""

    training: float  # seconds of one training in full
    tuning: float  # seconds of the short trainings that found its learning rate; none where there is no rate
    filling: float  # seconds of the pass over the data that it rests on: to what it reads of the store, or to its probe
    saved_against_scratch: float | None  # share of all three, of training from scratch; negative where it takes longer
    saved_against_full: float | None  # the same of full fine-tuning
    break_even: float | None  # epochs after which the pass over the data has paid; None where it never does
    trainable: int  # numbers that learn, new head included
    inference_macs: int  # multiplications and additions an example, without the head
    forgotten: float | None  # share of examples of which the network no longer says what it said, or was right to say

    @property
    def total(self) -> float:
        """Seconds of everything that the strategy alone would have needed."""
        return self.training + self.tuning + self.filling


def taken(
    bench: Bench, known: Sequence[Baseline], told: Sequence[Outcome], kept: Kept | None
) -> Mapping[str, Mapping[str, Any]]:
    """For each known strategy what it took, as plain values; in `total` the search for its rate is counted."""
    bare = {baseline.name: _alone(bench, baseline, told) for baseline in known}
    totals = {name: sum(seconds) for name, seconds in bare.items()}

    def saved(name: str, against: str) -> float | None:
        return None if against not in totals or name == against else 1 - totals[name] / totals[against]

    found = dict[str, Mapping[str, Any]]()
    for baseline in known:
        name, plan = baseline.name, baseline.arm.plan
        training, tuning, filling = bare[name]
        row = Taken(
            training,
            tuning,
            filling,
            saved(name, "scratch"),
            saved(name, "full_finetune"),
            _break_even(bench, plan),
            _learning(bench, baseline),
            sum(layer.macs for layer in plan.layers[: top(plan)]),
            None if kept is None else kept.lost(baseline.arm.id),
        )
        found[name] = {"arm": baseline.arm.id, "total": row.total, **asdict(row)}
    return found


def _alone(bench: Bench, baseline: Baseline, told: Sequence[Outcome]) -> tuple[float, float, float]:
    """Seconds of one full training, of finding its rate, and of the pass over the data that it rests on.

    The pass is modelled from the calibration, as it would be if the strategy were run by itself: a run fills for all.
    """
    mine, plan = [outcome for outcome in told if outcome.unit.arm == baseline.arm.id], baseline.arm.plan
    passing = _passing(bench, plan)
    if plan.closed:
        return max(outcome.seconds for outcome in mine), 0.0, passing  # fitted once, and then remembered
    # of the race the first rung; of scratch, which does not race, those with the first seed
    tried = [o for o in told if o.unit.arm == baseline.arm.id.removesuffix(EQUAL)]
    short = [o.seconds for o in tried if o.unit.rung == 1 or (o.unit.rung == 0 and o.unit.seed == 0)]
    return fmean(outcome.seconds for outcome in baseline.validation), sum(short), passing


def _passing(bench: Bench, plan: Plan) -> float:
    """Seconds of opening the examples of a fold once, and of passing them through all layers that are read behind.

    Those that learn from decoded examples alone open them once, too.
    """
    probe = top(plan) if plan.head.start == "probe" else 0
    depth = max((d for d in (*bench.whole, probe) if d <= plan.freeze or d == probe), default=0)
    rows = len(bench.split.folds[0].train) + len(bench.split.folds[0].validation)
    return rows * (bench.calibration.decode + sum(bench.calibration.forward[:depth]))


def _break_even(bench: Bench, plan: Plan) -> float | None:
    """Epochs after which reading what crosses a cut has paid for the pass that stored it; modelled.

    None where nothing is read behind the first layer, and for what is fitted once.
    """
    depth = max((d for d in bench.whole if d <= plan.freeze), default=0)
    if plan.closed or not depth:
        return None
    plain, stored = (terms.cost_of(bench, plan, stored=depths).training for depths in (frozenset({0}), None))
    gain = (plain - stored) / plan.recipe.epochs
    rows = len(bench.split.folds[0].train) + len(bench.split.folds[0].validation)
    return rows * sum(bench.calibration.forward[:depth]) / gain if gain > 0 else None


def _learning(bench: Bench, baseline: Baseline) -> int:
    """How many numbers learned: counted in the training, or those of the head where it was fitted."""
    counted = max((epoch.learning for epoch in baseline.validation[0].epochs), default=0)
    return counted or terms.cost_of(bench, baseline.arm.plan).parameters
