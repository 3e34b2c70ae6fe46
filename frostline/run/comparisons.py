"""What the choice is held against: the strategies that people know, trained in full, and the engine's own checks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from frostline import study as studies
from frostline.bench import finals
from frostline.bench.again import Job
from frostline.bench.bench import Bench
from frostline.plan import legal_depths, plan, with_rate
from frostline.run import course, entrants, terms
from frostline.run.course import Run, Told
from frostline.search import arms as proposals
from frostline.search import race as races
from frostline.search import scores, standing
from frostline.search.decide import Aim, Finalist
from frostline.search.race import Race
from frostline.search.schedule import whole
from frostline.values import Arm, Event, Outcome, Show, Standing, Unit, silent

ALWAYS = ("linear_probe", "head_only", "full_finetune")  # and scratch, which does not race


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

    Scratch twice: on a schedule long enough to be fair to it, and for as many epochs as the others have.

    Those that did not are trained apart, once for each fold that the score of the choice rests on: one model where rows
    were set aside. Scratch is left out where the backbone cannot be built anew: it was given as a module.
    """
    ended = {finalist.arm.id: finalist for finalist in (finalists if whole(race.schedule) else (chosen,))}
    found = [_of_the_final(ended[arm.id]) for arm in _own(bench, race) if arm.baseline and arm.id in ended]
    done = 0
    while jobs := wanted(bench, race, course.told(run), ended):
        every = done + len(jobs)
        show(Event("baselines", done, every))
        for _ in course.trained(bench, jobs, run):
            done += 1
            show(Event("baselines", done, every))
    told = course.told(run)
    apart = [(arm, _units(bench, race, arm, rate)) for arm, rate in _apart(bench, race, told, ended)[1]]
    proofs = finals.certify(bench, [(arm, units[0]) for arm, units in apart]) if chosen.certification else ()
    proven = {outcome.unit.arm: outcome for outcome in proofs}
    for arm, units in apart:
        tuned = replace(arm, plan=with_rate(arm.plan, units[0].rate))
        mine = tuple(told[unit] for unit in units)
        found.append(Baseline(str(arm.baseline), tuned, mine, proven.get(arm.id), apart=True))
    return tuple(found)


def beside(bench: Bench, race: Race, told: Told) -> tuple[Job, ...]:
    """What may be trained beside the race: nothing where it is not known yet of which backbone."""
    return () if bench.rivals else wanted(bench, race, told)


def wanted(bench: Bench, race: Race, told: Told, ended: Collection[str] = ()) -> tuple[Job, ...]:
    """What is trained for the comparison alone and can be by now, the longest first; after the race, all the rest.

    Arms that `ended` the race with a full training need no other.
    """
    screening, apart = _apart(bench, race, told, ended)
    full = [Job(arm, unit, keep=True) for arm, rate in apart for unit in _units(bench, race, arm, rate)]
    longest = sorted(full, key=lambda job: -job.unit.epochs)
    return course.missing(bench, (*screening, *longest), told)


def _apart(
    bench: Bench, race: Race, told: Told, ended: Collection[str]
) -> tuple[tuple[Job, ...], list[tuple[Arm, float]]]:
    """The short trainings that find scratch its learning rate, and what is trained in full at a rate known by now."""
    last = races.rounds(race)[-1]
    staying = {arm.id for arm in last.entrants} if last.missing else ended
    known = (arm for arm in _own(bench, race) if arm.baseline in ALWAYS and arm.id not in staying)
    left = [(arm, _best_rate(race, arm)) for arm in known]
    if bench.backbone.fresh is None:
        return (), left
    screening, scratch, rate = _scratch(bench, race, told)
    if rate is None:
        return screening, left
    return screening, [*left, (scratch, rate), (proposals.for_as_long(scratch, race.schedule.epochs), rate)]


def _own(bench: Bench, race: Race) -> list[Arm]:
    """The arms of a bench's own backbone."""
    return [arm for arm in race.arms if bench.of(arm.id) is bench]


def _units(bench: Bench, race: Race, arm: Arm, rate: float) -> tuple[Unit, ...]:
    """The full trainings that a strategy is judged by: on the folds that the score of the choice rests on."""
    epochs, folds = arm.plan.recipe.epochs, terms.judged_folds(bench, race.schedule)
    return tuple(Unit(arm.id, rate, 0, fold, 1, epochs) for fold in folds)


def _of_the_final(finalist: Finalist) -> Baseline:
    proof = finalist.certification[0] if finalist.certification else None
    return Baseline(str(finalist.arm.baseline), finalist.arm, finalist.validation, proof, apart=False)


def _best_rate(race: Race, arm: Arm) -> float:
    return next(turn.rates[arm.id] for turn in reversed(races.rounds(race)) if arm.id in turn.rates)


def _scratch(bench: Bench, race: Race, told: Told) -> tuple[tuple[Job, ...], Arm, float | None]:
    """Fresh weights, three times the epochs, and its own learning rate, of a grid that is widened as every arm's is.

    With the short schedules that choose the rate, as in the first rung; the rate is None before they are there.
    """
    arm = entrants.scratch_of(bench, race.schedule.epochs)
    best = _screened(bench, arm, told)
    wider = None if best is None else proposals.widen(arm, best)
    if wider is not None:
        arm, best = wider, _screened(bench, wider, told)
    return tuple(Job(arm, unit, keep=False) for unit in _short(arm)), arm, best


def _short(arm: Arm) -> tuple[Unit, ...]:
    epochs = max(1, arm.plan.recipe.epochs // terms.SCREEN)
    return tuple(Unit(arm.id, rate, 0, 0, 0, epochs) for rate in arm.rates)


def _screened(bench: Bench, arm: Arm, told: Told) -> float | None:
    """The rate of least log-loss, as the race weighs it; None where not all were tried yet."""
    units = _short(arm)
    if any(unit not in told for unit in units):
        return None
    targets, metric = bench.examples.targets, bench.settings.metric

    def loss(outcome: Outcome) -> float:
        found = scores.raced(metric, outcome.log_probabilities, targets[outcome.rows])
        return float("inf") if outcome.diverged else float(found.mean())

    losses = {unit.rate: loss(told[unit]) for unit in units}
    return min(losses, key=lambda rate: (losses[rate], rate))


def checks(bench: Bench, race: Race, chosen: Arm, units: tuple[Unit, Unit], run: Run) -> dict[str, Any]:
    """The engine on itself: stored against live activations, what augmentation brought, and the file handed back.

    `units` are the training that was judged and the one whose model is handed back; mostly they are the same.
    """
    unit, handed = units
    trained = [arm for arm in _own(bench, race) if not proposals.exact(arm)]
    deepest = max(trained, key=lambda arm: arm.plan.freeze, default=None)
    gap = None
    if chosen.plan.recipe.augment != "none":
        aim = terms.aim(bench)
        still = course.once(bench, chosen, replace(unit, rung=0), run, keep=False)
        live = next(outcome for outcome in studies.outcomes(run.study) if outcome.unit == unit)
        ours, theirs = (standing.estimate([o], bench.examples.targets, aim).mean for o in (live, still))
        gap = ours - theirs
    return {
        "cached_vs_live": None if deepest is None else finals.cached_versus_live(bench, deepest, _once(deepest)),
        "frozen_unchanged": finals.frozen_unchanged(bench, chosen.plan, handed),
        "augmentation_gap": gap,
        "forecast_error": terms.forecast_error(bench, race, studies.outcomes(run.study)),
    }


def _once(arm: Arm) -> Unit:
    """A training that is of no round."""
    return Unit(arm.id, arm.plan.recipe.lr, 0, 0, 0, arm.plan.recipe.epochs)


def as_standing(bench: Bench, baseline: Baseline, race: Race, aim: Aim) -> Standing:
    """A baseline as an arm of the summary: with its score on validation, and the stage at which it left the race."""
    seen = standing.estimate(baseline.validation, bench.examples.targets, aim)
    outcome, plan = baseline.validation[0], baseline.arm.plan
    cost = terms.cost_of(bench, plan)
    stage, _ = races.stages(race).get(baseline.arm.id, ("finalist", ""))  # scratch does not race
    strange = standing.beyond(baseline.validation, bench.split.shifted, bench.examples.targets, aim)
    return Standing(baseline.arm, stage, seen, outcome.unit.rate, outcome.seconds, outcome.peak_bytes, cost, strange)


def exhaustive_seconds(bench: Bench, race: Race, *, rates: int = 3, seeds: int = 3) -> float:
    """Forecast of a plain sweep: every cut frozen, 3 rates and 3 seeds each, on the full schedule, nothing stored.

    It shares the cores as the search does.
    """
    layers = bench.anatomy.layers
    full = replace(entrants.base_recipe(bench), epochs=race.schedule.epochs)
    plans = [plan(layers, full, freeze=depth) for depth in legal_depths(layers)]
    alone = rates * seeds * sum(terms.cost_of(bench, each, stored=frozenset()).training for each in plans)
    return terms.wall_seconds(bench, alone)
