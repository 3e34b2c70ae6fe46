"""Probes against explicit refits, scikit-learn and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from frostline.errors import LabelError
from frostline.evidence import probes
from frostline.evidence.depths import accuracy, probe_curve
from frostline.evidence.probes import (
    log_loss,
    log_probabilities,
    logistic,
    ridge_loo,
)
from frostline.values import Cut, Fold


def balanced(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Weights that give every class the same sum; their mean is 1."""
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (np.count_nonzero(counts) * counts[labels].astype(np.float64))


def problem(rows: int, width: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Classes around their own means, features of very different size."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    means = rng.standard_normal((classes, width))
    features = means[labels] + 1.5 * rng.standard_normal((rows, width))
    return features * rng.uniform(0.1, 30, width) + rng.uniform(-5, 5, width), labels


@settings(max_examples=15)
@given(
    size=st.sampled_from([(30, 6), (12, 40), (20, 20)]),
    power=st.integers(-3, 2),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_leaving_one_out_in_closed_form_equals_refitting_without_it(
    size: tuple[int, int], power: int, weighted: bool, seed: int
) -> None:
    features, labels = problem(*size, 3, seed)
    weights = balanced(labels, 3) if weighted else np.ones(len(labels))
    probe = ridge_loo(features, labels, lambdas=[10.0**power], weights=weights)
    mean = np.average(features, axis=0, weights=weights)
    standard = (features - mean) / np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    targets = np.eye(3)[labels]
    for row in range(len(labels)):
        others = np.arange(len(labels)) != row
        model = Ridge(alpha=10.0**power * weights.sum(), solver="svd")
        model.fit(standard[others], targets[others], sample_weight=weights[others])
        shares, left = (np.average(targets[some], axis=0, weights=weights[some]) for some in (slice(None), others))
        expected = model.predict(standard[row : row + 1])[0] - left + shares
        np.testing.assert_allclose(probe.scores[row], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [(60, 7), (25, 50)])
def test_the_ridge_head_is_the_fit_of_all_rows_in_raw_units(size: tuple[int, int]) -> None:
    features, labels = problem(*size, 4)
    probe = ridge_loo(features, labels, lambdas=[0.1])
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    model = Ridge(alpha=0.1 * len(labels), solver="svd").fit(standard, np.eye(4)[labels])
    logits = features @ probe.linear.weights.T + probe.linear.bias
    expected = model.predict(standard)
    sharpness = np.ptp(logits) / np.ptp(expected)  # one temperature for all
    np.testing.assert_allclose(logits, sharpness * expected, atol=1e-7 * sharpness)
    assert sharpness > 1


def test_the_chosen_penalty_is_the_one_of_least_left_out_log_loss() -> None:
    features, labels = problem(80, 60, 3)
    grid = [1e-4, 1e-2, 1.0, 100.0]
    alone = {value: ridge_loo(features, labels, lambdas=[value]).log_loss for value in grid}
    chosen = ridge_loo(features, labels, lambdas=grid)
    assert chosen.log_loss == pytest.approx(min(alone.values()))
    assert chosen.penalty == pytest.approx(80 * min(alone, key=lambda value: alone[value]))
    assert max(alone.values()) > 1.05 * min(alone.values())


def test_left_out_predictions_see_of_their_own_label_the_class_shares_alone() -> None:
    features, labels = problem(40, 100, 2)
    other = labels.copy()
    other[7] = 1 - other[7]
    kept, flipped = (
        ridge_loo(features, y, lambdas=[0.3]).scores[7] - np.eye(2)[y].mean(axis=0) for y in (labels, other)
    )
    np.testing.assert_allclose(kept, flipped, atol=1e-9)


def test_features_that_say_nothing_score_like_chance_and_not_below_it() -> None:
    labels = np.arange(64) % 2
    assert ridge_loo(np.ones((64, 8)), labels).accuracy == 0.5
    wide = [ridge_loo(np.random.default_rng(seed).standard_normal((64, 256)), labels).accuracy for seed in range(30)]
    assert min(wide) > 0.2
    assert 0.45 < np.mean(wide) < 0.55
    more = np.arange(64) % 4 == 0  # a quarter of ones
    assert ridge_loo(np.ones((64, 8)), more.astype(np.int64)).accuracy == 0.75


@pytest.mark.parametrize("size", [(90, 8), (40, 70)])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_agrees_with_scikit_learn(size: tuple[int, int], weighted: bool) -> None:
    features, labels = problem(*size, 3)
    weights = balanced(labels, 3) if weighted else np.ones(len(labels))
    strength = 0.02
    head = logistic(features, labels, strengths=[strength], weights=weights)
    mean = np.average(features, axis=0, weights=weights)
    standard = (features - mean) / np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    model = LogisticRegression(C=1 / (strength * weights.sum()), tol=1e-8, max_iter=5000)
    model.fit(standard, labels, sample_weight=weights)
    np.testing.assert_allclose(
        np.exp(log_probabilities(head, features)), model.predict_proba(standard), rtol=0, atol=2e-3
    )


def test_the_strength_it_chooses_is_close_to_the_best_on_rows_it_never_saw() -> None:
    grid = (1e-4, 1e-3, 1e-2, 1e-1)
    for seed, noise in enumerate((1.0, 3.0, 6.0)):
        features, labels = problem(700, 60, 4, seed)
        features = features + noise * features.std(axis=0) * np.random.default_rng(seed).standard_normal(features.shape)
        losses = [
            log_loss(
                log_probabilities(logistic(features[:200], labels[:200], strengths=tried), features[200:]), labels[200:]
            )
            for tried in [grid, *([strength] for strength in grid)]
        ]
        assert losses[0] < min(losses[1:]) + 0.05
        assert max(losses[1:]) > losses[0] + 0.1


def test_weaker_penalties_are_not_tried_once_the_held_out_loss_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, real = list[float](), probes._descend

    def descend(x: Any, labels: Any, weights: Any, strength: float, start: Any) -> Any:
        tried.append(strength)
        return real(x, labels, weights, strength, start)

    monkeypatch.setattr(probes, "_descend", descend)
    rng = np.random.default_rng(0)
    says_nothing = logistic(rng.standard_normal((200, 30)), np.arange(200) % 4)
    assert tried == [1e-1, 1e-2, 1e-1]  # the last one is the fit on all rows
    assert says_nothing.strength == 1e-1
    tried.clear()
    says_much, labels = problem(700, 60, 4, 0)
    assert logistic(says_much, labels).strength == tried[-1] < 1e-1


def test_a_class_without_examples_is_never_predicted() -> None:
    features, labels = problem(60, 5, 3)
    labels = np.where(labels == 1, 3, labels)
    for head in (logistic(features, labels, classes=5), ridge_loo(features, labels, classes=5).linear):
        assert head.weights.shape == (5, 5)
        assert not np.isin(log_probabilities(head, features).argmax(axis=1), [1, 4]).any()


def test_constant_features_change_nothing() -> None:
    features, labels = problem(50, 6, 3)
    wider = np.column_stack([features, np.full(50, 7.0), np.zeros(50)])
    np.testing.assert_allclose(ridge_loo(wider, labels).scores, ridge_loo(features, labels).scores, atol=1e-8)
    logits = log_probabilities(logistic(wider, labels), wider)
    np.testing.assert_allclose(logits, log_probabilities(logistic(features, labels), features), atol=1e-4)


@given(st.integers(0, 200), st.integers(1, 200))
@example(0, 43)  # where rounding alone put the share outside
def test_wilson_contains_the_share_and_stays_between_0_and_1(hits: int, more: int) -> None:
    estimate = accuracy(np.arange(hits + more) < hits)
    assert -1e-12 <= estimate.low <= estimate.mean <= estimate.high <= 1 + 1e-12
    n, p, z = hits + more, hits / (hits + more), 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_weighted_hits_are_worth_as_many_examples_as_say_the_same() -> None:
    hits, labels = np.arange(110) % 10 < 7, np.array([0] * 100 + [1] * 10)
    found = accuracy(hits, weights=balanced(labels, 2))
    assert found.mean == pytest.approx(np.mean([hits[labels == c].mean() for c in (0, 1)]))
    alike = accuracy(np.arange(36) < 25)  # 110^2 / sum of squares is 36.4
    assert found.high - found.low == pytest.approx(alike.high - alike.low, rel=0.03)


def test_where_classes_count_alike_the_curve_is_of_balanced_accuracy_and_chance_is_one_over_them() -> None:
    rng, labels = np.random.default_rng(0), np.array([0] * 570 + [1] * 30)
    features = {1: rng.normal(size=(600, 5)), 3: rng.normal(size=(600, 5)) + labels[:, None]}
    fold = Fold(np.arange(0, 600, 2), np.arange(1, 600, 2))
    plain = probe_curve(CUTS, features, labels, fold, seed=0)
    first, second = probe_curve(CUTS, features, labels, fold, seed=0, balance=lambda of: balanced(of, 2))
    assert plain[0].score.mean == pytest.approx(0.95, abs=0.01)  # always the common class
    assert first.score.mean == pytest.approx(0.5, abs=0.1)
    assert second.score.mean > 0.75
    for point in (first, second):
        assert point.permuted == pytest.approx(0.5, abs=0.1)


def test_shifted_rows_are_scored_by_the_head_of_the_training_rows_beside_those_of_validation() -> None:
    features, labels, fold = curve_problem()
    away = np.arange(380, 400)
    head = logistic(features[3][fold.train], labels[fold.train], classes=4)
    found = probe_curve(CUTS, features, labels, fold, seed=0, shifted=away)[1]
    for rows, estimate in ((away, found.shifted), (fold.validation, found.unshifted)):
        hits = log_probabilities(head, features[3][rows]).argmax(axis=1) == labels[rows]
        assert estimate is not None and estimate.mean == pytest.approx(hits.mean())
    assert probe_curve(CUTS, features, labels, fold, seed=0)[1].shifted is None


def test_log_loss_is_the_mean_of_what_the_true_class_was_given() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 3))
    predictions = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    labels = np.array([0, 2, 1, 1, 0])
    expected = -np.mean(
        [np.log(np.exp(row)[label] / np.exp(row).sum()) for row, label in zip(logits, labels, strict=True)]
    )
    assert log_loss(predictions, labels) == pytest.approx(expected)


CUTS = (Cut(1, "a"), Cut(3, "b"))


def curve_problem() -> tuple[dict[int, NDArray[np.float64]], NDArray[np.int64], Fold]:
    good, labels = problem(400, 10, 4)
    poor = 0.1 * good + np.random.default_rng(3).standard_normal(good.shape) * good.std(axis=0)
    return {1: poor, 3: good}, labels, Fold(np.arange(0, 300), np.arange(300, 380))


def test_the_curve_rises_where_the_features_are_better_and_permuted_labels_score_like_chance() -> None:
    features, labels, fold = curve_problem()
    rng = np.random.default_rng(1)
    noise = {depth: rng.standard_normal((len(fold.train), x.shape[1])) for depth, x in features.items()}
    first, second = probe_curve(CUTS, features, labels, fold, seed=0, random=noise)
    assert (first.cut, second.cut, second.features) == (*CUTS, 10)
    assert second.score.low > first.score.high
    assert second.log_loss < first.log_loss
    chance = np.bincount(labels[fold.train]).max() / 300
    for evidence in (first, second):
        assert evidence.permuted is not None
        assert evidence.random is not None
        assert max(evidence.permuted, evidence.random) < chance + 0.1  # four standard errors of 300 rows
    assert second.permuted is not None
    assert second.score.low > second.permuted


def test_the_curve_is_the_same_for_one_seed_and_never_looks_outside_its_fold() -> None:
    features, labels, fold = curve_problem()
    spoiled = {depth: x.copy() for depth, x in features.items()}
    for x in spoiled.values():
        x[380:] = np.nan
    assert probe_curve(CUTS, features, labels, fold, seed=4) == probe_curve(CUTS, spoiled, labels, fold, seed=4)
    moved = {depth: x.copy() for depth, x in features.items()}
    for x in moved.values():
        x[300:380] += 100.0
    for a, b in zip(
        probe_curve(CUTS, features, labels, fold, seed=4), probe_curve(CUTS, moved, labels, fold, seed=4), strict=True
    ):
        assert a.score == b.score  # the score is of training rows alone
        assert a.log_loss != b.log_loss


def test_what_cannot_be_probed_is_an_error_and_not_a_number() -> None:
    with pytest.raises(LabelError, match="3 labels for 4 rows"):
        ridge_loo(np.zeros((4, 2)), np.array([0, 1, 0]))
    with pytest.raises(LabelError, match="finite"):
        ridge_loo(np.array([[1.0], [np.nan]]), np.array([0, 1]))
