"""The pictures of the report, as SVG text.

Same values, same bytes: no date and no random id goes into a picture. Colours are written as CSS variables with
the light palette behind them, so that a page may recolour a picture in the dark; a picture saved to a file has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frostline.report import plotting, words
from frostline.report.facts import Row, front
from frostline.report.places import clear_place, crossed
from frostline.report.svg import PALETTE, clip, short
from frostline.search.scores import sign
from frostline.values import Epoch, Evidence, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTER, ASIDE = 5.2, 62.0  # points: of a letter at most, on average, and of what stands beside the axes
LINES = 6  # of learning curves
LINE = 20.0  # points: of a line of text below a curve, and the space between them


def depth_curve(curve: Sequence[Evidence], plan: Plan, metric: str, *, narrow: bool = False) -> str:
    """The linear probe's score at every cut with its interval, its controls, and where the chosen plan freezes.

    `metric` is that of the run: it says whether the probes' accuracy is the balanced one.
    """
    return plotting.svg(
        lambda figure: _depth_curve(figure, curve, plan, metric, narrow), narrow, 3.5, f"depth-{narrow}"
    )


def arms(rows: Sequence[Mapping[str, Any]], chosen: str, metric: str, *, narrow: bool = False) -> str:
    """Each arm's validation score with its interval, best first; `rows` are those of summary.json."""
    height = 0.75 + 0.27 * len(rows)
    return plotting.svg(lambda figure: _arms(figure, rows, chosen, metric), narrow, height, f"arms-{narrow}")


def baselines(rows: Sequence[Row], metric: str, *, narrow: bool = False) -> str:
    """Score with interval beside seconds of training, best first."""
    height = 0.95 + 0.34 * len(rows)
    return plotting.svg(lambda figure: _baselines(figure, rows, metric, narrow), narrow, height, f"baselines-{narrow}")


def elsewhere(
    curve: Sequence[Evidence], rows: Sequence[Mapping[str, Any]], chosen: str, metric: str, *, narrow: bool = False
) -> str:
    """Probes by depth and strategies by cost, each on validation data and on the shifted examples."""
    height = 6.2 if narrow else 3.4
    return plotting.svg(
        lambda figure: _elsewhere(figure, curve, rows, chosen, metric, narrow), narrow, height, f"elsewhere-{narrow}"
    )


def confusion(counts: NDArray[np.int64], classes: Sequence[str], *, narrow: bool = False) -> str:
    """True classes down, predicted classes across, counts in the cells."""
    side = (plotting.NARROW if narrow else 5.2) * 0.92
    return plotting.svg(lambda figure: _confusion(figure, counts, classes), narrow, side, f"confusion-{narrow}", 5.2)


def learning(epochs: Mapping[str, Sequence[Epoch]], chosen: str, metric: str, *, narrow: bool = False) -> str:
    """The finalists' validation score by epoch, or their loss where no score was taken on the way."""
    return plotting.svg(lambda figure: _learning(figure, epochs, chosen, metric), narrow, 2.9, f"learning-{narrow}")


def save(path: Path, curve: Sequence[Evidence], plan: Plan, metric: str) -> Path:
    """Write the depth curve for a document; the suffix of `path` says whether as .svg or as .png."""
    with plotting.style("depth-file"):
        figure = plotting.blank(plotting.WIDE, 3.5)
        _depth_curve(figure, curve, plan, metric, narrow=False)
        undated = {"Date" if path.suffix == ".svg" else "Software": None}
        figure.savefig(path, dpi=200, facecolor=PALETTE["paper"], metadata=undated)
    return path


# --------------------------------------------------------------------------------------------------- the drawings


def _depth_curve(figure: Figure, curve: Sequence[Evidence], plan: Plan, metric: str, narrow: bool) -> None:
    axes, probed = figure.add_subplot(), words.probed(metric, curve)
    # the raw input scores so low that it would press the rest together; it stands in the page's table
    curve = [e for e in curve if e.cut.depth] if len(curve) > 3 else curve
    xs = [e.cut.depth for e in curve]
    span = max(xs) - min(xs)
    left, right = min(xs) - max(0.6, 0.1 * span), max(xs) + max(0.35, 0.02 * span)  # room to say that a stem is frozen
    top = max(e.score.high for e in curve)
    low = min([e.score.low for e in curve] + [e.random for e in curve if e.random is not None])
    room = 0.16 * (top - low or 1.0)
    letter = LETTER * (right - left) / (72 * figure.get_figwidth() - ASIDE)  # in units of the axis
    lines = _mark_plan(axes, plan, (left, right), top + room, letter)
    axes.set_xlabel("layers below the cut")
    _controls(axes, curve, low - room, lines, (left, right, letter))
    means = [e.score.mean for e in curve]
    lows, highs = [e.score.low for e in curve], [e.score.high for e in curve]
    axes.fill_between(xs, lows, highs, color=PALETTE["frost"], alpha=0.16, lw=0)
    axes.plot(xs, means, color=PALETTE["frost"], lw=2, marker="o", ms=5, zorder=4)
    best = max(range(len(xs)), key=means.__getitem__)
    said = words.score(means[best], probed)
    # beside the point, for the frost line may run through it
    reach = (len(said) + 2) * letter
    onward = best < len(xs) - 1 and not crossed(xs[best] + 0.5 * letter, xs[best] + reach, lines)
    aside, side = (6, "left") if onward else (-6, "right")
    start = xs[best] if onward else min([x for x in lines if xs[best] - reach < x < xs[best]], default=xs[best])
    if xs[best] - start < 0.5 * reach:  # further off it would be read as another cut's
        label = axes.annotate(said, (start, means[best]), (aside, 5), "data", "offset points")
        label.set(color=PALETTE["frost"], fontweight="bold", ha=side, va="bottom", zorder=5)
    axes.set_xlim(left, right)
    axes.set_ylim(_bottom(figure, curve, low - room, top + 1.6 * room), top + 1.6 * room)
    names = [f"{e.cut.depth}  {short(e.cut.name)}" for e in curve]
    fitting = not narrow and sum(map(len, names)) <= 100
    axes.set_xticks(xs, names if fitting else _apart(xs, 3 * letter))
    axes.set_ylabel(f"linear probe, {words.called(probed)}")
    plotting.number(axes.yaxis, probed)


def _bottom(figure: Figure, curve: Sequence[Evidence], floor: float, top: float) -> float:
    """Where the picture ends: at `floor`, or lower where what is said below the line of shuffled labels needs room."""
    seen = [e.permuted for e in curve if e.permuted is not None]
    if not seen or max(seen) < floor:
        return floor
    line = LINE / (72 * figure.get_figheight() - ASIDE)  # as a share of the axis
    return min(floor, (min(seen) - line * top) / (1 - line))


def _apart(xs: Sequence[int], least: float) -> list[str]:
    """Numbers below an axis; those that would touch the one before them are left out."""
    said: list[str] = []
    last = -np.inf
    for x in xs:
        said.append(str(x) if x - last >= least else "")
        last = x if said[-1] else last
    return said


def _controls(
    axes: Axes, curve: Sequence[Evidence], floor: float, lines: Sequence[float], room: tuple[float, float, float]
) -> None:
    """What an untrained network and shuffled labels come to, in grey; what lies below the picture is said in words.

    `lines` are not to be written across; `room` is where the axis begins and ends, and how wide a letter is on it.
    """
    muted, (left, right, letter) = PALETTE["muted"], room
    xs, means = [e.cut.depth for e in curve], [e.score.mean for e in curve]
    for name, dashes, lift in (("random", (4, 2), 8), ("permuted", (1, 2), -12)):
        seen = [(e.cut.depth, getattr(e, name)) for e in curve if getattr(e, name) is not None]
        if not seen:
            continue
        text = {"random": "untrained network", "permuted": "shuffled labels"}[name]
        if max(value for _, value in seen) < floor:
            mean = words.score(sum(value for _, value in seen) / len(seen), curve[0].metric)
            axes.set_xlabel(f"{axes.get_xlabel()}\n({text} score {mean}, below this picture)")
        else:
            at, values = zip(*seen, strict=True)
            axes.plot(at, values, color=muted, lw=1.1, dashes=dashes, zorder=2)
            width = letter * len(text)
            gap = np.abs(np.asarray(values) - np.interp(at, xs, means)).tolist()
            x = clear_place(at, gap, lines, width, (left, right))
            under = np.interp(np.linspace(x - width, x, 20), at, values)
            y = float(under.max() if lift > 0 else under.min())
            axes.annotate(text, (x, y), (0, lift), textcoords="offset points", ha="right", color=muted)


def _mark_plan(axes: Axes, plan: Plan, limits: tuple[float, float], y: float, letter: float) -> Sequence[float]:
    """Ice over the layers that never change, and a line where it ends; the places of the lines are returned."""
    left, right = limits
    frozen, kept = (min(max(float(depth), left), right) for depth in (plan.freeze, plan.keep))
    lines: list[float] = []
    if plan.freeze:
        axes.axvspan(left, frozen, color=PALETTE["frost"], alpha=0.07, lw=0, zorder=0)
        axes.axvline(frozen, color=PALETTE["frost"], lw=1.4, zorder=1)
        lines.append(frozen)
    if plan.freeze < plan.keep < len(plan.layers):
        axes.axvline(kept, color=PALETTE["muted"], lw=1, ls=(0, (2, 2)), zorder=1)
        lines.append(kept)
    above = ("dropped", "muted") if plan.above == "drop" else ("starts afresh", "ember")
    end = right if plan.above == "tune" else kept
    for text, colour, start, stop in (
        ("frozen", "frost", left, frozen if plan.freeze else left),
        ("learns", "ember", frozen if plan.freeze else left, end),
        (*above, end, right),
    ):
        if stop - start > 1.15 * letter * len(text):  # the words are bold
            axes.text((start + stop) / 2, y, text, color=PALETTE[colour], ha="center", va="center", weight="bold")
    return lines


def _arms(figure: Figure, rows: Sequence[Mapping[str, Any]], chosen: str, metric: str) -> None:
    axes = figure.add_subplot()
    colours = {"chosen": "ember", "finalist": "frost", "out": "quiet"}
    # finalists on top: the others had shorter schedules, and the two are not to be compared
    ordered = sorted(rows, key=lambda row: (row["stage"] == "finalist", sign(metric) * row["score"]["mean"]))
    finalists = sum(row["stage"] == "finalist" for row in rows)
    if 0 < finalists < len(rows):
        axes.axhline(len(rows) - finalists - 0.5, color=PALETTE["rule"], lw=1)
    for y, row in enumerate(ordered):
        score = row["score"]
        plotting.interval(
            axes, y, (score["low"], score["mean"], score["high"]), PALETTE[colours[words.side(row, chosen)]]
        )
    axes.set_yticks(range(len(ordered)), [short(row["id"], 24) for row in ordered])
    for label, row in zip(axes.get_yticklabels(), ordered, strict=True):
        side = words.side(row, chosen)
        label.set(color=PALETTE["muted" if side == "out" else colours[side]])
        label.set(fontweight="bold" if side == "chosen" else "normal")
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.grid(axis="x", color=PALETTE["rule"], lw=0.7)
    axes.set_xlabel(f"validation {words.called(metric)}")
    axes.spines["left"].set_visible(False)
    plotting.number(axes.xaxis, metric)


def _baselines(figure: Figure, rows: Sequence[Row], metric: str, narrow: bool) -> None:
    scores, times = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    ordered = sorted(rows, key=lambda row: sign(metric) * row.mean)
    longest = max((row.seconds or 0.0 for row in ordered), default=1.0)
    for y, row in enumerate(ordered):
        colour = PALETTE["ember" if row.chosen else "frost"]
        plotting.interval(scores, y, (row.low, row.mean, row.high), colour)
        times.barh(y, row.seconds or 0.0, 0.5, color=colour)
        times.text((row.seconds or 0.0) + 0.02 * longest, y, words.seconds(row.seconds), va="center")
    scores.set_yticks(range(len(ordered)), [row.name for row in ordered])
    for label, row in zip(scores.get_yticklabels(), ordered, strict=True):
        label.set(color=PALETTE["ember" if row.chosen else "ink"], fontweight="bold" if row.chosen else "normal")
    scores.set_ylim(-0.6, len(ordered) - 0.4)
    scores.margins(x=0.08)
    scores.grid(axis="x", color=PALETTE["rule"], lw=0.7)
    scores.set_xlabel(words.called(metric))
    plotting.number(scores.xaxis, metric, 2 if narrow else 4)
    times.set_xlim(0, longest * (1.45 if narrow else 1.25))
    times.set_xticks([])
    times.set_xlabel("training time")
    for axes in (scores, times):
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(axes is scores)
        axes.tick_params(length=0)


def _elsewhere(
    figure: Figure,
    curve: Sequence[Evidence],
    rows: Sequence[Mapping[str, Any]],
    chosen: str,
    metric: str,
    narrow: bool,
) -> None:
    depths, costs = figure.subplots(2, 1) if narrow else figure.subplots(1, 2, width_ratios=(1, 1.1))
    judged = [e for e in curve if e.shifted is not None and e.cut.depth]
    for name, colour in (("unshifted", "frost"), ("shifted", "ember")):
        seen = [(e.cut.depth, at.mean, at.low, at.high) for e in judged if (at := getattr(e, name)) is not None]
        if seen:
            xs, means, lows, highs = zip(*seen, strict=True)
            depths.fill_between(xs, lows, highs, color=PALETTE[colour], alpha=0.14, lw=0)
            depths.plot(xs, means, color=PALETTE[colour], lw=2, marker="o", ms=4)
    places = [e.cut.depth for e in judged]
    letter = LETTER * (1 + max(places) - min(places)) / (72 * figure.get_figwidth() * (1 if narrow else 0.4))
    depths.set_xticks(places, _apart(places, 3 * letter))
    depths.set_xlabel("layers below the cut")
    depths.set_ylabel(f"linear probe, {words.called(words.probed(metric, curve))}")
    plotting.number(depths.yaxis, "accuracy")
    both = [row for row in rows if row.get("shifted")]
    for name, colour in (("score", "frost"), ("shifted", "ember")):
        points = [(row["cost"]["training"], row[name]["mean"]) for row in both]
        xs, ys = zip(*front(points, metric), strict=True)
        costs.plot(xs, ys, color=PALETTE[colour], lw=1.4, drawstyle="steps-post", alpha=0.7)
        for row, (x, y) in zip(both, points, strict=True):
            inside = PALETTE[colour] if row["stage"] == "finalist" else PALETTE["paper"]
            costs.plot([x], [y], color=PALETTE[colour], marker="o", ms=6, mfc=inside, zorder=4)
            if row["id"] == chosen:
                lift = 4 if name == "score" else -12  # beside the two lines, not between them
                costs.annotate("chosen", (x, y), (6, lift), textcoords="offset points", color=PALETTE[colour])
    plotting.durations(costs, [row["cost"]["training"] for row in both], "one training (modelled)")
    costs.set_ylabel(words.called(metric))
    plotting.number(costs.yaxis, metric)


def _confusion(figure: Figure, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.argwhere(counts).tolist():
        share = shares[row, column]
        # right answers in blue, mistakes in vermilion; a mistake is lifted so that a rare one is seen
        right = row == column
        alpha = 0.12 + 0.83 * share if right else min(0.3 + 1.6 * share, 0.95)
        xs, ys = column + np.array([-0.5, 0.5, 0.5, -0.5]), row + np.array([-0.5, -0.5, 0.5, 0.5])
        axes.fill(xs, ys, color=PALETTE["frost" if right else "ember"], alpha=alpha, lw=0)
        if len(classes) <= 20:
            colour = PALETTE["paper" if alpha > 0.55 else "ink"]
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour)
    step = max(1, len(classes) // 25)
    names = [clip(name) for name in classes[::step]]
    turn, side = (40, "right") if max(map(len, names)) > 3 else (0, "center")
    axes.set_xticks(range(0, len(classes), step), names, rotation=turn, ha=side)
    axes.set_yticks(range(0, len(classes), step), names)
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)


def _learning(figure: Figure, epochs: Mapping[str, Sequence[Epoch]], chosen: str, metric: str) -> None:
    axes = figure.add_subplot()
    scored = any(epoch.score is not None for run in epochs.values() for epoch in run)
    points = {n: [(e.number + 1, e.score if scored else e.loss) for e in run] for n, run in epochs.items()}
    seen = {n: [(x, y) for x, y in found if y is not None] for n, found in points.items()}
    # the chosen one first, and in its colour; the rest in their order, as far as their names have room
    drawn = sorted((n for n in seen if seen[n]), key=lambda n: n != chosen)[:LINES]
    others = cycle((PALETTE[name], dash) for dash in ("-", "--") for name in ("frost", "muted", "quiet"))
    for number, name in enumerate(drawn):
        colour, dash = (PALETTE["ember"], "-") if name == chosen else next(others)
        axes.plot(*zip(*seen[name], strict=True), color=colour, ls=dash, lw=1.8, marker="o", ms=3, clip_on=False)
        # stacked in the corner that learning leaves empty: labels at the lines' ends would lie on each other
        place = (0.99, 0.05 + 0.1 * number) if scored else (0.99, 0.95 - 0.1 * number)
        said = short(name, 24) + (" (chosen)" if name == chosen else " (dashed)" if dash == "--" else "")
        label = axes.text(*place, said, transform=axes.transAxes, ha="right", va="center", color=colour)
        label.set_bbox({"facecolor": PALETTE["paper"], "alpha": 0.85, "lw": 0, "pad": 1})  # over the grid's lines
    axes.margins(y=0.2)
    if not scored:
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set_xlabel("epoch")
    loss = "training loss, nats" if words.in_nats(metric) else "training loss"
    axes.set_ylabel(f"validation {words.called(metric)}" if scored else loss)
    longest = max((len(run) for run in epochs.values()), default=1)
    axes.set_xticks(range(1, longest + 1, 1 + longest // 10))
    axes.grid(axis="y", color=PALETTE["rule"], lw=0.7)
    if scored:
        plotting.number(axes.yaxis, metric)
