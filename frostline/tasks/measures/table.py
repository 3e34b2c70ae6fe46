"""How answers are judged, by what is asked: metrics, the losses of a race, and what a linear probe is asked instead.

Of classes, search/scores.py has them itself: they came first, and a race of classes tempers what it compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from frostline.tasks.measures import detections, labels, maps, numbers
from frostline.tasks.measures.formula import Floats, Formula, Shares, Table
from frostline.values import Question, Targets, asked


@dataclass(frozen=True, slots=True)
class Judging:
    """Of one question."""

    formulas: Mapping[str, Formula]  # by metric
    shares: Shares
    losses: Callable[[Table, Targets], Floats]  # an example
    probed: str  # the metric that a linear probe is scored by, of what `answerable` makes of the targets
    instead: Callable[[Targets], Targets] | None = None  # what it is asked, where it cannot be asked for the targets


JUDGING: Mapping[Question, Judging] = {
    "multilabel": Judging(labels.FORMULAS, labels.SHARES, labels.losses, "average_precision"),
    "regression": Judging(numbers.FORMULAS, {}, numbers.losses, "r2"),
    "detection": Judging(detections.FORMULAS, detections.SHARES, detections.losses, "r2", detections.counted),
    "segmentation": Judging(maps.FORMULAS, maps.SHARES, maps.losses, "r2", maps.shares),
}


def hinted(targets: Targets) -> bool:
    """Whether a linear probe is asked something else than what is learned, so that what it scores is a hint alone."""
    question = asked(targets)
    return question in JUDGING and JUDGING[question].instead is not None


def answerable(targets: Targets) -> Targets:
    """What a linear probe can be asked of these targets, a table.

    Of boxes, how many of each class there are; of classes of places, which share each has.
    """
    question = asked(targets)
    instead = JUDGING[question].instead if question in JUDGING else None
    return targets if instead is None else instead(targets)
