"""The detector: torchvision's loss and its detections, picture by picture; pictures without a box; what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS

from frostline.errors import PlanError
from frostline.tasks import detector
from frostline.tasks.anchored import Anchored
from frostline.tasks.detection import STRIDES
from frostline.tasks.detector import Detector, Level
from frostline.tasks.strides import depths_of

SIZE = (192, 256)
LEVELS = (Level(6, 24, 32), Level(8, 12, 16), Level(10, 6, 8))
CLASSES = 3


def made(seed: int = 0, **options: int) -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Detector(LEVELS, CLASSES, SIZE, width=32, **options).eval()


def maps(count: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(count, level.channels, level.height, level.width, generator=draw) for level in LEVELS]


def boxes(counts: list[int], seed: int = 0, room: int = 6) -> Tensor:
    """Boxes of many sizes, so many to each picture."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.full((len(counts), room, 5), math.nan)
    for row, count in zip(found, counts, strict=True):
        height, width = SIZE
        span = torch.rand(count, 2, generator=draw) ** 2 * 0.8 + 0.1
        corner = torch.rand(count, 2, generator=draw) * (1 - span)
        scale = torch.tensor([width, height])
        row[:count, :2], row[:count, 2:4] = corner * scale, (corner + span) * scale
        row[:count, 4] = torch.randint(CLASSES, (count,), generator=draw)
    return found


def answer(count: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    """A dense answer of all sorts of scores and sides."""
    draw = torch.Generator().manual_seed(seed)
    places = sum(level.height * level.width for level in LEVELS)
    raw = spread * torch.randn(count, places, CLASSES + 5, generator=draw)
    raw[..., CLASSES:-1] = raw[..., CLASSES:-1].abs()
    return raw


def theirs(ours: Detector) -> FCOS:
    """Torchvision's whole network, with the same pyramid and the same head."""
    ours.pyramid.out_channels = 32
    strides = ((8,), (16,), (32,))
    return FCOS(
        ours.pyramid, CLASSES, anchor_generator=AnchorGenerator(strides, ((1.0,),) * 3), head=ours.head,
        score_thresh=detector.LOWEST, nms_thresh=detector.OVERLAP, detections_per_img=detector.MOST,
    )  # fmt: skip


def outputs(raw: Tensor) -> dict[str, Tensor]:
    return {
        "cls_logits": raw[..., :CLASSES],
        "bbox_regression": raw[..., CLASSES:-1],
        "bbox_ctrness": raw[..., -1:],
    }


def listed(targets: Tensor) -> list[dict[str, Tensor]]:
    rows = [row[~row[:, 0].isnan()] for row in targets]
    return [{"boxes": row[:, :4], "labels": row[:, 4].long()} for row in rows]


@pytest.mark.parametrize("counts", [[1], [3, 6], [0, 2, 5], [0]])
def test_the_loss_of_each_picture_is_torchvisions_of_that_picture_alone(counts: list[int]) -> None:
    ours, raw, targets = made(), answer(len(counts)), boxes(counts)
    found = ours.losses(raw, targets)
    for index, target in enumerate(listed(targets)):
        parts = theirs(ours).compute_loss(
            [target], outputs(raw[index : index + 1]), [ours.anchors], [level.height * level.width for level in LEVELS]
        )
        torch.testing.assert_close(found[index], sum(parts.values(), torch.zeros(())))


def test_places_of_every_level_answer_in_what_the_oracle_sees() -> None:
    ours = made()
    held = ours.assigned(boxes([6] * 20))[2].any(0)
    assert all(bool(part.any()) for part in held.split(ours.places))


def same_detections(ours: Detector | Anchored, raw: Tensor, outputs: Mapping[str, Tensor], theirs: Any) -> None:
    """What torchvision's network makes of the same outputs, picture by picture."""
    split = {name: list(part.split(ours.places, dim=1)) for name, part in outputs.items()}
    anchors = [list(ours.anchors.split(ours.places))] * len(raw)
    wanted = theirs.postprocess_detections(split, anchors, [SIZE] * len(raw))
    for row, expected in zip(ours.detections(raw), wanted, strict=True):
        count = len(expected["boxes"])
        torch.testing.assert_close(row[:count, :4], expected["boxes"])
        torch.testing.assert_close(row[:count, 4], expected["scores"])
        assert row[:count, 5].tolist() == expected["labels"].tolist()
        assert bool(row[count:].isnan().all()) and 0 < count <= detector.MOST


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_the_detections_are_torchvisions(spread: float) -> None:
    ours, raw = made(), answer(3, spread=spread)
    same_detections(ours, raw, outputs(raw), theirs(ours))


def test_the_forward_pass_is_that_of_pyramid_and_head() -> None:
    ours, given = made(convs=2), maps(2)
    features = ours.pyramid({str(index): level for index, level in enumerate(given)})
    expected = ours.head(list(features.values()))
    for name, part in outputs(ours(given)).items():
        assert torch.equal(part, expected[name])


def test_the_loss_is_the_mean_of_those_of_the_pictures() -> None:
    ours, raw, targets = made(), answer(3), boxes([0, 2, 5])
    alone = [ours.loss(raw[i : i + 1], targets[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(ours.loss(raw, targets), torch.stack(alone).mean())
    torch.testing.assert_close(ours.losses(raw, targets), torch.stack(alone))


def test_the_loss_does_not_depend_on_the_order_of_the_boxes_or_on_the_room_left() -> None:
    ours, raw, targets = made(), answer(2), boxes([4, 6])
    roomy = torch.cat([torch.full((2, 3, 5), math.nan), targets.flip(1)], dim=1)
    torch.testing.assert_close(ours.losses(raw, roomy), ours.losses(raw, targets))


@pytest.mark.parametrize("room", [0, 4])
def test_pictures_without_a_box_teach_that_there_is_nothing(room: int) -> None:
    ours = made()
    raw = answer(2).requires_grad_()
    loss = ours.loss(raw, torch.full((2, room, 5), math.nan))
    (slope,) = torch.autograd.grad(loss, raw)
    assert bool((slope[..., :CLASSES] > 0).all()) and not slope[..., CLASSES:].any()


def test_boxes_without_an_area_are_nobodys() -> None:
    ours, raw, targets = made(), answer(1), boxes([2])
    more = targets.clone()
    more[0, 2:4] = torch.tensor([[40.0, 40.0, 40.0, 90.0, 1.0], [90.0, 90.0, 20.0, 20.0, 0.0]])
    assert torch.equal(ours.losses(raw, more), ours.losses(raw, targets))


def test_slopes_are_finite_where_boxes_are_missing() -> None:
    ours, given = made(), maps(3)
    ours.loss(ours(given), boxes([0, 1, 6])).backward()
    slopes = [p.grad for p in ours.parameters()]
    assert all(slope is not None and bool(slope.isfinite().all()) for slope in slopes)


def test_several_detectors_at_once_are_each_itself() -> None:
    ours, given, targets = made(), maps(2), boxes([2, 3])
    several = [dict(made(seed).named_parameters()) for seed in range(3)]
    buffers = dict(ours.named_buffers())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        raw = torch.func.functional_call(ours, (parameters, buffers), (given,))
        return ours.loss(raw, targets)

    both = torch.func.grad_and_value(loss)
    slopes, losses = torch.func.vmap(both)({name: torch.stack([one[name] for one in several]) for name in several[0]})
    for index, one in enumerate(several):
        slope, alone = both(one)
        torch.testing.assert_close(losses[index], alone)
        for name, value in slope.items():
            torch.testing.assert_close(slopes[name][index], value, rtol=1e-3, atol=1e-4)


def learned_by_heart(ours: Any, *, rate: float, steps: int) -> None:
    """A picture with two boxes: both are the strongest that are found in it afterwards."""
    given, targets = maps(1), boxes([2], seed=5, room=2)
    optimiser = torch.optim.AdamW(ours.train().parameters(), rate)
    for _ in range(steps):
        optimiser.zero_grad()
        ours.loss(ours(given), targets).backward()
        optimiser.step()
    best = ours.eval().detections(ours(given))[0, :2]
    order, there = best[:, 0].argsort(), targets[0, targets[0, :, 0].argsort()]
    torch.testing.assert_close(best[order, :4], there[:, :4], atol=6, rtol=0)
    assert best[order, 5].tolist() == there[:, 4].tolist()


def test_two_pictures_are_learned_by_heart_and_found_again() -> None:
    ours, given, targets = made(), maps(2), boxes([2, 3], seed=3)
    optimiser = torch.optim.AdamW(ours.parameters(), lr=5e-3)
    first = ours.loss(ours(given), targets).detach()
    for _ in range(60):
        optimiser.zero_grad()
        loss = ours.loss(ours(given), targets)
        loss.backward()
        optimiser.step()
    assert bool(loss < 0.6 * first)
    found = ours.detections(ours(given))
    for row, target in zip(found, listed(targets), strict=True):
        best = row[: len(target["boxes"])]
        order = torch.cdist(target["boxes"], best[:, :4]).argmin(1)
        assert sorted(order.tolist()) == list(range(len(best)))
        assert best[order, 5].tolist() == target["labels"].tolist()
        assert float((best[order, :4] - target["boxes"]).abs().max()) < 4


def test_the_same_draw_gives_the_same_detector_and_nothing_constant_is_saved() -> None:
    one, other = made(seed=1), made(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.state_dict().keys() == dict(one.named_parameters()).keys()


def test_of_each_stride_the_last_depth_is_read() -> None:
    shapes = [(16, 96, 128), (24, 24, 32), (32, 24, 32), (64, 12, 16), (96, 12, 16), (160, 6, 8), (320, 6, 8), (320,)]
    assert depths_of(shapes, SIZE, STRIDES) == [3, 5, 7]
    with pytest.raises(PlanError, match="stride 8"):
        depths_of(shapes[3:], SIZE, STRIDES)


def test_a_width_that_its_norms_cannot_share_is_refused() -> None:
    with pytest.raises(PlanError, match="multiple of 32"):
        Detector(LEVELS, CLASSES, SIZE, width=48)


def test_half_precision_is_widened_before_the_loss() -> None:
    ours, raw, targets = made(), answer(2).half(), boxes([2, 3])
    assert ours.losses(raw, targets).dtype == torch.float32
    assert torch.equal(ours.losses(raw, targets), ours.losses(raw.float(), targets))
    assert isinstance(ours, nn.Module)
