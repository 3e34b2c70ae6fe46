"""What the known strategies of a comparison took, row by row, and the picture of score against time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.report import facts, plotting, words
from frostline.report.facts import Report, front
from frostline.report.glossary import named
from frostline.report.svg import PALETTE
from frostline.search.scores import sign

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Compared:
    """What a known strategy took in all."""

    name: str
    chosen: bool
    mean: float
    low: float
    high: float
    total: float  # seconds, with the search for its rate and the pass over the data that it rests on
    training: float  # seconds of one training
    against_scratch: float | None  # share of the total that is saved
    against_full: float | None
    break_even: float | None  # epochs after which the pass over the data has paid
    peak_bytes: int
    trainable: int
    macs: int
    forgotten: float | None


TAKEN = (
    "In all: one training, the short ones that found its rate, and the pass over the data that it rests on (modelled); "
    "beside it, how much less (−) or more (+) that is than of training from scratch, which has three times the epochs, "
    "and than of full fine-tuning. Learning: how many numbers learn."
)
LOST = {  # by what was asked of the source
    "answers": (
        "answers changed",
        "Answers changed: how often the network's own output layer, asked about examples that no training learned "
        "from, no longer says what it said before.",
    ),
    "output layer": (
        "source accuracy lost",
        "Source accuracy lost: how much less often the network's own output layer is right on examples of the source.",
    ),
    "probe": (
        "source accuracy lost",
        "Source accuracy lost: how much less often a linear probe of the source's classes, fitted before, is right.",
    ),
}


def lost(report: Report) -> tuple[str, str]:
    """The head of the column of what was forgotten, and what stands below it."""
    return LOST.get(report.summary.get("forgetting", ""), LOST["answers"])


def compared(report: Report) -> tuple[Compared, ...]:
    """The known strategies of a comparison, best score first; none where a run compared nothing.

    Scores are measured alike for all: that of the choice is not corrected for having been selected.
    """
    taken, known, chosen = report.summary.get("comparison", {}), facts.known(report), report.summary["decision"]["arm"]
    better = sign(report.summary["score"]["metric"])
    rows = [
        Compared(
            named(name),
            row["arm"] == chosen,
            known[name]["certified"]["mean"],
            known[name]["certified"]["low"],
            known[name]["certified"]["high"],
            row["total"],
            row["training"],
            row["saved_against_scratch"],
            row["saved_against_full"],
            row["break_even"],
            known[name]["peak_bytes"],
            row["trainable"],
            row["inference_macs"],
            row["forgotten"],
        )
        for name, row in taken.items()
        if name in known
    ]
    return tuple(sorted(rows, key=lambda row: -better * row.mean))


def picture(rows: Sequence[Compared], metric: str, *, narrow: bool = False) -> str:
    """Score with its interval against the time that each strategy takes in all; the best for the time are joined."""
    height = 4.2 if narrow else 3.6
    return plotting.svg(lambda figure: _pareto(figure, rows, metric), narrow, height, f"compared-{narrow}")


def _pareto(figure: Figure, rows: Sequence[Compared], metric: str) -> None:
    axes = figure.add_subplot()
    xs, ys = zip(*front([(row.total, row.mean) for row in rows], metric), strict=True)
    axes.plot(xs, ys, color=PALETTE["frost"], lw=1.4, drawstyle="steps-post", alpha=0.7)
    best = set(zip(xs, ys, strict=True))
    for number, row in enumerate(rows, 1):
        colour = PALETTE["ember" if row.chosen else "frost"]
        axes.plot([row.total] * 2, [row.low, row.high], color=colour, lw=1, alpha=0.3)
        inside = colour if (row.total, row.mean) in best else PALETTE["paper"]
        axes.plot([row.total], [row.mean], color=colour, marker="o", ms=7, mfc=inside, zorder=4)
        if row.chosen or (row.total, row.mean) in best:  # the others lie on each other, and have the table
            axes.annotate(str(number), (row.total, row.mean), (6, 3), textcoords="offset points", color=colour)
    plotting.durations(axes, [row.total for row in rows], "time in all, the search for its rate counted")
    axes.set_ylabel(words.called(metric))
    plotting.number(axes.yaxis, metric)
