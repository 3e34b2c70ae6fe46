"""The loop: a generator that yields one Epoch after another. Whoever iterates records it, and may stop asking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frostline.tasks import classification
from frostline.training.device import Device, scaled
from frostline.values import Epoch, Plan

Batch = tuple[tuple[Tensor, ...], Tensor]  # what crosses the cut, and the targets
Feed = Callable[[int], Iterator[Batch]]  # epoch -> its batches, in an order that depends on the epoch alone


@dataclass(frozen=True, slots=True)
class Learner:
    """What the loop trains."""

    module: nn.Module  # holds every parameter
    forward: Callable[[tuple[Tensor, ...]], Tensor]  # from what crosses the cut to logits (n, c)
    groups: list[dict[str, Any]]  # static optimiser groups, each with a `name`
    mode: Callable[[int | None], None]  # puts every module in the mode of an epoch; None is inference
    anchors: tuple[tuple[nn.Parameter, Tensor], ...]  # kept parameters that learn, and their source weights


def train(learner: Learner, feed: Feed, plan: Plan, steps: int, device: Device) -> Iterator[Epoch]:
    """Train for `plan.recipe.epochs` epochs of `steps` batches each.

    The learning rate of every group is a pure function of the step, so a resumed run is the same run. A loss that is
    not finite ends the training with an Epoch that says `diverged`; weights are then useless.
    AdamW is used with bias correction (Zhang et al., ICLR 2021, arXiv:2006.05987).
    """
    recipe = plan.recipe
    optimiser = scaled(device, _optimiser(learner, plan))
    begins = _begins(learner, plan)
    for number in range(recipe.epochs):
        started, total, norms, seen = time.perf_counter(), 0.0, 0.0, 0
        learner.mode(number)
        learning = sum(p.numel() for group in learner.groups for p in group["params"] if p.requires_grad)
        for index, (inputs, targets) in enumerate(feed(number)):
            step = number * steps + index
            for group, peak, begin in zip(optimiser.param_groups, _peaks(learner), begins, strict=True):
                group["lr"] = peak * _factor(plan, step, begin * steps, recipe.epochs * steps)
            loss, norm = _step(learner, inputs, targets, plan, device, optimiser)
            total, norms, seen = total + loss * len(targets), norms + norm, seen + len(targets)
            if not math.isfinite(loss):
                yield Epoch(number, loss, None, time.perf_counter() - started, diverged=True, learning=learning)
                return
        took = time.perf_counter() - started
        yield Epoch(number, total / seen, None, took, gradient=norms / steps, learning=learning)


def predict(learner: Learner, feed: Feed, device: Device) -> Tensor:
    """Log-probabilities (n, c) on the CPU for the batches of epoch 0, in inference mode."""
    learner.mode(None)
    with torch.inference_mode(), device.autocast():
        return torch.cat([classification.log_probabilities(learner.forward(x)).cpu() for x, _ in feed(0)])


def blend(learner: Learner, weight: float) -> None:
    """Move tuned parameters back towards the source's: weight 1 changes nothing, 0 gives the source.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903.
    """
    with torch.no_grad():
        for parameter, source in learner.anchors:
            parameter.lerp_(source, 1 - weight)


def _step(
    learner: Learner,
    inputs: tuple[Tensor, ...],
    targets: Tensor,
    plan: Plan,
    device: Device,
    optimiser: torch.optim.Optimizer,
) -> tuple[float, float]:
    """One step of the optimiser; returns the loss and the norm of the gradient before clipping."""
    with device.autocast():
        loss = classification.loss(learner.forward(inputs), targets, smoothing=plan.recipe.smoothing)
    optimiser.zero_grad(set_to_none=True)
    device.backward(loss)
    limit = plan.recipe.clip if plan.recipe.clip is not None else math.inf
    parameters = [p for group in learner.groups for p in group["params"] if p.grad is not None]
    device.unscale_gradients(optimiser)
    norm = device.clip_grad_norm_(parameters, limit)
    optimiser.step()
    if plan.recipe.anchor:
        _pull(learner, optimiser, plan.recipe.anchor)
    return loss.item(), float(norm) if norm is not None else 0.0


def _optimiser(learner: Learner, plan: Plan) -> torch.optim.Optimizer:
    if plan.recipe.optimiser == "sgd":
        return torch.optim.SGD(learner.groups, lr=plan.recipe.lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(learner.groups, lr=plan.recipe.lr, fused=True)


def _pull(learner: Learner, optimiser: torch.optim.Optimizer, strength: float) -> None:
    """Decay towards the source weights, decoupled from the gradient as in AdamW.

    Source: Li et al., "Explicit inductive bias for transfer learning" (L2-SP), ICML 2018, arXiv:1802.01483.
    """
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    with torch.no_grad():
        for parameter, source in learner.anchors:
            if parameter.requires_grad:
                parameter.lerp_(source, min(1.0, rate[id(parameter)] * strength))


def _peaks(learner: Learner) -> list[float]:
    return [float(group["peak"]) for group in learner.groups]


def _begins(learner: Learner, plan: Plan) -> list[int]:
    """The epoch at which each group first learns: its warm-up begins there; the head begins at once."""
    first = dict[str, int]()
    for index, layer in enumerate(plan.layers):
        epochs = (0, *(epoch for epoch, _ in plan.thaw))
        first[layer.name] = min((epoch for epoch in epochs if plan.learning(epoch)[index]), default=0)
    return [first.get(str(group["name"]).removesuffix("/no_decay"), 0) for group in learner.groups]


def _factor(plan: Plan, step: int, begin: int, total: int) -> float:
    """The share of its peak at which a group learns: warm-up from its own beginning, then the common schedule."""
    recipe = plan.recipe
    warm = recipe.warmup * total
    rise = min(1.0, (step - begin + 1) / warm) if warm >= 1 and step >= begin else 1.0
    if recipe.schedule == "constant":
        return rise
    # the end lies one step behind the last: a step at a rate of zero would be for nothing
    rest = max(0.0, (step + 1 - warm) / (total + 1 - warm))
    floor = 0.0 if recipe.schedule == "cosine" else 1e-4  # one-cycle ends at a ten-thousandth of its peak
    fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
    start = 1 / 25 if recipe.schedule == "one_cycle" else 0.0  # and begins at a 25th: Smith, arXiv:1708.07120
    return (start + (1 - start) * rise) * fall
