"""Stored activations in the memory of a GPU: moved there once, and read by every training that starts at their cut."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from frostline.bench.bench import Bench
from frostline.data.batches import batches
from frostline.training.device import free_bytes, out_of_memory
from frostline.training.feed import tensors

RESIDENT = 0.4  # of a GPU's free memory that stored activations may take
PIECE = 1024  # rows that are moved at once: the host never holds them all


def resident(bench: Bench, depth: int) -> tuple[Tensor, ...] | None:
    """What crosses a cut, of all examples that are stored, on the GPU; None where there is none, or too little room.

    What lies there of other cuts, and of other backbones, makes room where both do not fit.
    """
    held, where = bench.whole.get(depth), bench.device.device
    if held is None or bench.intake.at_hand:  # what lies in memory is read beside the store, and its rows are uneven
        return None
    if depth not in bench.resident:
        every = [found for each in bench.every for found in each.resident.values()]
        others = sum(tensor.nbytes for found in every for tensor in found)
        room = RESIDENT * (free_bytes(where) + others)
        if held.bytes > room:
            return None
        if held.bytes + others > room:
            every.clear()
            given_up(bench)
        try:
            bench.resident[depth] = moved(bench, depth, where)
        except RuntimeError as error:  # others use the card too
            if not out_of_memory(error):
                raise
            return None
    return bench.resident[depth]


def given_up(bench: Bench) -> None:
    """Nothing that is stored lies in the memory of a GPU any more, of any backbone that races."""
    for each in bench.every:
        each.resident.clear()


def moved(bench: Bench, depth: int, where: torch.device) -> tuple[Tensor, ...]:
    """All that is stored of a cut, in the order in which it is stored, as tensors on a device."""
    held, made = bench.whole[depth], tuple[Tensor, ...]()
    for part in batches(np.arange(held.rows), PIECE):
        found = tensors(bench.store.read(held, part))
        if not made:
            made = tuple(torch.empty((held.rows, *one.shape[1:]), dtype=one.dtype, device=where) for one in found)
        for target, one in zip(made, found, strict=True):
            target[part[0] : part[-1] + 1].copy_(one)
    return made
