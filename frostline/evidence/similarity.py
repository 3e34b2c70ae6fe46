"""How alike two sets of features are, and how far the target's statistics lie from the source's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import DataError


def cka(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Linear centred kernel alignment of two sets of features of the same rows: 0 (unrelated) to 1 (the same up to
    rotation and scale). Rows that all share one feature vector are related to nothing: 0.

    Raises DataError where the rows are not as many. Biased upwards where there are fewer rows than features.
    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    if len(a) != len(b) or len(a) < 2:
        raise DataError(f"{len(a)} and {len(b)} rows of features; similarity needs the same rows, two at least")
    x, y = (part.astype(np.float64) - part.mean(axis=0, dtype=np.float64) for part in (a, b))
    if len(x) < max(x.shape[1], y.shape[1]):  # whichever products are smaller
        left, right = x @ x.T, y @ y.T
        shared, own, other = float((left * right).sum()), np.linalg.norm(left), np.linalg.norm(right)
    else:
        shared = float(np.linalg.norm(x.T @ y) ** 2)
        own, other = np.linalg.norm(x.T @ x), np.linalg.norm(y.T @ y)
    return shared / float(own * other) if own > 0 and other > 0 else 0.0


def batchnorm_shift(
    mean: NDArray[Any], variance: NDArray[Any], target_mean: NDArray[Any], target_variance: NDArray[Any]
) -> float:
    """How far the target's activations lie from the statistics that a batch norm has stored, in nats a channel.

    The mean over channels of the Kullback-Leibler divergence of the target's normal distribution from the stored one;
    0 where they agree. Needs no source data.
    """
    floor = 1e-5  # the epsilon of batch norms: what it makes invisible is no shift
    source, target = (np.asarray(v, np.float64) + floor for v in (variance, target_variance))
    gap = np.asarray(target_mean, np.float64) - np.asarray(mean, np.float64)
    return float(np.mean(0.5 * (np.log(source / target) + (target + gap**2) / source - 1)))
