"""Where a label may stand in a picture, so that no line runs through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 60  # places that are tried


def crossed(start: float, stop: float, lines: Sequence[float]) -> bool:
    """Whether an upright line stands between two places."""
    return any(start < line < stop for line in lines)


def clear_place(
    xs: Sequence[float], gaps: Sequence[float], lines: Sequence[float], width: float, limits: tuple[float, float]
) -> float:
    """The right end of a label `width` wide within `limits`: where no upright line crosses it and the gaps are widest.

    `gaps` is how far, at `xs`, the curve that the label names lies from the next one. Of places as good as each other
    the rightmost is taken; it is the right limit where lines leave no room.

    >>> clear_place([1, 4], [0.2, 0.2], [3.5], 2.0, (0.0, 4.0)) < 3.5
    True
    """
    left, right = limits
    ends = np.linspace(right, left + width, STEPS)
    free = [float(x) for x in ends if not crossed(x - 1.05 * width, x + 0.05 * width, lines)]
    if not free:
        return right

    def room(x: float) -> float:
        return float(np.interp(np.linspace(x - width, x, 20), xs, gaps).min())

    return max(free, key=room)
