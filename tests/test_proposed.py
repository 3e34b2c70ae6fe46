"""Boxes in two stages: torchvision's Faster R-CNN, picture by picture, and what its draws come to on average."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_detector import CLASSES, LEVELS, SIZE, boxes, learned_by_heart, listed, maps
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from frostline.tasks import detector, proposed
from frostline.tasks.anchored import EACH
from frostline.tasks.detector import Level
from frostline.tasks.proposed import Proposed, expected

ALL = 10**6


def made(seed: int = 0) -> Proposed:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ours = Proposed(LEVELS, CLASSES, SIZE, width=32)
        with torch.no_grad():  # answers that differ, as of some that learned
            for layer in (ours.first.head.cls_logits, ours.first.head.bbox_pred):
                layer.weight.mul_(20)
        return ours.eval()


def pool() -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(["0", "1", "2"], proposed.BINS, 1)


def theirs(ours: Proposed, **options: int) -> FasterRCNN:
    """Torchvision's whole network, with the same layers and its own way to lay anchors, to propose and to draw."""
    ours.pyramid.out_channels = 32
    sides = tuple((int(4 * s), int(4 * s * 2 ** (1 / 3)), int(4 * s * 2 ** (2 / 3))) for s in (8, 16, 32))
    return FasterRCNN(
        ours.pyramid, rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 3),
        rpn_head=ours.first.head, rpn_pre_nms_top_n_train=proposed.CANDIDATES,
        rpn_post_nms_top_n_train=proposed.LEARNED, rpn_pre_nms_top_n_test=proposed.CANDIDATES,
        rpn_post_nms_top_n_test=proposed.PROPOSALS, box_roi_pool=pool(),
        box_head=ours.second.box_head, box_predictor=ours.second.box_predictor,
        box_detections_per_img=detector.MOST, **options,
    )  # fmt: skip


def features(ours: Proposed, given: list[Tensor]) -> dict[str, Tensor]:
    return dict(ours.pyramid({str(index): level for index, level in enumerate(given)}))


def their_loss(network: Any, seen: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    """Of one picture, in training: the sum of the four parts."""
    told = [{"boxes": target["boxes"], "labels": target["labels"] + 1}]
    proposals, first = network.rpn(ImageList(torch.zeros(1, 3, *SIZE), [SIZE]), seen, told)
    _, second = network.roi_heads(seen, proposals, [SIZE], told)
    return torch.stack([*first.values(), *second.values()]).sum()


@pytest.mark.parametrize("counts", [[1], [3, 6], [0, 2, 5], [0]])
def test_the_loss_of_each_picture_is_torchvisions_where_nothing_is_left_to_a_draw(
    counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, given, targets = made(), maps(len(counts)), boxes(counts)
    monkeypatch.setattr(proposed, "ANCHORS", ALL)
    found = ours.losses(ours(given), targets)
    network = theirs(ours, rpn_batch_size_per_image=ALL, box_batch_size_per_image=ALL).train()
    seen = features(ours, given)
    for index, target in enumerate(listed(targets)):
        alone = {name: part[index : index + 1] for name, part in seen.items()}
        torch.testing.assert_close(found[index], their_loss(network, alone, target))
    torch.testing.assert_close(ours.loss(ours(given), targets), found.mean())


def test_the_loss_is_what_torchvisions_draws_come_to_on_average() -> None:
    ours, given, targets = made(), maps(1, seed=2), boxes([6], seed=3)
    network, seen = theirs(ours).train(), features(ours, given)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([their_loss(network, seen, listed(targets)[0]) for _ in range(100)])
        found = ours.loss(ours(given), targets)
    spread = float(draws.std())
    assert spread > 1e-3 * float(found)
    assert abs(float(draws.mean() - found)) < 3 * spread / len(draws) ** 0.5


def test_what_is_read_at_boxes_and_its_slope_are_those_of_torchvisions_roi_align() -> None:
    draw, size = torch.Generator().manual_seed(0), (640, 768)  # where each level suits some box
    large = [Level(4, size[0] // stride, size[1] // stride) for stride in (8, 16, 32)]
    each = [torch.randn(2, 4, of.height, of.width, generator=draw, dtype=torch.float64) for of in large]
    many = 3 * boxes([40, 25], seed=1, room=40)[..., :4].double()
    edges = torch.tensor([[767.0, 639.0, 768.0, 640.0], [0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 768.0, 640.0]])
    at = [torch.cat([rows[~rows[:, 0].isnan()].clamp(max=640), edges.double()]) for rows in many]
    dense = torch.cat([one.flatten(2) for one in each], dim=2).transpose(1, 2).clone().requires_grad_()
    maps_of = {str(index): one.requires_grad_() for index, one in enumerate(each)}
    ours, expected = proposed.read(dense, at, large, size), pool()(maps_of, at, [size, size])
    torch.testing.assert_close(ours, expected)
    towards = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    (slope,) = torch.autograd.grad((ours * towards).sum(), dense)
    slopes = torch.autograd.grad((expected * towards).sum(), list(maps_of.values()))
    torch.testing.assert_close(slope, torch.cat([one.flatten(2) for one in slopes], dim=2).transpose(1, 2))
    levels = slope.abs().sum((0, 2)).split([of.height * of.width for of in large])
    assert all(bool(part.any()) for part in levels)


@given(
    counts=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5)),
    most=st.integers(1, 60),
    share=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_counts_are_the_shares_that_torchvision_draws(counts: tuple[int, int, int], most: int, share: float) -> None:
    held, free, between = counts
    labels = torch.tensor([1] * held + [0] * free + [-1] * between)
    found = expected(labels == 1, labels == 0, most, share)
    (some,), (rest,) = BalancedPositiveNegativeSampler(most, share)([labels])
    total = max(1, int(some.sum() + rest.sum()))
    assert math.isclose(float(found[labels == 1].sum()), int(some.sum()) / total, abs_tol=1e-6)
    assert math.isclose(float(found[labels == 0].sum()), int(rest.sum()) / total, abs_tol=1e-6)
    assert not found[labels == -1].any()
    assert all(len(set(found[labels == label].tolist())) <= 1 for label in (0, 1))


def test_the_detections_are_torchvisions() -> None:
    ours, given = made(), maps(3)
    with torch.no_grad():
        ours.second.box_predictor.cls_score.weight.mul_(8)
        raw = ours(given)
        network, seen = theirs(ours).eval(), features(ours, given)
        proposals, _ = network.rpn(ImageList(torch.zeros(3, 3, *SIZE), [SIZE] * 3), seen)
        wanted, _ = network.roi_heads(seen, proposals, [SIZE] * 3)
    for row, theirs_of in zip(ours.detections(raw), wanted, strict=True):
        count = len(theirs_of["boxes"])
        torch.testing.assert_close(row[:count, :4], theirs_of["boxes"])
        torch.testing.assert_close(row[:count, 4], theirs_of["scores"])
        assert row[:count, 5].tolist() == (theirs_of["labels"] - 1).tolist()
        assert bool(row[count:].isnan().all()) and 0 < count <= detector.MOST
    assert len(set(torch.cat([row["labels"] for row in wanted]).tolist())) > 1


def test_training_and_inferring_come_to_the_same_loss() -> None:
    ours, given, targets = made(), maps(2), boxes([2, 3])
    inferring = ours.losses(ours(given), targets)
    assert torch.equal(ours.train().losses(ours(given), targets), inferring)
    assert torch.equal(ours.losses(ours(given), targets), inferring)


def test_boxes_without_an_area_and_room_for_more_change_nothing() -> None:
    ours, targets = made(), boxes([3, 1], room=4)
    raw = ours(maps(2))
    flat = targets.clone()
    flat[1, 1] = torch.tensor([40.0, 40.0, 40.0, 90.0, 1.0])
    torch.testing.assert_close(ours.losses(raw, flat), ours.losses(raw, targets))
    wide = torch.cat([torch.full((2, 5, 5), math.nan), targets], dim=1)
    torch.testing.assert_close(ours.losses(raw, wide), ours.losses(raw, targets))


def test_slopes_are_finite_where_boxes_are_missing_and_reach_every_layer() -> None:
    ours = made()
    ours.loss(ours(maps(3)), boxes([0, 1, 6])).backward()
    slopes = [p.grad for p in ours.parameters()]
    assert all(slope is not None and bool(slope.isfinite().all()) and bool(slope.any()) for slope in slopes)


def test_an_answer_that_is_no_number_has_a_loss_that_is_none() -> None:
    ours = made()
    for counts in ([2, 0], [0, 0]):
        raw = torch.full_like(ours(maps(2)), math.nan)
        assert bool(ours.losses(raw, boxes(counts)).isnan().all())
        assert bool(ours.detections(raw).isnan().all())
    far = ours(maps(2)).detach()
    far[..., -4 * EACH :] = 1e30  # so that no proposal is left
    assert bool(ours.losses(far, boxes([0, 0])).isfinite().all())


def test_a_picture_is_learned_by_heart_and_found_again() -> None:
    learned_by_heart(made(), rate=2e-3, steps=100)
