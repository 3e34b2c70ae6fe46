"""A training that is interrupted goes on from its last epoch to the bits of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from safetensors.torch import load_file

from frostline.bench import unit as units
from frostline.bench.bench import Bench
from frostline.bench.unit import UNDERWAY, kept_weights, perform
from frostline.plan import gradual
from frostline.training import loop
from frostline.training.step import Batch, Feed
from frostline.values import Adapter, Arm, Outcome, Recipe, Unit, Way

RECIPE = Recipe(epochs=6, lr=2e-2, batch=8)
KINDS: dict[str, dict[str, Any]] = {
    "lp_ft": {},
    "batch": {"statistics": "batch"},
    "sgd": {"recipe": replace(RECIPE, optimiser="sgd", lr=1e-2)},
    "anchored": {"recipe": replace(RECIPE, anchor=3.0), "blend": 0.5},
    "reestimate": {"statistics": "reestimate", "freeze": 1},
    "lora": {"adapter": Adapter(rank=2)},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return stage.bench(tmp_path_factory.mktemp("underway") / "run", count=60)


def armed(bench: Bench, kind: str) -> Arm:
    if kind == "gradual":  # 1, 2, 3: layers thaw in each of these epochs, with dropout from then on
        return Arm(kind, gradual(bench.anatomy.layers, RECIPE), (RECIPE.lr,))
    return stage.arm(bench, kind, **{"recipe": RECIPE, **KINDS[kind]})


def interrupted(monkeypatch: pytest.MonkeyPatch, epoch: int) -> Callable[[], list[int]]:
    """Trainings end in the middle of an epoch, as by Ctrl-C; returns what gives the epochs that were begun since."""
    real, begun = loop.train_together, list[int]()

    def train(several: Any, feed: Feed, *given: Any, **named: Any) -> Any:
        def fed(number: int) -> Iterator[Batch]:
            begun.append(number)
            for place, batch in enumerate(feed(number)):
                if number == epoch and place == 1:
                    raise KeyboardInterrupt
                yield batch

        return real(several, fed, *given, **named)

    monkeypatch.setattr(loop, "train_together", train)
    return lambda: begun


def told(outcome: Outcome) -> list[tuple[float, ...]]:
    return [(e.loss, e.gradient, e.error, *(f.update for f in e.flows)) for e in outcome.epochs]


def ends_at_the_same_bits(bench: Bench, arm: Arm, unit: Unit, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained whole, then interrupted in an epoch and gone on with: predictions, losses and weights are the same."""
    whole = perform(bench, arm, unit, keep=True)
    weights = load_file(kept_weights(bench, unit))
    monkeypatch.setattr(units, "KEPT_EVERY", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, epoch)
        perform(bench, arm, unit, keep=True)
    assert bench.folder is not None
    path = bench.folder / UNDERWAY / f"{unit.key}.safetensors"
    assert path.exists()
    torch.rand(5)
    with monkeypatch.context() as patch:
        begun = interrupted(patch, -1)
        again = perform(bench, arm, unit, keep=True)
    left = list(range(epoch, unit.epochs))  # none of those before
    assert begun()[-len(left) :] == left
    assert np.array_equal(again.log_probabilities, whole.log_probabilities)
    assert told(again) == told(whole)
    for name, tensor in load_file(kept_weights(bench, unit)).items():
        assert torch.equal(tensor, weights[name]), name
    assert not path.exists()


@pytest.mark.parametrize("epoch", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["gradual", *KINDS])
def test_interrupted_in_any_epoch_it_ends_at_the_same_bits(
    bench: Bench, kind: str, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = armed(bench, kind)
    ends_at_the_same_bits(bench, arm, replace(stage.unit(arm), seed=epoch), epoch, monkeypatch)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_in_channels_last_memory_too(optimiser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused steps walk the optimiser's state as it lies in memory."""
    bench = stage.bench(tmp_path, count=60, way=Way(layout="channels_last"))
    recipe = replace(RECIPE, optimiser=optimiser, lr=2e-2)  # type: ignore[arg-type]
    arm = stage.arm(bench, optimiser, recipe=recipe)
    ends_at_the_same_bits(bench, arm, stage.unit(arm), 3, monkeypatch)


def test_what_was_kept_of_another_training_or_is_damaged_is_not_gone_on_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = armed(bench, "lp_ft")
    unit = replace(stage.unit(arm), seed=77)
    whole = perform(bench, arm, unit)
    monkeypatch.setattr(units, "KEPT_EVERY", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, 3)
        perform(bench, arm, unit)
    assert bench.folder is not None
    path: Path = bench.folder / UNDERWAY / f"{unit.key}.safetensors"
    other = replace(arm, plan=replace(arm.plan, recipe=replace(arm.plan.recipe, kept_lr=0.5)))
    with monkeypatch.context() as patch:
        begun = interrupted(patch, -1)
        perform(bench, other, unit)
        assert begun() == list(range(RECIPE.epochs))
    path.write_bytes(b"half a file")
    assert np.array_equal(perform(bench, arm, unit).log_probabilities, whole.log_probabilities)
