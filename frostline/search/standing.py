"""What is reported of every arm, and the score of the model that is handed back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frostline.errors import RunFailed
from frostline.search.decide import Aim
from frostline.search.race import Race, rounds, stages
from frostline.search.resample import mean_score, shares
from frostline.search.scores import (
    METRICS,
    Floats,
    bootstrap,
    chunks,
    correct,
    named,
    resamples,
    score,
    share_of,
    sign,
    weighted,
)
from frostline.tasks.measures.table import answerable
from frostline.values import Cost, Estimate, Outcome, Score, Standing, Targets, asked

DRAWS = 1000
MANY = 100  # classes
ROUNDING = 1e-9  # of such a score


def held_out_score(outcome: Outcome, targets: NDArray[np.int64], aim: Aim, *, seed: int = 0) -> Score:
    """Of one fixed model, on rows that neither trained nor selected it; the interval is that of `estimate`."""
    at = estimate([outcome], targets, aim, seed=seed)
    return Score(named(aim.metric), at.mean, at.low, at.high, len(outcome.rows), "held_out")


def estimate(outcomes: Sequence[Outcome], targets: NDArray[np.int64], aim: Aim, *, seed: int = 0) -> Estimate:
    """The mean score of some trainings of one arm, with its interval over examples; rows seen twice count once.

    Wilson's interval for the accuracy of a single training, else the percentile bootstrap over the distinct rows.
    """
    if len(outcomes) == 1:
        only = outcomes[0]
        truth = targets[only.rows]
        if aim.metric == "accuracy":
            return Estimate.of_share(score("accuracy", only.log_probabilities, truth), len(truth), aim.confidence)
        rng = np.random.default_rng(seed)
        at = bootstrap(
            aim.metric, only.log_probabilities, truth, only.rows, confidence=aim.confidence, rng=rng, draws=DRAWS
        )
        down, up = least_width(outcomes, targets, aim)
        return Estimate(at.mean, min(at.low, at.mean - down), max(at.high, at.mean + up))
    rows = np.unique(np.concatenate([o.rows for o in outcomes]))
    resampled = _counts(len(rows), np.random.default_rng(seed))
    drawn = np.concatenate([_mean(outcomes, rows, targets, aim, counts) for counts in resampled])
    low, high = np.nanquantile(drawn, [(1 - aim.confidence) / 2, (1 + aim.confidence) / 2])
    mean, (down, up) = mean_score(outcomes, targets, aim.metric), least_width(outcomes, targets, aim)
    return Estimate(mean, min(float(low), mean - down), max(float(high), mean + up))


def least_width(outcomes: Sequence[Outcome], targets: NDArray[np.int64], aim: Aim) -> tuple[float, float]:
    """How far a score may be off, downwards and upwards, at least: where few of a class are judged, or none wrong.

    A bootstrap of three right answers knows of no wrong one. Wilson's interval of each class does; those of the classes
    are put together as for a sum of independent shares (MOVER: Zou and Donner 2008). So for accuracies; a score that is
    made of shares in another way is taken for one where it lies at its end, 0 or 1, and the bootstrap has no width: of
    average precision Wilson's interval with the members of a class as its examples is not too narrow (Boyd, Eng and
    Page, ECML 2013). Zero for other metrics.
    """
    rows = np.concatenate([o.rows for o in outcomes])
    distinct, place = np.unique(rows, return_inverse=True)
    if aim.metric not in ("accuracy", "balanced_accuracy"):
        if share_of(aim.metric, targets) is None:
            return 0.0, 0.0
        return _at_an_end(mean_score(outcomes, targets, aim.metric), targets[distinct], aim)
    hits = np.concatenate([correct(o.log_probabilities, targets[o.rows]) for o in outcomes])
    share = np.bincount(place, weights=hits) / np.bincount(place)
    of = targets[distinct] if aim.metric == "balanced_accuracy" else np.zeros(len(distinct), np.int64)
    labels = np.unique(of)
    return _together([(float(share[of == label].mean()), int((of == label).sum())) for label in labels], aim)


def _at_an_end(score: float, targets: Targets, aim: Aim) -> tuple[float, float]:
    """The least width of a score of 0 or 1 that is made of shares: of all examples, or of those of each class."""
    if ROUNDING < score < 1 - ROUNDING:
        return 0.0, 0.0
    told = answerable(targets)
    members = (told > 0 if told.ndim == 2 else told[:, None] == np.unique(told)).sum(axis=0)
    if aim.metric == "roc_auc":  # of pairs of members and others
        members = np.minimum(members, len(targets) - members)
    counts = [int(count) for count in members if count]
    if share_of(aim.metric, targets) == "examples":
        counts = [len(targets)]
    return _together([(float(round(score)), count) for count in counts], aim)


def _together(shares: Sequence[tuple[float, int]], aim: Aim) -> tuple[float, float]:
    """How far the mean of independent shares, each of so many, may be off; nowhere where there is none."""
    found = [Estimate.of_share(share, count, aim.confidence) for share, count in shares]
    down = sum((at.mean - at.low) ** 2 for at in found) ** 0.5 / max(1, len(found))
    up = sum((at.high - at.mean) ** 2 for at in found) ** 0.5 / max(1, len(found))
    return down, up


def in_every_metric(outcomes: Sequence[Outcome], targets: NDArray[np.int64], aim: Aim) -> Mapping[str, Estimate]:
    """The `estimate` of the same predictions in each metric that is known and that these examples define.

    Those of one class alone have no area under a curve; of many classes it is left out, as it takes minutes.
    """
    classes = outcomes[0].log_probabilities.shape[1]
    known = METRICS[asked(targets)]
    wanted = [name for name in known if name != "roc_auc" or classes <= MANY]
    defined = [name for name in wanted if np.isfinite(mean_score(outcomes, targets, name))]
    return {name: estimate(outcomes, targets, replace(aim, metric=name)) for name in defined}


def difference(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], targets: NDArray[np.int64], aim: Aim, *, seed: int = 0
) -> Estimate:
    """How much better one arm's trainings score than another's: paired bootstrap over the examples of both.

    Positive is better in every metric. Both must have predicted the same rows, in whatever folds.
    """
    drawn = _differences(ours, theirs, targets, aim, seed)
    low, high = np.nanquantile(drawn, [(1 - aim.confidence) / 2, (1 + aim.confidence) / 2])
    gap = mean_score(ours, targets, aim.metric) - mean_score(theirs, targets, aim.metric)
    return Estimate(sign(aim.metric) * gap, float(low), float(high))


def probability(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], targets: NDArray[np.int64], aim: Aim, *, seed: int = 0
) -> float:
    """How probable it is that these trainings of ours score better than theirs on other examples of the same kind.

    The share of paired resamples of the examples in which they do, ties half; of these very models, not of strategies:
    other seeds are not in it. Compared by probability as Bouthillier et al. (MLSys 2021) advise.
    """
    drawn = _differences(ours, theirs, targets, aim, seed)
    drawn = drawn[np.isfinite(drawn)]
    return float(np.mean((drawn > 0) + 0.5 * (drawn == 0)))


def _differences(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], targets: NDArray[np.int64], aim: Aim, seed: int
) -> Floats:
    """How much better ours score, once for each resample of the examples of both."""
    rows = np.unique(np.concatenate([o.rows for o in ours]))
    if not np.array_equal(rows, np.unique(np.concatenate([o.rows for o in theirs]))):
        raise RunFailed("two strategies were to be compared on different examples; please report this")
    drawn = [
        _mean(ours, rows, targets, aim, counts) - _mean(theirs, rows, targets, aim, counts)
        for counts in _counts(len(rows), np.random.default_rng(seed))
    ]
    return sign(aim.metric) * np.concatenate(drawn)


def corrected_score(
    outcomes: Sequence[Outcome],
    chosen: Sequence[Outcome],
    targets: NDArray[np.int64],
    aim: Aim,
    *,
    seed: int = 0,
) -> Score:
    """The score of the chosen arm, freed from having been selected on the same rows.

    `outcomes` are all of the race, `chosen` those of the last rung of the arm that was chosen. Each bootstrap resample
    repeats the selection among the configurations (see `_configurations`), and the winner is scored on the rows that
    were left out (BBC-CV: Tsamardinos et al. 2018). The mean of these is the score where the choice is also the best
    seen; where a cheaper arm was chosen, its own score less the same optimism, which is then rather too much.
    The interval is that of the resampled winner's score over examples, moved by the optimism.
    """
    configurations = _configurations([o for o in outcomes if not o.diverged])
    if not configurations or not chosen:
        raise RunFailed("no training came to an end without diverging, so there is no score; lower the learning rate")
    towards = sign(aim.metric)
    rows = np.unique(np.concatenate([o.rows for group in configurations for o in group]))
    inside, outside = list[Floats](), list[Floats]()
    for counts in _counts(len(rows), np.random.default_rng(seed)):
        inside.append(_table(configurations, rows, targets, aim, counts))
        outside.append(_table(configurations, rows, targets, aim, (counts == 0).astype(np.float64)))
    within = np.nan_to_num(towards * np.concatenate(inside), nan=-np.inf)
    winner = within.argmax(axis=1)[:, None]
    seen = np.take_along_axis(within, winner, axis=1)[:, 0]
    left = np.take_along_axis(towards * np.concatenate(outside), winner, axis=1)[:, 0]
    best = max(towards * mean_score(group, targets, aim.metric) for group in configurations)
    optimism = max(0.0, best - float(np.nanmean(left)))
    value = towards * mean_score(chosen, targets, aim.metric) - optimism
    seen = seen[np.isfinite(seen)]  # a resample without one of the classes may define no score at all
    low, high = value + np.quantile(seen - seen.mean(), [(1 - aim.confidence) / 2, (1 + aim.confidence) / 2])
    down, up = least_width(chosen, targets, aim)
    low, high = min(low, value - down), max(high, value + up)
    ends = sorted((towards * float(low), towards * float(high)))
    n = len(np.unique(np.concatenate([o.rows for o in chosen])))
    return Score(named(aim.metric), towards * value, ends[0], ends[1], n, "cross_validated")


def beyond(
    outcomes: Sequence[Outcome], shifted: NDArray[np.int64], targets: NDArray[np.int64], aim: Aim
) -> Estimate | None:
    """The `estimate` of the same trainings on the shifted examples; None where there are none, or none of some class
    without which the metric is not defined."""
    there = [
        replace(o, rows=shifted, log_probabilities=o.shifted)
        for o in outcomes
        if o.shifted is not None and len(shifted)
    ]
    if not there or not np.isfinite(mean_score(there, targets, aim.metric)):
        return None
    return estimate(there, targets, aim)


def standings(
    race: Race,
    outcomes: Sequence[Outcome],
    targets: NDArray[np.int64],
    costs: Mapping[str, Cost],
    aim: Aim,
    *,
    shifted: NDArray[np.int64],
) -> tuple[Standing, ...]:
    """Every arm as it came out, in the order of the race: the score is that of its last rung at its best rate.

    So is the score on the `shifted` examples, where there are any.

    An arm whose trainings there all diverged is scored on what they predict all the same. Arms with no outcome in
    their last rung at all are left out.
    """
    ends = stages(race)
    found: list[Standing] = []
    for arm in race.arms:
        mine = [o for o in outcomes if o.unit.arm == arm.id and o.unit.rung > 0]
        last = max((turn.number for turn in rounds(race) if arm.id in turn.rates), default=0)
        if not last or not mine:
            continue
        rate = rounds(race)[last - 1].rates[arm.id]
        scored = [o for o in mine if o.unit.rung == last and o.unit.rate == rate]
        found.append(
            Standing(
                arm=next(a for a in rounds(race)[last - 1].entrants if a.id == arm.id),
                stage=ends[arm.id][0],
                score=estimate(scored, targets, aim),
                rate=rate,
                seconds=sum(o.seconds for o in mine),
                peak_bytes=max(o.peak_bytes for o in mine),
                cost=costs[arm.id],
                shifted=beyond(scored, shifted, targets, aim),
            )
        )
    return tuple(found)


def _counts(examples: int, rng: np.random.Generator) -> Iterator[Floats]:
    # the counts of an example lie together: `_scores` picks examples
    return (np.asfortranarray(resamples(rng, examples, step)) for step in chunks(examples, DRAWS))


def _configurations(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Arm and rate make a configuration, in the last rung that it reached; its seeds and folds are averaged.

    Arms that never left the first rung are no candidates unless all are such: later rungs begin anew with new seeds,
    so the luck of the first does not reach the score. With them in it, the score of planted races came out 1.4 points
    too low at 400 examples; without them it was within 0.3 points, whether an arm's mistakes last from seed to seed or
    not (tests/test_decide.py repeats the half-way case).
    """
    last: dict[str, int] = {}
    for o in outcomes:
        last[o.unit.arm] = max(last.get(o.unit.arm, 0), o.unit.rung)
    lowest = min(2, max(last.values(), default=0))
    groups: dict[tuple[str, float], list[Outcome]] = {}
    for o in outcomes:
        if o.unit.rung == last[o.unit.arm] >= lowest:
            groups.setdefault((o.unit.arm, o.unit.rate), []).append(o)
    return [groups[key] for key in sorted(groups)]


def _table(
    groups: Sequence[Sequence[Outcome]],
    rows: NDArray[np.int64],
    targets: NDArray[np.int64],
    aim: Aim,
    weights: Floats,
) -> Floats:
    return np.stack([_mean(group, rows, targets, aim, weights) for group in groups], axis=1)


def _mean(
    outcomes: Sequence[Outcome], rows: NDArray[np.int64], targets: NDArray[np.int64], aim: Aim, weights: Floats
) -> Floats:
    """The mean score of some trainings under each row of `weights`."""
    return shares(outcomes) @ np.stack([_scores(o, rows, targets, aim, weights) for o in outcomes])


def _scores(outcome: Outcome, rows: NDArray[np.int64], targets: NDArray[np.int64], aim: Aim, weights: Floats) -> Floats:
    picked = weights.T[np.searchsorted(rows, outcome.rows)].T
    return weighted(aim.metric, outcome.log_probabilities, targets[outcome.rows], picked, outcome.rows)
