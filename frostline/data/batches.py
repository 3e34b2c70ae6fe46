"""Rows in order, cut into batches, and their pictures as arrays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.pictures import augment, framed, normalised, open_picture
from frostline.values import Augment, Examples, Preprocessing

WORTH_A_THREAD = 1e-3  # seconds of a picture from which threads gain more than they wait for the interpreter


def batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """The rows, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def decode(
    examples: Examples, rows: NDArray[np.int64], preprocessing: Preprocessing, *, workers: int = 0
) -> NDArray[np.float32]:
    """These examples as the network reads them, rows x channels x height x width; the same every time.

    `workers` threads share the decoding where that is worth it. Raises DataError naming an unreadable file.
    """
    return normalised(frames(examples, rows, preprocessing, workers=workers), preprocessing)


def frames(
    examples: Examples,
    rows: NDArray[np.int64],
    preprocessing: Preprocessing,
    *,
    augment: Augment = "none",
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
) -> NDArray[np.uint8]:
    """As `decode`, each picture varied first, and still in bytes: a device normalises faster than it takes floats.

    The draw depends on (seed, epoch, row) and on nothing else: neither the batch that a row stands in nor the number of
    threads changes its pixels.
    """

    def one(row: int) -> NDArray[np.uint8]:
        # from 1: NumPy pads short seeds with zeros, so row 0 would share its draw with the epoch's order
        return framed(_varied(examples, row, augment, (seed, epoch, row + 1)), preprocessing)

    if len(rows) == 0:
        return np.zeros((0, len(preprocessing.mean), *preprocessing.size), np.uint8)
    started, first, *others = time.perf_counter(), *(int(row) for row in rows)
    found = [one(first)]
    if workers < 2 or time.perf_counter() - started < WORTH_A_THREAD:
        return np.stack([*found, *map(one, others)])
    with ThreadPoolExecutor(workers) as pool:
        return np.stack([*found, *pool.map(one, others)])


def _varied(examples: Examples, row: int, kind: Augment, draw: tuple[int, int, int]) -> NDArray[np.uint8]:
    picture: Any = examples.inputs[row]
    return augment(open_picture(picture), kind, np.random.default_rng(draw))
