"""What a run is to be told about besides its answer."""

from __future__ import annotations

from frostline.bench.bench import Bench
from frostline.bench.recipe import weighs_alike
from frostline.training import adapters
from frostline.values import Plan


def unadapted(bench: Bench, plan: Plan) -> tuple[str, ...]:
    """Which modules get no adapter though they hold weights of the layers that the plan adapts, and why."""
    left = {} if plan.adapter is None else adapters.targets(bench.backbone.module, plan)[1]
    found: list[str] = []
    for why in dict.fromkeys(left.values()):
        names = [name for name, reason in left.items() if reason == why]
        found.append(f"{len(names)} modules have no adapter ({names[0]} first): {why}")
    return tuple(found)


def unlike(bench: Bench, plan: Plan) -> tuple[str, ...]:
    """That a plan learns by other weights of the classes than the metric judges by, where it does."""
    metric, counts = bench.settings.metric, weighs_alike(bench.settings)
    if plan.recipe.balance == counts:
        return ()
    how = "weigh alike in" if plan.recipe.balance else "weigh by their size in"
    said = "true" if counts else "false"
    return (
        f'classes {how} what this plan learns, and the metric is {metric}; "balance": {said} in its recipe mends it',
    )


def rounded(bench: Bench) -> tuple[str, ...]:
    """That activations were stored in less than they were computed in, where they were."""
    formats = {field.dtype for stored in bench.whole.values() for field in stored.fields} & {"float16", "bfloat16"}
    if bench.device.mixed_precision != "no" or not formats:
        return ()
    return (f"activations were stored in {formats.pop()}, so trainings from them differ a little from live ones",)
