"""Laws of a GPU: a recorded step is the step, what lies in its memory is what was stored, and a search runs there.

The laws of training hold on it too: FROSTLINE_TEST_DEVICE=cuda runs those of test_exactness, test_underway, test_unit
and test_stacking there, with recorded steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from torch import Tensor
from world import LETTERS, ONE, tell

from frostline.bench import unit as units
from frostline.bench.bench import Bench
from frostline.bench.measure import measure, trial
from frostline.bench.stacking import stacking
from frostline.bench.unit import perform, perform_together
from frostline.training import graphs
from frostline.training.device import accelerator, total_bytes
from frostline.training.graphs import Recorder, recorded
from frostline.values import Adapter, Recipe, Way

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

RECORDED, WRITTEN = Way(graphs=True), Way()
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def exact_arithmetic() -> Iterator[None]:
    """Without the rounding of TF32 and with kernels that add in a fixed order: two ways are compared to the bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        patch.setattr(torch.backends.cudnn, "deterministic", True)
        yield


@pytest.fixture(scope="module", params=[RECORDED, WRITTEN], ids=["recorded", "written"])
def either(exact_arithmetic: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "WAY", request.param)
        return stage.bench(tmp_path_factory.mktemp("gpu"), count=90, device="cuda", way=request.param)


def on(bench: Bench, way: Way) -> Bench:
    return replace(bench, calibration=replace(bench.calibration, way=way), heads=dict(bench.heads), resident={})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was recorded, and None for what was refused."""
    found, real = list[object](), Recorder._record

    def record(self: Recorder, given: tuple[Tensor, ...]) -> Any:
        found.append(real(self, given))
        return found[-1]

    monkeypatch.setattr(Recorder, "_record", record)
    return found


RECIPE = Recipe(epochs=4, lr=1e-2, batch=8)
KINDS: dict[str, dict[str, Any]] = {
    "freeze@2": {"freeze": 2},
    "full": {},
    "batch": {"statistics": "batch"},
    "thaw": {"train": (False,) * 4, "thaw": ((1, (False,) * 3 + (True,)), (2, (False, False, True, True)))},
    "sgd": {"recipe": replace(RECIPE, optimiser="sgd")},
    "lora": {"adapter": Adapter(rank=2)},
    "one_cycle": {"recipe": replace(RECIPE, schedule="one_cycle", clip=None)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_are_the_steps_dropout_included(either: Bench, kind: str, made: list[object]) -> None:
    arm = stage.arm(either, kind, **{"recipe": RECIPE, **KINDS[kind]})
    plain = perform(on(either, WRITTEN), arm, stage.unit(arm))
    assert made == []
    found = perform(on(either, RECORDED), arm, stage.unit(arm))
    assert made
    assert None not in made
    assert [e.loss for e in found.epochs] == pytest.approx([e.loss for e in plain.epochs], rel=1e-4)
    assert [e.gradient for e in found.epochs] == pytest.approx([e.gradient for e in plain.epochs], rel=1e-3)
    for one, other in zip(found.epochs[-1].flows, plain.epochs[-1].flows, strict=True):
        assert one.layer == other.layer
        assert one.gradient == pytest.approx(other.gradient, rel=2e-2)
        assert one.update == pytest.approx(other.update, rel=2e-2)
    np.testing.assert_allclose(found.log_probabilities, plain.log_probabilities, atol=2e-3)


def test_the_pull_to_the_source_is_not_recorded_and_fp16_is_not_either(either: Bench, made: list[object]) -> None:
    arm = stage.arm(either, "anchored", recipe=replace(RECIPE, anchor=3.0))
    assert len(perform(on(either, RECORDED), arm, stage.unit(arm)).epochs) == RECIPE.epochs
    half = replace(on(either, replace(RECORDED, precision="fp16")), device=accelerator("cuda", "fp16"))
    arm = stage.arm(either, "half", recipe=RECIPE, freeze=2)
    assert perform(replace(half, whole={}), arm, stage.unit(arm)).epochs[-1].loss < 2
    assert made == []


def test_work_that_waits_for_the_device_is_done_as_it_is_written(made: list[object]) -> None:
    weight = torch.nn.Parameter(torch.ones((), device=GPU))
    steps = list[float]()

    def take(inputs: tuple[Tensor, ...], targets: Tensor) -> graphs.Told:
        weight.grad = None
        loss = (weight * inputs[0]).sum()
        loss.backward()
        steps.append(float(loss))  # waits
        with torch.no_grad():
            weight.sub_(0.1)
        return {0: (loss.detach(), loss.detach())}

    recorder = Recorder(take, [weight])
    for _ in range(graphs.WARM + 3):
        recorder((torch.ones(2, device=GPU),), torch.zeros(2, device=GPU))
    assert made == [None]
    assert float(weight) == pytest.approx(1 - 0.1 * (graphs.WARM + 3))
    assert torch.rand(3, device=GPU).sum() > 0  # what draws is as it was


def test_recorded_work_reads_what_is_changed_in_place() -> None:
    x, y = torch.ones(4, device=GPU), torch.zeros(4, device=GPU)
    run = recorded(lambda: y.add_(x))
    assert y.tolist() == [graphs.WARM] * 4  # recording itself does nothing
    x.fill_(10.0)
    run()
    assert y.tolist() == [graphs.WARM + 10.0] * 4


def test_what_is_stored_lies_in_its_memory_while_it_is_learned_from(
    either: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = on(either, either.calibration.way)
    arm = stage.arm(bench, freeze=2, recipe=RECIPE)
    there = perform(bench, arm, stage.unit(arm))
    assert all(tensor.is_cuda for tensor in bench.resident[2])
    monkeypatch.setattr(units, "resident", lambda bench, depth: None)
    read = perform(bench, arm, stage.unit(arm))
    assert [e.loss for e in there.epochs] == pytest.approx([e.loss for e in read.epochs], rel=1e-5)
    np.testing.assert_allclose(there.log_probabilities, read.log_probabilities, atol=1e-4)


def test_the_pass_over_the_data_takes_more_pictures_at_once_and_gives_the_same_features(
    either: Bench, tmp_path: Path
) -> None:
    assert total_bytes(GPU) > 2**30
    on_cpu = stage.bench(tmp_path, count=90, device="cpu", way=WRITTEN)
    rows = np.arange(90)
    for depth, features in on_cpu.pooled.items():
        np.testing.assert_allclose(either.pooled[depth][rows], features[rows], rtol=1e-3, atol=1e-4)
    for depth, held in on_cpu.whole.items():
        for one, other in zip(either.stored(depth, rows), on_cpu.stored(depth, rows), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
        assert held.bytes == either.whole[depth].bytes


def test_replicas_in_a_stack_are_recorded_and_end_where_each_does_alone(
    either: Bench, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in either.backbone.module.blocks:
        monkeypatch.setattr(block.drop, "p", 0.0)  # a stack draws other masks there
    bench = on(either, replace(RECORDED, stacked=1))
    arm = stage.arm(bench, freeze=2, recipe=RECIPE)
    several = [replace(stage.unit(arm), rate=rate) for rate in (2e-3, 1e-2, 3e-2)]
    together = perform_together(bench, arm, several)
    assert made
    assert None not in made
    for unit, found in zip(several, together, strict=True):
        alone = perform(bench, arm, unit)
        assert found.together == 3
        assert [e.loss for e in found.epochs] == pytest.approx([e.loss for e in alone.epochs], rel=1e-3)
        np.testing.assert_allclose(found.log_probabilities, alone.log_probabilities, atol=5e-3)


def test_a_calibration_measures_layers_and_the_way_to_the_device(either: Bench, tmp_path: Path) -> None:
    tried = trial(either.backbone, either.anatomy, either.examples, GPU, 8)
    found = measure(tried, either.examples, precisions=("fp32", "bf16"), shares=((1, 1),), folder=tmp_path)
    assert found.device.startswith("cuda")
    assert sum(found.forward) > 0
    assert sum(found.backward) > 0
    assert found.read["memory"] >= found.read["disk"] > 0
    depth = stacking(tried, found.way, accelerator("cuda", found.way.precision))
    assert depth is None or 0 <= depth < 4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_a_search_on_it_ends_with_a_model_whose_frozen_layers_are_the_sources(
    place: Path, tmp_path: Path, precision: str
) -> None:
    options = (*LETTERS, *ONE, "--device", "cuda", "--precision", precision, "--epochs", 2, "--effort", "quick")
    said = tell("find", place / "data", *options, "--out", tmp_path / "run", "--json")
    assert "Measured on this machine (cuda" in said.err
    checks = said.document["checks"]
    assert checks["frozen_unchanged"] is True
    assert checks["cached_vs_live"] is None or checks["cached_vs_live"] < 1e-2
