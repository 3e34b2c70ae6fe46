"""What all pictures share. The plotting library is loaded here alone, and only when a picture is drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from frostline.report import words
from frostline.report.svg import PALETTE, embed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 7.6, 4.2  # inches; text keeps its size, so a narrow picture is drawn anew and not shrunk


def interval(axes: Axes, y: int, score: tuple[float, float, float], colour: str) -> None:
    low, mean, high = score
    axes.plot([low, high], [y, y], color=colour, lw=2.2, alpha=0.45, solid_capstyle="round")
    axes.plot([mean], [y], color=colour, marker="o", ms=5.5)


def number(axis: Any, metric: str, ticks: int = 5) -> None:
    """Ticks in the metric's own unit, none beyond 100%; call it when the limits are set."""
    from matplotlib.ticker import MaxNLocator

    low, high = axis.get_view_interval()
    share = metric in words.SHARES
    places = MaxNLocator(ticks, steps=[1, 2, 5, 10]).tick_values(low, min(high, 1.0) if share else high)
    seen = [float(place) for place in places if low <= place <= (min(high, 1.0 + 1e-9) if share else high)]
    axis.set_ticks(seen, [f"{100 * place:.4g}%" if share else words.number(place) for place in seen])


def durations(axes: Axes, values: Sequence[float], label: str) -> None:
    """A horizontal axis of seconds, logarithmic where they differ by more than ten times."""
    if max(values) > 10 * min(values) > 0:
        axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: words.seconds(value))
    axes.set_xlabel(label)


@contextmanager
def style(salt: str) -> Generator[None]:
    """Settings for as long as one picture is drawn; names of users are never read as formulas."""
    import matplotlib

    settings = matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": f"frostline-{salt}",
            "text.parse_math": False,
            "font.size": 9,
            "text.color": PALETTE["ink"],
            "axes.labelcolor": PALETTE["muted"],
            "axes.edgecolor": PALETTE["rule"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": PALETTE["rule"],
            "ytick.color": PALETTE["rule"],
            "xtick.labelcolor": PALETTE["muted"],
            "ytick.labelcolor": PALETTE["muted"],
        }
    )
    with settings, warnings.catch_warnings():
        # text stays text in an SVG, so the reader's fonts draw what the bundled font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def blank(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg(draw: Callable[[Figure], None], narrow: bool, height: float, name: str, wide: float = WIDE) -> str:
    """The picture for use inside a page: no XML header, no fixed size, ids that no other picture has."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with style(name):
        figure = Figure(figsize=(NARROW if narrow else wide, height))
        FigureCanvasSVG(figure)
        draw(figure)
        # a figure that has a layout of its own is drawn twice when it is saved, once for nothing but the layout
        ConstrainedLayoutEngine().execute(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return embed(buffer.getvalue(), name)
