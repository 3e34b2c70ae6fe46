"""What a question asks of a head: one contract for every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class Loss(Protocol):
    """Mean over a batch of outputs (n, k) and their targets, in float32 or better."""

    def __call__(
        self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """`weights` are of classes or of outputs, 1 on average over the data."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question."""

    name: str
    loss: Loss
    predictions: Callable[[Tensor], Tensor]  # of outputs (n, k): what is kept of them, and judged
    readable: Callable[[Tensor], Tensor]  # of predictions: probabilities, or values as they are
    drawn: Callable[[Tensor, np.random.Generator], Tensor]  # log-likelihood of an answer drawn from one output (1, k)
