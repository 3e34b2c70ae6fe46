"""Pictures with the boxes that were found on them, and with those that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frostline.data.pictures import open_picture
from frostline.errors import StoreError

COLOURS = ("#d9480f", "#1971c2", "#2f9e44", "#9c36b5", "#e8590c", "#0c8599", "#c2255c", "#5c940d")  # by label
THIN = 320  # of a picture's longer side goes into the width of a dashed line
DASH = 4  # times as long as it is wide
LETTERS = 40  # of a picture's shorter side goes into one letter's height, but never below what can be read


def draw(row: Mapping[str, Any], colours: dict[str, str], folder: Path) -> Path:
    """The picture of a prediction with its boxes, labels and scores, in a folder, under the picture's own name as PNG.

    `colours` says in which a label is drawn, and learns new ones. Raises DataError, and StoreError where it cannot be
    written; a name that is taken gets a number.
    """
    picture = Image.fromarray(np.asarray(open_picture(Path(row["input"]))))
    pen, (font, height) = ImageDraw.Draw(picture), letters(picture)
    wide = max(2, height // 6)
    for label, score, box in sorted(zip(row["labels"], row["scores"], row["boxes"], strict=True), key=lambda it: it[1]):
        colour = colour_of(label, colours)
        pen.rectangle(box, outline=colour, width=wide)
        said, place = f"{label} {score:.2f}", (box[0], max(0.0, box[1] - height - 2 * wide))
        pen.rectangle(pen.textbbox(place, said, font=font), fill=colour)
        pen.text(place, said, fill="white", font=font)
    return written(picture, folder, Path(row["input"]).stem, "--draw")


def letters(picture: Image.Image) -> tuple[ImageFont.ImageFont | ImageFont.FreeTypeFont, int]:
    """A font for a picture of this size, and how high its letters are."""
    height = max(11, min(picture.size) // LETTERS)
    return ImageFont.load_default(size=height), height


def written(picture: Image.Image, folder: Path, stem: str, flag: str) -> Path:
    """Where a picture was written as PNG; a name that is taken gets a number. Raises StoreError naming the flag."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder, stem)
        picture.save(path)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; give another {flag}, or make room") from error
    return path


Box = tuple[str, Sequence[float]]  # a label, and x1 y1 x2 y2 in pixels


def compared(picture: Image.Image, there: Sequence[Box], found: Sequence[Box], colours: dict[str, str]) -> Image.Image:
    """A copy with the boxes that were found and, in thin dashes over them, those that are there.

    So dashes alone are a box that was missed, and a line without them one that is not there.
    """
    marked = picture.copy()
    pen, wide = ImageDraw.Draw(marked), max(1, round(max(picture.size) / THIN))
    for label, box in found:
        left, top, right, bottom = box
        around = (left - wide, top - wide, right, bottom)
        pen.rectangle(around, outline=colour_of(label, colours), width=2 * wide)
    for label, box in there:
        _dash(pen, box, colour_of(label, colours), wide)
    return marked


def colour_of(label: str, colours: dict[str, str]) -> str:
    """The colour of a label; a new one gets the next, and is learned."""
    return colours.setdefault(label, COLOURS[len(colours) % len(COLOURS)])


def _dash(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: str, wide: int) -> None:
    """Dashes of white between those of the colour: seen on every ground, and on a line of that colour."""
    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    for start, end in pairwise(corners):
        pieces = 1 + 2 * round(float(np.abs(end - start).max()) / (DASH * wide) / 2)  # so that corners are white
        stops = np.linspace(start, end, pieces + 1)
        for number, (here, there) in enumerate(pairwise(stops)):
            pen.line((*here, *there), fill=colour if number % 2 else "white", width=wide)


def _free(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path
