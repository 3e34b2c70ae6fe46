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


@dataclass(frozen=True, slots=True)
class Baseline:
    """A known strategy, trained on the full schedule at its own best learning rate."""

    name: str
    arm: Arm
    validation: tuple[Outcome, ...]
    certification: Outcome | None  # of the first of these models, where rows were set aside
    apart: bool  # trained outside the race, for the comparison alone

    @property
    def judged(self) -> tuple[Outcome, ...]:
        """The predictions on which it is compared with the choice: those of the rows of the choice's score."""
        return (self.certification,) if self.certification else self.validation


def baselines(
    bench: Bench, race: Race, finalists: Sequence[Finalist], chosen: Finalist, run: Run, *, show: Show = silent
) -> tuple[Baseline, ...]:
    """Linear probe, full fine-tuning and scratch always; other known strategies where they came to the final.

    Those that did not are trained apart, once for each fold that the score of the choice rests on: one model where rows
    were set aside. Scratch is left out where the backbone cannot be built anew: it was given as a module.
    """
    full = race.schedule.rungs[-1].epochs >= race.schedule.epochs
    ended = {finalist.arm.id: finalist for finalist in finalists} if full else {}
    found = [_of_the_final(ended[arm.id]) for arm in race.arms if arm.baseline and arm.id in ended]
    judges = [chosen.validation[0]] if chosen.certification else chosen.validation
    folds = sorted({outcome.unit.fold for outcome in judges})
    apart = [(a, _best_rate(race, a)) for a in race.arms if a.baseline in ALWAYS and a.id not in ended]
    if bench.backbone.fresh is not None:
        apart.append(_scratch(bench, race, run))
    units = [(arm, Unit(arm.id, rate, 0, fold, 1, arm.plan.recipe.epochs)) for arm, rate in apart for fold in folds]
    show(Event("baselines", 0, len(units)))
    told = course.all_of(bench, units, run, progress=lambda done: show(Event("baselines", done, len(units))))
    first = {arm.id: (arm, unit) for arm, unit in reversed(units)}
    proofs = finals.certify(bench, list(first.values())) if chosen.certification else ()
    proven = {outcome.unit.arm: outcome for outcome in proofs}
    for arm, rate in apart:
        mine = tuple(told[unit] for each, unit in units if each.id == arm.id)
        tuned = replace(arm, plan=with_rate(arm.plan, rate))
        found.append(Baseline(str(arm.baseline), tuned, mine, proven.get(arm.id), apart=True))
    return tuple(found)


def _of_the_final(finalist: Finalist) -> Baseline:
    proof = finalist.certification[0] if finalist.certification else None
    return Baseline(str(finalist.arm.baseline), finalist.arm, finalist.validation, proof, apart=False)


def _best_rate(race: Race, arm: Arm) -> float:
    return next(turn.rates[arm.id] for turn in reversed(races.rounds(race)) if arm.id in turn.rates)


def _scratch(bench: Bench, race: Race, run: Run) -> tuple[Arm, float]:
    """Fresh weights, three times the epochs, and its own learning rate: of a grid that is widened as every arm's is."""
    arm = terms.scratch_of(bench, race.schedule.epochs)
    best = _screened(bench, arm, run)
    wider = proposals.widen(arm, best)
    return (arm, best) if wider is None else (wider, _screened(bench, wider, run))


def _screened(bench: Bench, arm: Arm, run: Run) -> float:
    """The rate of least log-loss at its own temperature, on a short schedule: as the first rung chooses."""
    epochs = max(1, arm.plan.recipe.epochs // terms.SCREEN)
    units = [(arm, Unit(arm.id, rate, 0, 0, 0, epochs)) for rate in arm.rates]
    losses = {
        unit.rate: float("inf") if outcome.diverged else scores.score("log_loss", tempered, truth)
        for unit, outcome in course.all_of(bench, units, run, keep=False).items()
        for truth in [bench.examples.targets[outcome.rows]]
        for tempered in [scores.tempered(outcome.log_probabilities, truth)]
    }
    return min(losses, key=lambda rate: (losses[rate], rate))


def checks(bench: Bench, race: Race, chosen: Arm, units: tuple[Unit, Unit], run: Run) -> dict[str, Any]:
    """The engine on itself: stored against live activations, what augmentation brought, and the file handed back.

    `units` are the training that was judged and the one whose model is handed back; mostly they are the same.
    """
    unit, handed = units
    deepest = max((arm for arm in race.arms if not proposals.exact(arm)), key=lambda arm: arm.plan.freeze)
    tested = Unit(deepest.id, deepest.plan.recipe.lr, 0, 0, 0, deepest.plan.recipe.epochs)
    gap = None
    if chosen.plan.recipe.augment != "none":
        aim = Aim(metric=bench.settings.metric, confidence=bench.settings.confidence)
        still = course.once(bench, chosen, replace(unit, rung=0), run, keep=False)
        live = next(outcome for outcome in studies.outcomes(run.study) if outcome.unit == unit)
        ours, theirs = (standing.estimate([o], bench.examples.targets, aim).mean for o in (live, still))
        gap = ours - theirs
    return {
        "cached_vs_live": finals.cached_versus_live(bench, deepest, tested),
        "frozen_unchanged": finals.frozen_unchanged(bench, chosen.plan, handed),
        "augmentation_gap": gap,
        "forecast_error": terms.forecast_error(bench, race, studies.outcomes(run.study)),
    }


def as_standing(bench: Bench, baseline: Baseline, race: Race, aim: Aim) -> Standing:
    """A baseline as an arm of the summary: with its score on validation, and the stage at which it left the race."""
    seen = standing.estimate(baseline.validation, bench.examples.targets, aim)
    outcome, plan = baseline.validation[0], baseline.arm.plan
    cost = terms.cost_of(bench, plan)
    stage, _ = races.stages(race).get(baseline.arm.id, ("finalist", ""))  # scratch does not race
    return Standing(baseline.arm, stage, seen, outcome.unit.rate, outcome.seconds, outcome.peak_bytes, cost)


def exhaustive_seconds(bench: Bench, race: Race, *, rates: int = 3, seeds: int = 3) -> float:
    """Forecast of a plain sweep: every cut frozen, 3 rates and 3 seeds each, on the full schedule, nothing stored.

    It shares the cores as the search does.
    """
    layers = bench.anatomy.layers
    full = replace(terms.base_recipe(bench), epochs=race.schedule.epochs)
    plans = [plan(layers, full, freeze=depth) for depth in legal_depths(layers)]
    alone = rates * seeds * sum(terms.cost_of(bench, each, stored=frozenset()).training for each in plans)
    return terms.wall_seconds(bench, alone)
