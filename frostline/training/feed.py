"""Batches for the loop, from stored activations or from pictures, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.training.loop import Batch, Feed

Read = Callable[[NDArray[np.int64], int], Sequence[NDArray[np.generic]]]  # rows, epoch -> what crosses the cut


def feed(
    read: Read,
    rows: NDArray[np.int64],
    targets: NDArray[np.int64],
    batch: int,
    *,
    device: torch.device,
    seed: int | None = None,
) -> Feed:
    """Batches of nearly equal size over `rows`, shuffled anew each epoch by `seed`; None keeps their order.

    `targets` are those of `rows`. No row is dropped and no batch is tiny: 33 rows at batch 32 make 17 and 16.
    """

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.arange(len(rows))
        if seed is not None:
            order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        for part in np.array_split(order, steps(len(rows), batch)):
            inputs = tuple(_tensor(array).to(device, non_blocking=True) for array in read(rows[part], epoch))
            yield inputs, torch.from_numpy(targets[part]).to(device)

    return batches


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """As a tensor; NumPy has no bfloat16, so its bits come as uint16, which no frontier holds otherwise."""
    found = torch.from_numpy(np.ascontiguousarray(array))
    return found.view(torch.bfloat16) if array.dtype == np.uint16 else found


def steps(rows: int, batch: int) -> int:
    """How many batches an epoch has."""
    return -(-rows // batch)
