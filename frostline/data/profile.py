"""What the data is like, before any training."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frostline.data.found import THREADS, marked
from frostline.data.pictures import size_of
from frostline.values import Examples, Profile

BLOCK = 2048  # rows compared at once: 16 MB of float32 similarities, whatever the size of the data


def profile(examples: Examples) -> Profile:
    """Counts, picture sizes (from the heads of the files) and pictures whose files hold the same bytes."""
    names = [examples.classes[target] for target in examples.targets]
    counts = Counter(names)
    return Profile(
        examples=len(examples),
        classes={name: counts[name] for name in examples.classes},
        imbalance=max(counts.values()) / min(counts.values()),
        sizes=_sizes(examples),
        duplicates=tuple(tuple(examples.ids[row] for row in same) for same in duplicates(examples)),
        skipped=len(examples.skipped),
    )


def _sizes(examples: Examples) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Smallest, median and largest by area."""
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = sorted(pool.map(size_of, examples.inputs), key=lambda size: (size[0] * size[1], size))
    return sizes[0], sizes[len(sizes) // 2], sizes[-1]


def duplicates(examples: Examples) -> tuple[tuple[int, ...], ...]:
    """Row numbers of pictures with the same content, two or more together; `split` keeps them on one side."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, mark in enumerate(marked(examples.inputs)):
        same[mark].append(row)
    return tuple(tuple(rows) for rows in same.values() if len(rows) > 1)


def with_features(known: Profile, features: NDArray[np.float32], near: tuple[tuple[int, ...], ...]) -> Profile:
    """The profile, completed by what the last cut's features and `near_duplicates` among them say."""
    pairs = sum(len(rows) * (len(rows) - 1) // 2 for rows in near)
    return replace(known, effective_dimension=participation_ratio(features), near_duplicates=pairs)


def near_duplicates(
    features: NDArray[np.floating], *, threshold: float, block: int = BLOCK
) -> tuple[tuple[int, ...], ...]:
    """Row numbers of examples that are nearly the same, two or more together.

    Two rows belong together where the cosine of their standardised features is at least `threshold`, and so do
    rows that a chain of such pairs links. Constant features say nothing and are left out. Memory stays bounded:
    `block` rows at a time are compared with as many others, never all with all.
    """
    rows = _directions(features)
    parent = np.arange(len(rows))
    for top in range(0, len(rows), block):
        for left in range(top, len(rows), block):
            close = rows[top : top + block] @ rows[left : left + block].T >= threshold
            for i, j in np.argwhere(np.triu(close, 1) if top == left else close):
                _join(parent, top + int(i), left + int(j))
    together: dict[int, list[int]] = defaultdict(list)
    for row in range(len(rows)):
        together[_root(parent, row)].append(row)
    return tuple(tuple(same) for same in together.values() if len(same) > 1)


def _directions(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Standardised rows of length one; a row at the very mean has no direction and stays zero."""
    values = np.asarray(features, dtype=np.float64)
    spread = values.std(axis=0)
    # what is constant but for rounding would be blown up into noise
    useful = spread > 1e-9 * np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-30)
    values = (values[:, useful] - values[:, useful].mean(axis=0)) / spread[useful]
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _root(parent: NDArray[np.int64], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row


def _join(parent: NDArray[np.int64], one: int, other: int) -> None:
    low, high = sorted((_root(parent, one), _root(parent, other)))
    parent[high] = low


def participation_ratio(features: NDArray[np.floating]) -> float:
    """How many directions the features really use: (sum of variances)^2 / sum of squared variances, along their axes.

    Between 1 (all on one line) and min(examples - 1, dimensions) (all directions alike); 0 where nothing varies.
    Source: Gao et al. 2017, "A theory of multineuronal dimensionality", bioRxiv 214262.
    """
    values = np.asarray(features, dtype=np.float64)
    values = values - values.mean(axis=0)
    # the products of rows and those of columns have the same eigenvalues: take the smaller matrix
    products = values @ values.T if values.shape[0] < values.shape[1] else values.T @ values
    squares = float(np.sum(products * products))
    return float(np.trace(products)) ** 2 / squares if squares > 0 else 0.0
