"""Scores without training that papers choose layers by, on pooled features: what a search has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 100  # at most, of the fixed point


def logme(features: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The mean log evidence an example of a Bayesian linear model for each class against the others.

    Features (n, d) are standardised and a column of ones is appended: without both, the evidence depends on their width
    and on where zero is. Source: You et al., "LogME: practical assessment of pre-trained models for transfer learning",
    ICML 2021, arXiv:2102.11005.
    """
    table = standardised(features)
    table = np.hstack([table, np.ones((len(table), 1))])
    n, d = table.shape
    left, values, _ = np.linalg.svd(table, full_matrices=False)
    squares = values**2
    return float(
        np.mean([_evidence(left, squares, (targets == c).astype(float), n, d) for c in np.unique(targets)]) / n
    )


def _evidence(left: Floats, squares: Floats, y: Floats, n: int, d: int) -> float:
    along = left.T @ y
    rest = max(float(y @ y - along @ along), 0.0)
    alpha = beta = 1.0
    for _ in range(STEPS):
        ratio = alpha / beta
        used = float((squares / (squares + ratio)).sum())
        weight = float((squares * along**2 / (squares + ratio) ** 2).sum())
        error = float(((ratio * along / (squares + ratio)) ** 2).sum()) + rest
        before, alpha, beta = ratio, used / max(weight, 1e-12), (n - used) / max(error, 1e-12)
        if abs(alpha / beta - before) <= 1e-4 * before:
            break
    ratio = alpha / beta
    weight = float((squares * along**2 / (squares + ratio) ** 2).sum())
    error = float(((ratio * along / (squares + ratio)) ** 2).sum()) + rest
    logs = np.log(alpha + beta * squares).sum() + (d - len(squares)) * np.log(alpha)
    return 0.5 * (d * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - beta * error - alpha * weight - logs)


def h_score(features: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """How much of the features' spread lies between the classes, by the covariance that Ledoit and Wolf shrink.

    Source: Bao et al., "An information-theoretic approach to transferability", ICIP 2019; with the shrinkage
    of Ibrahim et al., "Newer is not always better", ECML 2022.
    """
    from sklearn.covariance import ledoit_wolf

    table = standardised(features)
    covariance, shrunk = ledoit_wolf(table, assume_centered=True)
    means = np.zeros_like(table)
    for c in np.unique(targets):
        means[targets == c] = table[targets == c].mean(axis=0)
    between = (1 - shrunk) * means.T @ means / len(table)
    return float(np.trace(np.linalg.solve(covariance, between)))


def standardised(features: NDArray[np.floating]) -> Floats:
    """Each column with mean 0 and deviation 1; a constant one stays 0."""
    table = np.asarray(features, np.float64)
    table = table - table.mean(axis=0)
    return table / np.maximum(table.std(axis=0), 1e-12)
