"""How far the target's activations lie from what the pre-trained batch norms remember of their source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.evidence.similarity import batchnorm_shift
from frostline.training.prepare import norms_of


@dataclass(slots=True)
class _Moments:
    """Sums over everything that came to one batch norm, channel by channel."""

    count: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, activations: Tensor, channel: int) -> None:
        values = activations.detach().double().movedim(channel, 0).flatten(1)
        self.count += values.shape[1]
        self.total = values.sum(1) if self.total is None else self.total + values.sum(1)
        squares = values.square().sum(1)
        self.squares = squares if self.squares is None else self.squares + squares


def shifts(
    module: nn.Module, anatomy: Anatomy, inputs: Iterable[Mapping[str, Tensor]], depths: Sequence[int]
) -> Mapping[int, float]:
    """For each depth the mean shift, in nats a channel, of the batch norms between it and the depth before.

    Depths without a batch norm of their own are left out; without any, nothing is computed. The network runs in eval
    mode, and is left as it is.
    """
    norms = norms_of(module)
    seen = {name: _Moments() for name in norms}
    if not norms:
        return {}
    with ExitStack() as stack:
        for name, norm in norms.items():
            stack.callback(norm.register_forward_pre_hook(_noting(seen[name])).remove)
        halves = Halves(module, anatomy)
        for batch in inputs:
            halves.prefix(batch, len(anatomy.layers))
    moved = {name: _shift(norm, seen[name]) for name, norm in norms.items() if seen[name].count}
    found, below = dict[int, float](), 0
    for depth in sorted(depths):
        between = [moved[name] for layer in anatomy.layers[below:depth] for name in layer.modules if name in moved]
        if between:
            found[depth] = float(np.mean(between))
        below = depth
    return found


def _noting(moments: _Moments) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        moments.add(inputs[0], getattr(module, "axis", 1))  # Keras says where the channels are

    return note


def _shift(norm: Any, moments: _Moments) -> float:
    assert moments.total is not None and moments.squares is not None, "only norms that ran are asked"
    mean = moments.total / moments.count
    variance = (moments.squares / moments.count - mean.square()).clamp(min=0)
    stored, spread = norm.running_mean.detach().cpu().numpy(), norm.running_var.detach().cpu().numpy()
    return batchnorm_shift(stored, spread, mean.cpu().numpy(), variance.cpu().numpy())
