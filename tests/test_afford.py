"""Laws of the planner: never over its budget, never worse with more room, and as good as trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.activations.afford import Forecast, Room, afford
from frostline.errors import OptionError
from frostline.values import Calibration, Layer


def network(
    sizes: Sequence[int], forward: Sequence[float], read: float, write: float
) -> tuple[list[Layer], Calibration]:
    layers = [Layer(i, f"b.{i}", 10, 100, (size // 4,), size, cut=size > 0) for i, size in enumerate(sizes)]
    tiers = {"memory": read * 10, "disk": read}, {"memory": write * 10, "disk": write}
    backward = tuple(2 * seconds for seconds in forward)
    return layers, Calibration(tuple(forward), backward, tuple(forward), *tiers, 0.01, 32, "cpu", 1e9)


def seconds(
    layers: Sequence[Layer],
    calibration: Calibration,
    demands: Mapping[int, float],
    stored: Mapping[int, str],
    examples: int,
    views: int = 1,
) -> float:
    """The cost model, written down a second time and without arrays."""
    total = sum(views * examples * layers[c - 1].bytes / calibration.write[tier] for c, tier in stored.items())
    if stored:
        total += (views - 1) * examples * (calibration.decode + sum(calibration.forward[: max(stored)]))
    for f, epochs in demands.items():
        train = sum(calibration.forward[f:]) + sum(calibration.backward[f:])
        choices = [calibration.decode + sum(calibration.forward[:f]) + train]
        for c, tier in stored.items():
            if c <= f:
                reading = layers[c - 1].bytes / calibration.read[tier]
                choices.append(max(reading, sum(calibration.forward[c:f]) + train))
        total += epochs * examples * min(choices)
    return total


def fits(layers: Sequence[Layer], stored: Mapping[int, str], room: Room, examples: int) -> bool:
    used = {
        tier: sum(examples * layers[c - 1].bytes for c in stored if stored[c] == tier) for tier in ("memory", "disk")
    }
    total = room.memory + room.disk if room.total is None else room.total
    return used["memory"] <= room.memory and used["disk"] <= room.disk and sum(used.values()) <= total


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Layer], Calibration, dict[int, float], int]:
    depth = draw(st.integers(1, 5))
    sizes = draw(st.lists(st.sampled_from([0, 4, 40, 400, 4000]), min_size=depth, max_size=depth))
    forward = draw(st.lists(st.sampled_from([0.001, 0.003, 0.01, 0.1]), min_size=depth, max_size=depth))
    demands = draw(st.dictionaries(st.integers(0, depth), st.sampled_from([1.0, 3.0, 20.0]), max_size=4))
    layers, calibration = network(
        sizes, forward, draw(st.sampled_from([1e3, 1e4, 1e6])), draw(st.sampled_from([1e3, 1e5]))
    )
    return layers, calibration, demands, draw(st.integers(1, 50))


ROOMS = st.builds(Room, st.integers(0, 10**5), st.integers(0, 10**5), st.one_of(st.none(), st.integers(0, 2 * 10**5)))


@settings(max_examples=200)
@given(problems(), ROOMS, st.integers(1, 3))
def test_the_planner_is_as_good_as_trying_every_choice(
    problem: tuple[list[Layer], Calibration, dict[int, float], int], room: Room, views: int
) -> None:
    layers, calibration, demands, examples = problem
    forecast = afford(layers, calibration, demands, room, examples=examples, views=views)
    cuts = [layer.index + 1 for layer in layers if layer.cut]
    best = math.inf
    for tiers in itertools.product(["", "memory", "disk"], repeat=len(cuts)):
        stored = {cut: tier for cut, tier in zip(cuts, tiers, strict=True) if tier}
        if fits(layers, stored, room, views * examples):
            best = min(best, seconds(layers, calibration, demands, stored, examples, views))
    assert forecast.seconds == pytest.approx(best, rel=1e-9, abs=1e-12)
    told = seconds(layers, calibration, demands, dict(forecast.stored), examples, views)
    assert told == pytest.approx(best, rel=1e-9)
    assert forecast.without == pytest.approx(seconds(layers, calibration, demands, {}, examples))


@settings(max_examples=100)
@given(problems(), ROOMS, st.integers(0, 10**5), st.integers(0, 10**5))
def test_it_never_exceeds_its_budget_and_more_room_never_costs_time(
    problem: tuple[list[Layer], Calibration, dict[int, float], int], room: Room, memory: int, disk: int
) -> None:
    layers, calibration, demands, examples = problem
    small = afford(layers, calibration, demands, room, examples=examples)
    assert fits(layers, dict(small.stored), room, examples)
    assert sum(small.bytes.values()) == sum(examples * layers[c - 1].bytes for c, _ in small.stored)
    total = None if room.total is None else room.total + memory + disk
    large = afford(layers, calibration, demands, Room(room.memory + memory, room.disk + disk, total), examples=examples)
    assert large.seconds <= small.seconds * (1 + 1e-9)
    assert small.without <= small.seconds * small.bound * (1 + 1e-9)


def forecast_of(forward: float, read: float, room: Room) -> Forecast:
    layers, calibration = network([400, 400, 40], [forward] * 3, read, read)
    return afford(layers, calibration, {0: 5, 2: 20}, room, examples=100)


def test_no_store_is_a_legal_answer_with_its_reason() -> None:
    slow = forecast_of(1e-6, 10.0, Room(10**6, 10**6))
    assert slow.stored == ()
    assert "computing them again" in slow.sentence
    full = forecast_of(0.1, 1e6, Room(100, 100))
    assert full.stored == ()
    assert "40000 bytes" in full.sentence
    layers, calibration = network([400], [0.1], 1e6, 1e6)
    assert "no training freezes" in afford(layers, calibration, {0: 3}, Room(10**6, 0), examples=3).sentence


def test_the_forecast_is_one_sentence_with_its_numbers() -> None:
    forecast = forecast_of(0.1, 1e6, Room(10**6, 10**6))
    assert forecast.stored == ((2, "memory"),)
    # 500 epochs x examples at depth 0 and 2000 at depth 2: 0.91 and 0.51 s from pictures, 0.3 s from the store
    assert forecast.without == pytest.approx(500 * 0.91 + 2000 * 0.51)
    assert forecast.seconds == pytest.approx(500 * 0.91 + 2000 * 0.3, rel=1e-3)
    assert "depth 2 (memory)" in forecast.sentence
    assert f"{forecast.bound:.2f} times is the most" in forecast.sentence


def test_two_forecasts_of_less_than_a_second_do_not_look_the_same() -> None:
    near = Forecast(((2, "memory"),), 0.7, 0.912, 0.1, {"memory": 240_000, "disk": 0}, math.inf, "")
    assert near.sentence == (
        "Storing 0.24 MB of activations at depth 2 (memory) brings the trainings, one after the other, from 0.91 s to "
        "0.7 s, 1.30 times as fast."
    )
    far = replace(near, seconds=95.4, without=600.0, bytes={"memory": 10**9, "disk": 0}, bound=9.0)
    assert "1000 MB" in far.sentence
    assert "from 10.0 min to 95 s, 6.29 times as fast; 9.00 times is the most" in far.sentence
    assert "Training forecast: 5.2 s." in replace(near, stored=(), without=5.21).sentence


def test_views_whose_passes_take_longer_than_they_save_are_not_stored() -> None:
    layers, calibration = network([400], [0.1], 1e6, 1e6)
    few, many = (
        afford(layers, calibration, {1: epochs}, Room(10**6, 0), examples=100, views=4) for epochs in (2, 9)
    )  # each epoch from the store saves one pass of each picture; three more views cost three
    assert few.stored == ()
    assert "every view" in few.sentence
    assert many.stored
    assert "(4 views of each example)" in many.sentence


def test_views_take_their_bytes() -> None:
    layers, calibration = network([400], [0.1], 1e6, 1e6)
    room = Room(150_000, 0)
    assert afford(layers, calibration, {1: 9}, room, examples=100, views=3).bytes["memory"] == 120_000
    assert afford(layers, calibration, {1: 9}, room, examples=100, views=4).stored == ()


def test_sixteen_cuts_in_two_tiers_are_planned_within_every_tight_budget() -> None:
    rng = np.random.default_rng(5)
    for _ in range(2):
        layers, calibration = network(
            rng.integers(10, 4000, 16).tolist(), rng.uniform(1e-4, 1e-2, 16).tolist(), 1e6, 1e6
        )
        demands = {depth: float(rng.integers(1, 60)) for depth in range(17)}
        need = 1000 * sum(layer.bytes for layer in layers)
        for share in (0.05, 0.2, 0.5, 1.0):
            room = Room(int(need * share / 2), int(need * share / 2))
            forecast = afford(layers, calibration, demands, room, examples=1000)
            assert fits(layers, dict(forecast.stored), room, 1000)
            assert forecast.seconds < forecast.without


def test_a_negative_budget_is_an_error() -> None:
    with pytest.raises(OptionError, match="-1"):
        Room(10, 10, -1)
    with pytest.raises(OptionError, match="-5 bytes of disk"):
        Room(10, -5)
