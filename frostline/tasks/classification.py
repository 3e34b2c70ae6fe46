"""One label a picture: the targets, the head, the loss and what a prediction is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def head(features: int, classes: int, *, seed: int) -> nn.Linear:
    """A fresh output layer; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(features, classes)


def loss(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats over a batch of logits (n, c) and class ids (n), in float32 or better.

    `weights` of the classes (c) make it a weighted mean, as torch.nn.CrossEntropyLoss does.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    by = None if weights is None else weights.to(wide.dtype)
    return functional.cross_entropy(wide, targets, weight=by, label_smoothing=smoothing)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (n, c) in float32."""
    return functional.log_softmax(logits.float(), dim=1)
