"""What the terminal and the page both say: the answer in one sentence, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from frostline.values import Plan

# measured as shares of a whole, so shown in per cent; any other metric is shown as it is
SHARES = ("accuracy", "balanced_accuracy", "f1", "macro_f1", "auroc", "average_precision", "map", "iou")

NAMES: Mapping[str, str] = {
    "scratch": "from scratch",
    "linear_probe": "linear probe",
    "last_block": "last block",
    "full_finetune": "full fine-tuning",
    "lp_ft": "probe, then fine-tuning",
    "gradual_unfreezing": "gradual unfreezing",
    "lora": "LoRA",
}


def named(baseline: str) -> str:
    """A known strategy in plain words; one that is not known keeps its own name."""
    return NAMES.get(baseline, baseline.replace("_", " "))


def score(value: float | None, metric: str) -> str:
    """A score with its unit; a dash where there is none."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if metric in SHARES else f"{value:.3g}"


def interval(low: float, high: float, metric: str) -> str:
    """Both ends of an interval, the unit said once."""
    if metric in SHARES:
        return f"{100 * low:.1f} to {100 * high:.1f}%"
    return f"{low:.3g} to {high:.3g}"


def seconds(value: float | None) -> str:
    """A time span, in the unit that keeps it short; a dash where there is none."""
    if value is None:
        return "–"
    if value < 0.95:
        return f"{1000 * value:.0f} ms"
    if value < 120:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def size(value: float | None) -> str:
    """Bytes in binary units; a dash where there are none."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def advice(plan: Plan) -> str:
    """What to do, as an order: "Freeze the first 4 of 7 layers and train the other 3"."""
    depth, kept, frozen = len(plan.layers), plan.keep, plan.freeze
    if kept == 0:
        return f"Transfer nothing: train all {depth} layers from scratch"
    last = "the last layer" if depth - kept == 1 else f"the last {depth - kept} layers"
    above = {"tune": "", "drop": f", drop {last}", "reinit": f", start {last} afresh"}[plan.above]
    transferred = f"all {depth} layers" if kept == depth else f"the first {kept} of {depth} layers"
    learning = sum(plan.train)
    if plan.adapter:
        return f"Keep {transferred}{above} and train a LoRA of rank {plan.adapter.rank} beside them"
    if frozen == kept:
        return f"Freeze {transferred}{above}" + ("" if plan.above == "reinit" else " and train the head alone")
    if learning == kept:
        return f"Keep {transferred}{above} and train every one of them"
    if learning == kept - frozen:
        count = "one" if learning == 1 else str(learning)
        which = f"last {count}" if kept == depth else f"{count} between"
        return f"Freeze the first {frozen} of {depth} layers{above} and train the {which}"
    return f"Keep {transferred}{above} and train {learning} of them"


def answer(summary: Mapping[str, Any], plan: Plan) -> str:
    """The whole result in one sentence."""
    found, metric = summary["score"], summary["score"]["metric"]
    held_out = found["kind"] == "held_out"
    where = f"on {found['n']:,} held-out examples" if held_out else f"cross-validated over {found['n']:,} examples"
    percent = f"{100 * summary['decision']['confidence']:.0f}%"
    return (
        f"{advice(plan)}: {score(found['value'], metric)} {metric.replace('_', ' ')} {where} "
        f"({percent} interval {interval(found['low'], found['high'], metric)})."
    )


def certainty(summary: Mapping[str, Any]) -> str:
    """How sure the choice is, in one sentence that never says more than was shown."""
    decision = summary["decision"]
    points = f"{100 * decision['epsilon']:.3g} points" if decision["epsilon"] != 0.01 else "one point"
    if decision["certified"]:
        return f"Certified at {100 * decision['confidence']:.0f}%: within {points} of the best strategy in the race."
    plausible = len(decision["plausible"])
    rest = f"; this data cannot tell {plausible} of the strategies apart" if plausible > 1 else ""
    return f"Not certified to be within {points} of the best{rest}."


def saving(cost: Mapping[str, Any], chosen: float | None, other: float | None) -> float | None:
    """Trainings of the chosen plan after which the search has paid for itself against `other` seconds each.

    None where the chosen plan is not faster, so that no number of trainings would pay.
    """
    if chosen is None or other is None or other <= chosen:
        return None
    return float(cost["total_seconds"]) / (other - chosen)


def ratio(slow: float | None, fast: float | None) -> str:
    """How many times faster; "–" where one of them is unknown."""
    if not slow or not fast:
        return "–"
    times = slow / fast
    return f"{times:.2g}x" if times < 0.95 else f"{times:.1f}x" if times < 10 else f"{times:.0f}x"


def gap(value: float, metric: str) -> str:
    """A difference of two scores with its unit."""
    return f"{100 * value:.2f} points" if metric in SHARES else f"{value:.3g}"


def stage(value: str) -> str:
    """What became of an arm, in words."""
    if value.startswith("dropped@"):
        return f"out after round {value.removeprefix('dropped@')}"
    return {"finalist": "finalist", "probe": "closed form"}.get(value, value)


Side = Literal["chosen", "finalist", "out"]


def side(arm: Mapping[str, Any], chosen: str) -> Side:
    """How much weight an arm has in a picture."""
    if arm["id"] == chosen:
        return "chosen"
    return "finalist" if arm["stage"] == "finalist" else "out"
