"""What a race spends, fixed before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from frostline.errors import OptionError
from frostline.search.arms import MOST, exact
from frostline.values import Arm

Pair = tuple[int, int]  # fold, seed
Effort = Literal["quick", "default", "thorough"]
FEWEST_EPOCHS = 2  # of a rung, where the full schedule has as many: one epoch is all warm-up and decay
RACED, DECIDED = 200, 400  # validation rows for the second rung and for the final, where the folds have as many
FEWEST_ARMS = 4  # that a budget leaves in the first rung


@dataclass(frozen=True, slots=True)
class Rung:
    """One complete short schedule for all arms that are still there."""

    epochs: int
    pairs: tuple[Pair, ...]  # folds and seeds, the same for every arm
    rates: Literal["grid", "best", "near"]  # all of an arm's, its best one so far, or that and its neighbours
    most: int | None  # trained arms that may enter; None admits all. Exact probes take no place
    share: float  # of the error budget 1 - confidence
    protects: bool = True  # protected arms enter whatever their rank


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rungs of a race; the last one is the final, which decides."""

    rungs: tuple[Rung, ...]
    epochs: int  # of the full schedule
    confidence: float
    arms: int | None = None  # trained arms that may start; None admits all


def schedule(
    effort: Effort, epochs: int, *, folds: int = 1, rows: int | None = None, confidence: float = 0.95
) -> Schedule:
    """The rungs for an effort, with `epochs` as the full schedule R.

    default: every arm at 3 rates for R/6, four arms with two seeds for R/3, two arms with two seeds for R. quick:
    the first two of these; the choice is then trained once for R (`race.training_of_the_choice`). thorough: up to
    three folds at R/6, six arms at their best rate and its neighbours for R/3, four arms with five seeds for R.
    Where there are several folds, the second seed takes the second fold, and so on: a new fold shows the variation of
    a new seed and that of other rows for the same price. No seed serves in two rungs, or a lucky one would be selected
    and then counted again. Where a fold has few validation `rows`, more folds take part, up to all of them: a choice
    among good arms on 100 predictions is a draw of lots. The error budget goes 0.2, 0.3 and 0.5 to the first, the
    second and the deciding rung.
    """
    if epochs < 1 or folds < 1 or not 0 < confidence < 1:
        raise OptionError(
            f"epochs {epochs}, folds {folds}, confidence {confidence}: epochs and folds are at least 1, "
            "and confidence lies between 0 and 1"
        )
    sixth, third = _part(epochs, 6), short_epochs(epochs)
    if effort == "thorough":
        first = tuple((fold, 0) for fold in range(min(3, folds)))
        second, final = _pairs(_enough(2, RACED, rows, folds), folds, 1), _pairs(max(5, folds), folds, 9)
        rungs = (
            Rung(sixth, first, "grid", None, 0.2),
            Rung(third, second, "near", 6, 0.3),
            Rung(epochs, final, "best", 4, 0.5, protects=False),
        )
        return Schedule(rungs, epochs, confidence)
    rungs = (
        Rung(sixth, ((0, 0),), "grid", None, 0.2),
        Rung(third, _pairs(_enough(2, RACED, rows, folds), folds, 1), "best", 4, 0.3 if effort == "default" else 0.5),
        Rung(epochs, _pairs(_enough(2, DECIDED, rows, folds), folds, 9), "best", 2, 0.5, protects=False),
    )
    return Schedule(rungs if effort == "default" else rungs[:2], epochs, confidence)


def comparison(
    effort: Effort, epochs: int, *, folds: int = 1, rows: int | None = None, confidence: float = 0.95
) -> Schedule:
    """Two rungs for arms that all come to the end: their rates at R/6, then each at its best one for R.

    Seeds of the second: two for quick, three by default, five for thorough; more folds where one has few `rows`. One
    would not show how much a seed matters.
    """
    plain = schedule("default", epochs, folds=folds, rows=rows, confidence=confidence)
    seeds = {"quick": 2, "default": 3, "thorough": 5}[effort]
    pairs = _pairs(seeds if effort == "quick" else _enough(seeds, DECIDED, rows, folds), folds, 9)
    return replace(plain, rungs=(plain.rungs[0], Rung(epochs, pairs, "best", None, 0.5)))


def short_epochs(epochs: int) -> int:
    """Those of the longest schedule before the final, where the full one has `epochs`."""
    return _part(epochs, 3)


def whole(of: Schedule, rung: int = 0) -> bool:
    """Whether a rung, counted from 1, trains the full schedule; the last one where none is named."""
    return of.rungs[rung - 1].epochs >= of.epochs


def scale(of: Schedule, factor: float, *, arms: int = MOST, fewest: int = FEWEST_ARMS) -> Schedule:
    """The schedule at about `factor` of its cost, applied once and before the start; `arms` are those proposed.

    More is spent on epochs. Less is taken from the number of arms by the square root of the factor, and the rest from
    the epochs; two epochs and the `fewest` arms are the least. Raises OptionError for a factor that is not positive.
    """
    if not 0 < factor < float("inf"):
        raise OptionError(f"the budget allows {factor} of the schedule; it must be a positive share: raise --budget")
    before = of.arms or arms
    admitted = before if factor >= 1 else min(before, max(fewest, round(before * factor**0.5)))
    by = factor * _trainings(of, before) / _trainings(of, admitted)
    full = max(min(FEWEST_EPOCHS, of.epochs), round(of.epochs * by))
    rungs = tuple(
        replace(rung, epochs=min(full, max(min(FEWEST_EPOCHS, full), round(rung.epochs * by)))) for rung in of.rungs
    )
    return replace(of, rungs=rungs, epochs=full, arms=of.arms if factor >= 1 else admitted)


def forecast(
    arms: Sequence[Arm],
    of: Schedule,
    seconds: Mapping[str, float],
    full: Mapping[str, float] | None = None,
    ends: Mapping[str, float] | None = None,
) -> float:
    """Seconds that the race takes at most, every grid widened, from the `seconds` of one epoch of each arm.

    `full` are those of an epoch of the full schedule, where these differ, `ends` what each training takes besides its
    epochs. Which arms go on is not known yet: the dearest are assumed to. Exact probes are counted as nothing.
    """
    trained = sorted((a for a in arms if not exact(a)), key=lambda a: not a.protected)[: of.arms]
    total = 0.0
    for rung in of.rungs:
        of_one = full if full is not None and rung.epochs >= of.epochs else seconds
        once = [rung.epochs * of_one[a.id] + (0.0 if ends is None else ends[a.id]) for a in trained]
        total += sum(sorted(once, reverse=True)[: rung.most]) * _times(rung)
    if trained and not whole(of):  # the choice is then trained in full
        total += max(of.epochs * (full or seconds)[a.id] + (0.0 if ends is None else ends[a.id]) for a in trained)
    return total


def _times(rung: Rung) -> int:
    """How often one arm is trained in a rung at most: a grid of three rates may be widened by a fourth."""
    return len(rung.pairs) * {"grid": 4, "near": 3, "best": 1}[rung.rates]


def _trainings(of: Schedule, arms: int) -> int:
    """Epochs of all arms and rungs, when arms cost the same."""
    return sum(rung.epochs * _times(rung) * min(arms, rung.most or arms) for rung in of.rungs)


def _part(epochs: int, share: int) -> int:
    """The epochs nearest to a part, the larger of two: rounding up would spend 38% more than a sixth of R = 13."""
    return min(epochs, max(FEWEST_EPOCHS, (2 * epochs + share) // (2 * share)))


def _enough(least: int, wanted: int, rows: int | None, folds: int) -> int:
    """How many folds together predict the rows that are wanted."""
    return least if rows is None else min(max(least, folds), max(least, -(-wanted // rows)))


def _pairs(count: int, folds: int, first_seed: int) -> tuple[Pair, ...]:
    return tuple((i % folds, first_seed + i) for i in range(count))
