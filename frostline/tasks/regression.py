"""One number an example, or several."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Half the mean squared error over examples and numbers; `weights` (numbers) are one over what each spreads by.

    Smoothing is for classes, and does nothing here.
    """
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    off = wide - targets.to(wide.dtype)
    return 0.5 * (off if weights is None else off * weights.to(wide.dtype)).square().mean()


def predictions(outputs: Tensor) -> Tensor:
    """The numbers (n, k) in float32."""
    return outputs.float()


def drawn(outputs: Tensor, rng: np.random.Generator) -> Tensor:
    """The log-likelihood, but for a constant, of numbers drawn around the output with a deviation of 1."""
    mean = outputs.float()[0]
    noise = torch.as_tensor(rng.standard_normal(len(mean)), dtype=mean.dtype, device=mean.device)
    return -0.5 * (mean - (mean.detach() + noise)).square().sum()
