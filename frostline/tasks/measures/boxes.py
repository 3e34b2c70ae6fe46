"""What detections are worth: average precision on COCO's rules, and the losses by which detectors are raced.

Detections are matched to boxes once; what a weighting of the pictures makes of the matches is then a matter of sums, so
that a thousand bootstrap weightings take about as long as a few dozen matchings.

Predictions are (pictures, most, 6): x1 y1 x2 y2 score label of each detection, in pixels of the upright picture; a row
that is not finite is none. Targets are an array of objects, one a picture, with the boxes that are there.

Source: Lin et al., "Microsoft COCO", ECCV 2014, arXiv:1405.0312, and pycocotools, its evaluation: area "all", at most
100 detections a picture and class, no crowds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the overlap from which on a box counts as found
RECALLS = np.linspace(0.0, 1.0, 101)  # at which precision is read
ABOVE = np.append(RECALLS[1:], np.inf)  # the next of each
MOST = 100  # detections of a class in a picture that count: those of the highest scores
AT_ONCE = 1_000_000  # numbers in a table of detections x weightings: one that the processor's cache still helps


class Targets(Protocol):
    """The boxes of a picture, as `frostline.data.boxes.Boxes` holds them."""

    @property
    def corners(self) -> NDArray[np.float32]:
        """x1 y1 x2 y2 of each box."""
        ...

    @property
    def labels(self) -> Ints:
        """Its class, counted from 0."""
        ...


@dataclass(frozen=True, slots=True)
class Matched:
    """Every detection that counts, and whether it found a box: ordered by class, then by falling score.

    Detections of one score stand in the order of their pictures, and within one in the order they were given in.
    """

    pictures: Ints  # of each detection
    labels: Ints
    scores: NDArray[np.float32]
    hits: NDArray[np.bool_]  # detections x THRESHOLDS
    boxes: Ints  # pictures x classes: how many there are to be found


def matched(predictions: NDArray[np.float32], targets: NDArray[np.object_]) -> Matched:
    """Each detection in turn, from the highest score on, takes the free box of its class that it overlaps most.

    It must overlap it by the threshold, and of equal overlaps takes the last box, as pycocotools does.
    """
    pictures, rows = np.nonzero(np.isfinite(predictions).all(axis=2))
    found = predictions[pictures, rows]
    labels = found[:, 5].astype(np.int64)
    order = np.lexsort((-found[:, 4], labels, pictures))
    pictures, labels, found = pictures[order], labels[order], found[order]
    starts = _starts(pictures, labels)
    rank = np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))
    pictures, labels, found = pictures[rank < MOST], labels[rank < MOST], found[rank < MOST]
    hits = np.zeros((len(labels), len(THRESHOLDS)), np.bool_)
    each: list[Targets] = list(targets)
    for first, end in pairwise([*_starts(pictures, labels), len(labels)]):
        group, there = slice(first, end), each[pictures[first]]
        boxes = there.corners[there.labels == labels[first]]
        if len(boxes):
            hits[group] = _taken(overlap(found[group, :4], boxes))
    order = np.lexsort((-found[:, 4], labels))
    scores = np.ascontiguousarray(found[order, 4])
    return Matched(pictures[order], labels[order], scores, hits[order], _counted(labels, targets))


def _starts(pictures: Ints, labels: Ints) -> Ints:
    """Where the detections of a picture and class begin."""
    new = (np.diff(pictures, prepend=-1) != 0) | (np.diff(labels, prepend=-1) != 0)
    return np.flatnonzero(new)


def _counted(labels: Ints, targets: NDArray[np.object_]) -> Ints:
    """Boxes of each picture and class; there are as many classes as the highest label says."""
    there: list[Ints] = [boxes.labels for boxes in targets]
    classes = 1 + max((int(some.max()) for some in (labels, *there) if len(some)), default=-1)
    counts = [np.bincount(some, minlength=classes) for some in there]
    return np.array(counts, np.int64).reshape(len(targets), classes)


def overlap(found: NDArray[np.float32], boxes: NDArray[np.float32]) -> Floats:
    """The area that each pair of boxes shares, over the area that it covers (IoU): found x boxes, 0 to 1."""
    a, b = found.astype(np.float64)[:, None], boxes.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=2)
    covered = (a[..., 2:] - a[..., :2]).prod(axis=2) + (b[..., 2:] - b[..., :2]).prod(axis=2) - shared
    return np.divide(shared, covered, out=np.zeros_like(shared), where=shared > 0)


def _taken(overlaps: Floats) -> NDArray[np.bool_]:
    """Which hit, detections x THRESHOLDS, from their overlaps: detections of falling score x boxes."""
    hits = np.zeros((len(overlaps), len(THRESHOLDS)), np.bool_)
    free = np.ones((len(THRESHOLDS), overlaps.shape[1]), np.bool_)
    last = overlaps.shape[1] - 1
    levels = np.arange(len(THRESHOLDS))
    for row in np.flatnonzero(overlaps.max(axis=1) >= THRESHOLDS[0]):
        open_to = np.where(free, overlaps[row], -1.0)
        best = last - open_to[:, ::-1].argmax(axis=1)
        hit = open_to[levels, best] >= THRESHOLDS
        free[levels[hit], best[hit]] = False
        hits[row] = hit
    return hits


def average_precisions(found: Matched, weights: Floats) -> Floats:
    """Weightings x classes x THRESHOLDS; `weights` are weightings x pictures, whole and not negative.

    A picture of weight 2 counts as if it stood twice, side by side; all copies of a detection stand together among
    equal scores. Precision is the highest at that recall or beyond, averaged over 101 recalls. A class that has no box
    among the pictures with a weight is NaN: COCO leaves it out of the mean, whatever was detected.
    """
    classes, edges = found.boxes.shape[1], np.searchsorted(found.labels, np.arange(found.boxes.shape[1] + 1))
    precisions = np.full((len(weights), classes, len(THRESHOLDS)), np.nan)
    step = max(1, AT_ONCE // max(1, len(found.labels)))
    for first in range(0, len(weights), step):
        # pictures x weightings: what is summed along detections then lies side by side in memory
        by = np.ascontiguousarray(weights[first : first + step].T, np.float64)
        totals = found.boxes.T.astype(np.float64) @ by
        for c in range(classes):
            rows = slice(edges[c], edges[c + 1])
            area = _areas(found.hits[rows], by[found.pictures[rows]], np.maximum(totals[c], 1.0))
            precisions[first : first + step, c] = np.where(totals[c] > 0, area, np.nan).T
    return precisions


def _areas(hits: NDArray[np.bool_], by: Floats, total: Floats) -> Floats:
    """Thresholds x weightings, of one class: `by` is detections x weightings, `total` the weight of all boxes.

    Precision peaks at hits, so only these are looked at; each stands for the recalls that it is the first to reach.
    """
    said = by.cumsum(axis=0)
    areas = np.zeros((hits.shape[1], by.shape[1]))
    for level in range(hits.shape[1]):
        rows = np.flatnonzero(hits[:, level])
        if not len(rows):
            continue
        right = by[rows].cumsum(axis=0)
        precision = right / (said[rows] + np.spacing(1.0))  # pycocotools' own guard against nothing over nothing
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = _reached(right / total)
        areas[level] = best[0] * reached[0] + np.einsum("rw,rw->w", best[1:], np.diff(reached, axis=0))
    return areas / len(RECALLS)


def _reached(recalls: Floats) -> NDArray[np.float64]:
    """How many of RECALLS are at most that: the binary search of NumPy from the right, in half its time."""
    below = (recalls * (len(RECALLS) - 1)).astype(np.int16)  # rounded, so this one and the next are looked at
    return below + (RECALLS[below] <= recalls) + (ABOVE[below] <= recalls).astype(np.float64)


def averaged(precisions: Floats) -> Floats:
    """One value a weighting: the mean over the classes that have boxes and over the thresholds; NaN without any."""
    there = ~np.isnan(precisions)
    total, count = np.where(there, precisions, 0.0).sum(axis=(1, 2)), there.sum(axis=(1, 2))
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def mean_average_precision(predictions: NDArray[np.float32], targets: NDArray[np.object_], weights: Floats) -> Floats:
    """COCO's own AP, one value a weighting: over overlaps of .50 to .95 and the classes that have boxes."""
    return averaged(average_precisions(matched(predictions, targets), weights))


def at_half(predictions: NDArray[np.float32], targets: NDArray[np.object_], weights: Floats) -> Floats:
    """AP at an overlap of .50 (mAP@50), one value a weighting."""
    return averaged(average_precisions(matched(predictions, targets), weights)[:, :, :1])


def by_class(predictions: NDArray[np.float32], targets: NDArray[np.object_], weights: Floats) -> Floats:
    """COCO's own AP of each class, weightings x classes up to the highest label; NaN where a class has no box."""
    return average_precisions(matched(predictions, targets), weights).mean(axis=2)


def picture_losses(predictions: NDArray[np.float32], targets: NDArray[np.object_]) -> Floats:
    """A loss in [0, 1] of each picture, by which detectors are compared picture by picture; see `losses`."""
    return losses(matched(predictions, targets))


def losses(found: Matched) -> Floats:
    """One minus the average precision of each picture, its detections of all classes ranked together.

    Over the thresholds of COCO. Ranked together, a false detection of a class that is not there costs as much as one
    of a class that is, and those below the last box found cost nothing, as in mAP: it does not matter whether a
    detector always says a hundred things. A picture without boxes has no precision: there the loss is the share of all
    boxes found, at the lowest threshold and in all pictures, that its highest detection outranks or equals; so only
    the order of scores counts, there too.

    Of ten losses tried on simulated detectors (three classes, one of them 85% of the boxes) it told those apart
    whose mAP differs on the fewest pictures: half to two thirds of what a mean over its classes needs where boxes are
    placed better, as many where classes are confused. The optimal LRP error (Oksuz et al., ECCV 2018,
    arXiv:1807.01696) answers most to how scores compare between pictures, which hardly moves mAP. A rare class counts
    for less here than in mAP.
    Source: AP pooled over classes, Dave et al., "Evaluating large-vocabulary object detectors", 2021, arXiv:2102.01066.
    """
    order = np.lexsort((-found.scores, found.pictures))
    edges = np.searchsorted(found.pictures[order], np.arange(len(found.boxes) + 1))
    hits, scores, there = found.hits[order], found.scores[order], found.boxes.sum(axis=1)
    rivals = np.sort(found.scores[found.hits[:, 0]])
    lost = np.zeros(len(found.boxes))
    for picture, (first, end) in enumerate(pairwise(edges)):
        if there[picture]:
            total = np.full(1, there[picture], np.float64)
            lost[picture] = 1.0 - _areas(hits[first:end], np.ones((end - first, 1)), total).mean()
        elif first < end:
            outranked = np.searchsorted(rivals, scores[first], side="right")
            lost[picture] = outranked / len(rivals) if len(rivals) else 1.0
    return lost
