"""Boxes in two stages: Faster R-CNN's heads on the pyramid, their loss and detections, beside FCOS in detector.py.

The first stage proposes boxes, by anchors; the second reads the pyramid again at the best of them and says what each
is. Pyramid, heads, matching, proposals and detections are torchvision's. Where its loss draws some anchors at random,
this is what the draw comes to on average: nothing is random, and pictures count alike.
Source: Ren et al., "Faster R-CNN", arXiv:1506.01497; Lin et al., "Feature pyramid networks", arXiv:1612.03144.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.poolers import LevelMapper

from frostline.tasks.anchored import EACH, laid
from frostline.tasks.detector import LOWEST, MOST, Level, real

PROPOSALS, LEARNED = 256, 128  # of a picture, the best of what the first stage finds; and those that are learned from
CANDIDATES = 500  # of a level, before suppression
SUPPRESSED = 0.7  # intersection over union from which of two proposals the weaker goes
MATCHES, FREE = 0.7, 0.3  # intersection over union with a box: from the first on it is the anchor's, below free
ANCHORS, HOLDING = 256, 0.5  # that torchvision draws of a picture, and the share of them that may hold a box
OVERLAP = 0.5  # with a box, from which on it is the proposal's; and from which of two detections the weaker goes
BINS, HIDDEN = 5, 256  # places to a side that a proposal is read at, and units of both layers that read them
BETA = 1 / 9  # below it the loss of a distance is square


@final
class Proposed(nn.Module):
    """From the maps of some levels, finest first, to a dense answer, from which come the loss and the detections.

    `size` is (height, width) of every picture; boxes are in its pixels. The answer `raw` is (n, places, width + 5 a):
    the pyramid's map and, for `a` anchors a place, the logit that it holds a box, and the way from it to the box. The
    second stage runs in the loss and in the detections, for where it looks depends on what the first one said. Targets
    are as `detector.Detector` has them.
    """

    anchors: Tensor

    def __init__(self, levels: Sequence[Level], classes: int, size: tuple[int, int], *, width: int = 64) -> None:
        super().__init__()
        self.levels, self.size, self.width = list(levels), size, width
        self.pyramid = FeaturePyramidNetwork([level.channels for level in levels], width)
        most = {"training": CANDIDATES, "testing": CANDIDATES}
        kept = {"training": PROPOSALS, "testing": PROPOSALS}
        self.first = RegionProposalNetwork(
            AnchorGenerator(), RPNHead(width, EACH), MATCHES, FREE, ANCHORS, HOLDING, most, kept, SUPPRESSED
        )
        reader, predictor = TwoMLPHead(width * BINS**2, HIDDEN), FastRCNNPredictor(HIDDEN, classes + 1)
        self.second = RoIHeads(  # the two numbers of its draw, of which nothing is asked
            None, reader, predictor, OVERLAP, OVERLAP, LEARNED, HOLDING, None, LOWEST, OVERLAP, MOST
        )
        self.register_buffer("anchors", laid(levels, size), persistent=False)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """The dense answer (n, places, width + 5 a)."""
        maps = list(self.pyramid({str(index): level for index, level in enumerate(levels)}).values())
        found = [torch.cat(parts, dim=1) for parts in zip(maps, *self.first.head(maps), strict=True)]
        return torch.cat([part.flatten(2).transpose(1, 2) for part in found], dim=1)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """The mean over pictures."""
        return self.losses(raw, targets).mean()

    def losses(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Of each picture (n): of both stages the cross-entropy of what is there and the L1 loss of where."""
        seen, logits, ways = self._parts(raw)
        wanted = real(targets.to(logits.dtype))
        best = [boxes[:LEARNED] for boxes in self._proposals(logits, ways)]
        return self._first(logits, ways, wanted) + self._second(seen, best, wanted)

    @torch.no_grad()
    def detections(self, raw: Tensor) -> Tensor:
        """The best boxes (n, 100, 6), strongest first: x1 y1 x2 y2 score label; NaN where there are fewer."""
        seen, logits, ways = self._parts(raw)
        proposals = self._proposals(logits, ways)
        said, moved = self._answered(seen, proposals)
        parts = self.second.postprocess_detections(said, moved, proposals, [self.size] * len(raw))
        found = said.new_full((len(raw), MOST, 6), math.nan)
        for row, boxes, scores, labels in zip(found, *parts, strict=True):
            row[: len(boxes)] = torch.cat([boxes, scores[:, None], labels[:, None] - 1], dim=1)
        return found

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps (n, places, width), logits (n, anchors) and ways (n, anchors, 4), in float32 or better."""
        wide = raw if raw.dtype == torch.float64 else raw.float()
        seen, logits, ways = wide.split([self.width, EACH, 4 * EACH], dim=2)
        return seen, logits.flatten(1), ways.unflatten(2, (EACH, 4)).flatten(1, 2)

    @torch.no_grad()
    def _proposals(self, logits: Tensor, ways: Tensor) -> list[Tensor]:
        """Of each picture the boxes (p, 4) that the second stage looks at."""
        count = len(logits)
        boxes = self.first.box_coder.decode(ways.flatten(0, 1), [self.anchors.to(ways.dtype)] * count)
        each = [places * EACH for places in self._places]
        return self.first.filter_proposals(boxes.view(count, -1, 4), logits, [self.size] * count, each)[0]

    def _first(self, logits: Tensor, ways: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        anchors = [self.anchors.to(ways.dtype)] * len(wanted)
        found, boxes = self.first.assign_targets_to_anchors(anchors, [{"boxes": rows[:, :4]} for rows in wanted])
        labels = torch.stack(found)  # 1 holds a box, 0 holds none, nothing is asked of -1
        held, there = labels == 1, torch.stack(list(self.first.box_coder.encode(boxes, anchors)))
        counts = expected(held, labels == 0, ANCHORS, HOLDING)
        classes = functional.binary_cross_entropy_with_logits(logits, held.to(logits.dtype), reduction="none")
        return (counts * (classes + _off(ways, there, held))).sum(1)

    def _second(self, seen: Tensor, proposals: list[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        there = [rows[:, :4] for rows in wanted]
        boxes = self.second.add_gt_proposals(proposals, there)
        classes = [rows[:, 4].long() + 1 for rows in wanted]  # 0 is nothing
        which, labels = self.second.assign_targets_to_proposals(boxes, there, classes)
        room = [functional.pad(of, (0, 0, 0, 1)) for of in there]  # for a picture without boxes
        goals = [of[row] for of, row in zip(room, which, strict=True)]
        ways, what = torch.cat(list(self.second.box_coder.encode(goals, boxes))), torch.cat(labels)
        said, moved = self._answered(seen, boxes)
        own = moved.unflatten(1, (-1, 4))[torch.arange(len(what), device=what.device), what]
        each = functional.cross_entropy(said, what, reduction="none") + _off(own, ways, what > 0)
        return torch.stack([part.sum() / max(1, len(part)) for part in each.split([len(of) for of in labels])])

    def _answered(self, seen: Tensor, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of each box the logits of nothing and of the classes, and from it to the box of each of them."""
        said, moved = self.second.box_predictor(self.second.box_head(read(seen, boxes, self.levels, self.size)))
        return said.to(seen.dtype), moved.to(seen.dtype)  # of autocast half

    @property
    def _places(self) -> list[int]:
        return [level.height * level.width for level in self.levels]


def read(seen: Tensor, boxes: Sequence[Tensor], levels: Sequence[Level], size: tuple[int, int]) -> Tensor:
    """What maps (n, places, c) show at the boxes of each picture (m, c, bins, bins): RoIAlign, one sample to a bin.

    As torchvision's, each box on the level that suits its size, which is the finest below 224 pixels; but written as a
    sum of rows, for which a GPU adds gradients in one order. Source: He et al., "Mask R-CNN", arXiv:1703.06870.
    """
    every, where = torch.cat(list(boxes)), seen.device
    owner = torch.arange(len(boxes), device=where).repeat_interleave(
        torch.tensor([len(of) for of in boxes], device=where)
    )
    strides = [size[0] // level.height for level in levels]
    level = LevelMapper(round(math.log2(strides[0])), round(math.log2(strides[-1])))(list(boxes))
    table = [(of.height, of.width, stride) for of, stride in zip(levels, strides, strict=True)]
    heights, widths, steps = torch.tensor(table, device=where)[level].unbind(1)
    starts = torch.tensor([*accumulate((of.height * of.width for of in levels), initial=0)], device=where)[level]
    corners = every / steps[:, None]
    rows, of_rows = _between(corners[:, 1], corners[:, 3], heights)
    columns, of_columns = _between(corners[:, 0], corners[:, 2], widths)
    first = (owner * seen.shape[1] + starts)[:, None, None, None, None]
    place = first + rows[:, :, None, :, None] * widths[:, None, None, None, None] + columns[:, None, :, None, :]
    weight = of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :]
    found = functional.embedding_bag(
        place.reshape(-1, 4), seen.flatten(0, 1).contiguous(), mode="sum", per_sample_weights=weight.reshape(-1, 4)
    )
    return found.view(len(every), BINS, BINS, seen.shape[2]).permute(0, 3, 1, 2)


def _between(start: Tensor, end: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """Along one side of boxes, in steps of their map: of each bin (n, bins, 2) the places it lies between, weighed."""
    side, extent = (end - start).clamp(min=1)[:, None], extent[:, None]
    at = start[:, None] + side * (torch.arange(BINS, device=start.device) + 0.5) / BINS
    outside = at > extent
    low = at.floor().long().clamp(min=0).minimum(extent - 1)
    high = (low + 1).minimum(extent - 1)
    part = torch.where(low < high, at - low, 0)
    weights = torch.stack([1 - part, part], dim=2).masked_fill(outside[..., None], 0)
    return torch.stack([low, high], dim=2), weights


def expected(held: Tensor, free: Tensor, most: int, share: float) -> Tensor:
    """What each counts for in a mean over `most` drawn at random, at most a `share` of them of those that hold a box.

    Both are true of some along the last dimension, which such counts sum to 1 along.
    """
    there, rest = held.sum(-1, keepdim=True), free.sum(-1, keepdim=True)
    holding = there.clamp(max=int(most * share))
    others = torch.minimum(rest, most - holding)
    counts = held * (holding / there.clamp(min=1)) + free * (others / rest.clamp(min=1))
    return counts / (holding + others).clamp(min=1)


def _off(ways: Tensor, there: Tensor, held: Tensor) -> Tensor:
    """The loss of where boxes are; 0 for what holds none, whose way to one need not be a number."""
    goal = torch.where(held[..., None], there, ways.detach())
    return functional.smooth_l1_loss(ways, goal, beta=BETA, reduction="none").sum(-1)
