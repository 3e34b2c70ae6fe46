"""What detections are worth: dense tables of boxes, as shares of the sides, under many weightings of the examples.

Overlaps do not change when sides are measured in shares, so these are the scores in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from frostline.tasks.measures import boxes
from frostline.tasks.measures.formula import Floats, Formula, Shares, Table


@dataclass(frozen=True, slots=True)
class There:
    """The boxes of one example."""

    corners: NDArray[np.float32]
    labels: NDArray[np.int64]


def listed(targets: Table) -> NDArray[np.object_]:
    """Examples x most x 5 as an object an example."""
    found = np.empty(len(targets), object)
    for row, table in enumerate(targets):
        sound = table[np.isfinite(table).all(axis=1)]
        found[row] = There(sound[:, :4].astype(np.float32), sound[:, 4].astype(np.int64))
    return found


def counted(targets: Table) -> Floats:
    """How many boxes of each class there are, examples x classes."""
    labels = targets[..., 4]
    classes = int(np.nanmax(labels)) + 1 if np.isfinite(labels).any() else 1
    return np.stack([(labels == number).sum(axis=1) for number in range(classes)], axis=1).astype(np.float64)


def _matched(predictions: Table, targets: Table) -> boxes.Matched:
    return _once(predictions.tobytes(), predictions.shape, targets.tobytes(), targets.shape)


@lru_cache(maxsize=64)  # an outcome is scored by several metrics, and by each in several pieces
def _once(predictions: bytes, shape: tuple[int, ...], targets: bytes, there: tuple[int, ...]) -> boxes.Matched:
    ours = np.frombuffer(predictions, np.float32).reshape(shape)
    return boxes.matched(ours, listed(np.frombuffer(targets, np.float32).reshape(there)))


def losses(predictions: Table, targets: Table) -> Floats:
    """Of each example, between 0 and 1: `boxes.losses`."""
    return boxes.losses(_matched(np.ascontiguousarray(predictions, np.float32), targets))


def _map(predictions: Table, targets: Table, weights: Floats) -> Floats:
    """Mean average precision on COCO's rules, over overlaps from 0.5 to 0.95."""
    return boxes.averaged(boxes.average_precisions(_matched(np.ascontiguousarray(predictions), targets), weights))


def _map50(predictions: Table, targets: Table, weights: Floats) -> Floats:
    """The same where half an overlap is enough."""
    cube = boxes.average_precisions(_matched(np.ascontiguousarray(predictions), targets), weights)
    return boxes.averaged(cube[:, :, :1])


FORMULAS: Mapping[str, Formula] = {"map": _map, "map50": _map50}
SHARES: Shares = {"map": "classes", "map50": "classes"}
