"""Laws of batches: every row once, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers
from numpy.typing import NDArray

from frostline.training.feed import feed, steps, tensors

CPU = torch.device("cpu")


def drawn(
    rows: NDArray[np.int64], batch: int, seed: int | None, epoch: int, *, after: tuple[int, ...] = ()
) -> list[tuple[list[int], list[int]]]:
    """The (rows, targets) of each batch of an epoch; `after` are epochs that are drawn before it."""
    asked = list[int]()

    def read(part: NDArray[np.int64], of: int) -> tuple[NDArray[np.int64], ...]:
        asked.append(of)
        return part, part * 10

    batches = feed(read, rows, rows * 7, batch, device=CPU, seed=seed)
    for earlier in after:
        list(batches(earlier))
    asked.clear()
    found = [(inputs[0].tolist(), targets.tolist()) for inputs, targets in batches(epoch)]
    assert asked == [epoch] * len(found)
    return found


@given(integers(1, 90), integers(1, 40), integers(0, 5), integers(0, 9), integers(0, 3))
def test_every_row_comes_once_an_epoch_with_its_own_target_in_batches_of_nearly_equal_size(
    count: int, batch: int, first: int, seed: int, epoch: int
) -> None:
    rows = np.arange(first, first + 3 * count, 3)
    found = drawn(rows, batch, seed, epoch)
    assert sorted(row for part, _ in found for row in part) == rows.tolist()
    assert all(target == 7 * row for part, targets in found for row, target in zip(part, targets, strict=True))
    sizes = [len(part) for part, _ in found]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch
    assert len(sizes) == steps(count, batch)


@given(integers(2, 60), integers(1, 20), integers(0, 99), integers(0, 5))
def test_the_order_is_a_function_of_seed_and_epoch_alone(count: int, batch: int, seed: int, epoch: int) -> None:
    rows = np.arange(count)
    np.random.seed(seed + 1)  # what others draw must not matter
    torch.manual_seed(seed + 2)
    alone = drawn(rows, batch, seed, epoch)
    assert drawn(rows, batch, seed, epoch, after=(0, 3, 1)) == alone
    flat = [row for part, _ in alone for row in part]
    assert [row for part, _ in drawn(rows, 7, seed, epoch) for row in part] == flat  # whatever the batch size


@given(integers(1, 200), integers(1, 20), integers(0, 9), integers(0, 3))
def test_batches_of_alike_length_hold_every_row_once_and_are_as_large_as_others(
    count: int, batch: int, seed: int, epoch: int
) -> None:
    rows, rng = np.arange(count), np.random.default_rng(seed)
    lengths = rng.integers(1, 100, count)

    def parts(sizes: NDArray[np.int64] | None, held: bool = False) -> list[NDArray[np.int64]]:
        there = ([torch.from_numpy(rows)], rows) if held else None
        found = feed(
            lambda part, _: (part,), rows, rows * 7, batch, device=CPU, seed=seed, sizes=sizes, held=there
        )  # fmt: skip
        pairs = [(inputs[0].numpy(), targets.numpy()) for inputs, targets in found(epoch)]
        assert all((targets == 7 * inputs).all() for inputs, targets in pairs)
        return [inputs for inputs, _ in pairs]

    alike, plain = parts(lengths), parts(None)
    assert sorted(np.concatenate(alike).tolist()) == rows.tolist()
    assert [len(part) for part in alike] == [len(part) for part in plain]
    assert all((one == other).all() for one, other in zip(alike, parts(lengths, held=True), strict=True))

    def padded(those: list[NDArray[np.int64]]) -> int:
        return sum(len(part) * int(lengths[part].max()) for part in those)

    assert padded(alike) <= padded(plain)
    if count > 100 and 1 < batch < 10:
        assert padded(alike) < 1.15 * lengths.sum()


def test_batches_of_alike_length_differ_from_epoch_to_epoch_and_are_not_sorted() -> None:
    rows, lengths = np.arange(200), np.repeat(np.arange(1, 101), 2)
    learn = feed(lambda part, _: (part,), rows, rows, 8, device=CPU, seed=0, sizes=lengths)
    first, second = ([inputs[0].numpy() for inputs, _ in learn(epoch)] for epoch in (0, 1))
    assert [sorted(part) for part in first] != [sorted(part) for part in second]
    longest = [int(lengths[part].max()) for part in first]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_epochs_and_seeds_differ() -> None:
    rows = np.arange(50)
    orders = {tuple(drawn(rows, 50, seed, epoch)[0][0]) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_without_a_seed_rows_keep_their_order() -> None:
    rows = np.asarray([5, 3, 9, 1])
    for epoch in (0, 1):
        assert [part for part, _ in drawn(rows, 3, None, epoch)] == [[5, 3], [9, 1]]


def test_all_tensors_of_a_frontier_are_handed_on_as_they_are() -> None:
    def read(rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.generic], ...]:
        return np.asfortranarray(np.ones((len(rows), 2, 3), np.float32)), rows.astype(np.float64)[::-1]

    ((inputs, targets),) = list(feed(read, np.arange(4), np.arange(4) % 2, 8, device=CPU)(0))
    assert [tuple(tensor.shape) for tensor in inputs] == [(4, 2, 3), (4,)]
    assert [tensor.dtype for tensor in inputs] == [torch.float32, torch.float64]
    assert inputs[1].tolist() == [3.0, 2.0, 1.0, 0.0]
    assert targets.dtype == torch.int64


@pytest.mark.parametrize("seed", [None, 3])
def test_what_lies_on_the_device_is_not_read_and_comes_in_the_same_batches(seed: int | None) -> None:
    asked = list[int]()

    def read(rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.generic], ...]:
        asked.extend(rows.tolist())
        return rows.astype(np.float32)[:, None] * np.ones(3, np.float32), rows.astype(np.uint16)

    rows = np.arange(100, 123)
    at = np.random.default_rng(0).permutation(40)[: len(rows)]  # where they stand in what is held, of other rows too
    everything = np.zeros(40, np.int64)
    everything[at] = rows
    held = (tensors(read(everything, 0)), at)
    plain, kept = (feed(read, rows, rows % 3, 5, device=CPU, seed=seed, held=each) for each in (None, held))
    expected = [list(plain(epoch)) for epoch in (0, 1)]
    asked.clear()
    for epoch in (0, 1):
        for (one, labels), (other, others) in zip(expected[epoch], kept(epoch), strict=True):
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
            assert torch.equal(labels, others)
    assert asked == []


@pytest.mark.parametrize("seed", [None, 3])
def test_reading_ahead_changes_no_batch(seed: int | None) -> None:
    def read(rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.generic], ...]:
        return (rows + 100 * epoch).astype(np.float32), rows

    rows = np.arange(23)
    plain, early = (feed(read, rows, rows % 3, 5, device=CPU, seed=seed, waits=waits) for waits in (False, True))
    for epoch in (0, 1):
        found = [[[*inputs, targets] for inputs, targets in batches(epoch)] for batches in (plain, early)]
        for one, other in zip(*found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
