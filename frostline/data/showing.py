"""How an example of each kind is shown to a reader: so small that two dozen of them fit into one page."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from frostline.data.pictures import open_picture
from frostline.data.recordings import heard
from frostline.values import Shown, Text

SIDE = 160  # pixels of the longer side of a small picture
TINY = 48  # pixels of the longer side up to which a picture stays as it is
BYTES = 9_000  # of a small picture, before base64 makes a third more of it
QUALITIES = (85, 70, 50, 30)  # of a JPEG, tried in turn until it fits
LETTERS = 280  # of a text that are shown
STRETCHES = 96  # that a recording is drawn in


def picture(item: Any) -> Shown:
    """A small copy. Raises DataError where it cannot be opened."""
    pixels = open_picture(item)
    return Shown(size=pixels.shape[:2], picture=small(Image.fromarray(pixels)))


def text(item: Text) -> Shown:
    """How it begins, all white space alike."""
    parts = (item,) if isinstance(item, str) else item
    return Shown(size=(sum(map(len, parts)),), texts=tuple(map(shortened, parts)))


def recording(item: Any) -> Shown:
    """How loud it is, from its beginning to its end. Raises DataError where it cannot be opened."""
    found, rate = heard(item)
    stretches = np.array_split(np.abs(found), min(STRETCHES, len(found)))
    return Shown(
        size=(round(1000 * len(found) / rate),), wave=tuple(round(float(stretch.max()), 3) for stretch in stretches)
    )


def small(image: Image.Image, side: int = SIDE, most: int = BYTES) -> str:
    """A picture as a data URI of at most `most` bytes, and of `side` pixels at most.

    A tiny one stays as it is, in a PNG; another is shrunk into a JPEG, of less quality where it is full of detail.
    """
    if max(image.size) <= TINY and len(content := _written(image, "PNG", optimize=True)) <= most:
        return _uri("png", content)
    shrunk = image.copy()
    shrunk.thumbnail((side, side))
    while True:
        for quality in QUALITIES:
            content = _written(shrunk, "JPEG", quality=quality, subsampling=0, optimize=True)
            if len(content) <= most:
                return _uri("jpeg", content)
        shrunk = shrunk.resize((max(1, 3 * shrunk.width // 4), max(1, 3 * shrunk.height // 4)))


def shortened(said: str, letters: int = LETTERS) -> str:
    """A text of at most so many letters, cut between words where there are some.

    >>> shortened("A  long\\nstory about nothing", 12), shortened("Short")
    ('A long…', 'Short')
    """
    plain = " ".join(said[: 8 * letters].split())
    if len(plain) <= letters:
        return plain if len(said) <= 8 * letters else f"{plain[: letters - 1]}…"
    cut = plain[: letters - 1]
    return f"{cut.rpartition(' ')[0] or cut}…"


def _written(image: Image.Image, form: str, **how: Any) -> bytes:
    into = BytesIO()
    image.save(into, form, **how)
    return into.getvalue()


def _uri(form: str, content: bytes) -> str:
    return f"data:image/{form};base64,{b64encode(content).decode('ascii')}"
