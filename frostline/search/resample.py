"""How the scores of several arms may be off: the bootstrap over examples, nested in folds and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.search.compare import Spread, add_seeds, pooled, spread
from frostline.search.scores import Floats, Metric, Own, chunks, resamples, score, sign, weighted
from frostline.values import Outcome

DRAWS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Scores of several arms and draws of their errors; more is better in every metric."""

    scores: Floats  # an arm
    errors: Floats  # draws x arms: examples and seeds
    by_examples: Floats  # draws x arms: examples alone, which more of them would make smaller
    examples: int  # distinct ones


def sample(
    groups: Sequence[Sequence[Outcome]],
    targets: NDArray[np.int64],
    metric: Metric,
    still: Sequence[bool],
    replicates: Sequence[Sequence[Sequence[Outcome]]],
    *,
    seed: int,
) -> Sample:
    """Each arm's mean score over its outcomes, with errors drawn jointly: one resample of the rows serves all arms.

    `groups` holds the outcomes of each arm; arms with several trainings on the same folds and seeds; arms in `still`
    do not depend on a seed. One model an arm makes a statement about these very models: no seed is drawn.
    """
    rng = np.random.default_rng(seed)
    towards = sign(metric)
    rows = np.unique(np.concatenate([o.rows for group in groups for o in group]))
    drawn = [[np.empty(0)] * len(group) for group in groups]
    for step in chunks(len(rows), DRAWS):
        counts = np.asfortranarray(resamples(rng, len(rows), step))  # in which an example's counts lie together
        for a, group in enumerate(groups):
            for i, o in enumerate(group):
                weights = counts.T[np.searchsorted(rows, o.rows)].T
                part = towards * weighted(metric, o.log_probabilities, targets[o.rows], weights, o.rows)
                drawn[a][i] = np.concatenate([drawn[a][i], part])
    share = [shares(group) for group in groups]
    scores = np.array([towards * mean_score(group, targets, metric) for group in groups])
    errors = _defined(np.stack([w @ np.stack(d) for w, d in zip(share, drawn, strict=True)], axis=1) - scores, rng)
    # one disagreement each way that was not seen (Agresti and Min 2005): equal predictions prove no equality
    one = np.sqrt(errors.var(axis=0).mean() / len(rows)) if isinstance(metric, Own) else 1 / len(rows)
    errors = errors - errors.mean(axis=0) + one * rng.standard_normal(errors.shape)
    trainings = np.array([np.inf if s else 1 / (w**2).sum() for s, w in zip(still, share, strict=True)])
    moving = [g for g, s in zip(groups, still, strict=True) if not s]
    seeds = _seeds([moving, *replicates], targets, metric)
    return Sample(scores, add_seeds(errors, seeds, trainings, rng), errors, len(rows))


def _defined(errors: Floats, rng: np.random.Generator) -> Floats:
    """The draws with those replaced, by others of them, in which some arm's score is not defined."""
    sound = np.flatnonzero(np.isfinite(errors).all(axis=1))
    if len(sound) in (0, len(errors)):
        return np.nan_to_num(errors)
    found = errors[rng.choice(sound, len(errors))]
    found[sound] = errors[sound]
    return found


def shares(outcomes: Sequence[Outcome]) -> Floats:
    """The weight of each outcome in its arm's score: folds count alike, and so do the seeds of one fold."""
    folds = [o.unit.fold for o in outcomes]
    return np.array([1 / folds.count(fold) for fold in folds]) / len(set(folds))


def mean_score(outcomes: Sequence[Outcome], targets: NDArray[np.int64], metric: Metric) -> float:
    """The score of an arm from several trainings, in the metric's own direction."""
    return float(shares(outcomes) @ [score(metric, o.log_probabilities, targets[o.rows], o.rows) for o in outcomes])


def _seeds(rungs: Sequence[Sequence[Sequence[Outcome]]], targets: NDArray[np.int64], metric: Metric) -> Spread:
    """Pooled over rungs whose arms have at least two trainings each; none where all models are single ones."""
    if not rungs[0] or len(rungs[0][0]) < 2:
        return Spread(0.0, float("inf"))
    found: list[Spread] = []
    for rung in rungs:
        count = min((len(group) for group in rung), default=0)
        if count < 2:
            continue
        kept = [group[:count] for group in rung]
        table = np.array([[score(metric, o.log_probabilities, targets[o.rows], o.rows) for o in g] for g in kept])
        found.append(spread(table, one_fold=len({o.unit.fold for o in rung[0]}) == 1))
    return pooled(found)
