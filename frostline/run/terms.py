"""The terms of a race: who takes part, on which schedule, and what everything is expected to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from frostline.bench.bench import Bench
from frostline.bench.recipe import recipe
from frostline.errors import OptionError, PlanError
from frostline.evidence.cost import model_cost
from frostline.plan import with_epochs
from frostline.search import race as races
from frostline.search.arms import closed, propose
from frostline.search.decide import Aim
from frostline.search.race import Race
from frostline.search.schedule import Schedule, forecast, scale, schedule
from frostline.training.prepare import top
from frostline.values import Arm, Cost, Event, Evidence, Plan, Recipe, Show, silent


def entered(bench: Bench, evidence: Sequence[Evidence], *, show: Show = silent) -> Race:
    """The arms at the start, on a schedule that the effort or the budget affords. Raises OptionError."""
    arms, plain = proposed(bench, evidence), planned(bench)
    budget, whole = bench.settings.budget, forecast_seconds(bench, arms, plain)
    fitted = plain if budget is None else _fitted(bench, arms, plain, budget)
    spent = forecast_seconds(bench, arms, fitted)
    told = "" if budget is None else f" of the {budget:.0f} s that are allowed (unlimited: {whole:.0f} s)"
    text = f"{len(arms)} arms; a full training has {fitted.epochs} epochs; the race takes about {spent:.0f} s{told}"
    show(Event("race", text=text))
    return races.start(tuple(replace(a, plan=with_epochs(a.plan, fitted.epochs)) for a in arms), fitted)


def forecast_seconds(bench: Bench, arms: Sequence[Arm], of: Schedule) -> float:
    """What a race is expected to take, from the calibration."""
    return forecast(arms, of, {a.id: cost_of(bench, a.plan).training / a.plan.recipe.epochs for a in arms})


def proposed(bench: Bench, evidence: Sequence[Evidence]) -> tuple[Arm, ...]:
    """The arms that this evidence suggests."""
    fold = bench.split.folds[0]
    return propose(
        bench.anatomy.layers,
        evidence,
        recipe=base_recipe(bench),
        classes=len(bench.examples.classes),
        examples=len(fold.train),
        batch_norms=batch_norms(bench),
    )


def planned(bench: Bench) -> Schedule:
    """The schedule that the effort asks for, before any budget."""
    given, folds = bench.settings, bench.split.folds
    rows = len(folds[0].validation)
    return schedule(given.effort, base_recipe(bench).epochs, folds=len(folds), rows=rows, confidence=given.confidence)


def batch_norms(bench: Bench) -> bool:
    """Whether any layer holds statistics that a training could move."""
    return any(name.endswith("running_mean") for layer in bench.anatomy.layers for name in layer.members)


def cost_of(bench: Bench, plan: Plan, *, stored: frozenset[int] | None = None) -> Cost:
    """What a plan costs on this bench, with what is stored or with other stored depths.

    A closed-form probe passes through its layers once, whatever the epochs.
    """
    once = closed(plan)
    counted = replace(plan, recipe=replace(plan.recipe, epochs=1), thaw=()) if once else plan
    return model_cost(
        counted,
        bench.calibration,
        examples=len(bench.split.folds[0].train),
        classes=len(bench.examples.classes),
        features=bench.pooled[top(plan)].shape[1],
        stored=frozenset(bench.whole) if stored is None else stored,
    )


def aim(bench: Bench) -> Aim:
    """What the user wants of the answer."""
    given = bench.settings
    return Aim(metric=given.metric, epsilon=given.epsilon, confidence=given.confidence, prefer=given.prefer)


def base_recipe(bench: Bench) -> Recipe:
    """The recipe that all arms vary."""
    return recipe(bench.settings, len(bench.split.folds[0].train))


def fitted_to(bench: Bench, plan: Plan) -> Plan:
    """A plan that came from a file, on this bench's own layers. Raises PlanError where they are others."""
    ours, theirs = bench.anatomy.layers, plan.layers
    if [layer.members for layer in ours] != [layer.members for layer in theirs]:
        raise PlanError(
            f"the plan is for a network of {len(theirs)} layers ({theirs[0].name} ... {theirs[-1].name}), and "
            f"{bench.backbone.name!r} has {len(ours)} ({ours[0].name} ... {ours[-1].name}); give the plan's backbone"
        )
    given = bench.settings
    plan = replace(plan, layers=ours)
    if given.epochs is not None:
        plan = with_epochs(plan, given.epochs)
    batch = given.batch_size or plan.recipe.batch
    return replace(plan, recipe=replace(plan.recipe, batch=min(batch, len(bench.split.folds[0].train))))


def _fitted(bench: Bench, arms: Sequence[Arm], plain: Schedule, budget: float) -> Schedule:
    """The schedule scaled once to a budget of seconds. Raises OptionError where even the least does not fit."""
    factor, least = budget / max(forecast_seconds(bench, arms, plain), 1e-9), 0.0
    for _ in range(12):
        fitted = scale(plain, factor, arms=len(arms))
        least = forecast_seconds(bench, arms, fitted)
        if least <= budget:
            return fitted
        factor *= 0.7
    raise OptionError(
        f"budget is {budget:.0f} s, and the smallest race takes about {least:.0f} s here; allow {2 * least:.0f}s "
        "or more, a smaller --image-size or a smaller backbone"
    )
