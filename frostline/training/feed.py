"""Batches for the loop, from stored activations or from pictures, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

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
            arrays = read(rows[part], epoch)
            inputs = tuple(torch.from_numpy(np.ascontiguousarray(a)).to(device, non_blocking=True) for a in arrays)
            yield inputs, torch.from_numpy(targets[part]).to(device)

    return batches


def steps(rows: int, batch: int) -> int:
    """How many batches an epoch has."""
    return -(-rows // batch)
