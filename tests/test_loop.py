"""Laws of the loop, on learners so small that every step has a closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import stage
import torch
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.plan import plan
from frostline.tasks import classification, heads
from frostline.training import loop
from frostline.training.feed import feed
from frostline.training.prepare import prepared
from frostline.training.step import Batch, Learner
from frostline.values import Backbone, Epoch, Head, Layer, Plan, Recipe

TINY_RATE = 1e-7  # a training at this rate changes no gradient, so that AdamW moves by the rate itself
STEPS = 5
RECIPE = Recipe(epochs=2, lr=TINY_RATE, warmup=0.3, weight_decay=0.0, kept_lr=1.0, clip=None)


def layer(index: int) -> Layer:
    return Layer(index, f"part{index}", 2, 2, (2,), 16, True, members=(f"part{index}",), modules=())


LAYERS = (layer(0), layer(1))
NAMES = tuple(each.name for each in LAYERS)


class Biases(nn.Module):
    """Logits are the sum of a few vectors, whatever the input."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ParameterDict([(name, nn.Parameter(torch.zeros(2, dtype=torch.float64))) for name in names])

    def forward(self, x: Tensor) -> Tensor:
        return sum((part for part in self.parts.values()), x.new_zeros(len(x), 2))


def learner(of: Plan, *, seen: list[list[float]] | None = None, sources: float | None = None) -> Learner:
    """Two layers and a head; `seen` is told the first number of each before every step."""
    module = Biases(["part0", "part1", "frostline_head"])
    parts = module.parts

    def forward(inputs: tuple[Tensor, ...]) -> Tensor:
        if seen is not None:
            seen.append([float(part.detach()[0]) for part in parts.values()])
        return module(inputs[0])

    def mode(epoch: int | None) -> None:
        if epoch is not None:
            for name, learns in zip(["part0", "part1"], of.learning(epoch), strict=True):
                parts[name].requires_grad_(learns)

    rates = [*of.rates(), of.recipe.lr]
    groups: list[dict[str, Any]] = [
        {"name": name, "params": [part], "lr": rate, "peak": rate, "weight_decay": of.recipe.weight_decay}
        for (name, part), rate in zip(parts.items(), rates, strict=True)
        if rate is not None
    ]
    anchors = () if sources is None else tuple((parts[n], torch.full_like(parts[n], sources)) for n in NAMES)
    return Learner(module, forward, groups, mode, anchors)


def batches(epoch: int) -> Iterator[Batch]:
    for _ in range(STEPS):
        yield (torch.zeros(4, 1, dtype=torch.float64),), torch.zeros(4, dtype=torch.int64)


def shares(of: Plan) -> np.ndarray[Any, Any]:
    """The share of its peak by which each part moved, step by step."""
    seen = list[list[float]]()
    taught = learner(of, seen=seen)
    list(loop.train(taught, batches, of, STEPS, stage.cpu()))
    taught.forward((torch.zeros(1, 1, dtype=torch.float64),))  # to see where the last step led
    return np.diff(np.array(seen), axis=0) / TINY_RATE


COSINE = [1 / 3, 2 / 3, 1.0, 0.96194, 0.85355, 0.69134, 0.5, 0.30866, 0.14645, 0.03806]
ONE_CYCLE = [0.36, 0.68, 1.0, 0.96194, 0.85357, 0.69137, 0.50005, 0.30873, 0.14653, 0.03816]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", COSINE), ("one_cycle", ONE_CYCLE), ("constant", [1 / 3, 2 / 3] + [1.0] * 8)],
)
def test_the_rate_of_every_step_is_the_golden_one(schedule: Any, expected: list[float]) -> None:
    of = plan(LAYERS, replace(RECIPE, schedule=schedule))
    found = shares(of)
    for column in range(3):
        assert found[:, column] == pytest.approx(expected, abs=1e-4)


def test_a_layer_that_thaws_warms_up_from_its_own_beginning_and_stands_still_before() -> None:
    of = plan(LAYERS, RECIPE, train=(False, True), thaw=[(1, (True, True))])
    found = shares(of)
    late = [0.0] * 5 + [COSINE[5] / 3, COSINE[6] * 2 / 3, *COSINE[7:]]
    assert found[:, 0] == pytest.approx(late, abs=1e-4)
    assert found[:, 1] == pytest.approx(COSINE, abs=1e-4)
    assert found[:, 2] == pytest.approx(COSINE, abs=1e-4)


def test_a_layer_that_is_frozen_again_stands_still_from_then_on() -> None:
    of = plan(LAYERS, replace(RECIPE, weight_decay=0.5, optimiser="sgd"), thaw=[(1, (False, True))])
    found = shares(of)
    assert (found[:5, 0] != 0).all()
    assert (found[5:, 0] == 0).all()


def test_no_step_of_a_schedule_is_for_nothing() -> None:
    for schedule in ("cosine", "one_cycle", "constant"):
        of = plan(LAYERS, replace(RECIPE, epochs=1, schedule=schedule, warmup=0.0))
        assert (shares(of) > 1e-3).all(), schedule


def one_step(recipe: Recipe, *, sources: float | None = None, start: float = 0.0) -> tuple[Epoch, float]:
    """One training of a single step; returns its epoch and where part0's first number came to."""
    of = plan(LAYERS, recipe)
    taught = learner(of, sources=sources)
    part = taught.anchors[0][0] if taught.anchors else taught.groups[0]["params"][0]
    with torch.no_grad():
        part += start

    def one(epoch: int) -> Iterator[Batch]:
        yield next(batches(epoch))

    (epoch,) = loop.train(taught, one, of, 1, stage.cpu())
    return epoch, float(part.detach()[0])


SGD = replace(RECIPE, epochs=1, lr=0.1, optimiser="sgd", schedule="constant", warmup=0.0)


def test_a_gradient_is_clipped_to_the_norm_over_all_that_learns_and_told_as_it_was_before() -> None:
    # each of three vectors has the gradient (-0.5, 0.5): their common norm is sqrt(1.5)
    norm = math.sqrt(1.5)
    free, moved = one_step(SGD)
    assert free.gradient == pytest.approx(norm)
    assert moved == pytest.approx(0.1 * 1.9 * 0.5)  # the first step of Nesterov's momentum is 1.9 gradients
    clipped, less = one_step(replace(SGD, clip=0.3))
    assert clipped.gradient == pytest.approx(norm)
    assert less == pytest.approx(moved * 0.3 / norm, rel=1e-5)
    _, same = one_step(replace(SGD, clip=10.0))
    assert same == moved


def test_weight_decay_is_decoupled_and_shrinks_by_rate_times_decay() -> None:
    adam = replace(SGD, optimiser="adamw")
    _, plain = one_step(adam, start=2.0)
    _, decayed = one_step(replace(adam, weight_decay=0.5), start=2.0)
    assert plain - decayed == pytest.approx(0.1 * 0.5 * 2.0)


def test_the_anchor_pulls_by_rate_times_strength_of_the_way_to_the_source() -> None:
    _, free = one_step(SGD, sources=4.0)
    _, pulled = one_step(replace(SGD, anchor=2.0), sources=4.0)
    assert pulled == pytest.approx(free + 0.1 * 2.0 * (4.0 - free))
    _, arrived = one_step(replace(SGD, anchor=1e9), sources=4.0)
    assert arrived == 4.0  # never beyond


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_what_reached_each_layer_and_how_far_it_moved_is_that_of_the_last_step(
    optimiser: Any, clip: float | None
) -> None:
    recipe = replace(RECIPE, epochs=2, lr=0.1, optimiser=optimiser, warmup=0.0, clip=clip)
    of = plan(LAYERS, recipe, train=(False, True))
    seen = list[list[float]]()
    taught = learner(of, seen=seen)
    for part in taught.module.parameters():
        torch.nn.init.constant_(part, 2.0)
    last = list(loop.train(taught, batches, of, STEPS, stage.cpu()))[-1]
    taught.forward((torch.zeros(1, 1, dtype=torch.float64),))
    assert [flow.layer for flow in last.flows] == ["part1", "frostline_head"]
    (_, *before), (_, *after) = seen[-2:]
    for flow, old, new, part in zip(last.flows, before, after, [*taught.module.parameters()][1:], strict=True):
        # of two numbers that move alike and apart, the first is seen
        assert flow.update == pytest.approx(abs(new - old) * 2**0.5 / float(part.detach().norm()), rel=0.02)
        assert flow.gradient == pytest.approx(
            float(part.grad.norm()) * max(1.0, last.gradient / (clip or 1e9)), rel=0.1
        )
    together = sum(flow.gradient**2 for flow in last.flows) ** 0.5
    assert together == pytest.approx(last.gradient, rel=0.2)  # that is the mean over the epoch's steps


def test_a_frozen_layer_is_not_pulled_to_its_source() -> None:
    of = plan(LAYERS, replace(SGD, anchor=2.0), train=(False, True))
    taught = learner(of, sources=4.0)
    list(loop.train(taught, batches, of, STEPS, stage.cpu()))
    assert float(taught.anchors[0][0].detach()[0]) == 0.0
    assert float(taught.anchors[1][0].detach()[0]) > 0.5


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_blending_goes_from_the_source_to_the_tuned_parameters(weight: float) -> None:
    taught = learner(plan(LAYERS, RECIPE), sources=4.0)
    with torch.no_grad():
        for part, _ in taught.anchors:
            part += 0.1
    loop.blend(taught, weight)
    for part, source in taught.anchors:
        expected = 0.1 if weight == 1 else 4.0 if weight == 0 else 0.1 * weight + 4.0 * (1 - weight)
        assert part.tolist() == ([expected] * 2 if weight in (0, 1) else pytest.approx([expected] * 2))
        assert source.tolist() == [4.0, 4.0]


def test_the_loss_is_smoothed_cross_entropy() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    found = classification.loss(logits, targets, smoothing=0.2)
    log = logits - logits.exp().sum(1, keepdim=True).log()
    expected = -(0.8 * log[torch.arange(7), targets] + 0.2 * log.mean(1)).mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-12)
    assert classification.loss(logits.bfloat16(), targets).dtype == torch.float32
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    own = -(weights[targets].double() * log[torch.arange(7), targets]).mean()
    assert float(classification.loss(logits, targets, weights=weights)) == pytest.approx(float(own), abs=1e-12)


def test_the_loop_smooths_as_the_recipe_says_and_its_loss_is_a_mean_over_examples() -> None:
    def uneven(epoch: int) -> Iterator[Batch]:
        for size, target in ((3, 0), (1, 1)):
            yield (torch.zeros(size, 1, dtype=torch.float64),), torch.full((size,), target)

    for smoothing in (0.0, 0.4):
        of = plan(LAYERS, replace(RECIPE, epochs=1, smoothing=smoothing))
        taught = learner(of)
        with torch.no_grad():
            taught.groups[0]["params"][0].copy_(torch.tensor([1.0, -1.0]))
        (epoch,) = loop.train(taught, uneven, of, 2, stage.cpu())
        first, second = math.log1p(math.exp(-2)), math.log1p(math.exp(2))  # -log p of class 0 and of class 1
        share = smoothing / 2
        mixed = [(1 - share) * a + share * b for a, b in ((first, second), (second, first))]
        assert epoch.loss == pytest.approx((3 * mixed[0] + mixed[1]) / 4, abs=1e-5)


# -------------------------------------------------------------------------------------- on the small network


@cache
def network() -> tuple[Backbone, Anatomy]:
    backbone = stage.network()
    return backbone, stage.anatomy(backbone)


def rounds(of: Plan, *, predicting: bool) -> tuple[list[Epoch], dict[str, Tensor]]:
    """A training on the small network, with or without a prediction after each epoch."""
    backbone, anatomy = network()
    images, targets = stage.pictures(24)
    inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255
    head, device = heads.made(Head(), stage.WIDTH, stage.CLASSES, seed=0), stage.cpu()
    with prepared(backbone, anatomy, of, head, start=0, seed=0, device=device) as taught:
        learn = feed(lambda rows, _: [inputs[rows]], np.arange(24), targets, 8, device=device.device, seed=1)
        torch.manual_seed(0)
        epochs = list[Epoch]()
        for epoch in loop.train(taught, learn, of, 3, device):
            epochs.append(epoch)
            if predicting:
                loop.predict(taught, learn, device)
        return epochs, {name: tensor.clone() for name, tensor in taught.module.state_dict().items()}


@pytest.mark.parametrize("statistics", ["eval", "batch"])
def test_looking_at_predictions_between_epochs_changes_no_bit_of_the_training(statistics: Any) -> None:
    of = plan(network()[1].layers, Recipe(epochs=3, lr=1e-2, batch=8), freeze=1, statistics=statistics)
    (plain, state), (watched, same) = (rounds(of, predicting=predicting) for predicting in (False, True))
    assert [epoch.loss for epoch in plain] == [epoch.loss for epoch in watched]
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_training_that_diverges_says_so_in_its_last_epoch_and_stops(optimiser: Any) -> None:
    wild = Recipe(epochs=50, lr=1e6, kept_lr=1.0, batch=8, clip=None, optimiser=optimiser)
    of = plan(network()[1].layers, wild, statistics="eval")
    epochs, _ = rounds(of, predicting=False)
    assert len(epochs) < 50
    assert [epoch.diverged for epoch in epochs] == [False] * (len(epochs) - 1) + [True]
    assert not math.isfinite(epochs[-1].loss)


def test_an_epoch_counts_what_learned_in_it() -> None:
    layers = network()[1].layers
    of = plan(layers, Recipe(epochs=2, lr=1e-3, batch=8), train=(False,) * 4, thaw=[(1, (False,) * 3 + (True,))])
    epochs, _ = rounds(of, predicting=False)
    head = stage.WIDTH * stage.CLASSES + stage.CLASSES
    assert [epoch.learning for epoch in epochs] == [head, head + layers[3].parameters]
    assert [epoch.number for epoch in epochs] == [0, 1]
