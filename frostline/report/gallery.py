"""Examples that the score rests on, as nouns, and what a page says above them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from frostline.report import words
from frostline.values import Kind, Question, Shown

HEIGHT = 24.0  # of a drawn recording, in units of its stretches


@dataclass(frozen=True, slots=True)
class Entry:
    """One example with what is true of it and what the model says."""

    id: str
    true: str
    said: str
    shown: Shown


@dataclass(frozen=True, slots=True)
class Gallery:
    """Some of the judged examples: the worst mistakes first, and beside them what is no mistake."""

    question: Question
    kind: Kind
    held_out: bool
    judged: int  # examples that the score rests on
    wrong: int  # of which so many are mistakes
    worst: tuple[Entry, ...]
    others: tuple[Entry, ...]
    colours: Mapping[str, str] = field(default_factory=dict[str, str])  # of the boxes of each label

    @property
    def groups(self) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
        """Those that hold any, each below its heading."""
        worst, others = HEADINGS[self.question]
        return tuple((name, found) for name, found in ((worst, self.worst), (others, self.others)) if found)


HEADINGS: Mapping[Question, tuple[str, str]] = {
    "classification": ("Wrong, the surest first", "Right, drawn at random from each class in turn"),
    "multilabel": ("Wrong, the surest first", "Right, drawn at random from each set of labels in turn"),
    "regression": ("The largest errors", "Errors of the middle"),
    "segmentation": ("The largest share wrong", "Those of the middle"),
    "detection": (
        "The most boxes missed first, then the most too many",
        "Every box found and none too many, at random",
    ),
}

MISTAKEN: Mapping[Question, tuple[str, str, str]] = {
    "classification": ("is", "are", "put into a wrong class"),
    "multilabel": ("is", "are", "given a wrong set of labels"),
    "detection": ("has", "have", "a box that was missed, or one found that is not there"),
}


def fewer(gallery: Gallery | None, most: int) -> Gallery | None:
    """At most so many of its examples, two thirds of them the worst; None where none are to be shown."""
    if gallery is None or not most:
        return None
    return replace(gallery, worst=gallery.worst[: -(-2 * most // 3)], others=gallery.others[: most // 3])


def introduced(gallery: Gallery) -> str:
    """How many there are, and which of them are shown."""
    few = gallery.kind if gallery.judged != 1 else words.ONE[gallery.kind]
    where = "held-out " if gallery.held_out else ""
    of = f"the {gallery.judged:,} {where}{few} that the score rests on"
    if gallery.question not in MISTAKEN:
        return f"From {of}; none of them was learned from."
    is_, are, what = MISTAKEN[gallery.question]
    wrong = f"{gallery.wrong:,}" if gallery.wrong else "none"
    shown = "" if len(gallery.worst) >= gallery.wrong else f"; {len(gallery.worst)} of them are shown"
    return f"Of {of}, {wrong} {is_ if gallery.wrong == 1 else are} {what}{shown}."


def described(entry: Entry, kind: Kind) -> str:
    """What a picture is, for those who do not see it."""
    return f"{words.ONE[kind]} {entry.id}: true {entry.true}, predicted {entry.said}"


def outline(shown: Shown) -> str:
    """The points of a polygon: how loud a recording is, mirrored about its middle, on its own stretches.

    >>> outline(Shown(wave=(0.5, 1.0)))
    '0,6.0 1,0.0 1,24.0 0,18.0'
    """
    middle, loudest = HEIGHT / 2, max(shown.wave, default=0.0) or 1.0
    reach = [middle * level / loudest for level in shown.wave]
    above = [f"{x},{middle - y:.1f}" for x, y in enumerate(reach)]
    below = [f"{x},{middle + y:.1f}" for x, y in enumerate(reach)]
    return " ".join((*above, *reversed(below)))


Look = Literal["pictures", "texts", "recordings", "boxes"]


def look(gallery: Gallery) -> Look:
    """How wide its entries stand: pictures with boxes are larger."""
    return "boxes" if gallery.question == "detection" else gallery.kind
