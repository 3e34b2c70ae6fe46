"""What each place of an example belongs to: the loss, and what is kept of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline.errors import PlanError
from frostline.tasks.decoder import STRIDES, Decoder, enlarged
from frostline.tasks.measures.maps import LEAST, LEVELS, STEP
from frostline.tasks.strides import depths_of
from frostline.tasks.task import Task
from frostline.values import VOID

UNFIT = "classes of places are learned by a head of the kind 'decoder'; give the plan one"


def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats, meaned over the places of an example of which something is asked, then over examples.

    Logits (n, c, h, w) are drawn as large as the targets, class ids (n, height, width); `weights` are of classes. An
    example of which nothing is asked has no loss.
    """
    wide = enlarged(_wide(outputs), targets.shape[1:])
    by = None if weights is None else weights.to(wide.dtype)
    each = functional.cross_entropy(
        wide, targets.long(), weight=by, ignore_index=VOID, label_smoothing=smoothing, reduction="none"
    )
    return (each.sum((1, 2)) / (targets != VOID).sum((1, 2)).clamp(min=1)).mean()


def kept(outputs: Tensor, size: tuple[int, int]) -> Tensor:
    """Of every place of answers of that size its likeliest class and how sure it is, (n, height, width), in two bytes.

    `measures.maps` says how they are packed.
    """
    # one by one: logits of all places at once would be the largest tensor of all
    return torch.cat([_packed(enlarged(_wide(one[None]), size)) for one in outputs])


def _packed(logits: Tensor) -> Tensor:
    said, label = logits.log_softmax(1).max(1)
    odds = said - (-said.expm1()).log()
    sure = ((odds - LEAST) / STEP).round().clamp(0, LEVELS - 1).nan_to_num(LEVELS - 1)
    return (label + 256 * sure).to(torch.int16)


def classes_of(found: Tensor) -> Tensor:
    """The likeliest class of every place, in a byte each."""
    return (found & 255).to(torch.uint8)


def drawn(outputs: Tensor, rng: np.random.Generator) -> Tensor:
    """The log-probability of a class of each place, drawn as the logits say."""
    said = _wide(outputs)[0].log_softmax(0)
    noise = torch.as_tensor(rng.gumbel(size=tuple(said.shape)), dtype=said.dtype, device=said.device)
    return said.gather(0, (said.detach() + noise).argmax(0, keepdim=True)).sum()


def _wide(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _unbound(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    raise PlanError(UNFIT)


def _unkept(outputs: Tensor) -> Tensor:
    raise PlanError(UNFIT)


def _bound(head: nn.Module) -> Task:
    """Answers of the size that the head was made for."""
    if not isinstance(head, Decoder):
        return SEGMENTATION
    return replace(SEGMENTATION, loss=loss, predictions=lambda outputs: kept(outputs, head.size))


def _levels(shapes: Sequence[tuple[int, ...]], size: tuple[int, int]) -> list[int]:
    return depths_of(shapes, size, STRIDES)


SEGMENTATION = Task(
    "segmentation",
    _unbound,
    _unkept,
    classes_of,
    drawn,
    levels=_levels,
    head="decoder",
    recipes={"decoder": (12, 8, 1e-3)},  # every place is an example: few a step are enough
    binding=_bound,
)
