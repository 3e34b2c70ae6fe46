"""Boxes by anchors: torchvision's matching, loss and detections of RetinaNet, picture by picture."""

from __future__ import annotations

import math

import pytest
import torch
from test_detector import CLASSES, LEVELS, SIZE, boxes, learned_by_heart, listed, maps, same_detections
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou

from frostline.errors import PlanError
from frostline.tasks import detector, heads
from frostline.tasks.anchored import Anchored
from frostline.tasks.proposed import Proposed
from frostline.values import HeadKind


def made(seed: int = 0) -> Anchored:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Anchored(LEVELS, CLASSES, SIZE, width=32).eval()


def answer(count: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, len(made().anchors), CLASSES + 4, generator=draw)


def theirs(ours: Anchored) -> RetinaNet:
    """Torchvision's whole network, with the same pyramid, the same head and its own way to lay anchors."""
    ours.pyramid.out_channels = 32
    sides = tuple((int(4 * s), int(4 * s * 2 ** (1 / 3)), int(4 * s * 2 ** (2 / 3))) for s in (8, 16, 32))
    return RetinaNet(
        ours.pyramid, CLASSES, anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 3), head=ours.head,
        score_thresh=detector.LOWEST, nms_thresh=0.5, detections_per_img=detector.MOST,
    )  # fmt: skip


def outputs(raw: Tensor) -> dict[str, Tensor]:
    return {"cls_logits": raw[..., :CLASSES], "bbox_regression": raw[..., CLASSES:]}


@pytest.mark.parametrize("counts", [[1], [3, 6], [0, 2, 5], [0]])
def test_the_loss_of_each_picture_is_torchvisions_of_that_picture_alone(counts: list[int]) -> None:
    ours, targets, raw = made(), boxes(counts), answer(len(counts))
    found = ours.losses(raw, targets)
    for row, one, target in zip(found, raw, listed(targets), strict=True):
        parts = theirs(ours).compute_loss([target], outputs(one[None]), [ours.anchors])
        torch.testing.assert_close(row, parts["classification"] + parts["bbox_regression"])
    torch.testing.assert_close(ours.loss(raw, targets), found.mean())


def test_an_anchor_between_is_free_and_the_closest_holds_a_box_that_none_overlaps_by_half() -> None:
    ours = made()
    thin = torch.tensor([[[100.0, 60.0, 104.0, 150.0, 1.0]]])  # far from every anchor's aspect
    boxes_of, labels, held, free = ours.assigned(thin)
    shares = box_iou(thin[0, :, :4], ours.anchors)[0]
    assert shares.max() < 0.4
    assert torch.equal(held[0], shares == shares.max()) and not bool(free.any())
    assert torch.equal(boxes_of[held], thin[0, :, :4].expand(int(held.sum()), 4)) and set(labels[held].tolist()) == {1}
    _, _, held, free = ours.assigned(boxes([4], seed=3, room=4))
    best = box_iou(boxes([4], seed=3, room=4)[0, :, :4], ours.anchors).amax(0)
    assert torch.equal(free[0], (best >= 0.4) & (best < 0.5) & ~held[0]) and bool(free.any())


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_the_detections_are_torchvisions(spread: float) -> None:
    ours, raw = made(), answer(3, spread=spread)
    raw[..., :CLASSES] -= 2
    same_detections(ours, raw, outputs(raw), theirs(ours))


def test_the_forward_pass_and_the_anchors_are_torchvisions() -> None:
    ours, given = made(), maps(2)
    features = list(ours.pyramid({str(index): level for index, level in enumerate(given)}).values())
    expected = ours.head(features)
    for name, part in outputs(ours(given)).items():
        assert torch.equal(part, expected[name])


def test_boxes_without_an_area_and_room_for_more_change_nothing() -> None:
    ours, targets, raw = made(), boxes([3, 1], room=4), answer(2)
    flat = targets.clone()
    flat[1, 1] = torch.tensor([40.0, 40.0, 40.0, 90.0, 1.0])
    torch.testing.assert_close(ours.losses(raw, flat), ours.losses(raw, targets))
    wide = torch.cat([targets, torch.full((2, 5, 5), math.nan)], dim=1)
    torch.testing.assert_close(ours.losses(raw, wide), ours.losses(raw, targets))


def test_slopes_are_finite_where_boxes_are_missing() -> None:
    ours, raw = made(), answer(2).requires_grad_()
    ours.loss(raw, boxes([0, 1])).backward()
    assert raw.grad is not None and bool(raw.grad.isfinite().all())


def test_a_picture_is_learned_by_heart_and_found_again() -> None:
    learned_by_heart(made(), rate=3e-3, steps=120)


def test_a_saved_head_says_itself_which_detector_it_is() -> None:
    shapes = [(level.channels, level.height, level.width) for level in LEVELS]
    kinds: dict[HeadKind, type] = {"pyramid": detector.Detector, "anchors": Anchored, "proposals": Proposed}
    for kind, made_as in kinds.items():
        head = heads.Pyramid(shapes, CLASSES, SIZE, kind)
        again = heads.rebuilt(head.state_dict())
        assert isinstance(again, heads.Pyramid) and isinstance(again.detector, made_as) and again.kind == kind
        given = [[each] for each in maps(1)]
        assert torch.equal(again.eval()(given), head.eval()(given))


def test_a_width_that_its_norms_cannot_share_is_refused() -> None:
    with pytest.raises(PlanError, match="multiple of 32"):
        Anchored(LEVELS, CLASSES, SIZE, width=48)
