"""One label an example: the loss, and what a prediction is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats over a batch of outputs, logits (n, c), and class ids (n), in float32 or better.

    `weights` of the classes (c), 1 on average over the data, multiply it example by example. It is not divided by those
    of the batch, as torch.nn.CrossEntropyLoss does: a batch without the rare class would count as much as one with it.
    """
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    if weights is None:
        return functional.cross_entropy(wide, targets, label_smoothing=smoothing)
    each = functional.cross_entropy(wide, targets, label_smoothing=smoothing, reduction="none")
    return (weights.to(wide.dtype)[targets] * each).mean()


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (n, c) in float32."""
    return functional.log_softmax(logits.float(), dim=1)


def drawn(outputs: Tensor, rng: np.random.Generator) -> Tensor:
    """The log-probability of a class drawn as the logits say."""
    said = torch.log_softmax(outputs.float(), dim=1)[0]
    return said[min(int(np.searchsorted(said.exp().cumsum(0).tolist(), rng.random())), len(said) - 1)]
