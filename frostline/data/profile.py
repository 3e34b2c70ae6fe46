"""What the data is like, before any training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from frostline.data.found import THREADS, marked
from frostline.data.kinds import KINDS
from frostline.data.near import Sets
from frostline.values import Examples, Profile, asked


def profile(examples: Examples) -> Profile:
    """Counts, sizes (of files, from their heads) and examples that hold the same."""
    counts = _counted(examples)
    return Profile(
        examples=len(examples),
        classes={name: counts[name] for name in examples.classes} if counts else {},
        imbalance=max(counts.values()) / max(1, min(counts.values())) if counts else 1.0,
        numbers=_numbers(examples),
        sizes=_sizes(examples),
        duplicates=tuple(tuple(examples.ids[row] for row in same) for same in duplicates(examples)),
        skipped=len(examples.skipped),
        kind=examples.kind,
    )


def _counted(examples: Examples) -> Mapping[str, int]:
    """Examples of each class, or that have each label; nothing of numbers."""
    if asked(examples.targets) == "classification":
        return Counter(examples.classes[target] for target in examples.targets)
    if asked(examples.targets) == "regression":
        return {}
    if asked(examples.targets) == "detection":
        labels = examples.targets[..., 4]
        return {name: int((labels == number).sum()) for number, name in enumerate(examples.classes)}
    if asked(examples.targets) == "segmentation":
        there = (examples.targets == number for number in range(len(examples.classes)))
        return {name: int(each.any(axis=(1, 2)).sum()) for name, each in zip(examples.classes, there, strict=True)}
    return dict(zip(examples.classes, examples.targets.sum(axis=0).tolist(), strict=True))


def _numbers(examples: Examples) -> Mapping[str, tuple[float, float, float]]:
    """Least, median and largest of each number; nothing of classes and labels."""
    if asked(examples.targets) != "regression":
        return {}
    found = np.quantile(examples.targets, (0, 0.5, 1), axis=0).T.tolist()
    return {name: (low, middle, high) for name, (low, middle, high) in zip(examples.classes, found, strict=True)}


def _sizes(examples: Examples) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Smallest, median and largest by area or length."""
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = sorted(pool.map(KINDS[examples.kind].size, examples.inputs), key=lambda size: (prod(size), size))
    return sizes[0], sizes[len(sizes) // 2], sizes[-1]


def duplicates(examples: Examples) -> tuple[tuple[int, ...], ...]:
    """Row numbers of examples with the same content, two or more together; `split` keeps them on one side."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, mark in enumerate(marked(examples.inputs)):
        same[mark].append(row)
    return tuple(tuple(rows) for rows in same.values() if len(rows) > 1)


def with_features(known: Profile, features: NDArray[np.float32], near: Sets | None) -> Profile:
    """The profile, completed by what the last cut's features and `near_duplicates` among them say."""
    pairs = None if near is None else sum(len(rows) * (len(rows) - 1) // 2 for rows in near)
    return replace(known, effective_dimension=participation_ratio(features), near_duplicates=pairs)


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
