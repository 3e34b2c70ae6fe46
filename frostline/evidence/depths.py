"""What each depth knows before any training: the curve of linear probes over the cuts, with its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.activations.features import Rows
from frostline.evidence import probes
from frostline.evidence.probes import Floats, Labels
from frostline.tasks.measures.table import JUDGING, answerable
from frostline.values import Cut, Estimate, Evidence, Fold, Targets, asked

RESAMPLES = 500


def probe_curve(
    cuts: Sequence[Cut],
    features: Mapping[int, Rows],
    labels: Labels,
    fold: Fold,
    *,
    seed: int,
    random: Mapping[int, Rows] | None = None,
    shifts: Mapping[int, float] | None = None,
    shifted: NDArray[np.int64] | None = None,
    balance: Callable[[Labels], Floats] | None = None,
    confidence: float = 0.95,
    workers: int = 1,
) -> tuple[Evidence, ...]:
    """What is known of each cut before training, in the order of the cuts; `workers` threads share the cuts.

    `features` maps depths to rows x features of all examples, and only the fold's rows are looked at: score, interval
    and controls from its training rows, the log-loss of the logistic head on its validation rows (of the left-out ridge
    scores where there are none). `random` holds the features of the training rows alone, from a network with random
    weights, `shifts` what is known of the source's distance by depth. `shifted` are rows of examples from elsewhere:
    the logistic head is scored on them and, to compare with, on the validation rows. `seed` draws one permutation of
    the training labels for all cuts, which should score like chance. The score is the accuracy, whatever metric decides
    later, with Wilson's interval at `confidence`; `balance` makes weights of labels, by which it is fitted and scored.
    """
    if asked(labels) != "classification":
        return _other_curve(
            cuts, features, labels, fold,
            seed=seed, random=random, shifts=shifts, shifted=shifted, confidence=confidence, workers=workers,
        )  # fmt: skip
    classes = probes.count_of(labels)
    train = probes.checked(labels[fold.train], len(fold.train))
    shuffled = np.random.default_rng(seed).permutation(train)
    by, other = _weights(balance, train), _weights(balance, shuffled)

    def probed(cut: Cut) -> Evidence:
        basis = probes.basis_of(features[cut.depth][fold.train], by)
        ridge = probes.ridge_of(basis, train, classes)
        chance = basis if other is None else probes.basis_of(features[cut.depth][fold.train], other)
        loss, within, beyond = ridge.log_loss, None, None
        if len(fold.validation):
            head = probes.logistic_of(basis, ridge, train)
            judged = probes.log_probabilities(head, features[cut.depth][fold.validation])
            loss = probes.log_loss(judged, labels[fold.validation], _weights(balance, labels[fold.validation]))
            if shifted is not None and len(shifted):
                within = _scored(judged, labels[fold.validation], confidence, balance)
                strange = probes.log_probabilities(head, features[cut.depth][shifted])
                beyond = _scored(strange, labels[shifted], confidence, balance)
        control = None
        if random is not None:
            untrained = random[cut.depth][np.arange(len(train))]
            control = probes.ridge_loo(untrained, train, classes=classes, weights=by).accuracy
        return Evidence(
            cut=cut,
            score=_scored(ridge.scores, train, confidence, balance),
            log_loss=loss,
            features=features[cut.depth].shape[1],
            random=control,
            permuted=probes.ridge_of(chance, shuffled, classes).accuracy,
            shift=None if shifts is None else shifts.get(cut.depth),
            shifted=beyond,
            unshifted=within,
        )

    with ThreadPoolExecutor(workers) as threads:  # most of a probe is algebra, which holds no interpreter
        return tuple(threads.map(probed, cuts))


def _other_curve(
    cuts: Sequence[Cut],
    features: Mapping[int, Rows],
    targets: Targets,
    fold: Fold,
    *,
    seed: int,
    random: Mapping[int, Rows] | None,
    shifts: Mapping[int, float] | None,
    shifted: NDArray[np.int64] | None,
    confidence: float,
    workers: int,
) -> tuple[Evidence, ...]:
    """`probe_curve` of labels and of numbers: ridge regression, scored by average precision or by R2."""
    name, targets = JUDGING[asked(targets)].probed, answerable(targets)
    train = targets[fold.train].astype(np.float64)
    order, kind = np.random.default_rng(seed).permutation(len(train)), asked(targets)
    judging = JUDGING[kind]
    formula, losses = judging.formulas[name], judging.losses
    draws = np.random.default_rng(seed).multinomial(len(train), np.full(len(train), 1 / len(train)), RESAMPLES)

    def scored(scores: Floats, truth: Floats, by: NDArray[Any] | None = None) -> Estimate:
        weights = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES)
        kept = truth.astype(targets.dtype)
        with np.errstate(invalid="ignore"):
            found = formula(scores.astype(np.float32), kept, (weights if by is None else by).astype(np.float64))
            mean = float(formula(scores.astype(np.float32), kept, np.ones((1, len(truth))))[0])
        low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(mean, min(mean, float(low)), max(mean, float(high)))

    def plain(scores: Floats, truth: Floats) -> float:
        return float(formula(scores.astype(np.float32), truth.astype(targets.dtype), np.ones((1, len(truth))))[0])

    def probed(cut: Cut) -> Evidence:
        x = features[cut.depth][fold.train]
        basis = probes.basis_of(x)
        ridge, loss, within, beyond = probes.least_squares(basis, train), float("nan"), None, None
        if len(fold.validation):
            head = probes.first_head(x, targets[fold.train], targets.shape[1])
            units = (train.std(axis=0), train.mean(axis=0)) if kind == "regression" else (1.0, 0.0)

            def told(rows: NDArray[np.int64]) -> Floats:
                return probes.outputs(head, features[cut.depth][rows]) * units[0] + units[1]

            judged = told(fold.validation)
            truth = targets[fold.validation]
            loss = float(losses(judged.astype(np.float32), truth).mean())
            if shifted is not None and len(shifted):
                within = scored(judged, truth)
                beyond = scored(told(shifted), targets[shifted])
        control = None
        if random is not None:
            untrained = probes.basis_of(random[cut.depth][np.arange(len(train))])
            control = plain(probes.least_squares(untrained, train).scores, train)
        return Evidence(
            cut=cut,
            score=scored(ridge.scores, train, draws),
            log_loss=loss,
            features=features[cut.depth].shape[1],
            random=control,
            permuted=plain(probes.least_squares(basis, train[order]).scores, train[order]),
            shift=None if shifts is None else shifts.get(cut.depth),
            shifted=beyond,
            unshifted=within,
            metric=name,
        )

    with ThreadPoolExecutor(workers) as threads:
        return tuple(threads.map(probed, cuts))


def accuracy(correct: NDArray[np.bool_], confidence: float = 0.95, weights: Floats | None = None) -> Estimate:
    """Share of hits with Wilson's interval; weighted ones count as as many examples as say the same (Kish 1965)."""
    by = np.ones(len(correct)) if weights is None else weights
    return Estimate.of_share(float(np.average(correct, weights=by)), float(by.sum() ** 2 / (by**2).sum()), confidence)


def _scored(scores: Floats, labels: Labels, confidence: float, balance: Callable[[Labels], Floats] | None) -> Estimate:
    return accuracy(scores.argmax(axis=1) == labels, confidence, _weights(balance, labels))


def _weights(balance: Callable[[Labels], Floats] | None, labels: Labels) -> Floats | None:
    return None if balance is None else balance(labels)
