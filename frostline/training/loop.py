"""The loop: a generator that yields one Epoch after another. Whoever iterates records it, and may stop asking.

Learners that differ in their learning rates alone can be trained together: one forward and backward pass over their
stacked weights (`torch.func`) serves all, and each has its own optimiser.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline.tasks import classification
from frostline.training.device import Device, backward, clipped, scaled
from frostline.values import Epoch, Flow, Plan

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
    weights: Tensor | None = None  # of the classes in the loss; None weighs examples alike
    began: tuple[tuple[nn.Parameter, Tensor], ...] = ()  # those of the head with the probe's, where both are blended


def train(learner: Learner, feed: Feed, plan: Plan, steps: int, device: Device) -> Iterator[Epoch]:
    """Train for `plan.recipe.epochs` epochs of `steps` batches each.

    The learning rate of every group is a pure function of the step, so a resumed run is the same run. A loss that is
    not finite ends the training with an Epoch that says `diverged`; weights are then useless.
    AdamW is used with bias correction (Zhang et al., ICLR 2021, arXiv:2006.05987).
    """
    for epochs in train_together([started(learner, plan, device)], feed, steps, device):
        yield from epochs.values()


def train_together(
    several: Sequence[Going], feed: Feed, steps: int, device: Device, *, first: int = 0
) -> Iterator[dict[int, Epoch]]:
    """As `train`, for several learners whose plans differ in their learning rates alone: what each would come to alone.

    Yields for each epoch, from the `first` one on, those of all learners, by place, each with its share of the seconds;
    one that diverged is not there any more in the next. No learner may have a batch norm that uses batch statistics: it
    would have to be updated through the stack.
    """
    going, learners = dict(enumerate(several)), [one.learner for one in several]
    forward = _stacked(learners)
    for number in range(first, several[0].plan.recipe.epochs):
        started, met = time.perf_counter(), {place: list[tuple[float, float, int]]() for place in going}
        for learner in learners:
            learner.mode(number)
        for index, (inputs, targets) in enumerate(feed(number)):
            for one in going.values():
                one.scheduled(number * steps + index, steps)
            found = _step(going, forward, inputs, targets, device)
            for place, (loss, norm) in found.items():
                met[place].append((loss, norm, len(targets)))
            going = {place: one for place, one in going.items() if math.isfinite(found[place][0])}
            if not going:
                break
        share = (time.perf_counter() - started) / len(met)
        flows = {place: _flows(one, met[place][-1][1]) for place, one in going.items()}
        yield {place: _epoch(number, told, share, learners[place], flows.get(place, ())) for place, told in met.items()}
        if not going:
            return


@dataclass(frozen=True, slots=True)
class Going:
    """A training on its way."""

    learner: Learner
    plan: Plan
    optimiser: torch.optim.Optimizer
    begins: list[int]  # epochs

    def scheduled(self, step: int, steps: int) -> None:
        """Set the learning rate of each group for a step; an epoch has `steps` of them."""
        total = self.plan.recipe.epochs * steps
        for group, begin in zip(self.optimiser.param_groups, self.begins, strict=True):
            group["lr"] = float(group["peak"]) * _factor(self.plan, step, begin * steps, total)


def started(learner: Learner, plan: Plan, device: Device) -> Going:
    """A training before its first step."""
    groups, begins = _merged(learner.groups, _begins(learner, plan))
    return Going(learner, plan, scaled(device, _optimiser(groups, plan)), begins)


def _merged(groups: Sequence[dict[str, Any]], begins: Sequence[int]) -> tuple[list[dict[str, Any]], list[int]]:
    """Groups that are stepped alike as one, each with the epoch at which it begins.

    The optimiser computes the same, a parameter at a time; but each group is a call of its own in every step.
    """
    found: dict[tuple[float, float, int], dict[str, Any]] = {}
    for group, begin in zip(groups, begins, strict=True):
        alike = found.setdefault((group["peak"], group["weight_decay"], begin), {**group, "params": []})
        alike["params"].extend(group["params"])
    return list(found.values()), [begin for _, _, begin in found]


def _flows(one: Going, norm: float) -> tuple[Flow, ...]:
    """What the last step did to each layer; `norm` is that of all gradients before they were clipped to the recipe's.

    The step is read off the optimiser's state, so nothing is copied for it. Weight decay is not counted.
    """
    clip = one.plan.recipe.clip
    scale = max(1.0, norm / clip) if clip else 1.0
    layers = dict[str, list[nn.Parameter]]()
    for group in one.learner.groups:
        taught = [parameter for parameter in group["params"] if parameter.grad is not None]
        if taught:
            layers.setdefault(str(group["name"]).partition("/")[0], []).extend(taught)
    stepped = {id(p): group for group in one.optimiser.param_groups for p in group["params"]}
    rows = list[Tensor]()
    with torch.no_grad():
        for members in layers.values():
            moved = [_moved(one.optimiser.state[p], stepped[id(p)], p) for p in members]
            grads = [p.grad for p in members if p.grad is not None]
            rows.append(torch.stack([nn.utils.get_total_norm(part) for part in (grads, moved, members)]))
    table: list[list[float]] = torch.stack(rows).tolist() if rows else []
    return tuple(
        Flow(name, float(f"{scale * gradient:.3g}"), float(f"{step / max(weight, 1e-30):.3g}"))
        for name, (gradient, step, weight) in zip(layers, table, strict=True)
    )


def _moved(state: Mapping[str, Any], group: Mapping[str, Any], parameter: nn.Parameter) -> Tensor:
    """The step that the optimiser took last for a parameter."""
    if "exp_avg" in state:
        (first, second), count = group["betas"], float(state["step"])
        spread = (state["exp_avg_sq"] / (1 - second**count)).sqrt() + group["eps"]
        return group["lr"] / (1 - first**count) * state["exp_avg"] / spread
    assert parameter.grad is not None, "asked of parameters that learned"
    buffer = state.get("momentum_buffer")
    return group["lr"] * (parameter.grad if buffer is None else parameter.grad + group["momentum"] * buffer)


def _epoch(
    number: int,
    told: Sequence[tuple[float, float, int]],
    seconds: float,
    learner: Learner,
    flows: tuple[Flow, ...],
) -> Epoch:
    """From the loss, the gradient's norm and the examples of each of its batches, and from what its last step did."""
    learning = sum(p.numel() for group in learner.groups for p in group["params"] if p.requires_grad)
    last = told[-1][0]
    if not math.isfinite(last):
        return Epoch(number, last, None, seconds, diverged=True, learning=learning)
    mean = sum(loss * count for loss, _, count in told) / sum(count for *_, count in told)
    norm = sum(norm for _, norm, _ in told) / len(told)
    error = stdev(loss for loss, *_ in told) / len(told) ** 0.5 if len(told) > 1 else 0.0
    return Epoch(number, mean, None, seconds, gradient=norm, learning=learning, error=error, flows=flows)


def predict(learner: Learner, feed: Feed, device: Device) -> Tensor:
    """Log-probabilities (n, c) on the CPU for the batches of epoch 0, in inference mode."""
    learner.mode(None)
    with torch.inference_mode(), device.autocast():
        return torch.cat([classification.log_probabilities(learner.forward(x)).cpu() for x, _ in feed(0)])


def blend(learner: Learner, weight: float) -> None:
    """Move tuned parameters back towards the source's, and the head's to the probe: weight 1 changes nothing.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903.
    """
    with torch.no_grad():
        for parameter, source in (*learner.anchors, *learner.began):
            parameter.lerp_(source, 1 - weight)


def _step(
    going: Mapping[int, Going],
    forward: Callable[[tuple[Tensor, ...]], Sequence[Tensor]],
    inputs: tuple[Tensor, ...],
    targets: Tensor,
    device: Device,
) -> dict[int, tuple[float, float]]:
    """One step of each optimiser; returns each one's loss and the norm of its gradient before clipping."""
    with device.autocast():
        logits = forward(inputs)
        losses = {
            place: classification.loss(
                logits[place], targets, smoothing=one.plan.recipe.smoothing, weights=one.learner.weights
            )
            for place, one in going.items()
        }
    for one in going.values():
        one.optimiser.zero_grad(set_to_none=True)
    first, *others = losses.values()
    backward(device, sum(others, first))  # each loss reaches the weights of its own learner alone
    norms = {place: _updated(one, device) for place, one in going.items()}
    return {place: (loss.item(), norms[place]) for place, loss in losses.items()}


def _updated(one: Going, device: Device) -> float:
    """Take the optimiser's step; returns the norm of the gradient before clipping."""
    recipe = one.plan.recipe
    parameters = [p for group in one.learner.groups for p in group["params"] if p.grad is not None]
    norm = clipped(device, one.optimiser, parameters, recipe.clip if recipe.clip is not None else math.inf)
    one.optimiser.step()
    if recipe.anchor:
        _pull(one.learner, one.optimiser, recipe.anchor)
    return float(norm)


def _stacked(learners: Sequence[Learner]) -> Callable[[tuple[Tensor, ...]], Sequence[Tensor]]:
    """From what crosses the cut to the logits of each learner: of several in one pass over their stacked weights.

    What never learns is taken from the first of them. Dropout draws the same mask for all.
    """
    first = learners[0]
    if len(learners) == 1:
        return lambda inputs: [first.forward(inputs)]
    names = {id(parameter): name for name, parameter in first.module.named_parameters()}
    learned = [names[id(parameter)] for group in first.groups for parameter in group["params"]]
    weights: dict[str, list[Tensor]] = {
        name: [learner.module.get_parameter(name) for learner in learners] for name in learned
    }
    called = _Called(first)

    def forward(inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        def one(stacked: dict[str, Tensor]) -> Tensor:
            return functional_call(called, {f"module.{name}": tensor for name, tensor in stacked.items()}, (inputs,))

        stacked = {name: torch.stack(each) for name, each in weights.items()}
        return torch.vmap(one, randomness="same")(stacked).unbind()

    return forward


@contextmanager
def stacking_quietly() -> Generator[None]:
    """Without the warning that an operation of a stack is slow: whether stacking pays was measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


class _Called(nn.Module):
    """A learner as one module, whose weights can be replaced for the time of a call."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.module = learner.module
        self.run = learner.forward

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.run(inputs)


def _optimiser(groups: list[dict[str, Any]], plan: Plan) -> torch.optim.Optimizer:
    if plan.recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=plan.recipe.lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=plan.recipe.lr, fused=True)


def _pull(learner: Learner, optimiser: torch.optim.Optimizer, strength: float) -> None:
    """Decay towards the source weights, decoupled from the gradient as in AdamW.

    Source: Li et al., "Explicit inductive bias for transfer learning" (L2-SP), ICML 2018, arXiv:1802.01483.
    """
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    with torch.no_grad():
        for parameter, source in learner.anchors:
            if parameter.requires_grad:
                parameter.lerp_(source, min(1.0, rate[id(parameter)] * strength))


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
