"""Boxes by anchors: RetinaNet's head on the pyramid, its loss and its detections, beside FCOS in detector.py.

Pyramid, head, anchors and box coder are torchvision's; matching and loss are its too, written dense: no shape depends
on the boxes, and pictures count alike. Source: Lin et al., "Focal loss for dense object detection", arXiv:1708.02002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image, sigmoid_focal_loss

from frostline.errors import PlanError
from frostline.tasks.detector import GROUPS, Level, strongest

SIDES = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3))  # of an anchor, in strides
ASPECTS = (0.5, 1.0, 2.0)
EACH = len(SIDES) * len(ASPECTS)  # anchors of a place
MATCHES, MAY_MATCH = 0.5, 0.4  # intersection over union with a box: from the first on it is the anchor's, between free
OVERLAP = 0.5  # intersection over union from which of two boxes of a class the weaker goes


@final
class Anchored(nn.Module):
    """From the maps of some levels, finest first, to a dense answer, from which come the loss and the detections.

    `size` is (height, width) of every picture; boxes are in its pixels. The answer `raw` is (n, anchors, classes + 4):
    logits of the classes, and the way from the anchor to the box. Targets are as `detector.Detector` has them.
    """

    anchors: Tensor

    def __init__(self, levels: Sequence[Level], classes: int, size: tuple[int, int], *, width: int = 64) -> None:
        super().__init__()
        if width % GROUPS:
            raise PlanError(f"a detector {width} channels wide; the width must be a multiple of {GROUPS}")
        self.classes, self.size = classes, size
        self.places = [level.height * level.width * EACH for level in levels]  # anchors of each level
        self.pyramid = FeaturePyramidNetwork([level.channels for level in levels], width)
        self.head = RetinaNetHead(width, EACH, classes, norm_layer=partial(nn.GroupNorm, GROUPS))
        self.register_buffer("anchors", laid(levels, size), persistent=False)
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """The dense answer (n, anchors, classes + 4)."""
        maps = self.pyramid({str(index): level for index, level in enumerate(levels)})
        found = self.head(list(maps.values()))
        return torch.cat([found["cls_logits"], found["bbox_regression"]], dim=2)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """The mean over pictures."""
        return self.losses(raw, targets).mean()

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Of each picture (n): focal and L1 loss, summed and divided by its anchors that hold a box."""
        logits, ways = self._parts(raw)
        boxes, labels, held, free = self.assigned(targets.to(logits.dtype))
        wanted = functional.one_hot(labels, self.classes).to(logits.dtype) * held[..., None]
        classes = torch.where(free[..., None], 0, sigmoid_focal_loss(logits, wanted)).sum((1, 2))
        off = (ways - _way(self.anchors, boxes)).abs().sum(-1)
        return (classes + torch.where(held, off, 0).sum(1)) / held.sum(1).clamp(min=1)

    def assigned(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each anchor the box (n, anchors, 4), its label, whether it holds one, and whether nothing is asked of it.

        An anchor holds the box that it overlaps most, where that is enough or where no anchor overlaps some box more;
        what holds none has its own square.
        """
        targets = functional.pad(targets, (0, 0, 0, 1), value=math.nan)  # one that nothing fits, for there may be none
        shares = _shared(targets[:, :, None, :4], self.anchors).nan_to_num(nan=-1.0)
        best, chosen = shares.max(1)
        most = shares.amax(2, keepdim=True)
        closest = ((shares == most) & (most > 0)).any(1)
        held = (best >= MATCHES) | closest
        rows = targets.gather(1, chosen[..., None].expand(-1, -1, 5))
        return (
            torch.where(held[..., None], rows[..., :4], self.anchors),
            torch.where(held, rows[..., 4], 0).long(),
            held,
            (best >= MAY_MATCH) & ~held,
        )

    @torch.no_grad()
    def detections(self, raw: Tensor) -> Tensor:
        """The best boxes (n, 100, 6), strongest first: x1 y1 x2 y2 score label; NaN where there are fewer."""
        logits, ways = self._parts(raw)
        anchors = self.anchors.expand(len(raw), -1, -1).reshape(-1, 4)
        boxes = self.coder.decode_single(ways.reshape(-1, 4), anchors.to(ways.dtype)).view_as(ways)
        return strongest(logits.sigmoid(), clip_boxes_to_image(boxes, self.size), self.places, OVERLAP)

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and ways, in float32 or better."""
        wide = raw if raw.dtype == torch.float64 else raw.float()
        return wide[..., : self.classes], wide[..., self.classes :]


def _way(anchors: Tensor, boxes: Tensor) -> Tensor:
    """From anchors to boxes: of the middle in the anchor's sides, of the sides the logarithm of how many times."""
    sides, theirs = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    middle = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    return torch.cat([middle / sides, (theirs / sides).log()], dim=-1)


def _shared(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Intersection over union."""
    common = torch.minimum(boxes[..., 2:], anchors[..., 2:]) - torch.maximum(boxes[..., :2], anchors[..., :2])
    inner = common.clamp(min=0).prod(-1)
    return inner / ((boxes[..., 2:] - boxes[..., :2]).prod(-1) + (anchors[..., 2:] - anchors[..., :2]).prod(-1) - inner)


def laid(levels: Sequence[Level], size: tuple[int, int]) -> Tensor:
    """Nine around every place, as torchvision lays them."""
    sides = tuple(tuple(int(size[0] // level.height * side) for side in SIDES) for level in levels)
    maps = [torch.zeros(1, 1, level.height, level.width) for level in levels]
    pictures = ImageList(torch.zeros(1, 1, *size), [size])
    return AnchorGenerator(sides, (ASPECTS,) * len(levels))(pictures, maps)[0]
