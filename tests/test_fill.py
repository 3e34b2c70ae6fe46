"""Laws of the one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline.activations.fill import Filled, Frontier, Tapped, Wanted, fill
from frostline.activations.store import Key, Store
from frostline.errors import FrozenMoved, StoreError

ROOM = 2**24
ROWS, BATCH = 64, 4
DATA = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Three layers, with what a fill must guard against in the middle."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)])
        self.middle = middle if middle is not None else nn.Identity()
        self.calls = 0

    def tap(self, batch: Tensor) -> Mapping[int, Frontier]:
        self.calls += 1
        one = functional.relu(self.steps[0](batch))
        two = functional.relu(self.steps[1](self.middle(one)))
        return {1: (one,), 2: (two, one)}


def pool(depth: int, frontier: Frontier) -> Tensor:
    return frontier[0]


def batches(start: int) -> Iterator[Tensor]:
    return iter(DATA[start:].split(BATCH))


def features(store: Store, result: Filled, depth: int) -> Any:
    """The pooled ones of all rows."""
    return store.read(result.pooled[depth], np.arange(result.pooled[depth].rows))[0]


def filled(net: Net, store: Store, *, tier: Any = "disk", source: Any = batches, **changes: Any) -> Filled:
    wanted = Wanted({1: "x1", 2: "x2"}, ROWS, (1, 2), {2: tier}, BATCH, **changes)
    return fill(Tapped(net.tap, pool, net), source, store, wanted)


def test_the_store_holds_what_the_network_computes(tmp_path: Path) -> None:
    net = Net().eval()
    told: list[tuple[int, int]] = []
    store = Store(tmp_path, disk=ROOM)
    wanted = Wanted({1: "x1", 2: "x2"}, ROWS, (1, 2), {2: "disk"}, BATCH)
    result = fill(Tapped(net.tap, pool, net), batches, store, wanted, progress=lambda *step: told.append(step))
    with torch.no_grad():
        expected = net.tap(DATA)
    rows = np.random.default_rng(0).permutation(ROWS)
    for found, tensor in zip(store.read(result.whole[2], rows), expected[2], strict=True):
        np.testing.assert_allclose(found, tensor.numpy()[rows], rtol=1e-5, atol=1e-6)
    for depth in (1, 2):
        found = features(store, result, depth)
        np.testing.assert_allclose(found, expected[depth][0].numpy(), rtol=1e-5, atol=1e-6)
    assert result.computed == ROWS
    assert told == [(done, ROWS) for done in range(BATCH, ROWS + 1, BATCH)]


def test_a_second_fill_never_calls_the_network_or_the_data(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=ROOM)
    first = filled(Net().eval(), store)
    net = Net().eval()

    def no_data(start: int) -> Iterator[Tensor]:
        raise AssertionError(f"asked for rows from {start}")

    again = filled(net, Store(tmp_path, disk=ROOM), source=no_data)
    assert net.calls == 0
    assert again.computed == 0
    np.testing.assert_array_equal(features(store, again, 2), features(store, first, 2))


@pytest.mark.parametrize("tier", ["disk", "memory"])
@pytest.mark.parametrize("after", [1, 7, 15])
def test_an_interrupted_fill_goes_on_to_the_same_bytes(tmp_path: Path, after: int, tier: Any) -> None:
    def interrupted(start: int) -> Iterator[Tensor]:
        for number, batch in enumerate(batches(start)):
            if number == after:
                raise KeyboardInterrupt
            yield batch

    whole, parts = Store(tmp_path / "whole", disk=ROOM, memory=ROOM), Store(tmp_path / "parts", disk=ROOM, memory=ROOM)
    expected = filled(Net().eval(), whole, tier=tier)
    with pytest.raises(KeyboardInterrupt):
        filled(Net().eval(), parts, tier=tier, source=interrupted)
    result = filled(Net().eval(), parts, tier=tier)
    assert result.computed == ROWS - after // 2 * 2 * BATCH  # chunks hold two batches
    for a, b in zip(
        whole.read(expected.whole[2], np.arange(ROWS)), parts.read(result.whole[2], np.arange(ROWS)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert [f.read_bytes() for f in sorted((tmp_path / "whole").rglob("*.bin"))] == [
        f.read_bytes() for f in sorted((tmp_path / "parts").rglob("*.bin"))
    ]


@pytest.mark.parametrize("tier", ["disk", "memory"])
@pytest.mark.parametrize("learnable", [3, 40, 41, ROWS])
def test_whole_activations_are_those_of_the_first_rows_and_pooled_ones_of_all(
    tmp_path: Path, learnable: int, tier: Any
) -> None:
    other, store = Store(None, memory=ROOM), Store(tmp_path, disk=ROOM, memory=ROOM)
    everything = filled(Net().eval(), other, tier="memory")
    first = features(other, everything, 1)[:learnable]
    result = filled(Net().eval(), store, tier=tier, learnable=learnable)
    assert result.whole[2].rows == learnable
    np.testing.assert_array_equal(store.read(result.whole[2], np.arange(learnable))[1], first)
    for depth in (1, 2):
        np.testing.assert_array_equal(features(store, result, depth), features(other, everything, depth))
    store.forget(result.whole[2].key)  # then the rows behind are not computed again
    told: list[tuple[int, int]] = []
    wanted = Wanted({1: "x1", 2: "x2"}, ROWS, (1, 2), {2: tier}, BATCH, learnable=learnable)
    again = fill(Tapped(Net().eval().tap, pool), batches, store, wanted, progress=lambda *step: told.append(step))
    assert again.computed == min(ROWS, -(-learnable // BATCH) * BATCH)
    assert told[-1] == (learnable, learnable)
    np.testing.assert_array_equal(store.read(again.whole[2], np.arange(learnable))[1], first)


def test_a_set_that_changes_its_tier_half_way_is_filled_from_the_start(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=ROOM, memory=ROOM)

    def short(start: int) -> Iterator[Tensor]:
        yield from DATA[start:40].split(BATCH)

    with pytest.raises(StoreError, match="ended at row 40"):
        filled(Net().eval(), store, source=short)
    result = filled(Net().eval(), store, tier="memory")
    assert result.whole[2].tier == "memory"
    other = Store(None, memory=ROOM)
    expected = filled(Net().eval(), other, tier="memory")
    np.testing.assert_array_equal(store.read(result.whole[2], np.arange(ROWS))[1], features(other, expected, 1))
    np.testing.assert_array_equal(features(store, result, 2), features(other, expected, 2))


def test_other_weights_have_another_address_so_nothing_stale_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=ROOM)
    filled(Net().eval(), store)
    assert store.held(Key("x1", 1, "pooled")) is not None
    assert store.held(Key("y1", 1, "pooled")) is None
    assert store.held(Key("x1", 2, "pooled")) is None


@pytest.mark.parametrize("middle", [nn.Dropout(0.5), nn.BatchNorm1d(5)])
def test_a_prefix_in_training_mode_is_refused_by_name(tmp_path: Path, middle: nn.Module) -> None:
    net = Net(middle).eval()
    middle.train()
    with pytest.raises(FrozenMoved, match="middle is in training mode"):
        filled(net, Store(tmp_path, disk=ROOM))
    assert net.calls == 0


class Masked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=True)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


@pytest.mark.parametrize(
    ("middle", "reason"), [(Masked(), "two passes over the same batch differ at depth 2"), (Counting(), "changed")]
)
def test_what_ignores_eval_is_found_and_nothing_of_it_is_kept(tmp_path: Path, middle: nn.Module, reason: str) -> None:
    store = Store(tmp_path, disk=ROOM)
    with pytest.raises(FrozenMoved, match=reason):
        filled(Net(middle).eval(), store)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_moves_late_leaves_nothing_either(tmp_path: Path) -> None:
    net = Net().eval()

    def late(start: int) -> Iterator[Tensor]:
        for number, batch in enumerate(batches(start)):
            if number == 12:
                with torch.no_grad():
                    net.get_parameter("steps.0.weight")[0, 0].add_(1)
            yield batch

    with pytest.raises(FrozenMoved, match="changed"):
        filled(net, Store(tmp_path, disk=ROOM), source=late)
    assert list(tmp_path.iterdir()) == []


def test_dropout_is_found_without_a_module_too() -> None:
    net = Net(Masked()).eval()
    wanted = Wanted({2: "x"}, ROWS, (2,), {}, BATCH)
    with pytest.raises(FrozenMoved, match="two passes"):
        fill(Tapped(net.tap, pool), batches, Store(None, memory=ROOM), wanted)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 0.0), ("float32", 1e-6), ("bfloat16", 1e-2)])
def test_the_dtype_of_the_store_is_as_asked(dtype: str, tolerance: float) -> None:
    net = Net().double().eval()
    store = Store(None, memory=ROOM)
    data = DATA.double()
    wanted = Wanted({2: "x"}, ROWS, (), {2: "memory"}, BATCH, dtype)
    result = fill(Tapped(net.tap, pool, net), lambda start: iter(data[start:].split(BATCH)), store, wanted)
    found = store.read(result.whole[2], np.arange(ROWS))[0]
    if dtype == "bfloat16":
        found = torch.from_numpy(found).view(torch.bfloat16).float().numpy()
    with torch.no_grad():
        expected = torch.cat([net.tap(batch)[2][0] for batch in data.split(BATCH)]).numpy()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 1e-2)


def test_bfloat16_of_the_network_is_kept_to_the_bit() -> None:
    net = Net().bfloat16().eval()
    store = Store(None, memory=ROOM)
    wanted = Wanted({2: "x"}, ROWS, (2,), {2: "memory"}, BATCH, None)
    data = DATA.bfloat16()
    result = fill(Tapped(net.tap, pool, net), lambda start: iter(data[start:].split(BATCH)), store, wanted)
    bits = torch.from_numpy(store.read(result.whole[2], np.arange(ROWS))[0]).view(torch.bfloat16)
    np.testing.assert_array_equal(bits.float().numpy(), features(store, result, 2))


def test_what_does_not_fit_leaves_no_empty_set(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=1500)
    with pytest.raises(StoreError, match="do not fit"):
        filled(Net().eval(), store)
    assert list(tmp_path.iterdir()) == []


def test_activations_with_a_gradient_are_refused() -> None:
    net = Net().eval()

    def tap(batch: Tensor) -> Mapping[int, Frontier]:
        with torch.enable_grad():
            return net.tap(batch)

    wanted = Wanted({2: "x"}, ROWS, (), {2: "memory"}, BATCH)
    with pytest.raises(FrozenMoved, match="gradient"):
        fill(Tapped(tap, pool, net), batches, Store(None, memory=ROOM), wanted)
