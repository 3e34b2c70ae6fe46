"""What examples can be: how each kind is found, checked and measured before a network reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline.data import pictures, recordings, showing
from frostline.values import Kind, Shown

Checked = tuple[str | None, bytes]  # why it cannot be read, None where it can, and a mark of its content


@dataclass(frozen=True, slots=True)
class Traits:
    """What has to be known of a kind of examples."""

    one: str
    suffixes: frozenset[str]  # of files that hold one each
    columns: tuple[str, ...]  # usual names of the column that holds them, or their paths
    check: Callable[[Any], Checked]
    size: Callable[[Any], tuple[int, ...]]
    unit: str  # of the size
    show: Callable[[Any], Shown]  # to a reader; raises DataError where it cannot be opened
    varies: bool = False  # whether training may show them otherwise each time: mirrored, cut


def marked(item: Any) -> bytes:
    """A mark of an example's content: equal files, pixels or texts share it."""
    if isinstance(item, np.ndarray):
        return mark(np.ascontiguousarray(item).tobytes())
    if isinstance(item, Path):
        return mark(item.read_bytes())
    return mark(item if isinstance(item, bytes) else "\0".join((item,) if isinstance(item, str) else item).encode())


def mark(content: bytes) -> bytes:
    """A digest."""
    return blake2b(content, digest_size=16).digest()


def _picture(item: Path | bytes) -> Checked:
    try:
        content = item if isinstance(item, bytes) else item.read_bytes()
        with Image.open(BytesIO(content)) as image:
            # an eighth of the size: JPEG is still read to its last byte, so a cut file shows, at half the time
            image.draft("RGB", (1, 1))
            image.load()
    except (*pictures.UNREADABLE, Image.DecompressionBombError) as error:
        return pictures.explain(error), b""
    return None, mark(content)


def _text(item: str | tuple[str, str]) -> Checked:
    empty = not item.strip() if isinstance(item, str) else not all(part.strip() for part in item)
    return ("the text is empty, or no UTF-8", b"") if empty else (None, marked(item))


def _recording(item: Path | bytes) -> Checked:
    try:
        content = item if isinstance(item, bytes) else item.read_bytes()
        recordings.samples(content)
    except (*recordings.UNREADABLE,) as error:
        return recordings.explain(error), b""
    return None, mark(content)


def _letters(item: str | tuple[str, str]) -> tuple[int, ...]:
    return (len(item) if isinstance(item, str) else sum(map(len, item)),)


KINDS: Mapping[Kind, Traits] = {
    "pictures": Traits(
        "picture",
        frozenset(
            f".{name}"
            for name in (
                *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff"),
                *("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "tga"),
            )
        ),
        ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "picture"),
        _picture,
        pictures.size_of,
        "pixels",
        showing.picture,
        varies=True,
    ),
    "texts": Traits(
        "text",
        frozenset((".txt",)),
        ("text", "sentence", "review", "content", "comment", "document", "body", "message", "tweet", "utterance"),
        _text,
        _letters,
        "characters",
        showing.text,
    ),
    "recordings": Traits(
        "recording",
        frozenset((".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus")),
        ("path", "file", "filename", "file_name", "filepath", "file_path", "audio", "audio_path", "wav", "recording"),
        _recording,
        recordings.milliseconds,
        "milliseconds",
        showing.recording,
    ),
}
PAIRS = (  # usual names of two columns that are read as a pair of texts
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
