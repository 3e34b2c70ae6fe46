"""What a report tells, as nouns: the run's summary with what it rests on, and the comparisons drawn from it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.report import words
from frostline.report.gallery import Gallery
from frostline.report.glossary import named
from frostline.report.wrong import Points, Tally
from frostline.search.scores import sign
from frostline.values import Epoch, Evidence, Plan, Profile

NOTICED = 1.1  # times the time of the chosen plan's training: less is within what timing says


@dataclass(frozen=True, slots=True)
class Report:
    """One finished run, as the page and the terminal tell it."""

    summary: Mapping[str, Any]  # summary.json
    plan: Plan  # the chosen one
    curve: tuple[Evidence, ...]  # cut by cut, rising
    profile: Profile | None = None
    split_how: str = ""
    warnings: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()  # (file, reason)
    command: str = ""  # that repeats the run
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    confusion: NDArray[np.int64] | None = None  # true x predicted, on the data of the score
    tallies: tuple[Tally, ...] = ()  # on the same data, of labels and of boxes
    points: Mapping[str, Points] = field(default_factory=dict[str, Points])  # on the same data, of numbers
    gallery: Gallery | None = None  # some of the same data; None where none are to be shown
    classes: tuple[str, ...] = ()
    epochs: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict[str, tuple[Epoch, ...]])  # finalist -> epochs
    # arm id or baseline -> measured seconds of one full training; where one is missing, what was spent on it is shown
    training_seconds: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Row:
    """A known strategy beside the chosen plan."""

    id: str
    name: str
    mean: float
    low: float
    high: float
    seconds: float | None  # of training
    chosen: bool
    alias: str = ""  # the arm's id, where the known name is another one

    @property
    def label(self) -> str:
        """The name with what belongs in brackets behind it: "stem frozen (freeze@1, chosen)"."""
        aside = ", ".join(filter(None, (self.alias, "chosen" if self.chosen else "")))
        return f"{self.name} ({aside})" if aside else self.name


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer in the table of a plan."""

    index: int
    name: str
    parameters: int
    kept: bool
    frozen: bool
    rate: float | None  # learning rate; None for what never learns
    adapted: bool = False  # stands still beside an adapter that learns


def known(report: Report) -> Mapping[str, Mapping[str, Any]]:
    """The known strategies that were trained in full: the score of a shorter schedule is nothing to compare with."""
    timed = report.training_seconds
    return {
        name: arm
        for name, arm in report.summary["baselines"].items()
        if arm.get("certified") or arm["id"] in timed or name in timed
    }


def held_out(report: Report) -> Mapping[str, tuple[float, float, float]]:
    """Mean, low and high on the examples set aside, by arm; empty where none were, and without those never read there.

    The chosen arm has the run's own score: one model, one number.
    """
    found = {arm["id"]: arm["certified"] for arm in report.summary["arms"] if arm.get("certified")}
    told = {name: (at["mean"], at["low"], at["high"]) for name, at in found.items()}
    chosen, score = report.summary["decision"]["arm"], report.summary["score"]
    if told and score["kind"] == "held_out":
        told[chosen] = score["value"], score["low"], score["high"]
    return told


@dataclass(frozen=True, slots=True)
class Network:
    """One of several backbones that raced."""

    tag: str
    chosen: bool
    depth: int  # of its best probe
    probe: tuple[float, float, float]  # mean, low, high of that
    untrained: float | None  # the best probe on the same network with random weights
    behind: tuple[float, float, float]  # mean, low, high: how far its best probe lies behind the best of all
    judged: str  # in words
    finalists: tuple[str, ...]


def networks(rows: Sequence[Mapping[str, Any]]) -> tuple[Network, ...]:
    """The backbones of a race of several, from the rows of summary.json, best probe first."""
    words_of = {None: "not known", True: "relevant", False: "not shown to be better than untrained"}
    return tuple(
        Network(
            row["tag"],
            row.get("chosen", False),
            row["probe"]["depth"],
            (row["probe"]["mean"], row["probe"]["low"], row["probe"]["high"]),
            row["untrained"],
            (row["behind"]["mean"], row["behind"]["low"], row["behind"]["high"]),
            "relevant, shown to be weaker"
            if row["relevant"] and row["behind"]["low"] > 0
            else words_of[row["relevant"]],
            tuple(row.get("finalists", ())),
        )
        for row in rows
    )


def strategies(report: Report) -> tuple[Row, ...]:
    """The baselines and the chosen plan, best score first; all measured on the data of the run's score if they were."""
    chosen, score = report.summary["decision"]["arm"], report.summary["score"]
    rows: list[Row] = []
    for name, arm in known(report).items():
        found = arm.get("certified") or arm["score"]
        taken = report.training_seconds.get(arm["id"], report.training_seconds.get(name, arm["seconds"]))
        picked = arm["id"] == chosen
        if picked:  # one model, one number: the score above the page and the one in the table are the same
            found = {"mean": score["value"], "low": score["low"], "high": score["high"]}
        alias = "" if arm["id"] == name else arm["id"]
        rows.append(
            Row(arm["id"], named(name), found["mean"], found["low"], found["high"], taken, picked, alias),
        )
    if all(not row.chosen for row in rows):
        spent = {arm["id"]: arm["seconds"] for arm in report.summary["arms"]}
        taken = report.training_seconds.get(chosen, spent.get(chosen))
        rows.append(Row(chosen, chosen, score["value"], score["low"], score["high"], taken, True))
    return tuple(sorted(rows, key=lambda row: -sign(score["metric"]) * row.mean))


def ranked(report: Report) -> tuple[Mapping[str, Any], ...]:
    """The arms of the summary: finalists first, for the others had shorter schedules; then by validation score."""
    arms, better = report.summary["arms"], sign(report.summary["score"]["metric"])
    return tuple(sorted(arms, key=lambda arm: (arm["stage"] != "finalist", -better * arm["score"]["mean"])))


def seconds_of(report: Report, baseline: str) -> float | None:
    """Time of a full training of a known strategy; None where there was none."""
    arm = known(report).get(baseline)
    if arm is None:
        return None
    return report.training_seconds.get(arm["id"], report.training_seconds.get(baseline, arm["seconds"]))


def early(report: Report) -> str:
    """How to read the scores of those that left the race early; nothing where none did."""
    if not any(arm["stage"].startswith("dropped@") for arm in report.summary["arms"]):
        return ""
    return (
        "Out (n): left after round n, on a shorter schedule and fewer examples: not a score to compare with a "
        "finalist's."
    )


def learned(plan: Plan) -> str:
    """How a plan's model comes about, in one sentence."""
    recipe = plan.recipe
    if plan.closed:
        return "The head is fitted in closed form on stored features; nothing is trained."
    return (
        f"The new head learns at {recipe.lr:.2g}. {recipe.epochs} epochs of {recipe.optimiser}, batches of "
        f"{recipe.batch}, {recipe.schedule.replace('_', ' ')} schedule, augmentation: "
        f"{recipe.augment.replace('_', ' and ')}." + (" Classes weigh alike in the loss." if recipe.balance else "")
    )


def relative(report: Report) -> str:
    """What has to be known to read the comparison with the known strategies."""
    times = "Relative: how many times the chosen plan's training time."
    if report.summary["score"]["kind"] != "cross_validated":
        return times
    return f"{times} Only the chosen plan's score is corrected for having been chosen."


def savings(report: Report) -> tuple[str, ...]:
    """What the search cost and what it saves, sentence by sentence, against full fine-tuning and against scratch."""
    chosen = next(row.seconds for row in strategies(report) if row.chosen)
    said = [_searched(report.summary["cost"])]
    if chosen and report.plan.closed:
        said.append(
            f"The chosen plan is fitted in closed form, not trained: {words.seconds(chosen)} once the features of "
            "every example are there."
        )
    longer = dict[str, float]()
    for baseline in ("full_finetune", "scratch"):
        other = seconds_of(report, baseline)
        if chosen and other and known(report)[baseline]["id"] != report.summary["decision"]["arm"]:
            name = "training from scratch for three times the epochs" if baseline == "scratch" else named(baseline)
            if other < NOTICED * chosen:
                taken = f"{words.seconds(chosen)} and {words.seconds(other)}"
                said.append(f"Training the chosen plan is not noticeably faster than {name}: {taken}.")
            else:
                longer[name] = other
    return (*said, _beside(longer, chosen, report)) if longer and chosen else tuple(said)


def beaten(report: Report) -> str:
    """How probable it is that the model is better than those of the known strategies; nothing where none were asked."""
    rows = {row.id: row.name for row in strategies(report)}
    found = {rows[arm["id"]]: arm["beaten"] for arm in known(report).values() if arm.get("beaten") is not None}
    if not found:
        return ""
    told = ", ".join(f"{name} {words.probability(p)}" for name, p in sorted(found.items(), key=lambda it: -it[1]))
    held = report.summary["score"]["kind"] == "held_out"
    high = "" if held else " (rather too high, since it was chosen on these examples)"
    return f"Probability that the model is better than these on other examples of this kind{high}: {told}."


def others(report: Report) -> str:
    """The score in every other metric, on the same predictions; nothing where a run measured none."""
    asked = report.summary["score"]["metric"]
    found = {name: at for name, at in report.summary.get("metrics", {}).items() if name != asked}
    if not found:
        return ""
    told = [
        f"{words.called(name)} {words.ranged(at['mean'], at['low'], at['high'], name)}" for name, at in found.items()
    ]
    held = report.summary["score"]["kind"] == "held_out"
    where = "on the same examples" if held else "on validation, not corrected for having been selected"
    return f"In other metrics, {where}: {words.listed(told)}."


def elsewhere(report: Report) -> tuple[str, ...]:
    """What became of the score on the shifted examples, sentence by sentence; nothing where none were given."""
    summary = report.summary
    chosen = next((arm for arm in summary["arms"] if arm["id"] == summary["decision"]["arm"]), None)
    if chosen is None or not chosen.get("shifted"):
        return ()
    metric, there = summary["score"]["metric"], chosen["shifted"]
    said = [
        f"On the {summary['data']['shifted']:,} shifted examples, which decided nothing, {chosen['id']} comes to "
        f"{words.ranged(there['mean'], there['low'], there['high'], metric)}; on validation it is "
        f"{words.score(chosen['score']['mean'], metric)}."
    ]
    finalists = [arm for arm in summary["arms"] if arm["stage"] == "finalist" and arm.get("shifted")]
    best = max(finalists, key=lambda arm: sign(metric) * arm["shifted"]["mean"], default=chosen)
    if best["shifted"]["mean"] != there["mean"]:
        said.append(f"The best finalist there is {best['id']}: {words.score(best['shifted']['mean'], metric)}.")
    judged = [e for e in report.curve if e.shifted is not None and e.unshifted is not None]
    if judged:
        inside = max(judged, key=lambda e: (e.unshifted.mean if e.unshifted else 0.0, -e.cut.depth)).cut
        outside = max(judged, key=lambda e: (e.shifted.mean if e.shifted else 0.0, -e.cut.depth)).cut
        where = "also" if inside == outside else f"after {outside.name} (depth {outside.depth})"
        said.append(
            f"Linear probes know most after {inside.name} (depth {inside.depth}) on validation data, {where} on the "
            "shifted ones."
        )
    return tuple(said)


def front(points: Sequence[tuple[float, float]], metric: str) -> tuple[tuple[float, float], ...]:
    """Of pairs (cost, score) those that no other one betters in both, by rising cost."""
    kept: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -sign(metric) * point[1])):
        if not kept or sign(metric) * score > sign(metric) * kept[-1][1]:
            kept.append((cost, score))
    return tuple(kept)


def checked(report: Report) -> tuple[str, ...]:
    """What a run found when it looked at its own work, sentence by sentence."""
    checks, metric, said = report.summary["checks"], report.summary["score"]["metric"], list[str]()
    if checks.get("frozen_unchanged"):
        said.append("Frozen layers are bit for bit what they were.")
    if checks.get("cached_vs_live") is not None:
        apart = f"{checks['cached_vs_live']:.1g}"
        unit = " nats" if words.in_nats(metric) else ""
        said.append(f"The losses of training from the store and from the examples differ by {apart}{unit} at most.")
    if checks.get("augmentation_gap") is not None:
        gap = sign(metric) * checks["augmentation_gap"]
        than = "better" if gap > 0 else "worse"
        said.append(
            "With examples that vary anew in every epoch the chosen plan is "
            f"{words.gap(abs(gap), metric)} {than} than with the fixed views that short trainings learned from."
        )
    if checks.get("forecast_error") is not None:
        said.append(f"A training took {checks['forecast_error']:.0%} more or less than forecast (median).")
    return tuple(said)


def _searched(cost: Mapping[str, Any]) -> str:
    """The whole search beside a plain sweep, whichever took longer."""
    total, sweep = float(cost["total_seconds"]), cost.get("exhaustive_seconds")
    taken = f"The whole search took {words.seconds(total)}"
    if not sweep:
        return f"{taken}."
    plain = "training every cut at three learning rates with three seeds each to the end"
    if total > sweep:
        return (
            f"{taken}, longer than {plain} would have: about {words.seconds(sweep)}. Where a full training takes "
            "seconds, a search cannot pay in time; what it adds is the error statement."
        )
    return f"{taken}; {plain} would have taken about {words.seconds(sweep)}, {words.ratio(sweep, total)} as long."


def _beside(longer: Mapping[str, float], chosen: float, report: Report) -> str:
    """One training of each known strategy that takes longer than the chosen plan, and when that repays the search."""
    times = {name: words.ratio(other, chosen) for name, other in longer.items()}
    if report.plan.closed:
        said = [f"{name} takes {words.seconds(other)}, {times[name]} as long" for name, other in longer.items()]
        return words.sentence(", and ".join(said))
    paid = {name: int(words.saving(report.summary["cost"], chosen, other) or 0) + 1 for name, other in longer.items()}
    first, *more = [
        (f"beside {name} at {words.seconds(other)} ({times[name]})", f"after {paid[name]:,}")
        for name, other in longer.items()
    ]
    said = [f"{first[0]} the search is repaid in time {first[1]} trainings", *(f"{what} {when}" for what, when in more)]
    return f"One training of the chosen plan takes {words.seconds(chosen)}: {', '.join(said)}."


def again(report: Report) -> str:
    """The command that repeats the run, without the folder that the run itself has filled."""
    parts = shlex.split(report.command)
    kept = [
        part
        for before, part in zip(("", *parts), parts, strict=False)
        if "--out" not in (before, part) and not part.startswith("--out=")
    ]
    return shlex.join(kept)


def layer_rows(plan: Plan) -> tuple[LayerRow, ...]:
    """Every layer with what becomes of it; a layer that is neither kept nor dropped starts afresh."""
    rates = plan.rates()
    return tuple(
        LayerRow(
            index=layer.index,
            name=layer.name,
            parameters=layer.parameters,
            kept=i < plan.keep,
            frozen=i < plan.keep and (rates[i] is None or (bool(layer.held) and not layer.parameters)),
            rate=rates[i],
            adapted=plan.adapter is not None and plan.freeze <= i < plan.keep,
        )
        for i, layer in enumerate(plan.layers)
    )


def trainable(plan: Plan) -> str:
    """The count of what learns, in the words of the peft library; the new head comes on top of it."""
    rows = [row for row in layer_rows(plan) if row.kept or plan.above != "drop"]
    learning, everything = sum(r.parameters for r in rows if r.rate is not None), sum(r.parameters for r in rows)
    share = 100 * learning / everything if everything else 0.0
    apart = "" if plan.adapter is None else f"; adapters of rank {plan.adapter.rank} apart"
    return f"trainable params: {learning:,} || all params: {everything:,} || trainable%: {share:.2f}{apart}"
