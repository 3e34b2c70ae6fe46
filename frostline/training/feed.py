"""Batches for the loop, from stored activations or from examples, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.ahead import ahead
from frostline.training.step import Batch, Feed

Read = Callable[[NDArray[np.int64], int], Sequence[NDArray[np.generic]]]  # rows, epoch -> what crosses the cut
WINDOW = 32  # batches within which rows are sorted by length: far fewer would leave long and short ones together

Held = tuple[Sequence[Tensor], NDArray[np.int64]]  # what lies on the device already, and where in it the rows stand


def feed(
    read: Read,
    rows: NDArray[np.int64],
    targets: NDArray[np.int64],
    batch: int,
    *,
    device: torch.device,
    seed: int | None = None,
    waits: bool = False,
    held: Held | None = None,
    sizes: NDArray[np.int64] | None = None,
) -> Feed:
    """Batches of nearly equal size over `rows`, shuffled anew each epoch by `seed`; None keeps their order.

    `targets` are those of `rows`. No row is dropped and no batch is tiny: 33 rows at batch 32 make 17 and 16. Where
    reading `waits`, for a disk or for decoding, the next batch is read while the one at hand is computed on. Where all
    of it is `held` on the device, nothing is read at all, whatever the epoch. Where the rows differ in length, `sizes`,
    a shuffled epoch puts rows of nearly one length into a batch: what it is filled up with costs time.
    """
    pinned = device.type == "cuda"  # memory from which a GPU copies while it computes

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.arange(len(rows))
        if seed is not None:
            order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        count = steps(len(rows), batch)
        if seed is not None and sizes is not None:
            order = np.concatenate(_alike(order, sizes, count, np.random.default_rng((seed, epoch, 1))))
        if held is not None:
            there, at = held
            places, told = (torch.from_numpy(array[order]).to(device) for array in (at, targets))
            for part, labels in zip(places.tensor_split(count), told.tensor_split(count), strict=True):
                yield tuple(tensor.index_select(0, part) for tensor in there), labels
            return
        parts = iter(np.array_split(order, count))
        found = (tensors([*read(rows[part], epoch), targets[part]], pinned=pinned) for part in parts)
        for batch_of in ahead(found) if waits else found:
            *inputs, labels = (tensor.to(device, non_blocking=True) for tensor in batch_of)
            yield tuple(inputs), labels

    return batches


def _alike(
    order: NDArray[np.int64], sizes: NDArray[np.int64], count: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The batches of an order, sorted by length within every `WINDOW` of them, and then shuffled.

    Those of equal size change places alone, so that cutting the whole anew gives these very batches.
    """
    batches = np.array_split(order, count)
    made = list[NDArray[np.int64]]()
    for first in range(0, count, WINDOW):
        part = batches[first : first + WINDOW]
        together = np.concatenate(part)
        ranked = together[np.argsort(sizes[together], kind="stable")]
        made += np.split(ranked, np.cumsum([len(one) for one in part])[:-1])
    for length in {len(one) for one in made}:
        places = [place for place, one in enumerate(made) if len(one) == length]
        for place, other in zip(places, [made[p] for p in rng.permutation(places)], strict=True):
            made[place] = other
    return made


def tensors(arrays: Sequence[NDArray[np.generic]], *, pinned: bool = False) -> list[Tensor]:
    """As tensors; NumPy has no bfloat16, so its bits come as uint16, which no frontier holds otherwise."""
    found = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    found = [made.view(torch.bfloat16) if made.dtype == torch.uint16 else made for made in found]
    return [made.pin_memory() for made in found] if pinned else found


def steps(rows: int, batch: int) -> int:
    """How many batches an epoch has."""
    return -(-rows // batch)
