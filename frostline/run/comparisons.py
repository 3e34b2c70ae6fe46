"""What the choice is held against: the strategies that people know, trained in full, and the engine's own checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from frostline import study as studies
from frostline.bench import finals
from frostline.bench.bench import Bench
from frostline.plan import legal_depths, plan, with_rate
from frostline.run import course, terms
from frostline.run.course import Run
from frostline.search import arms as proposals
from frostline.search import race as races
from frostline.search import scores, standing
from frostline.search.decide import Aim, Finalist
from frostline.search.race import Race
from frostline.values import Arm, Event, Outcome, Show, Standing, Unit, silent

ALWAYS = ("scratch", "linear_probe", "full_finetune")
SCREEN = 6  # scratch chooses its learning rate on schedules of a sixth, like every arm of the race


@dataclass(frozen=True, slots=True)
class Baseline:
    """A known strategy, trained on the full schedule at its own best learning rate."""

    name: str
    arm: Arm
    validation: Outcome
    certification: Outcome | None  # on the same rows as the score of the choice
    apart: bool  # trained outside the race, for the comparison alone

    @property
    def judged(self) -> Outcome:
        """The predictions on which it is compared with the choice."""
        return self.certification or self.validation


def baselines(
    bench: Bench, race: Race, finalists: Sequence[Finalist], run: Run, *, show: Show = silent
) -> tuple[Baseline, ...]:
    """Linear probe, full fine-tuning and scratch always; other known strategies where they came to the final.

    Scratch is left out where the backbone cannot be built anew: it was given as a module.
    """
    full = race.schedule.rungs[-1].epochs >= race.schedule.epochs
    ended = {finalist.arm.id: finalist for finalist in finalists} if full else {}
    found = [_of_the_final(ended[arm.id]) for arm in race.arms if arm.baseline and arm.id in ended]
    apart = [
        (arm, Unit(arm.id, _best_rate(race, arm), 0, 0, 1, race.schedule.epochs))
        for arm in race.arms
        if arm.baseline in ALWAYS and arm.id not in ended
    ]
    if bench.backbone.fresh is not None:
        apart.append(_scratch(bench, race, run))
    show(Event("baselines", 0, len(apart)))
    for done, (unit, outcome) in enumerate(course.all_of(bench, apart, run).items(), 1):
        arm = next(arm for arm, each in apart if each == unit)
        proof = finals.certify(bench, arm, unit) if len(bench.split.certification) else None
        found.append(
            Baseline(str(arm.baseline), replace(arm, plan=with_rate(arm.plan, unit.rate)), outcome, proof, True)
        )
        show(Event("baselines", done, len(apart)))
    return tuple(found)


def _of_the_final(finalist: Finalist) -> Baseline:
    proof = finalist.certification[0] if finalist.certification else None
    return Baseline(str(finalist.arm.baseline), finalist.arm, finalist.validation[0], proof, apart=False)


def _best_rate(race: Race, arm: Arm) -> float:
    return next(turn.rates[arm.id] for turn in reversed(races.rounds(race)) if arm.id in turn.rates)


def _scratch(bench: Bench, race: Race, run: Run) -> tuple[Arm, Unit]:
    """Fresh weights, three times the epochs, and its own learning rate of three."""
    base = replace(terms.base_recipe(bench), epochs=race.schedule.epochs)
    (arm,) = proposals.baselines(bench.anatomy.layers, recipe=base, batch_norms=terms.batch_norms(bench))
    epochs = arm.plan.recipe.epochs
    short = [(arm, Unit(arm.id, rate, 0, 0, 0, max(1, epochs // SCREEN))) for rate in arm.rates]
    losses = {
        unit.rate: float("inf") if outcome.diverged else scores.score("log_loss", outcome.log_probabilities, truth)
        for unit, outcome in course.all_of(bench, short, run, keep=False).items()
        for truth in [bench.examples.targets[outcome.rows]]
    }
    return arm, Unit(arm.id, min(losses, key=lambda rate: losses[rate]), 0, 0, 1, epochs)


def checks(bench: Bench, race: Race, chosen: Arm, units: tuple[Unit, Unit], run: Run) -> dict[str, Any]:
    """The engine on itself: stored against live activations, what augmentation brought, and the file handed back.

    `units` are the training that was judged and the one whose model is handed back; mostly they are the same.
    """
    unit, handed = units
    deepest = max((arm for arm in race.arms if not proposals.exact(arm)), key=lambda arm: arm.plan.freeze)
    tested = Unit(deepest.id, deepest.plan.recipe.lr, 0, 0, 0, deepest.plan.recipe.epochs)
    gap = None
    if bench.settings.augment != "none" and not proposals.exact(chosen):
        aim = Aim(metric=bench.settings.metric, confidence=bench.settings.confidence)
        still = course.once(bench, chosen, replace(unit, rung=0), run, keep=False)
        live = next(outcome for outcome in studies.outcomes(run.study) if outcome.unit == unit)
        ours, theirs = (standing.estimate([o], bench.examples.targets, aim).mean for o in (live, still))
        gap = ours - theirs
    return {
        "cached_vs_live": finals.cached_versus_live(bench, deepest, tested),
        "frozen_unchanged": finals.frozen_unchanged(bench, chosen.plan, handed),
        "augmentation_gap": gap,
    }


def as_standing(bench: Bench, baseline: Baseline, aim: Aim) -> Standing:
    """A baseline as an arm of the summary: its score is that on validation."""
    seen = standing.estimate([baseline.validation], bench.examples.targets, aim)
    outcome, plan = baseline.validation, baseline.arm.plan
    cost = terms.cost_of(bench, plan)
    stage = "baseline" if baseline.apart else "finalist"
    return Standing(baseline.arm, stage, seen, outcome.unit.rate, outcome.seconds, outcome.peak_bytes, cost)


def exhaustive_seconds(bench: Bench, race: Race, *, rates: int = 3, seeds: int = 3) -> float:
    """Forecast of a plain sweep: every cut frozen, 3 rates and 3 seeds each, on the full schedule, nothing stored."""
    layers = bench.anatomy.layers
    full = replace(terms.base_recipe(bench), epochs=race.schedule.epochs)
    plans = [plan(layers, full, freeze=depth) for depth in legal_depths(layers)]
    return rates * seeds * sum(terms.cost_of(bench, each, stored=frozenset()).training for each in plans)
