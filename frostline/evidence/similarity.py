"""How far the target lies from the source, told without a source example."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def batchnorm_shift(
    mean: NDArray[Any], variance: NDArray[Any], target_mean: NDArray[Any], target_variance: NDArray[Any]
) -> float:
    """How far the target's activations lie from the statistics that a batch norm has stored, in nats a channel.

    The mean over channels of the Kullback-Leibler divergence of the target's normal distribution from the stored one;
    0 where they agree.
    """
    floor = 1e-5  # the epsilon of batch norms: what it makes invisible is no shift
    source, target = (np.asarray(v, np.float64) + floor for v in (variance, target_variance))
    gap = np.asarray(target_mean, np.float64) - np.asarray(mean, np.float64)
    return float(np.mean(0.5 * (np.log(source / target) + (target + gap**2) / source - 1)))
