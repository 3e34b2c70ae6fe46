"""What the model handed back says of the examples that its score rests on, beside what is true: by what is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.formats.model import SHOWN
from frostline.report.words import listed, number
from frostline.report.wrong import Points, Tally
from frostline.tasks.measures import boxes, detections, maps
from frostline.values import Examples, Outcome, Question, Targets, asked

MOST_NAMED = 6  # labels in what is said of one example
POINTS = 400  # examples in a picture of numbers


@dataclass(frozen=True, slots=True)
class Judged:
    """Each example once, in the order of the data."""

    rows: NDArray[np.int64]
    predictions: NDArray[Any]  # floats, or of places two bytes each
    targets: Targets
    classes: tuple[str, ...]

    @property
    def question(self) -> Question:
        """What is asked."""
        return asked(self.targets)


def judged(outcomes: Sequence[Outcome], examples: Examples) -> Judged:
    """Over all folds; where several trainings predicted the rows of one, those of the first."""
    first = list({o.unit.fold: o for o in reversed(outcomes)}.values())
    rows = np.concatenate([o.rows for o in first])
    order = np.argsort(rows, kind="stable")
    predictions = np.concatenate([o.log_probabilities for o in first])[order]
    return Judged(rows[order], predictions, examples.targets[rows[order]], examples.classes)


@dataclass(frozen=True, slots=True)
class Seen:
    """What becomes of judged examples, by their places among them."""

    worst: NDArray[np.int64]  # the mistakes, the worst first
    others: NDArray[np.int64]  # those that are none, in the order in which they are to be shown
    true: Callable[[int], str]
    said: Callable[[int], str]


def seen(found: Judged) -> Seen:
    """Mistakes and others. Pure: the same predictions give the same order."""
    return SEEING[found.question](found)


def _classes(found: Judged) -> Seen:
    sure, said = np.exp(np.nan_to_num(found.predictions, nan=-np.inf)), found.predictions.argmax(axis=1)
    wrong = said != found.targets
    return Seen(
        _falling(wrong, sure.max(axis=1)),
        _in_turn(~wrong, found.targets),
        lambda place: found.classes[found.targets[place]],
        lambda place: f"{found.classes[said[place]]} ({percent(sure[place].max())})",
    )


def _labels(found: Judged) -> Seen:
    sure = 1 / (1 + np.exp(-np.nan_to_num(found.predictions.astype(np.float64), nan=0.0)))
    said, there = found.predictions > 0, found.targets > 0
    off = np.where(said != there, np.maximum(sure, 1 - sure), 0.0)
    wrong = (said != there).any(axis=1)
    _, sets = np.unique(there, axis=0, return_inverse=True)

    def told(place: int) -> str:
        named = [f"{found.classes[c]} ({percent(sure[place, c])})" for c in np.flatnonzero(said[place])]
        missed = [f"not {found.classes[c]}" for c in np.flatnonzero(there[place] & ~said[place])]
        return few([*named, *missed])

    return Seen(
        _falling(wrong, off.max(axis=1)),
        _in_turn(~wrong, sets.reshape(-1)),
        lambda place: few([found.classes[c] for c in np.flatnonzero(there[place])]),
        told,
    )


def _numbers(found: Judged) -> Seen:
    spread = np.maximum(found.targets.std(axis=0), np.finfo(np.float32).tiny)
    off = np.nan_to_num(np.abs(found.predictions - found.targets) / spread, nan=np.inf).max(axis=1)
    worst = np.argsort(-off, kind="stable")
    middle = worst[np.argsort(np.abs(np.arange(len(worst)) - len(worst) // 2), kind="stable")]

    def told(values: NDArray[np.float32]) -> str:
        if len(found.classes) == 1:
            return number(float(values[0]))
        return few([f"{name} {number(float(value))}" for name, value in zip(found.classes, values, strict=True)])

    return Seen(worst, middle, lambda place: told(found.targets[place]), lambda place: told(found.predictions[place]))


def _boxes(found: Judged) -> Seen:
    there, hit, missed, more = counted(found)
    wrong = missed.sum(axis=1) + more.sum(axis=1)

    def named(counts: NDArray[np.int64]) -> str:
        return few([f"{n} {name}" for n, name in zip(counts.tolist(), found.classes, strict=True) if n])

    def told(place: int) -> str:
        parts = (("found", hit), ("missed", missed), ("too many", more))
        said = [f"{what}: {named(counts[place])}" for what, counts in parts if counts[place].any()]
        return "; ".join(said) or "none"

    return Seen(
        _falling(wrong > 0, missed.sum(axis=1) + wrong / (1.0 + wrong.sum())),  # of as many missed, the more too many
        _in_turn(wrong == 0, np.zeros(len(wrong), np.int64)),
        lambda place: named(there[place]),
        told,
    )


def _places(found: Judged) -> Seen:
    """By the share of what is asked that is wrong."""
    counts = maps.counted(found.predictions, found.targets)
    there = counts.there.sum(axis=1)
    right = np.divide(counts.right.sum(axis=1), there, out=np.ones_like(there), where=there > 0)
    worst = np.argsort(right, kind="stable")
    middle = worst[np.argsort(np.abs(np.arange(len(worst)) - len(worst) // 2), kind="stable")]

    def named(table: NDArray[np.float64], place: int) -> str:
        row = table[place]
        order = [c for c in np.argsort(-row, kind="stable") if row[c]]
        return few([f"{found.classes[c]} ({percent(float(row[c] / there[place]))})" for c in order])

    return Seen(worst, middle, lambda place: named(counts.there, place), lambda place: named(counts.said, place))


SEEING: Mapping[Question, Callable[[Judged], Seen]] = {
    "classification": _classes,
    "multilabel": _labels,
    "regression": _numbers,
    "detection": _boxes,
    "segmentation": _places,
}


def confusion(found: Judged) -> NDArray[np.int64] | None:
    """True x predicted counts; None where there are no classes to confuse."""
    if found.question != "classification":
        return None
    table = np.zeros((len(found.classes),) * 2, np.int64)
    np.add.at(table, (found.targets, found.predictions.argmax(axis=1)), 1)
    return table


def tallies(found: Judged) -> tuple[Tally, ...]:
    """How often each label, or a box of each class, is there, found, missed and said too much; of others nothing."""
    if found.question == "multilabel":
        there, said = found.targets > 0, found.predictions > 0
        counts = (there, there & said, there & ~said, ~there & said)
    elif found.question == "detection":
        counts = counted(found)
    else:
        return ()
    totals = np.stack([table.sum(axis=0) for table in counts], axis=1).tolist()
    return tuple(Tally(name, *row) for name, row in zip(found.classes, totals, strict=True))


def points(found: Judged) -> dict[str, Points]:
    """Of each number what is true beside what is predicted, of evenly spaced examples where there are many."""
    if found.question != "regression":
        return {}
    rows = np.unique(np.linspace(0, len(found.rows) - 1, min(POINTS, len(found.rows))).round().astype(np.int64))
    kept = rows[np.isfinite(found.predictions[rows]).all(axis=1)]
    return {
        name: Points(tuple(found.targets[kept, c].tolist()), tuple(found.predictions[kept, c].tolist()))
        for c, name in enumerate(found.classes)
    }


def told_boxes(predictions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Detections without those that nobody is told of: nan where the score is too low."""
    return np.where(np.nan_to_num(predictions[..., 4:5]) >= SHOWN, predictions, np.float32(np.nan))


def counted(found: Judged) -> tuple[NDArray[np.int64], ...]:
    """Boxes that are there, found, missed and too many, each (examples, classes).

    Of detections that a prediction tells of; one is found that half overlaps another of its class.
    """
    matched = boxes.matched(told_boxes(found.predictions), detections.listed(found.targets))
    shape = (len(found.rows), len(found.classes))
    there, hit, said = (np.zeros(shape, np.int64) for _ in range(3))
    there[:, : matched.boxes.shape[1]] = matched.boxes
    np.add.at(said, (matched.pictures, matched.labels), 1)
    np.add.at(hit, (matched.pictures, matched.labels), matched.hits[:, 0])
    return there, hit, there - hit, said - hit


def few(names: Sequence[str]) -> str:
    """The first of them with an "and"; "none" where there are none."""
    more = len(names) - MOST_NAMED
    return listed([*names[:MOST_NAMED], f"{more} more"] if more > 0 else names) or "none"


def percent(share: float) -> str:
    """A probability, never rounded to certainty.

    >>> [percent(share) for share in (0.004, 0.523, 0.97, 0.9996)]
    ['0.4%', '52%', '97%', 'over 99.9%']
    """
    if share > 0.999:
        return "over 99.9%"
    if share < 0.001:
        return "below 0.1%"
    return f"{100 * share:.0f}%" if 0.01 <= share <= 0.99 else f"{100 * share:.1f}%"


def _falling(wrong: NDArray[np.bool_], badness: NDArray[np.floating]) -> NDArray[np.int64]:
    """The places of mistakes, the worst first; of equal ones the first."""
    places = np.flatnonzero(wrong)
    return places[np.argsort(-badness[places], kind="stable")]


def _in_turn(kept: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places drawn at random, one of each group in turn until none is left."""
    places = np.random.default_rng(0).permutation(np.flatnonzero(kept))
    turn = np.zeros(len(places), np.int64)
    for group in np.unique(groups[places]):
        mine = groups[places] == group
        turn[mine] = np.arange(mine.sum())
    return places[np.argsort(turn, kind="stable")]
