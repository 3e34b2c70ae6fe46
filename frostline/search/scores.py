"""What predictions are worth: metrics over weighted examples, and the intervals of one metric.

A metric is defined once, for many weightings of the examples at a time: all weights one is the plain score, bootstrap
counts give its sampling distribution, and the zeros of those counts the out-of-bag score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frostline.errors import OptionError
from frostline.search.own import Floats, Ints, Own
from frostline.tasks.measures.formula import Formula, Shares
from frostline.tasks.measures.table import JUDGING
from frostline.values import Estimate, Question, Targets, asked

Metric = str | Own

# float32 probabilities below this are rounding: one such example must not outweigh all others
LEAST_LOG = float(np.log(np.finfo(np.float32).eps))

BALANCED = ("balanced_accuracy", "macro_f1", "roc_auc")  # metrics in which every class counts alike
BINS = 15  # of the calibration error

SHARPNESS = tuple(2.0 ** (step / 4) for step in range(-16, 9))  # factors on logits, a sixteenth to four
AT_ONCE = 100_000  # logits: small tables are sharpened together, large ones one factor after the other


def losses(log_probabilities: NDArray[np.float32], targets: Targets) -> Floats:
    """Log-loss of each example in nats, at most 15.94 (the rounding of float32); a NaN counts as that worst.

    Of labels the mean over them; of numbers the squared error, in units of how much they spread.
    """
    if asked(targets) in JUDGING:
        return JUDGING[asked(targets)].losses(log_probabilities, targets)
    picked = np.asarray(log_probabilities, np.float64)[np.arange(len(targets)), targets]
    return -np.clip(np.nan_to_num(picked, nan=LEAST_LOG, neginf=LEAST_LOG), LEAST_LOG, 0.0)


def tempered(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats | None = None) -> Floats:
    """The log-losses of the predictions at the temperature that makes the targets most likely, times their weights.

    Fine-tuned heads are overconfident, each in its own measure: so arms are compared by what they can tell apart. One
    number fitted on the rows that it is judged on: of a hundred rows or more it adds next to no optimism. Predictions
    that are not finite stay as they are.
    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.
    """
    by = np.ones(len(targets)) if weights is None else weights
    if not np.isfinite(log_probabilities).all():
        return by * losses(log_probabilities, targets)
    table, sharpness = log_probabilities.astype(np.float64), np.array(SHARPNESS)[:, None, None]
    at_once = max(1, AT_ONCE // max(1, table.size))
    parts = (sharpness[first : first + at_once] * table for first in range(0, len(SHARPNESS), at_once))
    choices = [by * found for logits in parts for found in _losses(logits, targets)]
    return min(choices, key=lambda choice: float(choice.mean()))


def raced(metric: str, log_probabilities: NDArray[np.float32], targets: Targets) -> Floats:
    """The losses by which arms are compared on the way to a metric: tempered, unless log-loss itself is asked for.

    Classes weigh as they do in the metric, by how many of each there are among these very examples.
    """
    if metric == "log_loss" or asked(targets) != "classification":
        return losses(log_probabilities, targets)
    return tempered(log_probabilities, targets, class_weights(targets, metric))


def class_weights(targets: Ints, metric: str) -> Floats:
    """A weight for each example, 1 on average: where classes count alike in the metric, each weighs the same in all.

    So what eliminates has its eye on the same classes as what is asked for.
    """
    return balanced(targets) if metric in BALANCED else np.ones(len(targets))


def balanced(targets: Ints) -> Floats:
    """Weights, 1 on average, by which every class that is there weighs the same."""
    _, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return (len(targets) / (len(counts) * counts))[place]


def _losses(logits: Floats, targets: Ints) -> Floats:
    """The `losses` of several tables of finite logits, normalised by the arithmetic of SciPy's logsumexp, to the bit.

    A race asks for 25 of them an outcome; of SciPy's own time three quarters go into what kind of array it is.
    """
    top = logits.max(axis=2, keepdims=True)
    first = logits == top
    count = first.sum(axis=2, dtype=np.float64)
    others = np.exp(np.where(first, -np.inf, logits - top)).sum(axis=2)
    total = np.log1p(others / count) + np.log(count) + top[:, :, 0]
    picked = (logits[:, np.arange(len(targets)), targets] - total).astype(np.float32)
    return -np.clip(picked.astype(np.float64), LEAST_LOG, 0.0)


def correct(log_probabilities: NDArray[np.float32], targets: Ints) -> Floats:
    """1.0 where the most probable class is the target, else 0.0; the first of equals counts."""
    return (log_probabilities.argmax(axis=1) == targets).astype(np.float64)


def _mean(values: Floats, weights: Floats) -> Floats:
    return (weights @ values) / weights.sum(axis=1)


def _accuracy(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    return _mean(correct(log_probabilities, targets), weights)


def _log_loss(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    return _mean(losses(log_probabilities, targets), weights)


def _counts(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weight that was hit, weight of the targets, weight of the predictions: each weightings x classes."""
    said, classes = log_probabilities.argmax(axis=1), range(log_probabilities.shape[1])

    def by_class(kept: NDArray[np.bool_], labels: Ints) -> Floats:
        # class by class touches each weight once; a table of examples x classes would touch it for every class
        return np.stack([weights[:, kept & (labels == c)].sum(axis=1) for c in classes], axis=1)

    everything = np.ones(len(targets), np.bool_)
    return by_class(said == targets, targets), by_class(everything, targets), by_class(everything, said)


def _balanced_accuracy(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    hit, truth, _ = _counts(log_probabilities, targets, weights)
    recall = np.divide(hit, truth, out=np.zeros_like(hit), where=truth > 0)
    return recall.sum(axis=1) / np.maximum((truth > 0).sum(axis=1), 1)


def _f1(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> tuple[Floats, Floats, Floats]:
    hit, truth, said = _counts(log_probabilities, targets, weights)
    both = truth + said
    return np.divide(2 * hit, both, out=np.zeros_like(hit), where=both > 0), truth, both


def _macro_f1(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    f1, _, both = _f1(log_probabilities, targets, weights)
    return f1.sum(axis=1) / np.maximum((both > 0).sum(axis=1), 1)


def _weighted_f1(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    f1, truth, _ = _f1(log_probabilities, targets, weights)
    return (f1 * truth).sum(axis=1) / truth.sum(axis=1)


def _roc_auc(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    """The mean over classes of P(a member gets more of the class than a non-member does), ties half."""
    table = np.nan_to_num(log_probabilities, nan=-np.inf)
    total, usable = np.zeros(len(weights)), np.zeros(len(weights))
    for c in np.unique(targets):
        order = np.argsort(table[:, c], kind="stable")
        ordered, member = table[order, c], targets[order] == c
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of equal predictions, the first
        hits = np.add.reduceat(weights[:, order] * member, starts, axis=1)
        others = np.add.reduceat(weights[:, order] * ~member, starts, axis=1)
        pairs = hits.sum(axis=1) * others.sum(axis=1)
        won = (hits * (others.cumsum(axis=1) - others / 2)).sum(axis=1)
        total += np.divide(won, pairs, out=np.zeros_like(won), where=pairs > 0)
        usable += pairs > 0
    return np.divide(total, usable, out=np.full_like(total, np.nan), where=usable > 0)


def _ece(log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats) -> Floats:
    """How far confidence and accuracy lie apart, on average over bins of equal width.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    confidence = np.exp(np.nan_to_num(log_probabilities.max(axis=1).astype(np.float64), nan=-np.inf))
    gap = correct(log_probabilities, targets) - confidence
    place = np.clip(np.ceil(BINS * confidence).astype(np.int64) - 1, 0, BINS - 1)
    off = [np.abs(weights[:, place == b] @ gap[place == b]) for b in range(BINS)]
    return np.sum(off, axis=0) / weights.sum(axis=1)


CLASSES: Mapping[str, Formula] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
    "ece": _ece,  # told, and nothing to choose by: a model that always says how frequent each class is has none
}
METRICS: Mapping[Question, Mapping[str, Formula]] = {
    "classification": CLASSES,
    **{question: judging.formulas for question, judging in JUDGING.items()},
}
SHARES: Shares = {"weighted_f1": "examples", "macro_f1": "classes", "roc_auc": "classes"}
LESS = ("log_loss", "ece", "mae", "rmse")  # of which less is better


def named(metric: Metric) -> str:
    """What a metric is called in settings and in files."""
    return metric.name if isinstance(metric, Own) else metric


def share_of(metric: Metric, targets: Targets) -> Literal["examples", "classes"] | None:
    """What a metric other than an accuracy is a share of, if it is one: of all examples, or of each class."""
    known = JUDGING[asked(targets)].shares if asked(targets) in JUDGING else SHARES
    return None if isinstance(metric, Own) else known.get(metric)


def weighted(
    metric: Metric,
    log_probabilities: NDArray[np.float32],
    targets: Targets,
    weights: Floats,
    rows: Ints | None = None,
) -> Floats:
    """The metric under each row of `weights` (weightings x examples): one value a row.

    Classes that have no weight (and, for macro F1, were not predicted either) take no part in an average over classes,
    as in scikit-learn; roc_auc leaves out classes without members or without others. A row whose weights are all zero
    gives NaN. A metric of the user's own needs to know which `rows` these examples are. Raises OptionError for an
    unknown metric.
    """
    if isinstance(metric, Own):
        assert rows is not None, "a metric of the user's own may look up what the data say of each example"
        return metric(log_probabilities, targets, weights, rows)
    known = METRICS[asked(targets)]
    if metric not in known:
        raise OptionError(f"metric is {metric!r}; allowed are {', '.join(known)}")
    with np.errstate(invalid="ignore"):
        return known[metric](log_probabilities, targets, weights)


def score(metric: Metric, log_probabilities: NDArray[np.float32], targets: Targets, rows: Ints | None = None) -> float:
    """The metric of these predictions; nats for log_loss, a share of 1 for the others that are known."""
    return float(weighted(metric, log_probabilities, targets, np.ones((1, len(targets))), rows)[0])


def sign(metric: Metric) -> float:
    """1.0 where more is better, -1.0 where less is (log_loss, ece, mae, rmse)."""
    return -1.0 if metric in LESS else 1.0


def resamples(rng: np.random.Generator, examples: int, draws: int) -> Floats:
    """Bootstrap counts, draws x examples: how often each example stands in a resample of the same size."""
    picked = rng.integers(0, examples, size=(draws, examples)) + np.arange(draws)[:, None] * examples
    return np.bincount(picked.ravel(), minlength=draws * examples).reshape(draws, examples).astype(np.float64)


def chunks(examples: int, draws: int) -> list[int]:
    """How many draws to make at a time, so that no table of counts passes about 32 MB."""
    step = max(1, 4_000_000 // max(1, examples))
    return [min(step, draws - begin) for begin in range(0, draws, step)]


def bootstrap(
    metric: Metric,
    log_probabilities: NDArray[np.float32],
    targets: Targets,
    rows: Ints | None = None,
    *,
    confidence: float,
    rng: np.random.Generator,
    draws: int = 1000,
) -> Estimate:
    """The metric with its percentile bootstrap interval over examples."""
    values = np.concatenate(
        [
            weighted(metric, log_probabilities, targets, resamples(rng, len(targets), step), rows)
            for step in chunks(len(targets), draws)
        ]
    )
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(score(metric, log_probabilities, targets, rows), float(low), float(high))
