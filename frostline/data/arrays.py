"""Arrays of pictures and lists of texts, with their labels, as Python has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from frostline.data.answers import counted, given_answers
from frostline.data.found import Found
from frostline.data.pictures import pixels_of
from frostline.errors import DataError, LabelError
from frostline.values import Question, Text


def read_arrays(source: Any, question: Question = "classification") -> Found:
    if not isinstance(source, tuple) or len(source) != 2:
        raise DataError("arrays are given as a pair (pictures, labels), two arrays of the same length")
    pictures, labels = np.asarray(source[0]), np.asarray(source[1])
    if len(labels) != len(pictures) or (labels.ndim != 1 and question == "classification"):
        raise LabelError(
            f"labels have the shape {labels.shape} beside {len(pictures)} pictures; one label a picture is needed, "
            f"in an array of shape ({len(pictures)},)"
        )
    if len(pictures) == 0:
        raise DataError("the arrays are empty; at least two pictures of two classes each are needed")
    names, classes, table = given_answers(source[1], question, "the array of labels")
    pixels = pixels_of(pictures)
    return Found(
        source="the arrays",
        ids=tuple(f"row-{row}" for row in range(len(names))),
        inputs=pixels,
        labels=names,
        parts=("",) * len(names),
        groups=None,
        detected=f"arrays: {len(names)} pictures of {'x'.join(map(str, pixels.shape[1:]))}, {counted(names, classes)}",
        classes=classes,
        table=table,
    )


def read_lists(source: Any, question: Question) -> Found:
    """Texts, or pairs of them, and their labels."""
    if not isinstance(source, tuple) or len(source) != 2 or len(source[0]) != len(source[1]) or not len(source[0]):
        raise DataError("texts are given as a pair (texts, labels), two lists of the same length")
    texts = tuple(map(_text_or_pair, source[0]))
    if len({type(text) for text in texts}) > 1:
        raise DataError("some of the texts are pairs and others are not; give all of them as texts, or all as pairs")
    names, classes, table = given_answers(source[1], question, "the list of labels")
    return Found(
        source="the lists",
        ids=tuple(f"row-{row}" for row in range(len(names))),
        inputs=texts,
        labels=names,
        parts=("",) * len(names),
        groups=None,
        detected=f"lists: {len(names)} texts, {counted(names, classes)}",
        kind="texts",
        classes=classes,
        table=table,
    )


def _text_or_pair(given: Any) -> Text:
    """A text, or a pair of them, as Python's own; nothing where there is none, for the check to count it."""
    if given is None or isinstance(given, str):
        return str(given or "")
    parts = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(parts, list | tuple) and len(parts) == 2 and all(isinstance(it, str | None) for it in parts):
        return str(parts[0] or ""), str(parts[1] or "")
    raise DataError(f"{str(given)[:60]!r} is neither a text nor a pair of two texts, as each of the first list must be")
