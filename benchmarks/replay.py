"""Races played on stored predictions: what a search would have seen, asked for and decided, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.predictions import Predictions
from frostline.plan import with_rate
from frostline.search.arms import exact
from frostline.search.decide import Aim, Finalist, decide
from frostline.search.race import Race, ask, finalists, replicates, rounds, start, tell
from frostline.search.schedule import Schedule
from frostline.values import Decision, Outcome, Unit


@dataclass(frozen=True, eq=False)
class Replay:
    """A race on examples drawn from a table, and what each of its trainings truly is."""

    race: Race
    outcomes: tuple[Outcome, ...]
    finalists: tuple[Finalist, ...]
    decision: Decision
    targets: NDArray[np.int64]  # of all examples that were drawn
    worth: Mapping[str, float]  # the true accuracy of each arm: all its trainings, on all examples of the table
    models: Mapping[Unit, float]  # the true accuracy of each single training

    @property
    def behind(self) -> float:
        """How far the choice is from the best of the finalists, in truth."""
        return max(self.worth[f.arm.id] for f in self.finalists) - self.worth[self.decision.arm]


def replayed(
    table: Predictions,
    schedule: Schedule,
    *,
    examples: int,
    seed: int,
    arms: Mapping[str, str] | None = None,
    certification: int = 0,
    aim: Aim | None = None,
) -> Replay:
    """A race of `arms` (name in the race -> arm of the table; all of them under their own names by default).

    Each fold's validation examples are drawn with replacement from all of the table, and so are those for
    certification, and trainings from those of the arm at the nearest rate: the table is the world, and what is true in
    it is known. Not in it are other training sets, what a short schedule misjudges (it is answered with a full one),
    and the shape of predictions besides the class and its loss, by which the race fits a temperature.
    """
    aim, rng = aim or Aim(), np.random.default_rng([17, seed])
    of = arms or {name: name for name in table.arms}
    entries = tuple(replace(table.entry(known), id=name) for name, known in of.items())
    folds = 1 + max(fold for rung in schedule.rungs for fold, _ in rung.pairs)
    drawn = rng.integers(0, table.target.size, folds * examples + certification)
    targets = table.target[drawn].astype(np.int64)
    picked = dict[Unit, int]()

    def answer(unit: Unit, rows: NDArray[np.int64]) -> Outcome:
        known = of[unit.arm]
        if unit not in picked:
            picked[unit] = int(rng.choice(_near(table, known, unit.rate)))
        return table.outcome(picked[unit], drawn[rows], unit, rows)

    race, outcomes = start(entries, schedule), list[Outcome]()
    while units := ask(race):
        for unit in units:
            outcomes.append(answer(unit, np.arange(examples) + unit.fold * examples))
            race = tell(race, outcomes[-1], targets)
    by = {outcome.unit: outcome for outcome in outcomes}
    last, apart = list[Finalist](), np.arange(folds * examples, len(drawn))
    for arm, rate, units in finalists(race):
        proof = (answer(units[0], apart),) if certification else ()
        chosen = replace(arm, plan=with_rate(arm.plan, rate))
        last.append(Finalist(chosen, table.cost(of[arm.id]), tuple(by[unit] for unit in units), proof))
    decision = decide(last, targets, aim, replicates=replicates(race, by), seed=seed)
    everywhere = table.right.mean(axis=1)
    worth = {name: _worth(table, everywhere, of[name], race, name) for name in of}
    models = {unit: float(everywhere[row]) for unit, row in picked.items()}
    return Replay(race, tuple(outcomes), tuple(last), decision, targets, worth, models)


def _near(table: Predictions, arm: str, rate: float) -> NDArray[np.int64]:
    """The trainings of an arm at the rate that is nearest to one."""
    mine = np.flatnonzero(table.arm == arm)
    distance = np.abs(np.log(table.rate[mine] / rate))
    return mine[distance == distance.min()]


def _worth(table: Predictions, everywhere: NDArray[np.float64], known: str, race: Race, name: str) -> float:
    """Of an arm at the rate that the race gave it, as a mean over its trainings in the table."""
    asked = next(turn.rates[name] for turn in reversed(rounds(race)) if name in turn.rates)
    return float(everywhere[_near(table, known, asked)].mean())


def equal(table: Predictions, arm: str, count: int) -> Mapping[str, str]:
    """So many arms that are the same one, with trainings of their own each."""
    if exact(table.entry(arm)):
        raise ValueError(f"{arm!r} is exact: its copies would be the same model, not equal ones")
    return {f"{arm}#{number}": arm for number in range(count)}


def worse(replay: Replay) -> Sequence[str]:
    """Every arm that was declared worse than another one, on the way or at the end."""
    on_the_way = [name for turn in rounds(replay.race) for name in turn.worse]
    return [*on_the_way, *(f.arm.id for f in replay.finalists if f.arm.id not in replay.decision.plausible)]
