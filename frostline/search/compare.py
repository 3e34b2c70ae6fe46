"""Several arms at once: how far their scores may be off together, and what follows for their differences.

Everything stands on one table of errors, draws x arms: each row is one way in which all estimates may be off at the
same time. Errors of arms that saw the same examples go together, so a difference of two arms is known far better
than either of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frostline.search.scores import Floats


@dataclass(frozen=True, slots=True)
class Spread:
    """How much one arm's score varies from seed to seed."""

    variance: float  # of one training's score
    freedom: float  # degrees of freedom behind it; infinite where it is known to be zero


STILL = Spread(0.0, float("inf"))  # fixed models: nothing is drawn again


def gaussian(table: Floats, rng: np.random.Generator, draws: int = 8000) -> Floats:
    """Errors of column means from the spread of the rows (examples x arms), as draws x arms.

    Equal to the bootstrap over examples with Gaussian multipliers, whose law given the data is this normal law.
    """
    n, arms = table.shape
    centred = table - table.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (n * max(n - 1, 1)))
    return (rng.standard_normal((draws, arms)) * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def add_seeds(errors: Floats, spread: Spread, trainings: Floats, rng: np.random.Generator) -> Floats:
    """The same errors with those of the seeds added; `trainings` an arm, infinite where a seed changes nothing.

    The variance itself is an estimate: dividing by a chi-square makes the tails those of Student's t.
    """
    if spread.variance <= 0:
        return errors
    if np.isfinite(spread.freedom):
        scale = np.sqrt(spread.freedom / rng.chisquare(spread.freedom, size=(len(errors), 1)))
    else:
        scale = np.ones((len(errors), 1))
    return errors + rng.standard_normal(errors.shape) * np.sqrt(spread.variance / trainings) * scale


def standard_errors(errors: Floats) -> Floats:
    """Of every difference of two arms, arms x arms: half the width that holds the middle 68.3% of the draws.

    Not the standard deviation, which does not exist for Student's t with two degrees of freedom or fewer.
    """
    arms = errors.shape[1]
    result = np.zeros((arms, arms))
    for a in range(arms):
        for b in range(a):
            low, high = np.quantile(errors[:, a] - errors[:, b], [0.1587, 0.8413])
            result[a, b] = result[b, a] = (high - low) / 2
    return result


def _studentised(differences: Floats, se: Floats) -> Floats:
    return np.divide(differences, se, out=np.zeros_like(differences), where=se > 0)


def control_quantiles(errors: Floats, se: Floats, alpha: float) -> Floats:
    """For each arm k the c with which, but for `alpha`, no other arm's error passes k's by c standard errors.

    This is Dunnett's one-sided quantile with k as the control; Hsu's comparison with the best needs no more (1981).
    """
    arms = errors.shape[1]
    result = np.zeros(arms)
    for k in range(arms):
        others = np.arange(arms) != k
        if others.any():
            worst = _studentised(errors[:, others] - errors[:, [k]], se[None, k, others]).max(axis=1)
            result[k] = max(0.0, float(np.quantile(worst, 1 - alpha)))
    return result


def range_quantile(errors: Floats, se: Floats, alpha: float) -> float:
    """The c with which, but for `alpha`, no difference of any two arms is off by c standard errors (as Tukey's)."""
    arms = errors.shape[1]
    widest = np.zeros(len(errors))
    for a in range(arms):
        for b in range(a):
            if se[a, b] > 0:
                np.maximum(widest, np.abs(errors[:, a] - errors[:, b]) / se[a, b], out=widest)
    return float(np.quantile(widest, 1 - alpha))


def spread(scores: Floats, one_fold: bool) -> Spread:
    """The variance of one training's score, pooled over arms, from `scores` (arms x trainings).

    On one fold the trainings differ by their seeds. With a fold for each training they differ by rows too: what all
    arms share is taken out, the rest stays in. So the choice of examples counts twice there, which is too wide and
    never too narrow; taking its part out again leaves a variance that is often zero by luck. With a single training
    of each arm there is nothing to see: then how far the arms lie apart stands in for the seeds (by the median
    absolute deviation, which outliers do not move). True differences only add to it.
    """
    arms, trainings = scores.shape
    if trainings == 1:
        distance = np.median(np.abs(scores - np.median(scores)))
        # the deviation is about 37% efficient at the normal law, and the median costs one more degree
        return Spread(float(1.4826 * distance) ** 2, max(1.0, 0.37 * (arms - 1)))
    if one_fold or arms == 1:  # of a single arm, rows and seeds cannot be told apart: both count
        within = scores - scores.mean(axis=1, keepdims=True)
        freedom = arms * (trainings - 1)
        return Spread(float((within**2).sum() / freedom), float(freedom))
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    freedom = (arms - 1) * (trainings - 1)
    return Spread(float((rest**2).sum() / freedom), float(freedom))


def pooled(spreads: Sequence[Spread]) -> Spread:
    """One estimate from several, each with the weight of its degrees of freedom."""
    known = [s for s in spreads if np.isfinite(s.freedom)]
    if not known:
        return STILL
    freedom = sum(s.freedom for s in known)
    return Spread(sum(s.variance * s.freedom for s in known) / freedom, freedom)
