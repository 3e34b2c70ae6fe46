"""The terms of a race: on which schedule it is run, and what everything is expected to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from frostline.bench.bench import Bench
from frostline.errors import OptionError, PlanError
from frostline.evidence.cost import model_cost
from frostline.plan import with_epochs
from frostline.run import entrants
from frostline.search import race as races
from frostline.search.arms import SCRATCH_EPOCHS, exact
from frostline.search.decide import Aim
from frostline.search.race import Race
from frostline.search.schedule import FEWEST_ARMS, Schedule, comparison, forecast, scale, schedule, whole
from frostline.training import adapters
from frostline.training.prepare import read_at, top
from frostline.values import Arm, Cost, Event, Outcome, Plan, Show, Unit, silent

PAYS = 25.0  # forecast seconds from which other processes are worth their start
SCREEN = 6  # scratch chooses its learning rate on schedules of a sixth, like every arm of the race


def entered(bench: Bench, evidence: entrants.Curves, *, begun: Schedule | None = None, show: Show = silent) -> Race:
    """The arms at the start, on the schedule that the run was `begun` with, or else on the one that is afforded.

    What a budget affords depends on the workers, which a resumed run may have more of. Raises OptionError.
    """
    arms, budget = entrants.together(bench, evidence), bench.settings.budget
    whole, fitted = forecast_seconds(bench, arms, planned(bench)), begun or afforded(bench, arms)
    spent = forecast_seconds(bench, arms, fitted)
    told = "" if budget is None else f" of the {budget:.0f} s that are allowed (unlimited: {whole:.0f} s)"
    takes = f"the race and its baselines take about {spent:.0f} s{told}"
    batch = entrants.base_recipe(bench).batch
    text = f"{len(arms)} arms; a full training has {fitted.epochs} epochs in batches of {batch}; {takes}"
    show(Event("race", text=text))
    arms = tuple(replace(a, plan=with_epochs(a.plan, fitted.epochs)) for a in arms)
    return races.start(arms, fitted, metric=bench.settings.metric)


def afforded(bench: Bench, arms: Sequence[Arm]) -> Schedule:
    """The schedule that the effort asks for, within the budget. Raises OptionError where even the least is beyond."""
    plain, budget = planned(bench), bench.settings.budget
    return plain if budget is None else _fitted(bench, arms, plain, budget)


def forecast_seconds(bench: Bench, arms: Sequence[Arm], of: Schedule) -> float:
    """Wall-clock seconds that a race and its baselines are expected to take: side by side, where that is worth it.

    However many workers there are, scratch's trainings wait for each other: two for its rate and the full one.
    """
    alone = serial_seconds(bench, arms, of)
    if not worth_sharing(bench, alone):
        return alone
    chain = _scratch_seconds(bench, of) * (1 + 2 / SCREEN)
    return max(wall_seconds(bench, alone), bench.calibration.way.slower * chain)


def wall_seconds(bench: Bench, alone: float) -> float:
    """Wall-clock seconds of trainings that take so many seconds one after the other.

    Trainings that share a GPU are taken to gain nothing by it: nobody measured that.
    """
    return alone / _gain(bench) if worth_sharing(bench, alone) else alone


def _gain(bench: Bench) -> float:
    """How many times as much is done by all workers as by one."""
    return bench.workers / bench.calibration.way.slower if bench.device.device.type == "cpu" else 1.0


def worth_sharing(bench: Bench, seconds: float) -> bool:
    """Whether trainings that take so many seconds, one after the other, are shared with other processes.

    A search that is given arrays and no folder has none.
    """
    return bench.workers > 1 and (bench.settings.workers is not None or seconds > PAYS)


def serial_seconds(bench: Bench, arms: Sequence[Arm], of: Schedule) -> float:
    """Seconds that a race and its baselines are expected to take one training after the other, from the calibration."""
    short = {a.id: _epoch(bench, still(a.plan)) for a in arms}
    full = {a.id: _epoch(bench, a.plan) for a in arms}
    ends = {a.id: _ending_seconds(bench.of(a.id), a.plan) for a in arms}
    dearest = max((of.epochs * full[a.id] for a in arms if not exact(a)), default=0.0)
    # on everything, and without what varies: both are trained of the choice alone
    more = bench.settings.refit_all + (bench.settings.augment not in (None, "none"))
    return forecast(arms, of, short, full, ends) + _baseline_seconds(bench, arms, of) + more * dearest


def _baseline_seconds(bench: Bench, arms: Sequence[Arm], of: Schedule) -> float:
    """Scratch with its screening, and full fine-tuning where it does not come to the final, which is assumed."""
    folds = len(judged_folds(bench, of))
    apart = bench.settings.strategies != "known"  # there it comes to the end
    mine = [a for a in arms if bench.of(a.id) is bench]
    full = sum(_epoch(bench, a.plan) * of.epochs for a in mine if a.baseline == "full_finetune" and apart)
    scratch = _scratch_seconds(bench, of)
    again = scratch / SCRATCH_EPOCHS  # for as many epochs as the others
    return folds * (full + scratch + again) + scratch * 4 / SCREEN  # three rates, one more where its grid is widened


def _scratch_seconds(bench: Bench, of: Schedule) -> float:
    """Of its full training; none where the backbone cannot be built anew."""
    return 0.0 if bench.backbone.fresh is None else cost_of(bench, entrants.scratch_of(bench, of.epochs).plan).training


def judged_folds(bench: Bench, of: Schedule) -> tuple[int, ...]:
    """The folds that the score of the choice rests on: all of the final's where no rows are set aside to certify it.

    Where the last rung is a short one, the choice is trained once more, on the first fold.
    """
    last = of.rungs[-1]
    alone = len(bench.split.certification) or not whole(of)
    return (last.pairs[0][0],) if alone else tuple(sorted({fold for fold, _ in last.pairs}))


def unit_seconds(bench: Bench, arm: Arm, unit: Unit) -> float:
    """Seconds that one training is expected to take on its fold, with predicting the validation rows.

    Pictures are opened anew in a full training alone.
    """
    bench, plan = bench.of(arm.id), with_epochs(arm.plan, unit.epochs)
    if unit.epochs < arm.plan.recipe.epochs:
        plan = still(plan)
    return cost_of(bench, plan).training + predicting_seconds(bench, plan)


def still(plan: Plan) -> Plan:
    """The plan on examples that do not vary."""
    return replace(plan, recipe=replace(plan.recipe, augment="none"))


def predicting_seconds(bench: Bench, plan: Plan) -> float:
    """Seconds of predicting the validation rows of a fold, from the deepest activations that are stored.

    Shifted examples, where there are any, are predicted from their examples.
    """
    first, measured = max((depth for depth in bench.whole if depth <= plan.freeze), default=0), bench.calibration
    decode = 0.0 if first in bench.whole else measured.decode
    head = 0.0 if measured.topping is None else measured.topping.answer
    own = len(bench.split.folds[0].validation) * (decode + sum(measured.forward[first : top(plan)]) + head)
    return own + len(bench.split.shifted) * (measured.decode + sum(measured.forward[: top(plan)]) + head)


def _ending_seconds(bench: Bench, plan: Plan) -> float:
    """Those of predicting, and of judging what was predicted."""
    new = bench.calibration.topping
    judged = len(bench.split.folds[0].validation) + len(bench.split.shifted)
    return predicting_seconds(bench, plan) + (0.0 if new is None else judged * new.judging)


def forecast_error(bench: Bench, race: Race, told: Sequence[Outcome]) -> float | None:
    """The median of |seconds / forecast - 1| over the trainings of the race; None where nothing was trained."""
    known, errors = {arm.id: arm for arm in race.arms}, list[float]()
    crowded = worth_sharing(bench, serial_seconds(bench, race.arms, race.schedule))
    slower = bench.calibration.way.slower if crowded else 1.0
    for outcome in told:
        alone = outcome.together == 1  # a share of several is no time that was forecast
        if outcome.unit.arm in known and outcome.unit.rung and outcome.epochs and alone and not outcome.diverged:
            expected = unit_seconds(bench, known[outcome.unit.arm], outcome.unit)
            errors.append(abs(outcome.seconds / (slower * expected) - 1))
    return median(errors) if errors else None


def _epoch(bench: Bench, plan: Plan) -> float:
    return cost_of(bench.fitting(plan), plan).training / plan.recipe.epochs


def planned(bench: Bench) -> Schedule:
    """The schedule that the effort asks for, before any budget."""
    given, folds = bench.settings, bench.split.folds
    rows, rungs = len(folds[0].validation), comparison if given.strategies == "known" else schedule
    return rungs(
        given.effort, entrants.base_recipe(bench).epochs, folds=len(folds), rows=rows, confidence=given.confidence
    )


def resolved(bench: Bench) -> dict[str, Any]:
    """What the settings left open, as this bench has it: for config.json."""
    recipe, way, how = entrants.base_recipe(bench), bench.calibration.way, bench.backbone.preprocessing
    return {
        "preprocessing": None if how is None else asdict(how),
        "weights": bench.backbone.weights,
        "data": bench.examples.detected,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch,
        "augment": bench.settings.augment or recipe.augment,
        "views": bench.views,
        "stacked": way.stacked,
        "graphs": way.graphs,
        "device": str(bench.device.device),
        "precision": way.precision,
        "layout": way.layout,
        "stored": {depth: sorted({field.dtype for field in found.fields}) for depth, found in bench.whole.items()},
        "threads": way.threads,
        "workers": bench.workers,
    }


def cost_of(bench: Bench, plan: Plan, *, stored: frozenset[int] | None = None) -> Cost:
    """What a plan costs on this bench, with what is stored or with other stored depths.

    A closed-form probe passes through its layers once, whatever the epochs.
    """
    once = plan.closed
    counted = replace(plan, recipe=replace(plan.recipe, epochs=1), thaw=()) if once else plan
    return model_cost(
        counted,
        bench.calibration,
        examples=len(bench.split.folds[0].train),
        classes=len(bench.examples.classes),
        features=sum(bench.pooled[depth].shape[1] for depth in read_at(plan)),
        stored=frozenset(bench.whole) if stored is None else stored,
    )


def aim(bench: Bench) -> Aim:
    """What the user wants of the answer."""
    given = bench.settings
    assert given.epsilon is not None, "settings fill it in"
    return Aim(metric=bench.metric, epsilon=given.epsilon, confidence=given.confidence, prefer=given.prefer)


def fitted_to(bench: Bench, plan: Plan) -> Plan:
    """A plan that came from a file, on this bench's own layers. Raises PlanError where it does not fit them."""
    ours, theirs = bench.anatomy.layers, plan.layers
    if [layer.members for layer in ours] != [layer.members for layer in theirs]:
        raise PlanError(
            f"the plan is for a network of {len(theirs)} layers ({theirs[0].name} ... {theirs[-1].name}), and "
            f"{bench.backbone.name!r} has {len(ours)} ({ours[0].name} ... {ours[-1].name}); give the plan's backbone"
        )
    given = bench.settings
    plan = replace(plan, layers=ours)
    if plan.adapter is not None:
        adapters.targets(bench.backbone.module, plan)
    if given.epochs is not None:
        plan = with_epochs(plan, given.epochs)
    batch = min(given.batch_size or plan.recipe.batch, len(bench.split.folds[0].train))
    augment = plan.recipe.augment if given.augment is None or plan.closed else given.augment
    return replace(plan, recipe=replace(plan.recipe, batch=batch, augment=augment))


def _fitted(bench: Bench, arms: Sequence[Arm], plain: Schedule, budget: float) -> Schedule:
    """The schedule scaled once to a budget of seconds. Raises OptionError where even the least does not fit."""
    side = budget * _gain(bench)  # serial seconds that fit, if they are shared
    room = side if worth_sharing(bench, side) else budget
    factor, least = room / max(serial_seconds(bench, arms, plain), 1e-9), 0.0
    fewest = len(arms) if bench.settings.strategies == "known" else FEWEST_ARMS
    for _ in range(12):
        fitted = scale(plain, factor, arms=len(arms), fewest=fewest)
        least = forecast_seconds(bench, arms, fitted)
        if least <= budget:
            return fitted
        factor *= 0.7
    raise OptionError(
        f"budget is {budget:.0f} s, and the smallest race takes about {least:.0f} s here; allow {2 * least:.0f}s "
        f"or more, a smaller {bench.intake.remedy} or a smaller backbone"
    )
