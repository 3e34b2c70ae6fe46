"""Which arms a rung shows to be worse than another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.search.compare import (
    Spread,
    add_seeds,
    gaussian,
    range_quantile,
    spread,
    standard_errors,
)
from frostline.search.scores import Floats
from frostline.values import Unit

FEWEST_FOR_SPREAD = 4  # arms whose scatter can stand in for that of the seeds


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What the race keeps of one outcome."""

    unit: Unit
    rows: NDArray[np.int64]  # rising
    losses: Floats  # nats, one a row
    diverged: bool

    @property
    def mean(self) -> float:
        """Mean log-loss in nats."""
        return float(self.losses.mean())


def losers(table: Mapping[str, Sequence[Told]], still: set[str], *, alpha: float, seed: int) -> tuple[str, ...]:
    """The arms shown to be worse than another by paired per-example log-losses, wrong for any of them at `alpha`.

    `table` holds each arm's outcomes on the same folds and seeds; arms in `still` are exact, no seed changes them.
    The differences of all pairs of arms are bounded at once: then, with equal arms, none is called worse but for
    `alpha`. Uncertainty has two parts, the examples and the seeds (see `compare.spread`).
    """
    names = tuple(table)
    trained = [name for name in names if name not in still]
    single = all(len(table[name]) == 1 for name in trained)
    if len(names) < 2 or (single and 0 < len(trained) < FEWEST_FOR_SPREAD):
        return ()
    rng = np.random.default_rng(seed)
    examples = paired(table, names)
    errors = gaussian(examples, rng)
    if trained:
        counts = np.array([np.inf if name in still else len(table[name]) for name in names])
        errors = add_seeds(errors, _seeds(table, trained), counts, rng)
    se = standard_errors(errors)
    limit = range_quantile(errors, se, alpha) * se
    means = examples.mean(axis=0)
    worst = (means[:, None] - means[None, :] - limit).max(axis=1)
    return tuple(name for name, by in zip(names, worst, strict=True) if by > 1e-12)


def paired(table: Mapping[str, Sequence[Told]], names: Sequence[str]) -> Floats:
    """Mean loss of each row that every arm predicted, rows x arms: an example seen with two seeds counts once."""
    columns = [_by_row(table[name]) for name in names]
    common = columns[0][0]
    for rows, _ in columns[1:]:
        common = np.intersect1d(common, rows, assume_unique=True)
    return np.stack([values[np.searchsorted(rows, common)] for rows, values in columns], axis=1)


def _by_row(told: Sequence[Told]) -> tuple[NDArray[np.int64], Floats]:
    rows, place = np.unique(np.concatenate([t.rows for t in told]), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate([t.losses for t in told]))
    return rows, total / np.bincount(place)


def _seeds(table: Mapping[str, Sequence[Told]], trained: Sequence[str]) -> Spread:
    scores = np.array([[t.mean for t in table[name]] for name in trained])
    return spread(scores, one_fold=len({t.unit.fold for t in table[trained[0]]}) == 1)
