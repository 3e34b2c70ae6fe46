"""Boxes of things in an example: the loss and the detections are those of the head that finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from frostline.errors import PlanError
from frostline.tasks.heads import Pyramid, Queries
from frostline.tasks.strides import depths_of
from frostline.tasks.task import Task

STRIDES = (8, 16, 32)  # pixels of the input a step of the level is wide
UNFIT = (
    "boxes are found by a head of the kind 'pyramid', 'anchors' or 'proposals', or 'queries' on a detector; give the "
    "plan one"
)


def _unbound(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    raise PlanError(UNFIT)


def _kept(outputs: Tensor) -> Tensor:
    raise PlanError(UNFIT)


def _drawn(outputs: Tensor, rng: np.random.Generator) -> Tensor:
    raise PlanError("no likelihood is known of boxes, so layers cannot be ranked by their Fisher information")


def _bound(head: nn.Module) -> Task:
    """Loss and detections of one head; both sides of boxes are shares of the sides of the example."""
    if isinstance(head, Queries):
        return _of_queries()
    if not isinstance(head, Pyramid):
        return DETECTION
    detector = head.detector
    height, width = detector.size
    frame = (width, height, width, height)

    def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        scale = torch.tensor([*frame, 1], dtype=targets.dtype, device=targets.device)
        return detector.loss(outputs, targets * scale)

    def predictions(outputs: Tensor) -> Tensor:
        found = detector.detections(outputs).float()
        return found / torch.tensor([*frame, 1, 1], device=found.device)

    waits = head.kind == "proposals"  # its second stage looks where its first one found something
    return replace(DETECTION, loss=loss, predictions=predictions, waits=waits)


def _of_queries() -> Task:
    from frostline.tasks import matching  # torchvision takes a second that only boxes are worth

    def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        return matching.loss(outputs, targets)

    return replace(DETECTION, loss=loss, predictions=matching.detections, waits=True)


def _levels(shapes: Sequence[tuple[int, ...]], size: tuple[int, int]) -> list[int]:
    coarsest = STRIDES[-1]
    if any(side % coarsest for side in size):
        nearest = max(1, round(max(size) / coarsest)) * coarsest
        raise PlanError(
            f"pictures are {size[0]} x {size[1]} pixels; to find boxes, sides must be multiples of {coarsest}: give "
            f"--image-size {nearest}"
        )
    return depths_of(shapes, size, STRIDES)


DETECTION = Task(
    "detection",
    _unbound,
    _kept,
    lambda found: found,
    _drawn,
    levels=_levels,
    head="proposals",
    heads={"fcos": "pyramid", "retinanet": "anchors", "fasterrcnn": "proposals"},
    recipes={
        "pyramid": (4, 4, 3e-3),
        "anchors": (4, 4, 3e-3),
        "proposals": (3, 4, 3e-3),
        "queries": (12, 4, 1e-3),  # kept layers at a tenth of it, the rate at which such networks are fine-tuned
    },
    steps=150,  # of any head: on few drawn shapes two stages had not learned to find with fewer, the others did worse
    binding=_bound,
)
