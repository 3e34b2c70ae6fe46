"""What predictions of labels are worth: logits (n, labels) against 0 and 1, under many weightings of the examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from frostline.tasks.measures.formula import Floats, Formula, Shares, Table, mean

Ints = NDArray[np.int64]


def losses(predictions: Table, targets: Ints) -> Floats:
    """Mean binary cross-entropy of each example, nats a label."""
    logits = np.nan_to_num(np.asarray(predictions, np.float64), nan=0.0, posinf=50.0, neginf=-50.0)
    return np.logaddexp(0.0, np.where(targets > 0, -logits, logits)).mean(axis=1)


def _said(predictions: Table) -> NDArray[np.bool_]:
    return np.nan_to_num(predictions, nan=-np.inf) > 0


def _counts(predictions: Table, targets: Ints, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted hits, labels that are there and labels that were said, each (weightings, labels)."""
    said, there = _said(predictions), targets > 0
    return weights @ (said & there), weights @ there, weights @ said


def _macro_f1(predictions: Table, targets: Ints, weights: Floats) -> Floats:
    hits, there, said = _counts(predictions, targets, weights)
    both = there + said
    f1 = np.divide(2 * hits, both, out=np.zeros_like(both), where=both > 0)
    return f1.sum(axis=1) / np.maximum((both > 0).sum(axis=1), 1)


def _micro_f1(predictions: Table, targets: Ints, weights: Floats) -> Floats:
    hits, there, said = (table.sum(axis=1) for table in _counts(predictions, targets, weights))
    return np.divide(2 * hits, there + said, out=np.full_like(hits, np.nan), where=there + said > 0)


def _exact_match(predictions: Table, targets: Ints, weights: Floats) -> Floats:
    return mean((_said(predictions) == (targets > 0)).all(axis=1).astype(np.float64), weights)


def _log_loss(predictions: Table, targets: Ints, weights: Floats) -> Floats:
    return mean(losses(predictions, targets), weights)


def _average_precision(predictions: Table, targets: Ints, weights: Floats) -> Floats:
    """Meaned over the labels that are there: precision at every hit, in falling order; equal predictions share theirs.

    As sklearn.metrics.average_precision_score(average="macro"), of the labels that occur.
    """
    table, total, counted = np.nan_to_num(predictions, nan=-np.inf), np.zeros(len(weights)), np.zeros(len(weights))
    for label in range(table.shape[1]):
        order = np.argsort(-table[:, label], kind="stable")
        ordered, member = table[order, label], targets[order, label] > 0
        ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])  # of equal predictions, the last
        hits = (weights[:, order] * member).cumsum(axis=1)[:, ends]
        all_ = weights[:, order].cumsum(axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0.0)
        precision = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
        whole = hits[:, -1]
        total += np.divide((gained * precision).sum(axis=1), whole, out=np.zeros_like(whole), where=whole > 0)
        counted += whole > 0
    return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)


FORMULAS: Mapping[str, Formula] = {
    "average_precision": _average_precision,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "exact_match": _exact_match,
    "log_loss": _log_loss,
}
SHARES: Shares = {
    "average_precision": "classes",
    "macro_f1": "classes",
    "micro_f1": "examples",
    "exact_match": "examples",
}
