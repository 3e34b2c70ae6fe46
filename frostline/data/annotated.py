"""What a data set of boxes says, as it is written and before any of it is checked; and what its readers share."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.folders import LITTER
from frostline.data.found import PARTS, plain
from frostline.data.kinds import KINDS
from frostline.values import Part

FILLERS = ("images", "image", "imgs", "img", "labels", "annotations", "set", "data")
LONGEST = 1e9  # pixels: no side of a picture
Corners = tuple[float, float, float, float]  # x1 y1 x2 y2

# what is wrong with so many -> the id of each, as often as it is wrong there; readers fill it line by line
Faults = defaultdict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture and what is said to be on it; box i has label i."""

    picture: Path
    part: Part
    corners: NDArray[np.float64]  # boxes x (x1 y1 x2 y2), of any size and order
    labels: NDArray[np.int64]
    size: tuple[int, int] | None = None  # height and width that the annotation gives; None where it gives none


@dataclass(frozen=True, slots=True)
class Annotations:
    """All that one reader read."""

    kind: str  # how messages call the format
    home: Path  # ids are paths below it
    pictures: tuple[Annotated, ...]
    classes: tuple[str, ...]  # in the data set's own order, those without boxes among them
    faults: Faults
    shares: bool = False  # corners are shares of the picture's sides, not pixels


def annotated(
    picture: Path, part: Part, boxes: Sequence[tuple[Corners, int]], size: tuple[int, int] | None = None
) -> Annotated:
    """The noun from a list of boxes, which may be empty."""
    corners = np.array([corners for corners, _ in boxes], np.float64).reshape(-1, 4)
    return Annotated(picture, part, corners, np.array([label for _, label in boxes], np.int64), size)


def number(written: Any) -> float:
    """The number that is written there; NaN where there is none."""
    try:
        return float(written)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def size_written(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width as an annotation gives them; None where it gives none, or the zeros that some tools write."""
    sides = number(height), number(width)
    return (int(sides[0]), int(sides[1])) if all(0 < side < LONGEST for side in sides) else None


def files_below(root: Path) -> tuple[Path, ...]:
    """Every file below the folder, sorted; hidden ones and what operating systems leave behind are passed over."""
    files: list[Path] = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if _counts(name)]
        files += [Path(place) / name for name in names if _counts(name)]
    return tuple(sorted(files))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LITTER


def is_picture(file: Path) -> bool:
    """By its suffix alone."""
    return file.suffix.lower() in KINDS["pictures"].suffixes


def by_stem(files: Iterable[Path]) -> dict[tuple[Path, str], Path]:
    """The pictures among them by folder and name without suffix: how annotations of a file each name theirs."""
    return {(file.parent, file.stem): file for file in files if is_picture(file)}


def left_out(pictures: Iterable[Path], read: Collection[Path], home: Path) -> list[str]:
    """The ids of the pictures that lie beside those that were read and are none of them."""
    folders = {picture.parent for picture in read}
    return sorted(below(picture, home) for picture in {*pictures} - {*read} if picture.parent in folders)


def below(file: Path, home: Path) -> str:
    """The id of a file: its path below the data set's folder, or the whole path where it lies elsewhere."""
    return plain((file.relative_to(home) if file.is_relative_to(home) else file).as_posix())


def part_of(name: str) -> Part:
    """The part of the data that a file is named after, "instances_val2017" or "valid"; "" for none."""
    parts: list[Part] = [PARTS[word] for word in _words(name) if word in PARTS]
    return parts[0] if parts else ""


def part_above(file: Path, home: Path) -> Part:
    """The part that the topmost folder between the data set's own and the file is named after, "train2017" or "valid".

    A folder may be named for much else ("blood test 3"), so all words of its name must speak of a part or of files.
    """
    folders = file.relative_to(home).parts[:-1] if file.is_relative_to(home) else (file.parent.name,)
    fitting = (name for name in folders if all(word in PARTS or word in FILLERS for word in _words(name)))
    parts: list[Part] = [part for name in fitting if (part := part_of(name))]
    return parts[0] if parts else ""


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())
