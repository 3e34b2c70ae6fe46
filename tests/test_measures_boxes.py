"""Oracles and laws of what detections are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import MeanAveragePrecision

from frostline.search.scores import resamples
from frostline.tasks.measures.boxes import (
    MOST,
    RECALLS,
    THRESHOLDS,
    at_half,
    average_precisions,
    averaged,
    by_class,
    losses,
    matched,
    mean_average_precision,
    overlap,
    picture_losses,
)

CLASSES = 4


@dataclass(frozen=True)
class There:
    """The boxes of a picture."""

    corners: np.ndarray
    labels: np.ndarray


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 80, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 40, (count, 2))], axis=1).astype(np.float32)


def scene(
    seed: int, pictures: int = 6, *, most: int = 30, ties: bool = False, shared: int = CLASSES
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes found more or less well, some twice, among false ones; pictures with none, and detectors that see none.

    Only the first `shared` classes stand in the targets, and the last of them is never detected.
    """
    rng = np.random.default_rng(seed)
    predictions = np.full((pictures, most, 6), np.nan, np.float32)
    targets = np.empty(pictures, dtype=object)
    for number in range(pictures):
        count = int(rng.integers(0, 9)) if rng.random() < 0.8 else 0
        there = There(boxes(rng, count), rng.integers(0, shared, count))
        targets[number] = there
        again = rng.permutation(np.repeat(np.arange(count), rng.integers(0, 3, count)))
        near = there.corners[again] + rng.normal(0, rng.choice([0.5, 3.0]), (len(again), 4))
        false = int(rng.integers(0, 6)) if rng.random() < 0.8 else 0
        corners = np.concatenate([near, boxes(rng, false)])
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        labels = np.concatenate([there.labels[again], rng.integers(0, CLASSES, false)])
        kept = (labels != shared - 1)[:most]
        scores = rng.uniform(0, 1, len(labels)).round(1 if ties else 6)
        said = np.column_stack([corners, scores, labels])[:most][kept]
        predictions[number, rng.permutation(most)[: len(said)]] = said
    return predictions, targets


def coco(predictions: np.ndarray, targets: np.ndarray) -> tuple[float, float, np.ndarray]:
    """mAP, mAP@50 and the AP of each class by pycocotools; NaN for the -1 that it says where there is nothing."""
    oracle = MeanAveragePrecision(
        iou_thresholds=THRESHOLDS.tolist(), rec_thresholds=RECALLS.tolist(), class_metrics=True, backend="pycocotools"
    )
    oracle.warn_on_many_detections = False
    said, truth = [], []
    for rows, there in zip(predictions, targets, strict=True):
        kept = torch.from_numpy(rows[np.isfinite(rows).all(axis=1)])
        said.append({"boxes": kept[:, :4], "scores": kept[:, 4], "labels": kept[:, 5].long()})
        truth.append({"boxes": torch.from_numpy(there.corners), "labels": torch.from_numpy(there.labels)})
    oracle.update(said, truth)
    found = oracle.compute()
    single = np.full(CLASSES, np.nan)
    labels, values = np.atleast_1d(found["classes"].numpy()), np.atleast_1d(found["map_per_class"].numpy())
    single[labels] = np.where(values < 0, np.nan, values) if len(labels) else np.nan
    half, whole = float(found["map_50"]), float(found["map"])
    return (np.nan, np.nan, single) if whole < 0 else (whole, half, single)


def agrees(predictions: np.ndarray, targets: np.ndarray) -> None:
    one = np.ones((1, len(targets)))
    whole, half, single = coco(predictions, targets)
    assert mean_average_precision(predictions, targets, one)[0] == pytest.approx(whole, abs=1e-6, nan_ok=True)
    assert at_half(predictions, targets, one)[0] == pytest.approx(half, abs=1e-6, nan_ok=True)
    mine = np.full(CLASSES, np.nan)
    (found,) = by_class(predictions, targets, one)
    mine[: len(found)] = found
    assert mine == pytest.approx(single, abs=1e-6, nan_ok=True)


@given(seed=st.integers(0, 10**6), ties=st.booleans(), shared=st.integers(1, CLASSES))
@settings(max_examples=30)
def test_average_precision_is_that_of_pycocotools(seed: int, ties: bool, shared: int) -> None:
    agrees(*scene(seed, ties=ties, shared=shared))


def test_more_detections_than_count_are_cut_off_as_in_pycocotools() -> None:
    rng = np.random.default_rng(0)
    predictions, targets = scene(3, 2, most=2 * MOST)
    targets[0] = There(boxes(rng, 9), np.zeros(9, np.int64))
    predictions[0, : MOST + 40] = np.column_stack(
        [boxes(rng, MOST + 40), rng.uniform(0.5, 1, MOST + 40), np.zeros(140)]
    )
    predictions[0, MOST + 40 :] = np.nan
    # found, but behind 140 others: only as many as count are looked at
    predictions[0, -9:] = np.column_stack([targets[0].corners, np.full(9, 0.1), np.zeros(9)])
    agrees(predictions, targets)
    assert not matched(predictions, targets).hits[matched(predictions, targets).scores == np.float32(0.1)].any()


def test_no_boxes_no_detections_and_nothing_at_all_are_what_pycocotools_makes_of_them() -> None:
    predictions, targets = scene(1)
    none, empty = np.full_like(predictions, np.nan), np.empty(len(targets), dtype=object)
    empty[:] = [There(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))] * len(targets)
    for said in (predictions, none, none[:, :0]):
        for there in (targets, empty):
            agrees(said, there)


@given(seed=st.integers(0, 10**6), draws=st.integers(1, 4))
@settings(max_examples=30)
def test_a_picture_of_weight_two_counts_as_if_it_stood_twice(seed: int, draws: int) -> None:
    predictions, targets = scene(seed, 8)
    weights = resamples(np.random.default_rng(seed), 8, draws)
    found = by_class(predictions, targets, weights)
    whole = mean_average_precision(predictions, targets, weights)
    for counts, single, mean in zip(weights, found, whole, strict=True):
        rows = np.repeat(np.arange(8), counts.astype(int))
        one = np.ones((1, len(rows)))
        (again,) = by_class(predictions[rows], targets[rows], one)
        assert single[: len(again)] == pytest.approx(again, nan_ok=True)
        assert np.isnan(single[len(again) :]).all()
        assert mean == pytest.approx(mean_average_precision(predictions[rows], targets[rows], one)[0], nan_ok=True)


def test_one_matching_serves_any_number_of_weightings(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, targets = scene(5, 20)
    weights = resamples(np.random.default_rng(0), 20, 50)
    found = matched(predictions, targets)
    together = average_precisions(found, weights)
    assert averaged(together) == pytest.approx(mean_average_precision(predictions, targets, weights), nan_ok=True)
    monkeypatch.setattr("frostline.tasks.measures.boxes.AT_ONCE", 3 * len(found.labels))
    assert np.array_equal(average_precisions(found, weights), together, equal_nan=True)


def test_no_weight_at_all_is_not_a_number() -> None:
    predictions, targets = scene(5)
    assert np.isnan(mean_average_precision(predictions, targets, np.zeros((2, 6)))).all()


def test_boxes_overlap_by_the_share_of_what_they_cover() -> None:
    square = np.array([[0, 0, 10, 10]], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [3, 3, 3, 3]], np.float32)
    assert overlap(square, others)[0] == pytest.approx([1, 1 / 3, 0, 0.04, 0])


# ------------------------------------------------------------------------------------------------ losses


def perfect(targets: np.ndarray, scores: float = 0.9) -> np.ndarray:
    said = np.full((len(targets), 12, 6), np.nan, np.float32)
    for rows, there in zip(said, targets, strict=True):
        rows[: len(there.labels)] = np.column_stack([there.corners, np.full(len(there.labels), scores), there.labels])
    return said


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_the_loss_of_one_picture_is_one_minus_its_average_precision_without_classes(seed: int) -> None:
    predictions, targets = scene(seed, 5, shared=1)
    predictions[:, :, 5] = np.where(np.isnan(predictions[:, :, 5]), np.nan, 0.0)
    mine = picture_losses(predictions, targets)
    assert ((mine >= 0) & (mine <= 1)).all()
    for row, there in enumerate(targets):
        if len(there.labels):
            alone = mean_average_precision(predictions[row : row + 1], targets[row : row + 1], np.ones((1, 1)))
            assert mine[row] == pytest.approx(1 - alone[0], abs=1e-12)


def test_a_perfect_detector_loses_nothing_and_a_silent_one_all_that_is_there() -> None:
    _, targets = scene(2, 12)
    some = np.array([len(there.labels) > 0 for there in targets])
    assert some.any() and not some.all()
    assert picture_losses(perfect(targets), targets) == pytest.approx(np.zeros(12))
    assert picture_losses(np.full((12, 3, 6), np.nan, np.float32), targets) == pytest.approx(some.astype(float))


def test_false_detections_on_an_empty_picture_cost_by_what_they_outrank() -> None:
    _, targets = scene(2, 12)
    (empty, *_) = (row for row, there in enumerate(targets) if not len(there.labels))
    said = perfect(targets)
    found = np.flatnonzero(np.isfinite(said[:, :, 4]))
    said.reshape(-1, 6)[found, 4] = np.linspace(0.2, 0.8, len(found))
    for score, cost in ((0.1, 0.0), (0.8, 1.0), (0.5, np.mean(np.linspace(0.2, 0.8, len(found)) <= 0.5))):
        said[empty, 0] = [0, 0, 9, 9, score, 1]
        assert picture_losses(said, targets)[empty] == pytest.approx(cost)
    said[np.arange(12) != empty] = np.nan
    assert picture_losses(said, targets)[empty] == 1.0


def test_a_false_detection_costs_the_more_the_higher_it_ranks_whatever_its_class() -> None:
    targets = np.empty(1, dtype=object)
    targets[0] = There(boxes(np.random.default_rng(0), 4), np.array([0, 0, 1, 1]))
    said = perfect(targets)
    said[0, :4, 4] = [0.8, 0.6, 0.4, 0.2]
    for label in (0, 3):
        costs = []
        for score in (0.1, 0.3, 0.5, 0.9):
            said[0, 4] = [200, 200, 210, 210, score, label]
            costs.append(picture_losses(said, targets)[0])
        assert costs[0] == pytest.approx(0.0)
        assert (np.diff(costs) > 0).all()


def test_the_order_of_scores_alone_counts() -> None:
    predictions, targets = scene(9, 10)
    other = predictions.copy()
    other[:, :, 4] = other[:, :, 4] ** 3 / 2
    assert picture_losses(other, targets) == pytest.approx(losses(matched(predictions, targets)))
