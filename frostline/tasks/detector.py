"""Boxes in a picture: the new layers on several depths of a classifier, their loss, and what a prediction is.

A feature pyramid over the last layer of each stride and, on every level of it, the one-stage head of FCOS, which has no
anchors: nothing in it is tuned to the boxes of a data set. Pyramid, head and box coder are torchvision's; assignment
and loss are its too, written dense: no shape depends on the boxes, pictures count alike, and `torch.func` can stack it.
Source: Tian et al., "FCOS", arXiv:2006.09214; Lin et al., "Feature pyramid networks", arXiv:1612.03144.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import (
    FeaturePyramidNetwork,
    batched_nms,
    clip_boxes_to_image,
    sigmoid_focal_loss,
)

from frostline.errors import PlanError

MOST = 100  # detections a picture, as COCO counts them
CANDIDATES = 1000  # of a level, before suppression
LOWEST = 0.05  # score; torchvision's 0.2 is for showing, and cuts the curve that average precision is the area of
OVERLAP = 0.6  # intersection over union from which of two boxes of a class the weaker goes
RADIUS = 1.5  # strides around the middle of a box within which a place answers for it
GROUPS = 32  # of the head's group norms: a width is a multiple of it
REACH = 2.0  # strides from a place to a side of its box before anything is learned; from 0 half of all ReLUs are dead


@dataclass(frozen=True, slots=True)
class Level:
    """What one depth of a backbone gives for a picture."""

    channels: int
    height: int
    width: int


@final
class Detector(nn.Module):
    """From the maps of some levels, finest first, to a dense answer, from which come the loss and the detections.

    `size` is (height, width) of every picture; boxes are in its pixels. The answer `raw` is (n, places, classes + 5):
    logits of the classes, distances to the left, upper, right and lower side in strides, logit of the centredness.
    Targets are (n, m, 5): x1 y1 x2 y2 label, NaN where a picture has fewer; boxes without an area are nobody's.
    """

    anchors: Tensor
    nearest: Tensor
    farthest: Tensor

    def __init__(
        self, levels: Sequence[Level], classes: int, size: tuple[int, int], *, width: int = 64, convs: int = 1
    ) -> None:
        super().__init__()
        if width % GROUPS:
            raise PlanError(f"a detector {width} channels wide; the width must be a multiple of {GROUPS}")
        self.classes, self.size = classes, size
        self.places = [level.height * level.width for level in levels]  # of each level
        self.pyramid = FeaturePyramidNetwork([level.channels for level in levels], width)
        self.head = FCOSHead(width, 1, classes, convs)
        reach = self.head.regression_head.bbox_reg.bias
        assert reach is not None, "torchvision's convolution has one"
        nn.init.constant_(reach, REACH)
        anchors = _anchors(levels, size)
        side = anchors[:, 2] - anchors[:, 0]
        nearest, farthest = 4 * side, 8 * side  # the greatest distance to a side that a level answers for, in pixels
        nearest[: self.places[0]], farthest[-self.places[-1] :] = 0, math.inf
        for name, value in (("anchors", anchors), ("nearest", nearest), ("farthest", farthest)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """The dense answer (n, places, classes + 5)."""
        maps = self.pyramid({str(index): level for index, level in enumerate(levels)})
        found = self.head(list(maps.values()))
        return torch.cat([found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"]], dim=2)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """The mean over pictures."""
        return self.losses(raw, targets).mean()

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Of each picture (n): focal, GIoU and centredness loss, summed and divided by its places that hold a box."""
        logits, sides, centred = self._parts(raw)
        boxes, labels, held = self.assigned(targets.to(logits.dtype))
        count = held.sum(1).clamp(min=1)
        wanted = functional.one_hot(labels, self.classes).to(logits.dtype) * held[..., None]
        classes = sigmoid_focal_loss(logits, wanted).sum((1, 2))
        there = self.head.box_coder.encode(self.anchors, boxes)
        middle = functional.binary_cross_entropy_with_logits(centred, _centredness(there), reduction="none")
        return (classes + torch.where(held, _apart(sides, there) + middle, 0).sum(1)) / count

    def assigned(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The box (n, places, 4) and label of each place, and whether it holds one; what holds none has its own square.

        A place answers for the smallest box that it lies in, near whose middle it lies, and whose reach is its level's.
        """
        targets = functional.pad(targets, (0, 0, 0, 1), value=math.nan)  # one that nothing fits, for there may be none
        boxes = targets[:, None, :, :4]
        places = ((self.anchors[:, :2] + self.anchors[:, 2:]) / 2)[None, :, None]
        reach = torch.cat([places - boxes[..., :2], boxes[..., 2:] - places], dim=-1)
        near = (places - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(-1) < RADIUS * self._side[:, None]
        far = reach.amax(-1)
        fits = near & (reach.amin(-1) > 0) & (far > self.nearest[:, None]) & (far < self.farthest[:, None])
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        area, chosen = torch.where(fits, area, math.inf).min(-1)
        held = area < math.inf
        rows = targets.gather(1, chosen[..., None].expand(-1, -1, 5))
        return (
            torch.where(held[..., None], rows[..., :4], self.anchors),
            torch.where(held, rows[..., 4], 0).long(),
            held,
        )

    @torch.no_grad()
    def detections(self, raw: Tensor) -> Tensor:
        """The best boxes (n, 100, 6), strongest first: x1 y1 x2 y2 score label; NaN where there are fewer."""
        logits, sides, centred = self._parts(raw)
        scores = torch.sqrt(logits.sigmoid() * centred.sigmoid()[..., None])
        boxes = clip_boxes_to_image(self.head.box_coder.decode(sides, self.anchors), self.size)
        return strongest(scores, boxes, self.places, OVERLAP)

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, sides and centredness, in float32 or better."""
        wide = raw if raw.dtype == torch.float64 else raw.float()
        return wide[..., : self.classes], wide[..., self.classes : -1], wide[..., -1]

    @property
    def _side(self) -> Tensor:
        return self.anchors[:, 2] - self.anchors[:, 0]


def real(targets: Tensor) -> list[Tensor]:
    """Of each picture its boxes (m, 5), of targets (n, room, 5): those that have an area, which no NaN has."""
    return [rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])] for rows in targets]


def strongest(scores: Tensor, boxes: Tensor, places: Sequence[int], overlap: float) -> Tensor:
    """Of each picture the best boxes (n, 100, 6), of scores (n, places, classes) and boxes (n, places, 4) in levels.

    The strongest candidates of each level, and of those what no stronger one overlaps by more than `overlap`.
    """
    found = boxes.new_full((len(scores), MOST, 6), math.nan)
    for row, score, box in zip(found, scores, boxes, strict=True):
        best = _best(score, box, places, overlap)
        row[: len(best)] = best
    return found


def _best(scores: Tensor, boxes: Tensor, places: Sequence[int], overlap: float) -> Tensor:
    rows, classes = list[Tensor](), scores.shape[-1]
    for score, box in zip(scores.split(list(places)), boxes.split(list(places)), strict=True):
        flat = score.flatten()
        best, where = flat.topk(min(CANDIDATES, len(flat)))
        best, where = best[best > LOWEST], where[best > LOWEST]
        label = (where % classes).to(box.dtype)
        rows.append(torch.cat([box[where // classes], best[:, None], label[:, None]], dim=1))
    every = torch.cat(rows)
    return every[batched_nms(every[:, :4], every[:, 4], every[:, 5], overlap)[:MOST]]


def _centredness(sides: Tensor) -> Tensor:
    """How central a place lies in a box with these distances to its sides, 0 to 1."""
    across, along = sides[..., ::2], sides[..., 1::2]
    return (across.amin(-1) / across.amax(-1) * along.amin(-1) / along.amax(-1)).sqrt()


def _apart(found: Tensor, there: Tensor) -> Tensor:
    """The GIoU loss of boxes around the same place, from the distances to their sides.

    Torchvision's picks boxes that meet by a mask, which cannot be stacked; around one place all do.
    Source: Rezatofighi et al., arXiv:1902.09630.
    """
    common, both = _area(torch.minimum(found, there)), _area(found) + _area(there)
    hull, union = _area(torch.maximum(found, there)), both - common
    return 1 - common / union + (hull - union) / hull


def _area(sides: Tensor) -> Tensor:
    return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])


def _anchors(levels: Sequence[Level], size: tuple[int, int]) -> Tensor:
    """A square of one stride around every place, as torchvision lays them."""
    strides = tuple((size[0] // level.height,) for level in levels)
    maps = [torch.zeros(1, 1, level.height, level.width) for level in levels]
    pictures = ImageList(torch.zeros(1, 1, *size), [size])
    return AnchorGenerator(strides, ((1.0,),) * len(levels))(pictures, maps)[0]
