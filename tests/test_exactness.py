"""Training from stored activations is training from the data, and both are what PyTorch does."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import stage
import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline.activations.fingerprint import fingerprint
from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.plan import plan, with_rate
from frostline.tasks import heads
from frostline.training import loop
from frostline.training.feed import feed, steps
from frostline.training.prepare import prepared, reestimate, top
from frostline.training.step import Learner
from frostline.values import Backbone, Head, Plan, Recipe

ROWS, BATCH = 22, 6  # batches of 6, 6, 5 and 5
RECIPE = Recipe(epochs=3, lr=2e-2, batch=BATCH)
HALF = (False, False, True, True)
PLANS: dict[str, dict[str, Any]] = {
    "freeze@1": {"freeze": 1},
    "freeze@2": {"freeze": 2},
    "freeze@3": {"freeze": 3},
    "head_alone": {"freeze": 4},
    "drop@3": {"freeze": 1, "keep": 3, "above": "drop"},
    "reinit@2": {"freeze": 2, "keep": 2, "above": "reinit"},
    "reinit@3_tuned": {"freeze": 1, "keep": 3, "above": "reinit"},
    "one_layer": {"freeze": 1, "train": (False, True, False, False)},
    "gradual": {"freeze": 2, "train": (False,) * 4, "thaw": ((1, (False,) * 3 + (True,)), (2, HALF))},
    "layer_decay": {"freeze": 1, "recipe": replace(RECIPE, layer_decay=0.5)},
    "anchor": {"freeze": 2, "recipe": replace(RECIPE, anchor=3.0)},
    "blend": {"freeze": 2, "blend": 0.4},
    "batch": {"freeze": 2, "statistics": "batch"},
    "reestimate": {"freeze": 2, "statistics": "reestimate"},
    "sgd": {"freeze": 2, "recipe": replace(RECIPE, optimiser="sgd", smoothing=0.1)},
    "one_cycle": {"freeze": 1, "recipe": replace(RECIPE, schedule="one_cycle", clip=None)},
}


@dataclass(frozen=True)
class Trained:
    losses: list[float]
    state: dict[str, Tensor]
    predictions: Tensor
    frozen: str


@cache
def network(dtype: torch.dtype) -> tuple[Backbone, Anatomy]:
    backbone = stage.network(dtype)
    return backbone, stage.anatomy(backbone)


@cache
def data(dtype: torch.dtype) -> tuple[Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
    inputs = torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return inputs.to(dtype), np.random.default_rng(3).integers(0, stage.CLASSES, ROWS)


def stored(dtype: torch.dtype, depth: int) -> tuple[Any, ...]:
    """What crosses a cut, computed in other batches than the training's."""
    backbone, anatomy = network(dtype)
    halves = Halves(backbone.module, anatomy)
    parts = [halves.prefix({backbone.data: part}, depth) for part in data(dtype)[0].split(5)]
    return tuple(torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))


def trained(given: Plan, start: int, dtype: torch.dtype) -> Trained:
    return trained_together((given,), start, dtype)[0]


def trained_together(plans: tuple[Plan, ...], start: int, dtype: torch.dtype) -> list[Trained]:
    """Plans that differ in their learning rates alone."""
    backbone, anatomy = network(dtype)
    arrays, targets = stored(dtype, start), data(dtype)[1]
    device, found = stage.device(), list[Trained]()

    def read(rows: Any, epoch: int) -> list[Any]:
        return [array[rows] for array in arrays]

    learn = feed(read, np.arange(ROWS), targets, BATCH, device=device.device, seed=2)
    with ExitStack() as stack:
        pairs = list[tuple[Learner, Plan]]()
        for given in plans:
            head = heads.made(Head(), stage.WIDTH, stage.CLASSES, seed=1).to(dtype)
            opened = prepared(backbone, anatomy, given, head, start=start, seed=4, device=device)
            pairs.append((stack.enter_context(opened), given))
            if given.statistics == "reestimate":
                reestimate(pairs[-1][0], learn(0), given)
        torch.manual_seed(5)
        several = [loop.started(*pair, device, graphs=stage.WAY.graphs) for pair in pairs]
        epochs = list(loop.train_together(several, learn, steps(ROWS, BATCH), device))
        for place, (learner, given) in enumerate(pairs):
            loop.blend(learner, given.blend)
            predictions = loop.predict(learner, feed(read, np.arange(ROWS), targets, 9, device=device.device), device)
            state = {name: tensor.cpu().clone() for name, tensor in learner.module.state_dict().items()}
            below = fingerprint(learner.module.get_submodule("network"), stage.frozen_names(given))
            losses = [told[place].loss for told in epochs if place in told]
            found.append(Trained(losses, state, predictions, below))
    return found


def of(name: str, dtype: torch.dtype) -> Plan:
    kwargs: dict[str, Any] = {"recipe": RECIPE, **PLANS[name]}
    return plan(network(dtype)[1].layers, **kwargs)


@pytest.mark.parametrize("name", PLANS)
def test_in_float64_training_from_stored_activations_ends_at_the_same_parameters_as_training_live(name: str) -> None:
    given = of(name, torch.float64)
    live, cached = (trained(given, start, torch.float64) for start in (0, given.freeze))
    assert live.state.keys() == cached.state.keys()
    for key, tensor in live.state.items():
        torch.testing.assert_close(cached.state[key], tensor, rtol=0, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(cached.predictions, live.predictions, rtol=0, atol=1e-6)  # they are float32
    assert cached.losses == pytest.approx(live.losses, abs=1e-10)


@pytest.mark.parametrize("name", PLANS)
def test_in_float32_the_loss_traces_of_stored_and_live_training_agree_and_nothing_frozen_moves(name: str) -> None:
    given = of(name, torch.float32)
    live, cached = (trained(given, start, torch.float32) for start in (0, given.freeze))
    assert cached.losses == pytest.approx(live.losses, abs=1e-4)
    before = network(torch.float32)[0].module
    assert live.frozen == cached.frozen == fingerprint(before, stage.frozen_names(given))


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", [name for name in PLANS if name != "batch" and not name.startswith("reinit")])
def test_replicas_that_are_trained_together_end_where_each_would_alone(name: str, start: int) -> None:
    given = of(name, torch.float64)
    plans = tuple(with_rate(given, rate) for rate in (2e-3, 2e-2, 5e-2))
    together = trained_together(plans, start, torch.float64)
    assert len({found.losses[-1] for found in together}) == 3
    for of_rate, found in zip(plans, together, strict=True):
        alone = trained(of_rate, start, torch.float64)
        assert found.losses == pytest.approx(alone.losses, abs=1e-10)
        assert found.frozen == alone.frozen
        for key, tensor in alone.state.items():
            torch.testing.assert_close(found.state[key], tensor, rtol=0, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="dropout draws another mask for a stack on a GPU")
def test_a_replica_that_diverges_ends_and_the_others_go_on_as_alone() -> None:
    given = replace(of("freeze@1", torch.float64), recipe=replace(RECIPE, clip=None, kept_lr=1.0))
    plans = tuple(with_rate(given, rate) for rate in (1e200, 2e-2))
    wild, tame = trained_together(plans, 1, torch.float64)
    assert len(wild.losses) < RECIPE.epochs
    assert not math.isfinite(wild.losses[-1])
    alone = trained(plans[1], 1, torch.float64)
    assert tame.losses == pytest.approx(alone.losses, abs=1e-10)
    assert len(tame.losses) == RECIPE.epochs


def test_stored_activations_of_another_picture_are_noticed() -> None:
    """The traces above are no empty agreement: they differ where the store does."""
    given = of("freeze@2", torch.float32)
    live = trained(given, 0, torch.float32)
    inputs, _ = data(torch.float32)
    try:
        inputs[3] += 0.5
        tampered = trained(given, 2, torch.float32)
    finally:
        inputs[3] -= 0.5
    assert np.abs(np.subtract(live.losses, tampered.losses)).max() > 1e-3


@pytest.mark.parametrize("name", ["freeze@1", "drop@3", "one_layer", "gradual", "batch"])
def test_every_layer_that_shall_learn_moves(name: str) -> None:
    given = of(name, torch.float32)
    before, after = network(torch.float32)[0].module.state_dict(), trained(given, given.freeze, torch.float32).state
    moved = {n for n in before if not torch.equal(before[n], after[f"network.{n}"])}
    ends = [given.learning(epoch) for epoch in range(given.recipe.epochs)]
    for layer, *flags in zip(given.layers, *ends, strict=True):
        weights = {n for n in layer.members if n.endswith(("weight", "bias"))}
        assert (weights <= moved) if any(flags) else not (set(layer.members) & moved), layer.name


# ------------------------------------------------------------------------------------ another implementation


def rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up to the peak, then half a cosine: written out."""
    warm = recipe.warmup * total
    if recipe.schedule == "constant":
        return min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
    if warm >= 1 and step + 1 < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step + 1 - warm) / (total + 1 - warm))) / 2


def by_hand(frozen: int, recipe: Recipe, statistics: str, dtype: torch.dtype) -> tuple[list[float], dict[str, Tensor]]:
    """What a user of plain PyTorch writes: freeze by hand, one optimiser, a loop over the same batches."""
    model = copy.deepcopy(network(dtype)[0].module)
    model.head = heads.made(Head(), stage.WIDTH, stage.CLASSES, seed=1).to(dtype)
    where = stage.device().device
    model.to(where)
    parts: list[nn.Module] = [model.stem, *model.blocks]
    tuned = [p for part in parts[frozen:] for p in part.parameters()]
    for part in parts[:frozen]:
        part.requires_grad_(False)
    groups = [
        {"params": [p for p in members if (p.ndim > 1) == wide], "lr": lr, "weight_decay": decay}
        for members, lr in ((tuned, recipe.lr * recipe.kept_lr), (list(model.head.parameters()), recipe.lr))
        for wide, decay in ((True, recipe.weight_decay), (False, 0.0))
    ]
    adam = recipe.optimiser == "adamw"
    optimiser = torch.optim.AdamW(groups) if adam else torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True)
    peaks = [group["lr"] for group in optimiser.param_groups]
    inputs, targets = data(dtype)
    total, step, losses = recipe.epochs * steps(ROWS, BATCH), 0, list[float]()
    torch.manual_seed(5)
    for epoch in range(recipe.epochs):
        model.eval()
        for part in parts[frozen:]:
            part.train()
            for norm in (m for m in part.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.train(statistics == "batch")
        spent = 0.0
        for rows in np.array_split(np.random.default_rng((2, epoch)).permutation(ROWS), 4):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * rate(recipe, step, total)
            loss = functional.cross_entropy(model(inputs[rows].to(where)), torch.from_numpy(targets[rows]).to(where))
            optimiser.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
            spent, step = spent + loss.item() * len(rows), step + 1
        losses.append(spent / ROWS)
    return losses, model.cpu().state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize(
    ("recipe", "statistics"),
    [
        (RECIPE, "eval"),
        (replace(RECIPE, schedule="constant", clip=0.05), "batch"),
        (replace(RECIPE, optimiser="sgd", clip=None, warmup=0.0), "eval"),
    ],
    ids=["adamw_cosine", "adamw_constant_batch", "sgd_cosine"],
)
def test_the_loop_is_a_plain_pytorch_loop(recipe: Recipe, statistics: Any, frozen: int, dtype: torch.dtype) -> None:
    exact = 1e-7 if stage.WAY.graphs else 1e-10  # the rates of recorded steps are float32
    close = 1e-6 if dtype == torch.float32 else exact
    given = plan(network(dtype)[1].layers, recipe, freeze=frozen, statistics=statistics)
    assert top(given) == 4
    ours = trained(given, 0, dtype)
    losses, state = by_hand(frozen, recipe, statistics, dtype)
    assert ours.losses == pytest.approx(losses, abs=close)
    for name, tensor in state.items():
        found = ours.state[f"network.{name}" if not name.startswith("head.") else name]
        torch.testing.assert_close(found, tensor, rtol=close, atol=close, msg=lambda m, name=name: f"{name}: {m}")
