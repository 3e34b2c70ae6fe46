"""Data sets of masks: a picture for each picture whose values are the classes of its places."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.annotated import Faults, below, files_below, is_picture, part_above
from frostline.data.found import Found, listed, plain
from frostline.data.pictures import UNREADABLE, explain, size_of
from frostline.data.voc import listed_parts
from frostline.errors import DataError, LabelError
from frostline.values import VOID, Part

PICTURES = ("images", "image", "imgs", "img", "jpegimages")  # folders, whatever the case of their names
MASKS = ("masks", "mask", "labels", "annotations", "segmentationclass")
NAMES = "classes.txt"
LAYOUT = (
    "images/1.jpg beside masks/1.png, where a folder of a part may stand above or below (train/images, images/train), "
    f"or JPEGImages, SegmentationClass and ImageSets/Segmentation of Pascal VOC; and {NAMES}, a name a line from value "
    "0 on, where the classes have names"
)

Map = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Row:
    """A picture with its mask as it is read: values, not yet class ids."""

    picture: Path
    part: Part
    values: Map


def read_masks(root: Path, size: tuple[int, int]) -> Found:
    """The pictures of a folder with their masks, drawn to `size`, height and width: the nearest value counts.

    A mask has the path of its picture but for one folder's name and the suffix, one channel or a palette, and the size
    of its picture; 255 says that nothing is asked there, unless 0 is the only other value. Classes are the lines of
    classes.txt, else the values that occur. Pictures without such a mask are left out, and counted in a warning that
    names the first few. Raises DataError where no mask is found, LabelError where there is nothing to tell apart.
    """
    files = [file for file in files_below(root) if is_picture(file)]
    pictures, masks = (
        {_key(file, root, names): file for file in files if _within(file, root, names)} for names in (PICTURES, MASKS)
    )
    pairs = [(pictures[key], masks[key]) for key in sorted(pictures.keys() & masks.keys())]
    if not pairs:
        raise DataError(f"{root} holds no picture with a mask; allowed are {LAYOUT}; rename or move the folders")
    faults = Faults(list)
    faults["pictures have no mask and are left out"] += _ids(pictures, masks, root)
    faults["masks have no picture and are left out"] += _ids(masks, pictures, root)
    names, parts = _names(root), _parts(root, pairs, faults)
    rows = [
        _Row(picture, part, values)
        for (picture, mask), part in zip(pairs, parts, strict=True)
        if (values := _values(picture, mask, size, names, below(picture, root), faults)) is not None
    ]
    told = [f"{len(ids)} {fault}: {listed(ids)}" for fault, ids in faults.items() if ids]
    if not rows:
        raise DataError(f"{root} holds no mask that can be read ({'; '.join(told)}); mend them")
    table, classes = _numbered(np.stack([row.values for row in rows]), names)
    warnings = (*told, *_checked(str(root), table, classes, rows))
    return Found(
        source=str(root),
        ids=tuple(below(row.picture, root) for row in rows),
        inputs=tuple(row.picture for row in rows),
        labels=tuple(f"mask {hashlib.blake2b(each, digest_size=4).hexdigest()}" for each in table),
        parts=tuple(row.part for row in rows),
        groups=None,
        detected=_detected(rows, classes),
        warnings=warnings,
        classes=classes,
        table=table,
    )


def _within(file: Path, root: Path, names: Sequence[str]) -> bool:
    return any(folder.lower() in names for folder in file.relative_to(root).parts[:-1])


def _key(file: Path, root: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The path without the folder that says whether it is a picture or a mask, and without the suffix."""
    folders = file.relative_to(root).parts[:-1]
    at = max(place for place, folder in enumerate(folders) if folder.lower() in names)
    return (*folders[:at], *folders[at + 1 :], file.stem)


def _ids(there: Mapping[tuple[str, ...], Path], others: Mapping[tuple[str, ...], Path], root: Path) -> list[str]:
    return [below(there[key], root) for key in sorted(there.keys() - others.keys())]


def _names(root: Path) -> tuple[str, ...] | None:
    """The names in classes.txt, by value; None where there is none. Raises LabelError."""
    file = root / NAMES
    if not file.is_file():
        return None
    names = tuple(plain(line.strip()) for line in file.read_text("utf-8-sig", "replace").rstrip().splitlines())
    twice = [name for name, count in Counter(names).items() if count > 1 or not name]
    if twice or len(names) > VOID:
        raise LabelError(
            f"{file} holds {len(names)} lines, of which {listed(twice)} stand several times or are empty; at most "
            f"{VOID} names are allowed, each once, from value 0 on"
        )
    return names


def _parts(root: Path, pairs: Iterable[tuple[Path, Path]], faults: Faults) -> list[Part]:
    """The part of each picture: that of the lists of Pascal VOC, else that of a folder above."""
    lists, found = dict[Path, dict[str, list[Part]]](), list[Part]()
    for picture, mask in pairs:
        home = mask.parent.parent
        if home not in lists:
            lists[home] = listed_parts(home, "Segmentation")
        parts = lists[home].get(plain(picture.stem), [])
        if len(parts) > 1:
            faults["pictures are listed in several parts of ImageSets; the first counts"].append(below(picture, root))
        found.append(parts[0] if parts else part_above(picture, root))
    return found


def _values(
    picture: Path, mask: Path, size: tuple[int, int], names: Sequence[str] | None, name: str, faults: Faults
) -> Map | None:
    """The values of a mask, as large as asked for; None where it is none, which the faults then tell."""
    try:
        sides = size_of(picture)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        faults[f"pictures cannot be read ({explain(error)}) and are left out"].append(name)
        return None
    try:
        with Image.open(mask) as image:
            channels, shape = len(image.getbands()), (image.height, image.width)
            plane = np.asarray(image)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        faults[f"masks cannot be read ({explain(error)}), and their pictures are left out"].append(name)
        return None
    if channels > 1:
        faults["masks are in colour, where one value a place is needed, and their pictures are left out"].append(name)
    elif shape != sides:
        faults["masks have another size than their pictures, which are left out"].append(name)
    elif plane.min() < 0 or plane.max() > VOID or (names and ((plane >= len(names)) & (plane != VOID)).any()):
        most = VOID if names is None else len(names) - 1
        faults[f"masks hold values beyond {most}, and their pictures are left out"].append(name)
    else:
        small = Image.fromarray(plane.astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.NEAREST)
        return np.asarray(small)
    return None


def _numbered(values: Map, names: tuple[str, ...] | None) -> tuple[Map, tuple[str, ...]]:
    """Class ids and what the classes are called."""
    if names is not None:
        return values, names
    used = np.unique(values)
    if used.tolist() != [0, VOID]:  # else black and white, not a class and nothing
        used = used[used != VOID]
    numbers = np.full(VOID + 1, VOID, np.uint8)
    numbers[used] = np.arange(len(used))
    return numbers[values], tuple(map(str, used.tolist()))


def _checked(source: str, table: Map, classes: tuple[str, ...], rows: Sequence[_Row]) -> list[str]:
    """What is suspicious. Raises LabelError where fewer than two classes can be learned."""
    learned = np.unique(table[[row.part in ("", "train") for row in rows]])
    known = [name for number, name in enumerate(classes) if number in learned]
    if len(known) < 2:
        raise LabelError(
            f"the masks of {source} that can be learned from hold {len(known)} class{'es' * (len(known) != 1)}, "
            f"{listed(known)}; at least two are needed to tell apart"
        )
    without = [name for name in classes if name not in known]
    return [f"{len(without)} classes are on no picture to learn from: {listed(without)}"] if without else []


def _detected(rows: Sequence[_Row], classes: Sequence[str]) -> str:
    held = Counter(row.part for row in rows)
    shares = ", ".join(f"{part} {held[part]}" for part in ("train", "validation", "test") if held[part])
    height, width = rows[0].values.shape
    return (
        f"masks: {len(rows)} pictures{f' ({shares})' if shares else ''} with {len(classes)} classes of places, "
        f"judged at {height} x {width}"
    )
