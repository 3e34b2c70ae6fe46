"""What the queries of a detector learn from: each box is given to one query, and the others are to say nothing.

Which query answers for which box is the assignment of least cost (Hungarian). One loss for all detectors of this kind:
focal loss of the classes, L1 and GIoU loss of the boxes that were given away, from the last layer of the decoder.
Source: Carion et al., "End-to-end object detection with transformers", arXiv:2005.12872; focal terms and weights as in
Zhu et al., "Deformable DETR", arXiv:2010.04159, and Zhao et al., "DETRs beat YOLOs", arXiv:2304.08069.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torchvision.ops import (
    box_convert,
    clip_boxes_to_image,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from frostline.tasks.detector import MOST, real

CLASS, SIDES, OVERLAP = 2.0, 5.0, 2.0  # weights of the three terms, in the cost and in the loss
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


def loss(raw: Tensor, targets: Tensor) -> Tensor:
    """The mean over examples."""
    return losses(raw, targets).mean()


def losses(raw: Tensor, targets: Tensor) -> Tensor:
    """Of each example (n), summed over its queries and divided by its boxes.

    `raw` (n, queries, classes + 4) are logits and, behind them, centre and sides of the box in shares; targets
    (n, m, 5) are x1 y1 x2 y2 label in shares, NaN where an example has fewer; boxes without an area are nobody's.
    """
    logits, boxes = _parts(raw)
    targets = targets.to(logits.dtype)
    wanted = real(targets)
    pairs = matched(logits, boxes, wanted)
    owner, query, box = _together(pairs, [len(rows) for rows in wanted], logits.device)
    rows = torch.cat(wanted)[box]
    said = torch.zeros_like(logits)
    said[owner, query, rows[:, 4].long()] = 1
    each = CLASS * sigmoid_focal_loss(logits, said, ALPHA, GAMMA).sum((1, 2))
    found = boxes[owner, query]
    apart = SIDES * (found - _centred(rows[:, :4])).abs().sum(1)
    apart = apart + OVERLAP * generalized_box_iou_loss(_corners(found), rows[:, :4])
    count = torch.tensor([len(rows) for rows in wanted], dtype=logits.dtype, device=logits.device)
    return each.index_add(0, owner, apart) / count.clamp(min=1)


@torch.no_grad()
def matched(logits: Tensor, boxes: Tensor, wanted: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of each example the queries and the places of the boxes that are theirs, so that the sum of costs is least.

    Where there are more boxes than queries, the dearest go without. Costs that are no numbers, as of a training that
    diverges, are the highest.
    """
    queries, every = logits.shape[1], torch.cat(wanted)
    sides = boxes.flatten(0, 1)
    cost = CLASS * _surprise(logits.flatten(0, 1))[:, every[:, 4].long()]
    cost = cost + SIDES * torch.cdist(sides, _centred(every[:, :4]), p=1)
    cost = cost - OVERLAP * generalized_box_iou(_corners(sides), every[:, :4])
    worst = float(torch.finfo(torch.float32).max)
    table = cost.float().nan_to_num(worst, worst, -worst).view(len(wanted), queries, len(every)).cpu().numpy()
    found, start = list[tuple[Tensor, Tensor]](), 0
    for costs, rows in zip(table, wanted, strict=True):
        query, box = linear_sum_assignment(costs[:, start : start + len(rows)])
        found.append((torch.from_numpy(query), torch.from_numpy(box)))
        start += len(rows)
    return found


def _surprise(logits: Tensor) -> Tensor:
    """The focal loss of a class that is there, less that of one that is not."""
    there = functional.softplus(-logits) * ALPHA * logits.sigmoid().neg().add(1) ** GAMMA
    return there - functional.softplus(logits) * (1 - ALPHA) * logits.sigmoid() ** GAMMA


def _together(
    pairs: list[tuple[Tensor, Tensor]], counts: list[int], where: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of all examples, one behind the other: the example, its query, and the place among all boxes."""
    starts = accumulate(counts, initial=0)
    owner = torch.cat([torch.full_like(query, number) for number, (query, _) in enumerate(pairs)])
    query = torch.cat([query for query, _ in pairs])
    box = torch.cat([box + start for (_, box), start in zip(pairs, starts, strict=False)])
    return owner.to(where), query.to(where), box.to(where)


def detections(raw: Tensor) -> Tensor:
    """The best answers (n, 100, 6), strongest first: x1 y1 x2 y2 score label in shares; NaN where there are fewer.

    A query may answer with several classes, and nothing is suppressed: queries learned not to say a thing twice.
    """
    logits, boxes = _parts(raw.detach())
    classes, flat = logits.shape[2], logits.sigmoid().flatten(1)
    strongest, where = flat.topk(min(MOST, flat.shape[1]), dim=1)
    corners = clip_boxes_to_image(_corners(boxes), (1, 1))
    rows = corners.gather(1, (where // classes)[..., None].expand(-1, -1, 4))
    found = torch.cat([rows, strongest[..., None], (where % classes)[..., None].to(rows.dtype)], dim=2)
    return functional.pad(found, (0, 0, 0, MOST - found.shape[1]), value=math.nan)


def _parts(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and boxes, in float32 or better."""
    wide = raw if raw.dtype == torch.float64 else raw.float()
    return wide[..., :-4], wide[..., -4:]


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def _centred(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "xyxy", "cxcywh")
