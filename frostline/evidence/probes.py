"""Linear probes in closed form or by convex optimisation: what a cut's features are worth, before any training.

A probe is the exact result of every plan that freezes all it keeps, and the first head of every other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from frostline.errors import LabelError
from frostline.tasks.measures.table import answerable
from frostline.values import Targets, asked

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

LAMBDAS = tuple(10.0**power for power in range(-4, 4))  # times the number of examples: features have unit variance
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A linear head on raw features: logits are features @ weights.T + bias."""

    weights: Floats  # classes x features
    bias: Floats  # classes
    strength: float  # of the penalty that was chosen


@dataclass(frozen=True, slots=True, eq=False)
class RidgeProbe:
    """A ridge classifier, and what each example scores where it alone is left out of the fit."""

    scores: Floats  # examples x classes, left out; a perfect fit gives 1 for the example's class and 0 for others
    log_probabilities: Floats  # examples x classes, left out; nats
    accuracy: float
    log_loss: float  # nats an example
    penalty: float  # the chosen lambda, times the sum of weights
    linear: Linear  # of all examples; softmax of its logits gives calibrated probabilities


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Standardised, weighted and centred features in the basis where ridge regression is diagonal."""

    vectors: Floats  # examples x components: left singular vectors times singular values
    squares: Floats  # squared singular values
    back: Floats  # components x features: from coefficients of `vectors` to standardised features
    weights: Floats  # of examples
    mean: Floats
    scale: Floats


def ridge_loo(
    features: NDArray[Any],
    labels: Labels,
    *,
    classes: int | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    weights: Floats | None = None,
) -> RidgeProbe:
    """One-vs-rest ridge regression on indicator targets, with exact leave-one-out predictions in closed form.

    Features are standardised with the mean and deviation of all rows given; the intercept is not penalised. `classes`
    is one more than the largest label where it is not given; a class without an example is never predicted. `lambdas`
    are per example, and the one of the least left-out log-loss is taken, after one temperature was fitted for it.
    Only the class shares, the same for every example, are those of all rows: shares that leave out the example's own
    label are lower for its own class, and where features say nothing that alone scored 0% on two classes of equal size.
    Raises LabelError where there are fewer than two rows.
    Source: leave-one-out residual e_i / (1 - h_ii) of a linear smoother; Allen, "PRESS", 1974.
    """
    return ridge_of(basis_of(features, weights), checked(labels, len(features)), classes, lambdas)


def logistic(
    features: NDArray[Any],
    labels: Labels,
    *,
    classes: int | None = None,
    strengths: Sequence[float] = STRENGTHS,
    weights: Floats | None = None,
) -> Linear:
    """Multinomial logistic regression by L-BFGS, in units of the raw features: the first head of an arm.

    Minimises the mean cross-entropy plus strength / 2 times the squared norm of the weights of standardised features;
    the bias is free. Of several strengths, the one of least log-loss on every fifth example of each class is taken,
    fitted without those; only rows given are looked at. `weights` are of examples.
    A class without an example gets a logit below the others'.
    """
    labels = checked(labels, len(features))
    basis = basis_of(features, weights)
    return logistic_of(basis, ridge_of(basis, labels, classes), labels, strengths)


def first_head(features: NDArray[Any], targets: Targets, outputs: int, *, weights: Floats | None = None) -> Linear:
    """The probe that a head on these features starts from.

    Of class ids the `logistic` one; of labels one for each, a yes or a no; of numbers the ridge of what they are in
    units of their deviation. `weights` are of examples, and of classes alone.
    """
    if asked(targets) == "classification":
        return logistic(features, targets, classes=outputs, weights=weights)
    basis = basis_of(features)
    if asked(targets) == "regression":
        spread = targets.std(axis=0)
        return least_squares(basis, (targets - targets.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).linear
    return _yes_or_no(basis, targets)


def better_than_the_mean(features: NDArray[Any], targets: Targets) -> NDArray[np.bool_]:
    """Which rows a ridge regression that leaves them out tells better than the mean of all does."""
    wanted = answerable(targets).astype(np.float64)
    spread = np.maximum(wanted.std(axis=0), 1e-12)
    scores = least_squares(basis_of(features), wanted).scores
    ours, plain = ((found - wanted) / spread for found in (scores, wanted.mean(axis=0)))
    return (ours**2).mean(axis=1) < (plain**2).mean(axis=1)


def outputs(linear: Linear, features: NDArray[Any]) -> Floats:
    """Rows x outputs."""
    return features.astype(np.float64) @ linear.weights.T + linear.bias


def log_probabilities(linear: Linear, features: NDArray[Any]) -> Floats:
    """Rows x classes, nats."""
    return _log_softmax(outputs(linear, features))


def log_loss(predictions: Floats, labels: Labels, weights: Floats | None = None) -> float:
    """Mean negative log-probability of the true class, nats an example."""
    return float(np.average(-predictions[np.arange(len(labels)), labels], weights=weights))


@dataclass(frozen=True, slots=True, eq=False)
class Squares:
    """Ridge regression on any columns, with what each row scores where it alone is left out."""

    scores: Floats  # rows x columns, left out
    linear: Linear  # of all rows


def least_squares(basis: Basis, targets: Floats, lambdas: Sequence[float] = LAMBDAS) -> Squares:
    """One penalty for all columns: that of the least left-out squared error, each column in units of its spread."""
    rows = len(targets)
    centre = targets.mean(axis=0)
    spread = np.maximum(targets.std(axis=0), 1e-12)
    projected, energy = basis.vectors.T @ (targets - centre), basis.vectors**2
    best: tuple[float, float, Floats] | None = None
    for penalty in (value * rows for value in lambdas):
        leverage = energy @ (1 / (basis.squares + penalty)) + 1 / rows
        fitted = centre + basis.vectors @ (projected / (basis.squares + penalty)[:, None])
        out = np.maximum(1 - leverage, 1e-10)
        # shifted to the mean of all rows, as for classes: that of the others says which one is left out
        scores = (fitted - leverage[:, None] * targets) / out[:, None] + (targets - centre) / (rows - 1)
        error = float((((scores - targets) / spread) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, penalty, scores)
    assert best is not None, "there is at least one lambda"
    _, penalty, scores = best
    slopes = (projected / (basis.squares + penalty)[:, None]).T @ basis.back / basis.scale
    return Squares(scores, Linear(slopes, centre - slopes @ basis.mean, penalty))


def _yes_or_no(basis: Basis, targets: Labels) -> Linear:
    """A logistic probe a label; of one that is always or never there, its odds by Laplace's rule."""
    slopes, offsets, strengths = list[Floats](), list[float](), list[float]()
    for column in targets.T:
        count = int(column.sum())
        if 2 <= count <= len(column) - 2:
            found = logistic_of(basis, ridge_of(basis, column, 2), column)
            slopes.append(found.weights[1] - found.weights[0])
            offsets.append(float(found.bias[1] - found.bias[0]))
            strengths.append(found.strength)
        else:
            slopes.append(np.zeros(len(basis.mean)))
            offsets.append(float(np.log((count + 1) / (len(column) - count + 1))))
            strengths.append(STRENGTHS[-1])
    return Linear(np.stack(slopes), np.array(offsets), max(strengths))


# --------------------------------------------------------------------------------------------------- ridge


def basis_of(features: NDArray[Any], weights: Floats | None = None) -> Basis:
    """Features taken apart, by whichever of their two Gram matrices is smaller; `weights` are of examples.

    Raises LabelError where a feature is not finite or a weight not positive.
    """
    x = features.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    if not np.isfinite(x).all() or not (w > 0).all():
        raise LabelError("features must be finite and weights of examples positive; look for broken inputs")
    mean = np.average(x, axis=0, weights=w)
    x -= mean
    scale = np.sqrt(np.average(x**2, axis=0, weights=w))
    scale[scale <= 1e-6 * max(1e-30, float(scale.max(initial=0.0)))] = np.inf  # a constant feature tells nothing
    x *= np.sqrt(w)[:, None] / scale
    rows, width = x.shape
    if width <= rows:
        squares, right = np.linalg.eigh(x.T @ x)
        return Basis(x @ right, np.maximum(squares, 0.0), right.T, w, mean, scale)
    squares, left = np.linalg.eigh(x @ x.T)
    kept = squares > 1e-12 * max(1e-300, float(squares[-1]))
    singular = np.sqrt(squares[kept])
    left = left[:, kept]
    return Basis(left * singular, squares[kept], (left / singular).T @ x, w, mean, scale)


def ridge_of(
    basis: Basis, labels: Labels, classes: int | None = None, lambdas: Sequence[float] = LAMBDAS
) -> RidgeProbe:
    """`ridge_loo` of features that are taken apart already."""
    count = count_of(labels, classes)
    targets = np.eye(count)[labels]
    root, total = np.sqrt(basis.weights), basis.weights.sum()
    centre = basis.weights @ targets / total
    projected = basis.vectors.T @ (root[:, None] * (targets - centre))
    energy = basis.vectors**2
    back = (basis.weights / (total - basis.weights))[:, None] * (targets - centre)  # to the shares of all rows
    best: tuple[float, float, float, Floats] | None = None
    for penalty in (value * total for value in lambdas):
        leverage = energy @ (1 / (basis.squares + penalty)) + basis.weights / total
        fitted = centre + basis.vectors @ (projected / (basis.squares + penalty)[:, None]) / root[:, None]
        # a leverage of 1 means that the fit without this row says nothing of it: the mean is all there is
        out = np.maximum(1 - leverage, 1e-10)
        scores = (fitted - leverage[:, None] * targets) / out[:, None] + back
        sharpness, loss = _temperature(scores, labels, basis.weights)
        if best is None or loss < best[0]:
            best = (loss, penalty, sharpness, scores)
    assert best is not None, "there is at least one lambda"
    loss, penalty, sharpness, scores = best
    slopes = (projected / (basis.squares + penalty)[:, None]).T @ basis.back / basis.scale
    linear = Linear(sharpness * slopes, sharpness * (centre - slopes @ basis.mean), penalty)
    hits = float(np.average(scores.argmax(axis=1) == labels, weights=basis.weights))
    predictions = _log_softmax(sharpness * scores)
    return RidgeProbe(scores, predictions, hits, log_loss(predictions, labels), penalty, linear)


def _temperature(scores: Floats, labels: Labels, weights: Floats) -> tuple[float, float]:
    """The factor that makes softmax of ridge scores most likely, and the log-loss that it leaves."""

    def loss(power: float) -> float:
        return log_loss(_log_softmax(np.exp(power) * scores), labels, weights)

    found = minimize_scalar(loss, bounds=(-4.0, 6.0), method="bounded", options={"xatol": 0.02})
    return float(np.exp(found.x)), float(found.fun)


# --------------------------------------------------------------------------------------------------- logistic


def logistic_of(basis: Basis, ridge: RidgeProbe, labels: Labels, strengths: Sequence[float] = STRENGTHS) -> Linear:
    """`logistic` in the basis of the ridge, where n examples need no more than n columns, and from its solution."""
    classes = len(ridge.linear.bias)
    present, local = np.unique(labels, return_inverse=True)
    x = basis.vectors / np.sqrt(basis.weights)[:, None]
    # the ridge's raw slopes, back in the basis; a feature that was constant has no slope
    deviation = np.where(np.isfinite(basis.scale), basis.scale, 0.0)
    slopes = (ridge.linear.weights * deviation)[present] @ basis.back.T
    offsets = (ridge.linear.bias + ridge.linear.weights @ basis.mean)[present]
    start = np.column_stack([slopes, offsets])
    pull, start = _strength(x, basis.weights, local, strengths, start)
    found = _descend(x, local, basis.weights, pull, start)
    weights, bias = np.zeros((classes, len(basis.mean))), np.zeros(classes)
    weights[present] = found[:, :-1] @ basis.back / basis.scale
    bias[present] = found[:, -1] - weights[present] @ basis.mean
    absent = np.setdiff1d(np.arange(classes), present)
    bias[absent] = _logits(found, x).min(initial=0.0)  # below every class that was seen, on every row that was seen
    return Linear(weights, bias, pull)


def _strength(
    x: Floats, weights: Floats, labels: Labels, strengths: Sequence[float], start: Floats
) -> tuple[float, Floats]:
    """The strength of least log-loss on every fifth example of each class, fitted without those; and that fit.

    The strongest comes first, since it is found soonest, and each is a start for the next. From where the loss rises
    on, weaker ones are not tried: they only fit the rows better that are seen, and take the longest.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in range(len(start)):
        held[np.flatnonzero(labels == label)[4::5]] = True
    ordered = sorted(strengths, reverse=True)
    if len(ordered) == 1 or not held.any():
        return ordered[0], start
    best, least, found = ordered[0], np.inf, start
    for candidate in ordered:
        start = _descend(x[~held], labels[~held], weights[~held], candidate, start)
        loss = log_loss(_log_softmax(_logits(start, x[held])), labels[held], weights[held])
        if loss >= least:
            break
        best, least, found = candidate, loss, start
    return best, found


def _descend(x: Floats, labels: Labels, weights: Floats, strength: float, start: Floats) -> Floats:
    """The minimum of the penalised cross-entropy from a start: classes x (columns and the bias).

    The columns are nearly uncorrelated, so that the curvature is nearly diagonal: dividing by its root lets L-BFGS
    arrive in tens of steps instead of hundreds.
    """
    shape, share = start.shape, (weights / weights.sum())[:, None]
    targets = np.eye(shape[0])[labels]
    spread = (1 - 1 / shape[0]) / shape[0]  # of a class probability, where nothing is known
    stretch = np.sqrt(np.append(spread * (share * x**2).sum(axis=0) + strength, spread + 1e-12))

    def objective(flat: Floats) -> tuple[float, Floats]:
        parameters = flat.reshape(shape) / stretch
        predictions = _log_softmax(_logits(parameters, x))
        residual = share * (np.exp(predictions) - targets)
        gradient = np.empty(shape)
        gradient[:, :-1] = residual.T @ x + strength * parameters[:, :-1]
        gradient[:, -1] = residual.sum(axis=0)
        value = -(share * targets * predictions).sum() + 0.5 * strength * (parameters[:, :-1] ** 2).sum()
        return float(value), (gradient / stretch).ravel()

    options = {"maxiter": 300, "ftol": 1e-8, "gtol": 1e-6, "maxcor": 10}
    found = minimize(objective, (start * stretch).ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape) / stretch


def _logits(parameters: Floats, x: Floats) -> Floats:
    return x @ parameters[:, :-1].T + parameters[:, -1]


def _log_softmax(logits: Floats) -> Floats:
    below = logits - logits.max(axis=1, keepdims=True)  # by hand: SciPy's own takes twice the time on small tables
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


def count_of(labels: Labels, classes: int | None = None) -> int:
    """Of classes, where nobody says how many: as many as the largest label asks for."""
    return int(labels.max()) + 1 if classes is None else classes


def checked(labels: Labels, rows: int) -> Labels:
    """The labels, whole numbers. Raises LabelError where they are not one a row, of two rows at least."""
    if rows != len(labels) or rows < 2:
        raise LabelError(f"{len(labels)} labels for {rows} rows of features; a probe needs two rows, one label each")
    return labels.astype(np.int64)
