"""One step of training: of one learner, or of several that differ in their learning rates alone, in one pass.

Nothing here waits for the device: losses and norms stay there until somebody asks for them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline.tasks.table import TASKS
from frostline.tasks.task import Task
from frostline.training.device import Device, backward, clipped
from frostline.training.graphs import Recorder, Told
from frostline.values import Plan

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
    weights: Tensor | None = None  # of the classes, or outputs, in the loss; None weighs all alike
    began: tuple[tuple[nn.Parameter, Tensor], ...] = ()  # those of the head with the probe's, where both are blended
    task: Task = TASKS["classification"]


@dataclass(frozen=True, slots=True)
class Going:
    """A training on its way. Each group of the optimiser says at which `rate` it learns."""

    learner: Learner
    plan: Plan
    optimiser: torch.optim.Optimizer
    begins: list[int]  # epochs
    graphs: bool = False  # whether its steps are recorded on a GPU, and so its rates lie there


class Steps:
    """Steps of the optimisers of all that are going, from one forward and backward pass.

    No learner of several may have a batch norm that uses batch statistics.
    """

    def __init__(self, several: Sequence[Going], device: Device) -> None:
        self._going = dict(enumerate(several))
        self._device = device
        self._forward = _stacked([one.learner for one in several])
        self._parameters = [parameter for one in several for parameter in one.learner.module.parameters()]
        self._recorder = Recorder(self._taken, self._parameters) if all(one.graphs for one in several) else None

    def begin(self, going: Mapping[int, Going]) -> None:
        """An epoch in which these are going, each in its mode."""
        self._going = dict(going)
        if self._recorder is not None:
            self._recorder.begin(self._state())

    def take(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Told:
        """One step; by place, the loss and the norm of the gradient before it was clipped."""
        return (self._taken if self._recorder is None else self._recorder)(inputs, targets)

    def close(self) -> None:
        """Let go of what was recorded: it holds a training's memory, and refers back to here."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    def _state(self) -> Hashable:
        """What a step depends on and its batch does not say."""
        modules = [one.learner.module for one in self._going.values()]
        training = tuple(part.training for module in modules for part in module.modules())
        return tuple(self._going), training, tuple(parameter.requires_grad for parameter in self._parameters)

    def _taken(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Told:
        with self._device.autocast():
            logits = self._forward(inputs)
            losses = {
                place: one.learner.task.loss(
                    logits[place], targets, smoothing=one.plan.recipe.smoothing, weights=one.learner.weights
                )
                for place, one in self._going.items()
            }
        for one in self._going.values():
            one.optimiser.zero_grad(set_to_none=True)
        first, *others = losses.values()
        backward(self._device, sum(others, first))  # each loss reaches the weights of its own learner alone
        norms = {place: _updated(one, self._device) for place, one in self._going.items()}
        return {place: (loss.detach(), norms[place]) for place, loss in losses.items()}


def _updated(one: Going, device: Device) -> Tensor:
    """Take the optimiser's step; returns the norm of the gradient before clipping."""
    recipe = one.plan.recipe
    parameters = [p for group in one.learner.groups for p in group["params"] if p.grad is not None]
    norm = clipped(device, one.optimiser, parameters, recipe.clip if recipe.clip is not None else math.inf)
    one.optimiser.step()
    if recipe.anchor:
        _pull(one.learner, one.optimiser, recipe.anchor)
    return norm.detach()


def _pull(learner: Learner, optimiser: torch.optim.Optimizer, strength: float) -> None:
    """Decay towards the source weights, decoupled from the gradient as in AdamW.

    Source: Li et al., "Explicit inductive bias for transfer learning" (L2-SP), ICML 2018, arXiv:1802.01483.
    """
    rate = {id(p): group["rate"] for group in optimiser.param_groups for p in group["params"]}
    with torch.no_grad():
        for parameter, source in learner.anchors:
            if parameter.requires_grad:
                parameter.lerp_(source, min(1.0, rate[id(parameter)] * strength))


def _stacked(learners: Sequence[Learner]) -> Callable[[tuple[Tensor, ...]], Sequence[Tensor]]:
    """From what crosses the cut to the logits of each learner: of several in one pass over their stacked weights.

    What never learns is taken from the first of them. Dropout draws the same mask for all.
    """
    first = learners[0]
    if len(learners) == 1:
        return lambda inputs: [first.forward(inputs)]
    names = {id(parameter): name for name, parameter in first.module.named_parameters()}
    learned = [names[id(parameter)] for group in first.groups for parameter in group["params"]]
    each = [dict(learner.module.named_parameters()) for learner in learners]
    weights: dict[str, list[Tensor]] = {name: [parameters[name] for parameters in each] for name in learned}
    called = _Called(first)

    def forward(inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        def one(stacked: dict[str, Tensor]) -> Tensor:
            return functional_call(called, {f"module.{name}": tensor for name, tensor in stacked.items()}, (inputs,))

        stacked = {name: torch.stack(replicas) for name, replicas in weights.items()}
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
