"""What a metric is: one value for every weighting of the examples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = NDArray[Any]  # predictions, examples first: floats, or of places two bytes each
Formula = Callable[[Table, Any, Floats], Floats]  # predictions, targets, weightings x examples -> a value a weighting


# a metric from 0 to 1 that is a share, of all examples together or as a mean over classes: by metric
Shares = Mapping[str, Literal["examples", "classes"]]


def mean(each: Floats, weights: Floats) -> Floats:
    """The weighted mean of a number an example; nan where nothing has weight."""
    total = weights.sum(axis=1)
    return np.divide(weights @ each, total, out=np.full(len(weights), np.nan), where=total > 0)
