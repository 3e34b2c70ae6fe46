"""Masks of predictions as pictures: the class of every place as its value, or as a colour over the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from frostline.data.pictures import open_picture
from frostline.formats.drawn import letters, written

SEEN = 0.5  # how much of the picture is seen through the colours


def palette() -> NDArray[np.uint8]:
    """A colour for each value, those of Pascal VOC: black is the first, and neighbours differ most.

    >>> palette()[:3].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    values = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (values >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def mask(row: Mapping[str, Any], folder: Path) -> Path:
    """The mask of a prediction as PNG: values are positions among the classes, the colours are for whoever looks.

    Raises StoreError where it cannot be written; a name that is taken gets a number.
    """
    image = Image.fromarray(row["mask"])
    image.putpalette(palette().tobytes())
    return written(image, folder, Path(row["input"]).stem, "--masks")


def overlay(row: Mapping[str, Any], folder: Path) -> Path:
    """The picture of a prediction, with the colours of the classes over it and their names in a corner.

    Raises DataError, and StoreError where it cannot be written; a name that is taken gets a number.
    """
    colours, pixels = palette(), open_picture(Path(row["input"]))
    mixed = SEEN * pixels + (1 - SEEN) * colours[row["mask"]]
    picture = Image.fromarray(mixed.astype(np.uint8))
    classes: Sequence[str] = tuple(row["shares"])
    pen, (font, height) = ImageDraw.Draw(picture), letters(picture)
    for line, number in enumerate(np.unique(row["mask"]).tolist()):
        place = (height // 2, height // 2 + line * (height + height // 2))
        pen.rectangle(pen.textbbox(place, classes[number], font=font), fill=tuple(colours[number].tolist()))
        pen.text(place, classes[number], fill="white", font=font)
    return written(picture, folder, Path(row["input"]).stem, "--draw")
