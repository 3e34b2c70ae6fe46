"""Pictures that are nearly the same, found among their features without knowing what a network's distances mean."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from frostline.data.together import linked

BLOCK = 2048  # rows compared at once: 16 MB of float32 similarities, whatever the size of the data
NEIGHBOURS = 8  # the row whose distance is the measure: further away than the copies that a picture usually has
CHANCE = 1e-3  # rows that may be expected to lie as near as a near-duplicate by chance, for each row
LEAST = 7.0  # directions: among fewer, pictures agree by chance, or because the same features are silent
FEWEST = 64  # rows: among fewer, the sixteenth neighbour is half-way to the other end of the data
SAMPLE = 4096  # rows among which the measure is taken
FLAT = 1e-3  # float32 cosines tell no smaller distances apart
MOST = 50_000  # rows: each is compared with each, and more would take longer than a training

Sets = tuple[tuple[int, ...], ...]


def near_duplicates(
    features: NDArray[np.floating], targets: NDArray[np.int64], *, block: int = BLOCK, sample: int = SAMPLE
) -> Sets | None:
    """Row numbers of examples that are nearly the same, two or more together; None where the features cannot tell.

    Distances are those of standardised features of length one; constant features say nothing and are left out. How
    near is near follows from the data: were the rows around a row spread evenly, the number of them within a radius
    would grow as its d-th power, so the distance of the eighth neighbour says within which radius only `CHANCE` rows
    are to be expected. d is the median over the rows of what the eighth and the sixteenth neighbour say (a doubling
    dimension). Two rows are nearly the same where each lies within the other's radius, and at most half as far away
    as its class does on average: in small classes that are told apart well, the eighth neighbour is of another class.
    The nearest pairs link first, and no more rows than the measure can tell, so that no chain swallows a class.

    None where d is below `LEAST`, or fewer than `FEWEST` or more than `MOST` rows are there. `sample` rows give the
    measure, evenly spaced. Memory stays bounded: `block` rows at a time are compared with as many others, never all
    with all.
    """
    if len(features) > MOST:
        return None
    rows = _directions(features)
    radii = _radii(rows, rows[_spaced(len(rows), sample)], block)
    if radii is None:
        return None
    least = 1 - np.minimum(radii, _apart(rows, targets) / 2) ** 2 / 2  # cosines
    pairs = sorted(_close(rows, least.astype(np.float32), block))
    sets = linked(len(rows), ((one, other) for _, one, other in pairs), most=NEIGHBOURS)
    return tuple(rows for rows in sets if len(rows) > 1)


def _directions(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Standardised rows of length one; a row at the very mean has no direction and stays zero."""
    values = np.asarray(features, dtype=np.float64)
    spread = values.std(axis=0)
    # what is constant but for rounding would be blown up into noise
    useful = spread > 1e-9 * np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-30)
    values = (values[:, useful] - values[:, useful].mean(axis=0)) / spread[useful]
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _spaced(count: int, sample: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, sample)).round().astype(np.int64)


def _radii(rows: NDArray[np.float32], sample: NDArray[np.float32], block: int) -> NDArray[np.float64] | None:
    """Within which distance of each row `CHANCE` others are to be expected; None where the rows cannot tell."""
    if len(sample) < FEWEST:
        return None
    tops = range(0, len(rows), block)
    eighth, sixteenth = np.concatenate([_distances(rows[top : top + block] @ sample.T) for top in tops], axis=1)
    told = eighth > FLAT
    growth = np.full(len(rows), np.inf)  # rows that lie on each other have no dimension
    growth[told] = np.log(sixteenth[told] / eighth[told])
    middle = float(np.median(growth))
    if middle <= 0 or np.log(2) / middle < LEAST:
        return None
    expected = NEIGHBOURS * len(rows) / len(sample)  # rows within the distance of the eighth of the sample
    return eighth * (CHANCE / expected) ** (middle / np.log(2))


def _distances(cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the eighth and of the sixteenth neighbour. Each row is its own nearest; those outside of the sample lose one
    neighbour by that, which is less than the measure is sure of."""
    ranks = [NEIGHBOURS, 2 * NEIGHBOURS]
    nearest = np.partition(1 - cosines, ranks, axis=1)[:, ranks].T
    return np.sqrt(2 * np.maximum(nearest, 0).astype(np.float64))


def _apart(rows: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far each row lies from the others of its class (root mean square); infinite where it has no others."""
    apart = np.full(len(rows), np.inf)
    for target in np.unique(targets):
        its = np.flatnonzero(targets == target)
        if len(its) > 1:
            own = rows[its].astype(np.float64)
            cosines = (own @ own.sum(axis=0) - np.sum(own**2, axis=1)) / (len(its) - 1)  # to the others, on average
            apart[its] = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    return apart


def _close(rows: NDArray[np.float32], least: NDArray[np.float32], block: int) -> Iterator[tuple[float, int, int]]:
    """Distance (as minus the cosine) and numbers of the rows whose cosine is at least what both ask for."""
    for top in range(0, len(rows), block):
        for left in range(top, len(rows), block):
            cosines = rows[top : top + block] @ rows[left : left + block].T
            close = cosines >= np.maximum(least[top : top + block, None], least[left : left + block])
            for i, j in np.argwhere(np.triu(close, 1) if top == left else close):
                yield -float(cosines[i, j]), top + int(i), left + int(j)
