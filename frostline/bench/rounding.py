"""What storing activations in half precision would change: measured on this network and data before any is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench.passing import CHUNK, Network, passed_through, some
from frostline.data.intake import inputs_of
from frostline.plan import legal_depths

TOLERANCE = 0.01  # of the length of an example's feature vector behind the last cut
HEADROOM = 8  # times as large as all that was looked at, an activation of another example still fits


def change(network: Network, depths: Sequence[int], dtype: str) -> float:
    """How far an example's features behind the last cut move when what crosses one of the cuts is rounded.

    Relative to the length of the feature vector; the largest of all `depths` and of `CHUNK` examples, taken evenly from
    those that may be learned. Infinite where numbers come near to what does not fit: float16 ends at 65504. The layers
    above a cut are part of what is measured.
    """
    where, anatomy, kind = network.device.device, network.anatomy, getattr(torch, dtype)
    with passed_through(network) as module, torch.no_grad():
        halves, last = Halves(module, anatomy), max(legal_depths(anatomy.layers))
        inputs = inputs_of(network.intake, some(network, CHUNK), where)
        crossing = halves.taps(inputs, sorted({*depths, last}))
        exact = pool(anatomy, last, crossing[last], inputs)
        moved = 0.0

        def beside(depth: int) -> dict[str, Tensor]:
            return {name: inputs[name] for name in anatomy.beside(depth)}

        for depth in depths:
            if not all(_fits(tensor, kind) for tensor in crossing[depth]):
                return math.inf
            rounded = tuple(_rounded(tensor, kind) for tensor in crossing[depth])
            frontier = rounded if depth == last else halves.suffix(rounded, depth, inputs=beside(depth), until=last)
            moved = max(moved, _distance(pool(anatomy, last, frontier, inputs), exact))
    return moved


def _fits(tensor: Tensor, kind: torch.dtype) -> bool:
    return not tensor.is_floating_point() or HEADROOM * float(tensor.abs().max()) <= torch.finfo(kind).max


def _rounded(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor.to(kind).to(tensor.dtype) if tensor.is_floating_point() else tensor


def _distance(found: Tensor, exact: Tensor) -> float:
    """The largest relative distance of two rows; infinite where one is not a number."""
    apart = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1).clamp_min(1e-12)
    worst = float(apart.max())
    return worst if math.isfinite(worst) else math.inf
