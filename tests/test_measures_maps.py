"""What masks are worth: against torchmetrics, and the laws by which they are raced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from frostline.search import scores
from frostline.search.decide import Aim
from frostline.search.standing import estimate
from frostline.tasks import segmentation
from frostline.tasks.measures import maps
from frostline.tasks.measures.table import answerable
from frostline.values import VOID, Outcome, Unit

Map = NDArray[np.uint8]


def guesses(seed: int, examples: int, classes: int, *, right: float = 0.6) -> tuple[Map, Map]:
    """Predictions that are right where they are not drawn anew, and targets with places of which nothing is asked."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (examples, 6, 7)).astype(np.uint8)
    said = np.where(rng.random(truth.shape) < right, truth, rng.integers(0, classes, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = VOID
    return said, truth


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), examples=st.integers(1, 8), classes=st.integers(2, 6))
def test_metrics_of_masks_are_those_of_torchmetrics(seed: int, examples: int, classes: int) -> None:
    said, truth = guesses(seed, examples, classes)
    pair = torch.from_numpy(said.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    iou = MulticlassJaccardIndex(classes, average="macro", ignore_index=VOID)(*pair)
    hits = MulticlassAccuracy(classes, average="micro", ignore_index=VOID)(*pair)
    assert scores.score("mean_iou", said, truth) == pytest.approx(float(iou), abs=1e-6)
    assert scores.score("pixel_accuracy", said, truth) == pytest.approx(float(hits), abs=1e-6)
    each = MulticlassJaccardIndex(classes, average="none", ignore_index=VOID)(*pair).numpy()
    (found,) = maps.by_class(said, truth, np.ones((1, examples)))
    np.testing.assert_allclose(np.nan_to_num(found), each[: len(found)], atol=1e-6)


def test_a_class_that_is_nowhere_takes_no_part_and_one_that_was_only_said_does() -> None:
    truth = np.zeros((1, 2, 2), np.uint8)
    truth[0, 0] = 3
    assert scores.score("mean_iou", truth, truth) == 1.0
    said = truth.copy()
    said[0, 1, 1] = 5  # of 3: 2 of 2; of 0: 1 of 2; of 5: 0 of 1
    assert scores.score("mean_iou", said, truth) == pytest.approx((1 + 0.5 + 0) / 3)
    assert np.isnan(scores.score("mean_iou", said, np.full_like(truth, VOID)))


@pytest.mark.parametrize("classes", [2, 5])
def test_the_log_loss_of_what_is_kept_is_that_of_a_class_with_its_probability_and_others_alike(classes: int) -> None:
    """Of such predictions it is the cross-entropy, but for the rounding of what is kept."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, (4, 6, 7)).astype(np.uint8)
    truth[0, 0, 0], truth[1] = classes - 1, VOID
    said, p = rng.integers(0, classes, truth.shape), rng.uniform(1 / classes + 0.01, 0.999, truth.shape)
    table = np.repeat(((1 - p) / (classes - 1))[:, None], classes, axis=1)
    np.put_along_axis(table, said[:, None], p[:, None], axis=1)
    kept = segmentation.kept(torch.from_numpy(np.log(table)), (6, 7)).numpy()
    np.testing.assert_array_equal(kept & 255, said)
    found = scores.losses(kept, truth)
    pair = torch.from_numpy(np.log(table)), torch.from_numpy(truth)
    expected = [float(segmentation.loss(*(each[row : row + 1] for each in pair))) for row in range(4)]
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert found[1] == 0


def test_losses_of_the_surest_and_of_what_is_no_number_are_bounded() -> None:
    truth = np.array([[[0, 1]]], np.uint8)
    worst = segmentation.kept(torch.full((1, 2, 1, 2), float("nan")), (1, 2)).numpy()
    right = segmentation.kept(torch.tensor([[[[99.0, -99.0]], [[-99.0, 99.0]]]]), (1, 2)).numpy()
    wrong = segmentation.kept(torch.tensor([[[[-99.0, 99.0]], [[99.0, -99.0]]]]), (1, 2)).numpy()
    found = [float(scores.losses(each, truth)[0]) for each in (right, worst, wrong)]
    assert 0 <= found[0] < 1e-3 < found[1] < found[2] < 10


def test_what_was_counted_of_other_predictions_is_not_mistaken_for_these() -> None:
    said, truth = guesses(0, 4, 3)
    first = scores.score("mean_iou", said, truth)
    said[0, 0, 0] = (said[0, 0, 0] + 1) % 3
    truth[0, 0, 0] = said[0, 0, 0]
    assert scores.score("mean_iou", said, truth) != first


def test_a_probe_is_asked_for_the_share_of_each_class() -> None:
    truth = np.array([[[0, 0], [1, VOID]], [[VOID, VOID], [VOID, VOID]]], np.uint8)
    np.testing.assert_allclose(answerable(truth), [[2 / 3, 1 / 3], [0, 0]])


@pytest.mark.parametrize("metric", ["mean_iou", "pixel_accuracy"])
def test_masks_without_a_fault_are_not_certain_and_more_of_them_are_surer(metric: str) -> None:
    """A bootstrap of right answers alone has no width."""

    def low(examples: int) -> float:
        _, truth = guesses(0, examples, 3)
        outcome = Outcome(Unit("freeze@1", 1e-3, 1, 0, 0, 1), np.arange(examples), truth.astype(np.int16), 1.0, 0)
        found = estimate([outcome], truth, Aim(metric, 0.01, 0.95, "training"))
        assert found.mean == found.high == 1.0
        return found.low

    assert 0.5 < low(8) < low(40) < 1.0
