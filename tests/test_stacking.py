"""Laws of stacked replicas in a search: used where they were measured to be faster, and with the same outcomes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from test_unit import trying  # noqa: F401  the factory of the fixture below

from frostline import study as studies
from frostline.backbones.cuts import dissect
from frostline.bench import stacking as stacks
from frostline.bench.again import Job
from frostline.bench.bench import Bench
from frostline.bench.curve import probe_cuts
from frostline.bench.measure import trial
from frostline.bench.stacking import stacking
from frostline.bench.unit import perform, perform_together, stackable
from frostline.run import course
from frostline.training import device, loop
from frostline.values import Arm, Recipe, Unit, Way

STACKED = Way(stacked=1)
RATES = (2e-3, 1e-2, 3e-2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return stage.bench(tmp_path_factory.mktemp("stacks"), way=STACKED)


def units(arm: Arm) -> list[Unit]:
    return [replace(stage.unit(arm), rate=rate) for rate in RATES]


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
@pytest.mark.parametrize("freeze", [1, 3])
def test_units_that_are_trained_together_come_out_as_each_alone(bench: Bench, freeze: int) -> None:
    arm = stage.arm(bench, freeze=freeze)
    together = perform_together(bench, arm, units(arm))
    for unit, found in zip(units(arm), together, strict=True):
        alone = perform(bench, arm, unit)
        assert found.unit == unit
        assert [e.loss for e in found.epochs] == pytest.approx([e.loss for e in alone.epochs], rel=1e-4)
        np.testing.assert_allclose(found.log_probabilities, alone.log_probabilities, atol=1e-3)
        assert found.seconds == together[0].seconds
        assert found.peak_bytes == together[0].peak_bytes
    assert len({found.epochs[-1].loss for found in together}) == 3


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
def test_only_what_comes_out_the_same_is_stacked_and_only_above_the_measured_depth(bench: Bench) -> None:
    allowed = partial(stackable, bench)
    assert [allowed(stage.arm(bench, freeze=depth)) for depth in range(5)] == [False, True, True, True, False]
    assert not allowed(stage.arm(bench, freeze=2, statistics="batch"))
    assert not allowed(stage.arm(bench, freeze=2, keep=2, above="reinit"))
    for way in (Way(), Way(stacked=1, precision="fp16")):
        other = replace(bench, calibration=replace(bench.calibration, way=way))
        assert not stackable(other, stage.arm(bench, freeze=2))


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
def test_the_rates_of_a_race_are_one_job_and_all_else_stays_by_itself(bench: Bench) -> None:
    low, deep = stage.arm(bench, "low", freeze=0), stage.arm(bench, "deep", freeze=2)
    several = [Job(arm, unit, keep=False) for arm in (deep, low) for unit in units(arm)]
    found = course.bundled(bench, several)
    assert found == [replace(several[0], others=(several[1].unit, several[2].unit)), *several[3:]]
    other = replace(several[1], unit=replace(several[1].unit, fold=1))
    kept, apart = (
        replace(several[0], keep=True),
        replace(several[0], unit=replace(several[0].unit, rung=0)),
    )
    for left in (other, kept, apart):
        assert course.bundled(bench, [several[0], left]) == [several[0], left]


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
def test_a_search_with_stacked_rates_is_told_the_same(tmp_path: Path) -> None:
    def told(name: str, way: Way) -> dict[Unit, Any]:
        (tmp_path / name).mkdir()
        bench = stage.bench(tmp_path / name, effort="quick", epochs=6, way=way)
        run = course.Run(tmp_path / name, bench.settings, studies.open_study(tmp_path / name, resume=False), 0.0, None)
        with course.single_blas():
            race = course.entered(bench, {"": probe_cuts(bench)}, run)
            course.race(bench, replace(race, arms=tuple(arm for arm in race.arms if arm.plan.freeze > 1)), run)
        return course.told(run)

    alone, together = told("alone", Way()), told("together", STACKED)
    assert alone.keys() == together.keys()
    assert {outcome.together for outcome in alone.values()} == {1}
    assert {outcome.together for unit, outcome in together.items() if unit.rung == 1} == {1, 3}
    for unit, outcome in alone.items():
        np.testing.assert_allclose(together[unit].log_probabilities, outcome.log_probabilities, atol=1e-3)


def test_where_memory_does_not_hold_a_stack_its_replicas_are_trained_one_by_one() -> None:
    bench = stage.bench(None, backbone=f"{Path(__file__).with_name('test_unit.py')}:trying", way=STACKED)
    arm = stage.arm(bench, freeze=2, recipe=Recipe(epochs=2, lr=1e-2, batch=8))
    bench.backbone.module.most = 3
    found = perform_together(bench, arm, units(arm))
    assert [outcome.batch for outcome in found] == [2, 2, 2]
    assert [outcome.together for outcome in found] == [1, 1, 1]
    assert [outcome.unit for outcome in found] == units(arm)


def test_nothing_of_a_stack_that_failed_is_held_while_its_replicas_are_trained(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, real = list[weakref.ref[object]](), loop.train_together

    def trained(several: Any, *rest: Any, **more: Any) -> Any:
        if len(several) > 1:
            held.extend(weakref.ref(one.learner.module) for one in several)
            raise torch.OutOfMemoryError("three do not fit")
        assert [ref() for ref in held] == [None] * 3
        return real(several, *rest, **more)

    monkeypatch.setattr(loop, "train_together", trained)
    monkeypatch.setattr(device, "peak_bytes", lambda before, where: 600)
    arm = stage.arm(bench, freeze=2)
    found = perform_together(bench, arm, units(arm))
    assert [(outcome.unit, outcome.peak_bytes) for outcome in found] == [(unit, 600) for unit in units(arm)]
    assert len(held) == 3


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
def test_what_draws_is_not_stacked_where_a_stack_draws_otherwise(bench: Bench) -> None:
    for layout, count in (("contiguous", True), ("channels_last", False)):
        way = replace(STACKED, layout=layout)
        other = replace(bench, calibration=replace(bench.calibration, way=way))
        assert stackable(other, stage.arm(bench, freeze=2)) == count  # its blocks have dropout


def measured(monkeypatch: pytest.MonkeyPatch, faster: Sequence[float | None]) -> int | None:
    """What is chosen where stacking is so many times as fast at one depth after the other, from the deepest."""
    looks = iter(faster)

    def told(calls: Sequence[Callable[[], None]]) -> list[float]:
        for call in calls:
            call()  # both are real
        gain = next(looks)
        if gain is None:
            raise RuntimeError("Batching rule not implemented")
        return [gain, 1.0]

    monkeypatch.setattr(stacks, "least", told)
    backbone = stage.network()
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    bench = stage.bench(None)
    tried = replace(trial(bench.backbone, bench.anatomy, bench.examples, torch.device("cpu"), 8), backbone=backbone)
    found = stacking(replace(tried, anatomy=dissect(backbone)), Way(), stage.cpu())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.module.state_dict().items())
    return found


@pytest.mark.parametrize(
    ("faster", "depth"),
    [
        ([0.7], None),
        ([1.05], None),  # not worth it
        ([2.0, 1.5, 0.9], 2),
        ([2.0, None], 3),
        ([None], None),
        ([3.0, 3.0, 2.0, 1.5], 0),
    ],
)
def test_replicas_are_stacked_from_the_depth_on_from_which_it_pays(
    monkeypatch: pytest.MonkeyPatch, faster: list[float | None], depth: int | None
) -> None:
    assert measured(monkeypatch, faster) == depth
