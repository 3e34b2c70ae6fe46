"""What classes of places are worth: intersections over unions, under many weightings of the examples.

Targets are class ids (n, height, width); of places whose target is `VOID` nothing is asked. Predictions hold a class id
in their lower byte and how sure it is in their upper one: the log of its odds in steps from `LEAST` on. Places are
counted once an example; what a weighting of the examples makes of the counts is then a matter of sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from frostline.tasks.measures.formula import Floats, Formula, Shares
from frostline.values import VOID

LEAST, STEP, LEVELS = -6.0, 0.25, 64  # nats: from a class of one in 400 to one that is wrong once in 17 000 times

Map = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Counts:
    """Places of each example and class, up to the highest class that is there or was said."""

    right: Floats  # examples x classes
    there: Floats
    said: Floats

    @property
    def union(self) -> Floats:
        """Places that are of the class, or were said to be."""
        return self.there + self.said - self.right


@dataclass(frozen=True, slots=True)
class _Pair:
    """Predictions and targets, told apart by what they hold."""

    mark: bytes
    said: Map = field(compare=False, repr=False)
    truth: Map = field(compare=False, repr=False)


def counted(predictions: Map, targets: Map) -> Counts:
    """Of every example. An outcome is scored by several metrics, and by each in several pieces: it is counted once."""
    said, truth = (np.ascontiguousarray(each & 255, np.uint8) for each in (predictions, targets))
    mark = hashlib.blake2b(said.tobytes())
    mark.update(truth.tobytes())
    return _counted(_Pair(mark.digest() + str(said.shape).encode(), said, truth))


@lru_cache(maxsize=4)
def _counted(pair: _Pair) -> Counts:
    found = np.zeros((3, len(pair.truth), VOID + 1))
    for row, (said, truth) in enumerate(zip(pair.said, pair.truth, strict=True)):
        known = truth != VOID
        for place, labels in enumerate((truth[(said == truth) & known], truth[known], said[known])):
            found[place, row] = np.bincount(labels, minlength=VOID + 1)
    classes = 1 + max(np.flatnonzero(found.any(axis=(0, 1))), default=-1)
    return Counts(*found[:, :, :classes])


def by_class(predictions: Map, targets: Map, weights: Floats) -> Floats:
    """Intersection over union of each class, weightings x classes; NaN where it neither is there nor was said.

    The sums over all examples are divided, as in Pascal VOC, Cityscapes and ADE20K: no mean over examples.
    """
    counts = counted(predictions, targets)
    right, union = weights @ counts.right, weights @ counts.union
    return np.divide(right, union, out=np.full_like(union, np.nan), where=union > 0)


def losses(predictions: Map, targets: Map) -> Floats:
    """Log-loss of each example in nats, meaned over its places, by what is kept of a prediction.

    That is the likeliest class and its probability; what is left of it the other classes share alike. An example of
    which nothing is asked has none. How much of an example is right says too little of a training that has only begun:
    of most places the commonest class is the likeliest at first, whatever it has learned.
    """
    others = max(1, int(targets[targets != VOID].max(initial=0)))
    odds = LEAST + STEP * np.arange(LEVELS)
    right, wrong = np.logaddexp(0, -odds), np.logaddexp(0, odds) + np.log(others)
    found = np.zeros(len(targets))
    for row, (said, truth) in enumerate(zip(predictions, targets, strict=True)):
        asked = truth != VOID
        if asked.any():
            sure, hit = said[asked] >> 8, (said & 255)[asked] == truth[asked]
            found[row] = np.where(hit, right[sure], wrong[sure]).mean()
    return found


def shares(targets: Map) -> Floats:
    """The share of each class in what is asked of each example, examples x classes."""
    there = counted(targets, targets).there
    total = there.sum(axis=1, keepdims=True)
    return np.divide(there, total, out=np.zeros_like(there), where=total > 0)


def _mean_iou(predictions: Map, targets: Map, weights: Floats) -> Floats:
    """Meaned over the classes that are there or were said."""
    each = by_class(predictions, targets, weights)
    known = ~np.isnan(each)
    count = known.sum(axis=1)
    total = np.where(known, each, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)


def _pixel_accuracy(predictions: Map, targets: Map, weights: Floats) -> Floats:
    """The share of all places that are right."""
    counts = counted(predictions, targets)
    right, there = (weights @ table.sum(axis=1) for table in (counts.right, counts.there))
    return np.divide(right, there, out=np.full(len(weights), np.nan), where=there > 0)


FORMULAS: Mapping[str, Formula] = {"mean_iou": _mean_iou, "pixel_accuracy": _pixel_accuracy}
SHARES: Shares = {"mean_iou": "classes", "pixel_accuracy": "examples"}
