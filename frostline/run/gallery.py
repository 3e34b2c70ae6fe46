"""Some of the examples that a score rests on, opened once more and made small enough for a page."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data import showing
from frostline.data.kinds import KINDS
from frostline.data.pictures import open_picture
from frostline.errors import DataError
from frostline.formats import drawn
from frostline.report.gallery import Entry, Gallery
from frostline.run.judged import Judged, seen, told_boxes
from frostline.values import Examples, Shown

WIDER = 2  # times the side of a small picture where boxes are to be seen on it


def gallery(found: Judged, examples: Examples, most: int, *, held_out: bool) -> Gallery | None:
    """The worst mistakes, two thirds of at most `most` examples, and others; None where none are wanted."""
    if not most:
        return None
    picked = seen(found)
    worst = picked.worst[: -(-2 * most // 3)]
    others = picked.others[~np.isin(picked.others, worst)][: most // 3]
    colours = _colours(found, np.concatenate([worst, others]))

    def entry(place: int) -> Entry:
        row, shown = int(found.rows[place]), Shown()
        with suppress(DataError):  # it was there when the run began; a report is no place to fail
            shown = _shown(found, place, examples, colours)
        return Entry(examples.ids[row], picked.true(place), picked.said(place), shown)

    return Gallery(
        question=found.question,
        kind=examples.kind,
        held_out=held_out,
        judged=len(found.rows),
        wrong=len(picked.worst),
        worst=tuple(entry(place) for place in worst.tolist()),
        others=tuple(entry(place) for place in others.tolist()),
        colours=colours,
    )


def _colours(found: Judged, places: NDArray[np.int64]) -> dict[str, str]:
    """Of the boxes of every class that is there or found at these places; nothing of other tasks."""
    known = dict[str, str]()
    if found.question == "detection":
        labels = (found.targets[places, :, 4], told_boxes(found.predictions[places])[..., 5])
        there = np.unique(np.concatenate([table[np.isfinite(table)] for table in labels]))
        for label in there.tolist():
            drawn.colour_of(found.classes[int(label)], known)
    return known


def _shown(found: Judged, place: int, examples: Examples, colours: dict[str, str]) -> Shown:
    """As its kind is shown; with boxes on it where these are asked for. Raises DataError."""
    item: Any = examples.inputs[found.rows[place]]
    if found.question != "detection":
        return KINDS[examples.kind].show(item)
    pixels, side = open_picture(item), WIDER * showing.SIDE
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    image = Image.fromarray(pixels).resize((max(1, round(width * scale)), max(1, round(height * scale))))

    def boxes(table: NDArray[np.float32], label: int) -> list[drawn.Box]:
        sound = table[np.isfinite(table).all(axis=1)]
        corners = sound[:, :4] * np.array([image.width, image.height] * 2)
        return [(found.classes[int(row[label])], box) for row, box in zip(sound, corners.tolist(), strict=True)]

    there, told = boxes(found.targets[place], 4), boxes(told_boxes(found.predictions[place]), 5)
    marked = drawn.compared(image, there, told, colours)
    return Shown(size=(height, width), picture=showing.small(marked, side, WIDER * showing.BYTES))
