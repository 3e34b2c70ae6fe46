"""Ways are compared in turn, what is hopeless is not tried again, and a calibration is measured once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stage
import torch
from stage import CALIBRATION

from frostline.bench import remembered
from frostline.bench.measure import HOPELESS, PATIENCE, ROUNDS, Trial, best_share, best_way, fastest, least
from frostline.run import course
from frostline.values import Preprocessing, Way


class Clock:
    """Calls that take as long as they are told to, one time after another; the last time is repeated."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def call(self, name: str, *seconds: float) -> Callable[[], None]:
        def run() -> None:
            taken = self.calls.count(name)
            self.calls.append(name)
            self.now += seconds[min(taken, len(seconds) - 1)]

        return run


def test_calls_are_compared_in_turn_by_their_least_time_and_the_first_only_warms_up() -> None:
    clock = Clock()
    calls = [clock.call("a", 0.1, 0.3, 0.2), clock.call("b", 0.1, 0.2, 0.4)]
    assert least(calls, clock=lambda: clock.now) == pytest.approx([0.2, 0.2])
    assert clock.calls == ["a", "b"] * (1 + ROUNDS)


def test_what_is_hopeless_twice_is_not_called_again() -> None:
    clock = Clock()
    calls = [clock.call("a", 1.0, 0.5), clock.call("b", 1.01 * HOPELESS)]
    assert least(calls, clock=lambda: clock.now) == pytest.approx([0.5, 1.01 * HOPELESS])
    assert clock.calls.count("b") == 2


def test_a_first_call_that_has_more_to_do_than_others_ends_no_comparison() -> None:
    """The very first one loads and compiles, and another program may take the machine: seen with fp32 beside bf16."""
    clock = Clock()
    calls = [clock.call("plain", 2.0, 0.03), clock.call("other", 0.1, 0.025), clock.call("slow", 0.3)]
    assert least(calls, clock=lambda: clock.now) == pytest.approx([0.03, 0.025, 0.3])
    assert clock.calls.count("slow") == 2


def test_long_calls_have_two_rounds_after_the_first() -> None:
    clock = Clock()
    least([clock.call("a", PATIENCE)], clock=lambda: clock.now)
    assert clock.calls == ["a"] * 3


def test_a_way_is_one_of_those_allowed_and_leaves_the_network_as_it_was() -> None:
    backbone = stage.network()
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    trial = Trial(backbone, stage.anatomy(backbone), {"x": torch.randn(4, 3, 8, 8)})
    threads = torch.get_num_threads()
    try:
        way = fastest(trial, precisions=("bf16",), shares=((1, 2),))
    finally:
        torch.set_num_threads(threads)
    assert (way.precision, way.threads, way.at_once) == ("bf16", 1, 2)
    assert way.slower >= 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in backbone.module.parameters())


def test_a_way_must_be_worth_its_rounding_or_its_layout() -> None:
    plain, last, half = Way(2, "contiguous", "fp32"), Way(2, "channels_last", "fp32"), Way(2, "contiguous", "bf16")
    both = Way(2, "channels_last", "bf16")
    assert best_way({plain: 1.0, last: 0.96, half: 0.88}) == plain
    assert best_way({plain: 1.0, last: 0.94, half: 0.88}) == last
    assert best_way({plain: 1.0, last: 0.94, half: 0.80}) == half
    assert best_way({plain: 1.0, last: 0.94, half: 0.80, both: 0.79}) == half
    assert best_way({plain: 1.0, last: 0.94, half: 0.80, both: 0.70}) == both


def test_trainings_share_the_cores_by_which_most_gets_done() -> None:
    assert best_share({(1, 1): 1.0, (4, 1): 0.5, (1, 4): 1.5}) == (1, 4)  # 1, 2 and 2.7 steps a second
    assert best_share({(1, 1): 1.0, (4, 1): 0.5, (1, 4): 3.0}) == (4, 1)  # they take the memory from each other
    assert best_share({(1, 1): 1.0, (4, 1): 0.95, (1, 4): 3.8}) == (1, 1)  # nothing is worth more than a core


def marked(folder: Path, **changes: object) -> str:
    given = {
        "preprocessing": Preprocessing((8, 8), None, (0.5,), (0.5,)), "data": ["a"], "batch": 16,
        "precisions": ("fp32",), "shares": ((1, 1),), "head": ("classification", 2),
    }  # fmt: skip
    layers = stage.anatomy(stage.network()).layers
    return remembered.mark(layers, torch.device("cpu"), folder, **{**given, **changes})  # pyright: ignore[reportArgumentType]


def test_a_calibration_is_recalled_as_it_was_kept_and_under_its_own_mark_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mark = marked(tmp_path)
    assert remembered.recall(mark) is None
    remembered.keep(mark, CALIBRATION)
    assert remembered.recall(mark) == CALIBRATION
    assert marked(tmp_path) == mark
    others = [{"batch": 8}, {"data": ["b"]}, {"precisions": ("fp32", "bf16")}, {"shares": ((1, 1), (2, 1))}]
    others += [{"head": ("classification", 3)}, {"head": ("multilabel", 2)}]
    assert len({mark, *(marked(tmp_path, **other) for other in others)}) == 1 + len(others)
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert marked(tmp_path) != mark


def test_a_damaged_calibration_is_measured_anew_and_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remembered.keep("mark", CALIBRATION)
    (file,) = tmp_path.rglob("mark.json")
    file.write_text(file.read_text()[:50])
    assert remembered.recall("mark") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # a file stands where the folder should be
    remembered.keep("mark", CALIBRATION)
    assert remembered.recall("mark") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says which cores a process may use")
def test_only_the_cores_that_this_process_may_use_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert course.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
