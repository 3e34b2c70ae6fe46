"""Pictures with the boxes that were found on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frostline.data.pictures import open_picture
from frostline.errors import StoreError

COLOURS = ("#d9480f", "#1971c2", "#2f9e44", "#9c36b5", "#e8590c", "#0c8599", "#c2255c", "#5c940d")  # by label
LETTERS = 40  # of a picture's shorter side goes into one letter's height, but never below what can be read


def draw(row: Mapping[str, Any], colours: dict[str, str], folder: Path) -> Path:
    """The picture of a prediction with its boxes, labels and scores, in a folder, under the picture's own name as PNG.

    `colours` says in which a label is drawn, and learns new ones. Raises DataError, and StoreError where it cannot be
    written; a name that is taken gets a number.
    """
    picture = Image.fromarray(np.asarray(open_picture(Path(row["input"]))))
    pen, height = ImageDraw.Draw(picture), max(11, min(picture.size) // LETTERS)
    font, wide = ImageFont.load_default(size=height), max(2, height // 6)
    for label, score, box in sorted(zip(row["labels"], row["scores"], row["boxes"], strict=True), key=lambda it: it[1]):
        colour = colours.setdefault(label, COLOURS[len(colours) % len(COLOURS)])
        pen.rectangle(box, outline=colour, width=wide)
        said, place = f"{label} {score:.2f}", (box[0], max(0.0, box[1] - height - 2 * wide))
        pen.rectangle(pen.textbbox(place, said, font=font), fill=colour)
        pen.text(place, said, fill="white", font=font)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder, Path(row["input"]).stem)
        picture.save(path)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; give another --draw, or make room") from error
    return path


def _free(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path
