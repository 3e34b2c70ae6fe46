"""Costs against arithmetic by hand; the clock is a number that the measured calls move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.errors import StoreError
from frostline.evidence.cost import Bench, calibrate, model_cost
from frostline.values import Above, Adapter, Calibration, Head, Layer, Plan, Recipe, Topping

LAYERS = tuple(Layer(i, f"b.{i}", 100 * (i + 1), 1000 * (i + 1), (10,), 40, cut=True) for i in range(4))
FORWARD = (0.1, 0.2, 0.3, 0.4)
MEASURED = Calibration(
    FORWARD,
    tuple(2 * t for t in FORWARD),
    FORWARD,
    {"memory": 1e9, "disk": 1e8},
    {"memory": 1e9, "disk": 1e8},
    0.05,
    8,
    "cpu",
    1e4,
)


def plan(keep: int, freeze: int, above: Above, **changes: Any) -> Plan:
    learns = tuple(layer >= freeze for layer in range(keep))
    return replace(Plan(LAYERS, keep, freeze, above, learns, Recipe(epochs=5, lr=0.1, batch=8)), **changes)


def seconds(chosen: Plan, stored: tuple[int, ...] = ()) -> float:
    """An example and epoch, without the head (3 * 11 * 2 MACs at 1e4 a second)."""
    cost = model_cost(chosen, MEASURED, examples=10, classes=2, features=10, stored=stored)
    return cost.training / 50 - 3 * 22 / 1e4


@pytest.mark.parametrize(
    ("chosen", "stored", "expected"),
    [
        (plan(4, 0, "tune"), (), 0.05 + 1.0 + 2.0),  # learning layers 3x
        (plan(4, 2, "tune"), (), 0.05 + 1.0 + 1.4),  # frozen prefix 1x
        (plan(4, 2, "tune"), (1,), 0.9 + 1.4),  # stored: what lies below costs nothing
        (plan(4, 2, "tune"), (1, 2, 3), 0.7 + 1.4),  # the deepest that the prefix covers
        (plan(4, 2, "tune", recipe=Recipe(epochs=5, lr=0.1, augment="flip")), (2,), 0.05 + 1.0 + 1.4),  # not with views
        (plan(4, 0, "tune", train=(True, False, False, False)), (), 0.05 + 1.0 + 0.2 + 0.9),  # on the path 2x
        (plan(2, 2, "drop"), (2,), 0.0),  # a probe on stored features: the head alone
        (plan(2, 2, "drop"), (), 0.05 + 0.3),
        (plan(2, 1, "drop"), (), 0.05 + 0.3 + 0.4),
        (plan(2, 2, "reinit"), (), 0.05 + 1.0 + 1.4),  # fresh layers learn
        (plan(0, 0, "reinit"), (), 0.05 + 3.0),  # from scratch
        (plan(4, 1, "tune", train=(False,) * 4, adapter=Adapter()), (), 0.05 + 1.0 + 0.9),  # adapters: 2x
    ],
)
def test_the_factors_are_one_two_and_three(chosen: Plan, stored: tuple[int, ...], expected: float) -> None:
    assert seconds(chosen, stored) == pytest.approx(expected)


def test_the_optimiser_takes_its_time_for_what_learns_at_every_step() -> None:
    chosen = plan(4, 2, "tune")  # layers of 300 and 400 parameters learn, and a head of 22; 2 steps an epoch
    without = model_cost(chosen, MEASURED, examples=10, classes=2, features=10)
    updating = model_cost(chosen, replace(MEASURED, update=1e-3), examples=10, classes=2, features=10)
    assert updating.training - without.training == pytest.approx(5 * 2 * 1e-3 * 722)


def test_new_layers_that_were_measured_take_what_they_took() -> None:
    chosen, topping = plan(4, 2, "tune"), Topping(0.7, 0.3, 0.1, 5000)
    counted = model_cost(chosen, MEASURED, examples=10, classes=2, features=10)
    found = model_cost(chosen, replace(MEASURED, topping=topping), examples=10, classes=2, features=10)
    assert found.training - counted.training == pytest.approx(50 * (0.7 - 3 * 22 / 1e4))
    assert found.inference - counted.inference == pytest.approx(0.3 - 22 / 1e4)
    assert found.parameters - counted.parameters == 5000 - 22
    assert found.memory - counted.memory == (4 + 12) * (5000 - 22)


def test_attention_costs_more_where_there_are_more_positions() -> None:
    head = Head("attention")
    assert head.macs(10, 2, 1) == head.numbers(10, 2)
    assert head.macs(10, 2, 49) - head.macs(10, 2, 1) == 2 * 4 * 10 * 48
    assert Head("mlp").macs(10, 2, 49) == Head("mlp").numbers(10, 2)


def test_thawing_layers_cost_from_the_epoch_in_which_they_thaw() -> None:
    head_first = plan(4, 0, "tune", train=(False,) * 4, thaw=((2, (False, False, True, True)), (9, (True,) * 4)))
    assert seconds(head_first) == pytest.approx((2 * 1.05 + 3 * (1.05 + 1.4)) / 5)
    cost = model_cost(head_first, MEASURED, examples=10, classes=2, features=10)
    assert cost.parameters == 300 + 400 + 22  # epoch 9 never comes


def test_parameters_inference_and_memory_are_counted() -> None:
    cost = model_cost(plan(3, 1, "drop"), MEASURED, examples=10, classes=2, features=10)
    assert cost.parameters == 200 + 300 + 22
    assert cost.inference == pytest.approx(0.6 + 22 / 1e4)
    assert cost.memory == 4 * (600 + 22) + 12 * 522 + 8 * (2 * 40 + 40)
    sgd = plan(3, 1, "drop", recipe=Recipe(epochs=5, lr=0.1, batch=8, optimiser="sgd"))
    assert model_cost(sgd, MEASURED, examples=10, classes=2, features=10).memory == cost.memory - 4 * 522
    lora = plan(4, 2, "tune", train=(False,) * 4, adapter=Adapter(rank=4))
    assert model_cost(lora, MEASURED, examples=1, classes=2, features=10).parameters == 139 + 160 + 22


@given(st.integers(0, 4), st.integers(0, 4), st.sets(st.integers(1, 4)), st.sets(st.integers(1, 4)))
def test_freezing_or_storing_more_never_costs_more(f: int, g: int, some: set[int], others: set[int]) -> None:
    less, more = (plan(4, depth, "tune") for depth in sorted((f, g)))
    assert seconds(more, tuple(some)) <= seconds(less, tuple(some)) + 1e-9
    assert seconds(more, tuple(some | others)) <= seconds(more, tuple(some)) + 1e-9


class Machine:
    """Every layer takes its time, a hundredth of a second of noise that shrinks with each look included."""

    def __init__(self, forward: tuple[float, ...], noise: float = 0.0) -> None:
        self.now, self.forward, self.noise = 0.0, forward, noise
        self.calls: list[tuple[str, int]] = []

    def spend(self, name: str, depth: int, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.calls.append((name, depth))
            self.noise *= -0.9
            self.now += 8 * seconds + self.noise

        return call

    def bench(self) -> Bench:
        return Bench(
            lambda depth: self.spend("forward", depth, sum(self.forward[:depth])),
            lambda depth: self.spend("train", depth, 3 * sum(self.forward[depth:])),
            lambda depth: self.spend("carry", depth, 1.5 * sum(self.forward[depth:])),
            self.spend("update", 0, 1000 * 1e-6),  # of 1,000 parameters; 8 times as long, as all calls here
            8,
            "cpu",
            self.spend("decode", 0, 0.05),
        )


def test_calibration_finds_what_each_layer_takes(tmp_path: Path) -> None:
    machine = Machine((0.001, 0.002, 0.003, 0.004))
    found = calibrate(LAYERS, machine.bench(), tmp_path, clock=lambda: machine.now)
    assert found.forward == pytest.approx((0.001, 0.002, 0.003, 0.004))
    assert found.backward == pytest.approx((0.002, 0.004, 0.006, 0.008))
    assert found.carry == pytest.approx((0.0005, 0.001, 0.0015, 0.002))
    assert found.update == pytest.approx(8e-6)
    assert found.decode == pytest.approx(0.05)
    assert found.macs_per_second == pytest.approx(1e6)
    assert (found.batch, found.device) == (8, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_slow_network_is_measured_at_its_ends_and_shared_out_by_macs() -> None:
    machine = Machine((4.0, 3.0, 2.0, 1.0))
    found = calibrate(LAYERS, machine.bench(), None, clock=lambda: machine.now)
    assert machine.calls[:4] == [("forward", 4), ("train", 0), ("carry", 0), ("decode", 0)]
    assert {name for name, _ in machine.calls[4:]} == {"decode", "update"}
    assert found.forward == pytest.approx((1.0, 2.0, 3.0, 4.0))
    assert found.backward == pytest.approx((2.0, 4.0, 6.0, 8.0))


def test_noise_makes_no_layer_cost_less_than_nothing() -> None:
    machine = Machine((0.001, 0.0, 0.0, 0.001), noise=0.02)
    found = calibrate(LAYERS, machine.bench(), None, clock=lambda: machine.now)
    assert min(found.forward) >= 0
    assert min(found.backward) >= 0
    assert all(0 <= carried <= both for carried, both in zip(found.carry, found.backward, strict=True))
    assert machine.now < 10


def test_the_speed_of_this_disk_and_memory_is_a_number_of_bytes_a_second(tmp_path: Path) -> None:
    found = calibrate(LAYERS, Machine((0.001,) * 4).bench(), tmp_path / "new")
    for table in (found.read, found.write):
        assert all(1e5 < table[tier] < 1e13 for tier in ("memory", "disk"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/store.*choose another run directory"):
        calibrate(LAYERS, Machine((0.001,) * 4).bench(), tmp_path / "file" / "store")
