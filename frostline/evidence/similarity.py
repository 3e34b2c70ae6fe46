"""How far the target lies from the source: told without a source example, or from some."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.evidence.probes import ridge_loo

MOST = 1000  # examples of either side: beyond, the figures no longer move


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


def cka(one: NDArray[Any], other: NDArray[Any]) -> float:
    """How alike two representations of the same examples are: 1 where they differ by a turn and a scale, 0 by chance.

    Linear centred kernel alignment (Kornblith et al., ICML 2019, arXiv:1905.00414) with the unbiased estimate of the
    Hilbert-Schmidt independence criterion (Song et al., JMLR 2012), which many features of few examples do not inflate;
    so chance may come out a little below 0. Looks at the first 1,000 rows; nan where fewer than 4 are given, or where
    one of them does not vary.
    """
    grams = [_hollow(np.asarray(features[:MOST], np.float64)) for features in (one, other)]
    across, *own = (_hsic(a, b) for a, b in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1])))
    return float(across / np.sqrt(own[0] * own[1])) if min(own) > 0 else float("nan")


def _hollow(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gram matrix of centred features, without its diagonal."""
    centred = features - features.mean(axis=0)
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    n = len(one)
    if n < 4:
        return 0.0
    rows, columns = one.sum(axis=0), other.sum(axis=0)
    both = rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 * float(rows @ columns) / (n - 2)
    return float((one * other).sum() + both) / (n * (n - 3))


def proxy_distance(source: NDArray[Any], target: NDArray[Any], *, seed: int) -> float:
    """How easily source and target are told apart by these features: 0 where they cannot be, 2 where they always are.

    The proxy A-distance 2 (1 - 2 e), with e the left-out error of a ridge classifier between equally many of both, the
    same draw for a seed. Source: Ben-David et al., "Analysis of representations for domain adaptation", NeurIPS 2006.
    """
    rng, count = np.random.default_rng(seed), min(len(source), len(target), MOST)
    some = [features[np.sort(rng.permutation(len(features))[:count])] for features in (source, target)]
    error = 1 - ridge_loo(np.concatenate(some), np.repeat([0, 1], count)).accuracy
    return float(np.clip(2 * (1 - 2 * error), 0.0, 2.0))
