"""Where a model is wrong, where classes are not what is asked: as nouns, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.report import plotting
from frostline.report.svg import PALETTE, clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 4  # numbers that are drawn


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a label, or boxes of a class."""

    name: str
    there: int
    found: int
    missed: int
    more: int  # said and not there

    @property
    def precision(self) -> float | None:
        """Of what was said, the share that is there; None where nothing was."""
        return self.found / (self.found + self.more) if self.found + self.more else None

    @property
    def recall(self) -> float | None:
        """Of what is there, the share that was said; None where nothing is."""
        return self.found / self.there if self.there else None


@dataclass(frozen=True, slots=True)
class Points:
    """A number of some examples."""

    true: tuple[float, ...]
    said: tuple[float, ...]


def scatter(points: Mapping[str, Points], *, narrow: bool = False) -> str:
    """What is true across, what is predicted up, with the line on which both are equal; the first few numbers."""
    shown = dict(list(points.items())[:PANELS])
    columns = 1 if narrow or len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    wide = plotting.WIDE if columns > 1 else 5.2
    side = (plotting.NARROW if narrow else wide / columns) * 0.9
    return plotting.svg(
        lambda figure: _scatter(figure, shown, rows, columns), narrow, rows * side, f"scatter-{narrow}", wide
    )


def _scatter(figure: Figure, points: Mapping[str, Points], rows: int, columns: int) -> None:
    for number, (name, found) in enumerate(points.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        ends = [min(*found.true, *found.said), max(*found.true, *found.said)]
        axes.plot(ends, ends, color=PALETTE["muted"], lw=1, dashes=(4, 2), zorder=1)
        axes.plot(found.true, found.said, ls="", marker="o", ms=4, mew=0, color=PALETTE["frost"], alpha=0.5, zorder=2)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"{clip(name, 24)}, true")
        axes.set_ylabel("predicted")
        axes.grid(color=PALETTE["rule"], lw=0.7)
        plotting.number(axes.xaxis, "", 4)
        plotting.number(axes.yaxis, "", 4)
