"""Any number of labels an example: each is a yes or a no of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy in nats, meaned over examples and labels; targets (n, labels) are 0 or 1.

    Smoothing moves them towards a half; `weights` are of the labels.
    """
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    wanted = targets.to(wide.dtype) * (1 - smoothing) + smoothing / 2
    each = functional.binary_cross_entropy_with_logits(wide, wanted, reduction="none")
    return (each if weights is None else each * weights.to(wide.dtype)).mean()


def predictions(outputs: Tensor) -> Tensor:
    """Logits (n, labels) in float32: above 0 a label is rather there."""
    return outputs.float()


def readable(found: Tensor) -> Tensor:
    """Probabilities (n, labels), each of its own."""
    return found.sigmoid()


def drawn(outputs: Tensor, rng: np.random.Generator) -> Tensor:
    """The log-likelihood of labels drawn as the logits say."""
    logits = outputs.float()[0]
    yes = torch.as_tensor(rng.random(len(logits)), device=logits.device) < logits.sigmoid()
    return functional.logsigmoid(torch.where(yes, logits, -logits)).sum()
