"""Batches for the loop, from stored activations or from pictures, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.ahead import ahead
from frostline.training.loop import Batch, Feed

PIECE = 1024  # rows that are moved to a device at once

Read = Callable[[NDArray[np.int64], int], Sequence[NDArray[np.generic]]]  # rows, epoch -> what crosses the cut


def feed(
    read: Read,
    rows: NDArray[np.int64],
    targets: NDArray[np.int64],
    batch: int,
    *,
    device: torch.device,
    seed: int | None = None,
    waits: bool = False,
    resident: bool = False,
) -> Feed:
    """Batches of nearly equal size over `rows`, shuffled anew each epoch by `seed`; None keeps their order.

    `targets` are those of `rows`. No row is dropped and no batch is tiny: 33 rows at batch 32 make 17 and 16. Where
    reading `waits`, for a disk or for decoding, the next batch is read while the one at hand is computed on. What is
    `resident` is read once, as that of epoch 0, and then kept in the memory of the device for all epochs.
    """
    kept = list[list[Tensor]]()
    pinned = device.type == "cuda"  # memory from which a GPU copies while it computes

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.arange(len(rows))
        if seed is not None:
            order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        parts = iter(np.array_split(order, steps(len(rows), batch)))
        if resident:
            if not kept:
                kept.append(_moved(lambda part: _tensors([*read(rows[part], 0), targets[part]]), len(rows), device))
            for part in parts:
                places = torch.from_numpy(part).to(device)
                *inputs, labels = (tensor.index_select(0, places) for tensor in kept[0])
                yield tuple(inputs), labels
            return
        found = (_tensors([*read(rows[part], epoch), targets[part]], pinned=pinned) for part in parts)
        for tensors in ahead(found) if waits else found:
            *inputs, labels = (tensor.to(device, non_blocking=True) for tensor in tensors)
            yield tuple(inputs), labels

    return batches


def _moved(read: Callable[[NDArray[np.int64]], list[Tensor]], count: int, device: torch.device) -> list[Tensor]:
    """All of so many rows on the device, a piece at a time: the host never holds them all."""
    made = list[Tensor]()
    for part in np.array_split(np.arange(count), steps(count, PIECE)):
        found = read(part)
        if not made:
            made = [torch.empty((count, *tensor.shape[1:]), dtype=tensor.dtype, device=device) for tensor in found]
        for target, tensor in zip(made, found, strict=True):
            target[part[0] : part[-1] + 1].copy_(tensor)
    return made


def _tensors(arrays: Sequence[NDArray[np.generic]], *, pinned: bool = False) -> list[Tensor]:
    """As tensors; NumPy has no bfloat16, so its bits come as uint16, which no frontier holds otherwise."""
    found = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    found = [made.view(torch.bfloat16) if made.dtype == torch.uint16 else made for made in found]
    return [made.pin_memory() for made in found] if pinned else found


def steps(rows: int, batch: int) -> int:
    """How many batches an epoch has."""
    return -(-rows // batch)
