"""What a question asks of a head: one contract for every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from frostline.values import HeadKind


class Loss(Protocol):
    """Mean over a batch of outputs (n, k) and their targets, in float32 or better."""

    def __call__(
        self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """`weights` are of classes or of outputs, 1 on average over the data."""
        ...


Levels = Callable[[Sequence[tuple[int, ...]], tuple[int, int]], list[int]]  # shapes of depths, size -> depths


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question."""

    name: str
    loss: Loss
    predictions: Callable[[Tensor], Tensor]  # of outputs (n, k): what is kept of them, and judged
    readable: Callable[[Tensor], Tensor]  # of predictions: probabilities, or values as they are
    drawn: Callable[[Tensor, np.random.Generator], Tensor]  # log-likelihood of an answer drawn from one output (1, k)
    levels: Levels | None = None  # of a task whose head reads maps of several depths: which ones
    head: HeadKind = "linear"  # the kind that a search begins with
    heads: Mapping[str, HeadKind] = field(default_factory=dict[str, HeadKind])  # kinds that a user may name
    # by kind of head: epochs, batch and rate that it begins with, where they are its own
    recipes: Mapping[str, tuple[int, int, float]] = field(default_factory=dict[str, tuple[int, int, float]])
    steps: int = 0  # fewest of a training by such a recipe: where examples are few, there are more epochs
    binding: Callable[[nn.Module], Task] | None = None  # of a task whose loss the head knows
    waits: bool = False  # whether its loss is computed on the host in part, so that no step of it can be recorded

    def bound(self, head: nn.Module) -> Task:
        """The task as this head answers it."""
        return self if self.binding is None else self.binding(head)
