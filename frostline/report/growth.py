"""What more examples would give, in words and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from frostline.report import plotting, words
from frostline.report.facts import Report
from frostline.report.svg import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def growing(report: Report) -> tuple[str, ...]:
    """What more examples would give, sentence by sentence; nothing where these are too few to tell."""
    rows = report.summary.get("growth", [])
    if not rows:
        return ()
    probed = words.probed(report.summary["score"]["metric"])
    first, last = (
        max(rows, key=lambda row: (row["scores"][place]["mean"], -row["depth"]))["depth"] for place in (0, -1)
    )
    few, many = rows[0]["sizes"][0], rows[0]["sizes"][-1]
    best = next(row for row in rows if row["depth"] == last)
    now, then = best["scores"][-1]["mean"], best["twice"]
    moved = f"moved from depth {first} to depth {last}" if first != last else f"stayed at depth {last}"
    return (
        f"From {few:,} to {many:,} training examples the best of these cuts for a linear probe {moved}.",
        f"With twice as many, the probe at depth {last} would come from {words.score(now, probed)} to about "
        f"{words.ranged(then['mean'], then['low'], then['high'], probed)}, if its error goes on as it fell so far.",
    )


def picture(rows: Sequence[Mapping[str, Any]], metric: str, *, narrow: bool = False) -> str:
    """Score by number of examples, a line for each cut, dotted on to twice as many."""
    return plotting.svg(lambda figure: _lines(figure, rows, metric), narrow, 3.2, f"growth-{narrow}")


def _lines(figure: Figure, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    axes = figure.add_subplot()
    probed = words.probed(metric)
    best = max(rows, key=lambda row: (row["scores"][-1]["mean"], -row["depth"]))
    colours = cycle(("frost", "muted", "quiet"))
    for row in sorted(rows, key=lambda row: row is not best):
        colour = PALETTE["ember" if row is best else next(colours)]
        sizes, means = row["sizes"], [at["mean"] for at in row["scores"]]
        axes.plot(sizes, means, color=colour, lw=1.8, marker="o", ms=4)
        axes.plot([sizes[-1], 2 * sizes[-1]], [means[-1], row["twice"]["mean"]], color=colour, lw=1.4, ls=":")
        if row is best:
            axes.plot([2 * sizes[-1]] * 2, [row["twice"]["low"], row["twice"]["high"]], color=colour, lw=1.4)
        axes.annotate(str(row["depth"]), (2 * sizes[-1], row["twice"]["mean"]), (5, -3), textcoords="offset points",
                      color=colour)  # fmt: skip
    axes.set_xscale("log")
    axes.minorticks_off()
    sizes = [*best["sizes"], 2 * best["sizes"][-1]]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlabel("training examples")
    axes.set_ylabel(f"linear probe, {words.called(probed)}")
    axes.grid(axis="y", color=PALETTE["rule"], lw=0.7)
    plotting.number(axes.yaxis, probed)
