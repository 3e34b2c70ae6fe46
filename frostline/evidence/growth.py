"""What more examples would give: how a linear probe's score at a cut grows with what it learns from.

Above what it cannot learn away, the error of a learner falls like n^-b with b between a half and one (Mammen and
Tsybakov, Annals of Statistics 1999). Such a curve is fitted to probes that learn from an eighth, a quarter, half and
all of the examples, the larger ones counting for more, and read once beyond them: at twice as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from frostline.activations.features import Rows
from frostline.evidence.probes import Floats, Labels, log_probabilities, ridge_loo
from frostline.values import Estimate, Fold, Growth

Table = NDArray[np.float32]

PARTS = (8, 4, 2, 1)  # of the examples: an eighth to all
DRAWS = 5  # subsets of each size but all
MOST = 4000  # examples: beyond, a probe takes seconds, and the curve is known well from these
FEWEST = 2  # examples of each class in the smallest part
RESAMPLES = 1000
SLOW, LIKELY, FAST = 0.5, 0.75, 1.0  # exponents: the interval reaches from the fast one's end to the slow one's


def grown(
    features: Mapping[int, Rows],
    labels: Labels,
    fold: Fold,
    *,
    seed: int,
    balance: Callable[[Labels], Floats] | None = None,
    confidence: float = 0.95,
) -> tuple[Growth, ...]:
    """For each depth, what probes on growing parts of the training rows score on the validation rows.

    The score is accuracy; with `balance`, which weighs examples by their class, it counts classes alike. Every depth
    sees the same parts. Intervals are over validation rows and subsets, and at twice the size over exponents too.
    Empty where a class has too few examples for an eighth of them to say anything.
    """
    rng = np.random.default_rng([seed, 8])
    rows = fold.train if len(fold.train) <= MOST else np.sort(rng.permutation(fold.train)[:MOST])
    counts = np.bincount(labels[rows])
    if counts[counts > 0].min() < FEWEST * PARTS[0] or not len(fold.validation):
        return ()
    parts = [[_part(rows, labels, part, rng) for _ in range(DRAWS if part > 1 else 1)] for part in PARTS]
    truth, classes = labels[fold.validation], int(labels.max()) + 1
    by = np.ones(len(truth)) if balance is None else balance(truth)
    told = list[Growth]()
    for depth, found in features.items():
        unseen = found[fold.validation]
        hits = [
            np.stack([_hits(found[part], labels[part], unseen, truth, classes) for part in drawn]) for drawn in parts
        ]
        sizes = tuple(len(drawn[0]) for drawn in parts)
        told.append(_growth(depth, sizes, hits, by, confidence, seed))
    return tuple(told)


def _part(rows: NDArray[np.int64], labels: Labels, part: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """One of so many parts of each class."""
    if part == 1:
        return rows
    of = [rng.permutation(rows[labels[rows] == label]) for label in np.unique(labels[rows])]
    return np.sort(np.concatenate([found[: max(1, len(found) // part)] for found in of]))


def _hits(features: Table, labels: Labels, unseen: Table, truth: Labels, classes: int) -> NDArray[np.bool_]:
    linear = ridge_loo(features, labels, classes=classes).linear
    return log_probabilities(linear, unseen).argmax(axis=1) == truth


def _growth(
    depth: int, sizes: tuple[int, ...], hits: list[NDArray[np.bool_]], by: Floats, confidence: float, seed: int
) -> Growth:
    """Scores and their extrapolation, each with an interval by a bootstrap over rows and over subsets."""
    rng, count = np.random.default_rng([seed, 9]), len(by)
    drawn = np.empty((RESAMPLES, len(sizes)))
    for resample in range(RESAMPLES):
        rows = rng.integers(0, count, count)
        weights = by[rows]
        total = weights.sum()
        for place, table in enumerate(hits):
            some = table[rng.integers(0, len(table), len(table))].mean(axis=0)
            drawn[resample, place] = (some[rows] * weights).sum() / total
    seen = np.array([np.average(table.mean(axis=0), weights=by) for table in hits])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    scores = tuple(Estimate(float(at), *map(float, np.quantile(drawn[:, i], ends))) for i, at in enumerate(seen))
    low = np.quantile(_extrapolated(drawn, sizes, FAST), ends[0])
    high = np.quantile(_extrapolated(drawn, sizes, SLOW), ends[1])
    mean = float(_extrapolated(seen[None], sizes, LIKELY)[0])
    return Growth(depth, sizes, scores, Estimate(mean, min(mean, float(low)), max(mean, float(high))))


def _extrapolated(scores: Floats, sizes: tuple[int, ...], exponent: float) -> Floats:
    """Of each row of scores by size, that at twice the largest: the error on a line in size ** -exponent, never rising.

    Sizes weigh in proportion. At most 1.
    """
    weights = np.array(sizes) / sum(sizes)
    x = (np.array(sizes) / sizes[-1]) ** -exponent
    x -= weights @ x
    slope = np.minimum(0.0, scores @ (weights * x) / (weights @ x**2))  # of the score
    there = 2.0**-exponent - 1 + x[-1]
    return np.minimum(1.0, scores @ weights + slope * there)
