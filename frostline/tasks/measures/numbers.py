"""What predicted numbers are worth: (n, k) against (n, k), under many weightings of the examples, k averaged over."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from frostline.tasks.measures.formula import Floats, Formula, Table, mean

WORST = 1e12  # stands for a square that is no number: a training that diverged knows nothing


def losses(predictions: Table, targets: Floats) -> Floats:
    """Mean squared error of each example, each number in units of how much it spreads among these examples."""
    spread = np.maximum(targets.std(axis=0), 1e-12)
    return np.nan_to_num(((_wide(predictions) - targets) / spread) ** 2, nan=WORST, posinf=WORST).mean(axis=1)


def _wide(predictions: Table) -> Floats:
    return np.asarray(predictions, np.float64)


def _mae(predictions: Table, targets: Floats, weights: Floats) -> Floats:
    return mean(np.nan_to_num(np.abs(_wide(predictions) - targets), nan=WORST, posinf=WORST).mean(axis=1), weights)


def _rmse(predictions: Table, targets: Floats, weights: Floats) -> Floats:
    squares = np.nan_to_num((_wide(predictions) - targets) ** 2, nan=WORST, posinf=WORST)
    total = weights.sum(axis=1, keepdims=True)
    per = np.divide(weights @ squares, total, out=np.full((len(weights), squares.shape[1]), np.nan), where=total > 0)
    return np.sqrt(per).mean(axis=1)


def _r2(predictions: Table, targets: Floats, weights: Floats) -> Floats:
    """One less the squared error over what the targets spread by: of a constant guess 0, of worse ones below."""
    squares = np.nan_to_num((_wide(predictions) - targets) ** 2, nan=WORST, posinf=WORST)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    centre = weights @ targets / total
    spread = weights @ targets**2 - total * centre**2
    share = np.divide(weights @ squares, spread, out=np.full_like(spread, np.nan), where=spread > 1e-12 * total)
    return 1 - share.mean(axis=1)


def _pearson(predictions: Table, targets: Floats, weights: Floats) -> Floats:
    said = np.nan_to_num(_wide(predictions))
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    ours, theirs = weights @ said / total, weights @ targets / total
    both = weights @ (said * targets) / total - ours * theirs
    spread = (weights @ said**2 / total - ours**2) * (weights @ targets**2 / total - theirs**2)
    found = np.divide(both, np.sqrt(np.maximum(spread, 0)), out=np.full_like(both, np.nan), where=spread > 1e-24)
    return found.mean(axis=1)


FORMULAS: Mapping[str, Formula] = {"r2": _r2, "rmse": _rmse, "mae": _mae, "pearson": _pearson}
