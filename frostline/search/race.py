"""The race: asked which units to run next, told what they came to, and nothing else.

A race is its arms, its schedule and what was told; all else follows from these. So the order in which outcomes arrive
does not matter, and a resumed race is the one that was never interrupted. Every rung is a complete short schedule
begun anew from the source weights (a truncated one favours frozen arms: He et al. 2019), on folds and seeds that all
arms share; arms leave at the end of a rung only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from frostline.errors import RunError
from frostline.search.arms import exact, widen
from frostline.search.eliminate import Told, losers
from frostline.search.schedule import Pair, Rung, Schedule, whole
from frostline.search.scores import raced
from frostline.values import Arm, Outcome, Unit


@dataclass(frozen=True, slots=True, eq=False)
class Race:
    """The whole state of a search."""

    arms: tuple[Arm, ...]
    schedule: Schedule
    told: tuple[Told, ...] = ()  # by unit
    metric: str = "accuracy"  # what is asked for in the end; it says how much each class weighs on the way


@dataclass(frozen=True, slots=True)
class Round:
    """One rung as it stands."""

    number: int  # from 1
    rung: Rung
    entrants: tuple[Arm, ...]  # with their widened grids
    units: tuple[Unit, ...]  # all that it takes
    missing: tuple[Unit, ...]  # those without an outcome yet
    means: Mapping[str, float]  # mean validation log-loss at the best rate; empty until none is missing
    rates: Mapping[str, float]  # the best rate of each entrant; empty until none is missing
    worse: tuple[str, ...] = ()  # shown to be worse than another arm
    diverged: tuple[str, ...] = ()  # at every rate
    onward: tuple[str, ...] = ()  # arms of the next rung; of the last rung: the finalists


def start(arms: Sequence[Arm], schedule: Schedule, *, metric: str = "accuracy") -> Race:
    """A race of these arms, the indispensable ones first: where the schedule affords fewer, the last ones stay out."""
    room = schedule.arms
    if room is None:
        return Race(tuple(arms), schedule, metric=metric)
    kept = set(islice((a.id for a in sorted(arms, key=lambda a: not a.protected) if not exact(a)), room))
    return Race(tuple(a for a in arms if exact(a) or a.id in kept), schedule, metric=metric)


def ask(race: Race) -> tuple[Unit, ...]:
    """The units of the current rung that have no outcome yet, most protected arms first; none when the race is over."""
    return rounds(race)[-1].missing


def tell(race: Race, outcome: Outcome, targets: NDArray[np.int64]) -> Race:
    """The race that knows this outcome too; `targets` are those of all examples, indexed by the outcome's rows.

    An outcome told twice changes nothing. Raises RunError where no arm of the race has that name.
    """
    unit = outcome.unit
    if unit.arm not in {arm.id for arm in race.arms}:
        raise RunError(
            f"outcome {unit.key!r} is of an arm that is not in this race ({', '.join(a.id for a in race.arms)}); "
            "it belongs to another run: give another --out"
        )
    if any(told.unit == unit for told in race.told):
        return race
    order = np.argsort(outcome.rows)
    rows = outcome.rows[order]
    loss = raced(race.metric, outcome.log_probabilities[order], targets[rows])
    table = outcome.log_probabilities
    broken = table.ndim == 2 and not np.isfinite(table).any(axis=1).all()  # rows of others are empty where nothing is
    diverged = outcome.diverged or broken
    told = Told(unit, rows, loss, bool(diverged))
    return replace(race, told=tuple(sorted((*race.told, told), key=lambda t: t.unit)))


@lru_cache(maxsize=4)  # many ask for the same race, and a race never changes
def rounds(race: Race) -> tuple[Round, ...]:
    """Every rung so far, the current one last."""
    known = {told.unit: told for told in race.told}
    entrants, rates = race.arms, dict[str, float]()
    played: list[Round] = []
    for number in range(1, len(race.schedule.rungs) + 1):
        played.append(_play(race, number, entrants, rates, known))
        if played[-1].missing:
            break
        rates = dict(played[-1].rates)
        entrants = tuple(arm for arm in played[-1].entrants if arm.id in played[-1].onward)
        if not entrants:
            break
    return tuple(played)


def over(race: Race) -> bool:
    """No unit is left to run."""
    return not ask(race)


def finalists(race: Race) -> tuple[tuple[Arm, float, tuple[Unit, ...]], ...]:
    """The arms that a decision is made on, with their learning rate and their units of the last rung.

    Raises RunError where the race is not over or every arm diverged.
    """
    last = rounds(race)[-1]
    if last.missing or not last.onward:
        state = f"{len(last.missing)} units have no outcome yet" if last.missing else "every arm diverged"
        raise RunError(f"the race has no finalists: {state}; finish it with --resume, or try lower learning rates")
    return tuple(
        (arm, last.rates[arm.id], tuple(u for u in last.units if u.arm == arm.id and u.rate == last.rates[arm.id]))
        for arm in last.entrants
        if arm.id in last.onward
    )


def replicates(race: Race, known: Mapping[Unit, Outcome]) -> list[list[list[Outcome]]]:
    """Earlier trainings that differ in their seed alone, rung by rung and arm by arm: they show how much it matters."""
    found: list[list[list[Outcome]]] = []
    for turn in rounds(race)[1:-1]:
        units = [[u for u in turn.units if u.arm == name and u.rate == rate] for name, rate in turn.rates.items()]
        found.append([[known[unit] for unit in group] for group in units if len(group) > 1])
    return found


def training_of_the_choice(race: Race, arm: str) -> tuple[Unit, ...]:
    """What is left to train of the chosen arm: one full schedule where the last rung was shorter, else nothing."""
    last = rounds(race)[-1]
    schedule = race.schedule
    if whole(schedule):
        return ()
    fold, seed = last.rung.pairs[0]
    return (Unit(arm, last.rates[arm], len(schedule.rungs) + 1, fold, seed, schedule.epochs),)


def stages(race: Race) -> Mapping[str, tuple[str, str]]:
    """For each arm where it ended, "dropped@1" or "finalist", and the reason in one sentence."""
    told: dict[str, tuple[str, str]] = {}
    played = rounds(race)
    for turn in played:
        for arm in turn.entrants:
            told[arm.id] = _stage(turn, arm, last=turn.number == len(race.schedule.rungs))
    return told


def _stage(turn: Round, arm: Arm, *, last: bool) -> tuple[str, str]:
    if turn.missing:
        return f"rung@{turn.number}", "still racing"
    if arm.id in turn.diverged:
        return f"dropped@{turn.number}", "its training diverged at every learning rate"
    if arm.id in turn.onward:
        return ("finalist", "came to the end") if last else (f"rung@{turn.number}", "goes on")
    if arm.id in turn.worse:
        return f"dropped@{turn.number}", "shown to be worse than another arm"
    return f"dropped@{turn.number}", "not among the best that the schedule has room for; not shown to be worse"


def _play(
    race: Race, number: int, entrants: tuple[Arm, ...], rates: Mapping[str, float], known: Mapping[Unit, Told]
) -> Round:
    schedule = race.schedule
    rung = schedule.rungs[number - 1]
    if rung.rates == "grid":
        entrants = tuple(_widened(arm, rung, number, known) for arm in entrants)
    units = tuple(u for arm in entrants for u in _units(arm, rung, number, rates.get(arm.id)))
    missing = tuple(u for u in units if u not in known)
    if missing:
        return Round(number, rung, entrants, units, missing, {}, {})
    best = {arm.id: _best(arm, units, known) for arm in entrants}
    means = {name: mean for name, (_, mean) in best.items()}
    chosen = {name: rate for name, (rate, _) in best.items()}
    diverged = tuple(name for name, mean in means.items() if not np.isfinite(mean))
    running = [arm for arm in entrants if arm.id not in diverged]
    table = {arm.id: [known[u] for u in units if u.arm == arm.id and u.rate == chosen[arm.id]] for arm in running}
    still = {arm.id for arm in running if exact(arm)}
    worse = losers(table, still, alpha=rung.share * (1 - schedule.confidence), seed=number)
    onward = _onward(running, means, worse, race, number)
    return Round(number, rung, entrants, units, (), means, chosen, worse, diverged, onward)


def _units(arm: Arm, rung: Rung, number: int, best: float | None) -> tuple[Unit, ...]:
    rates = arm.rates
    if rung.rates != "grid" and best is not None:
        at = arm.rates.index(best)
        reach = 1 if rung.rates == "near" else 0
        rates = arm.rates[max(0, at - reach) : at + reach + 1]
    return tuple(
        Unit(arm.id, rate, number, fold, seed, rung.epochs)
        for rate in rates
        for fold, seed in (_one_a_fold(rung.pairs) if exact(arm) else rung.pairs)
    )


def _one_a_fold(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Of each fold the first pair: what has no seed would only be computed twice."""
    first: dict[int, Pair] = {}
    for fold, seed in pairs:
        first.setdefault(fold, (fold, seed))
    return tuple(first.values())


def _widened(arm: Arm, rung: Rung, number: int, known: Mapping[Unit, Told]) -> Arm:
    units = _units(arm, rung, number, None)
    if any(u not in known for u in units):
        return arm
    rate, mean = _best(arm, units, known)
    return (widen(arm, rate) if np.isfinite(mean) else None) or arm


def _best(arm: Arm, units: Sequence[Unit], known: Mapping[Unit, Told]) -> tuple[float, float]:
    """The rate of least mean log-loss and that loss, the lower rate of equals; infinite where all diverged."""
    means: dict[float, float] = {}
    for rate in arm.rates:
        told = [known[u] for u in units if u.arm == arm.id and u.rate == rate]
        if told:
            means[rate] = float("inf") if any(t.diverged for t in told) else float(np.mean([t.mean for t in told]))
    rate = min(means, key=lambda r: (means[r], r))
    return rate, means[rate]


def _onward(
    running: Sequence[Arm], means: Mapping[str, float], worse: Sequence[str], race: Race, number: int
) -> tuple[str, ...]:
    """Who enters the next rung: the protected where it protects them, the exact, and the best of the others."""
    rungs = race.schedule.rungs
    last = number == len(rungs)
    if last:
        return tuple(arm.id for arm in running)
    protected = {arm.id for arm in running if arm.protected and rungs[number].protects}
    room = rungs[number].most
    trained = [a.id for a in running if not exact(a)]
    ranked = sorted(trained, key=lambda name: (name not in protected, means[name], name))
    fit = [name for name in ranked if name in protected or name not in worse]
    kept = set(fit if room is None else fit[: max(room, sum(name in protected for name in fit))])
    free = {a.id for a in running if exact(a) and (a.protected or a.id not in worse)}
    return tuple(a.id for a in running if a.id in kept or a.id in free)
