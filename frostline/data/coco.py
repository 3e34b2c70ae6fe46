"""COCO: JSON files of pictures, categories and boxes, over a folder of pictures or in it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.data.annotated import (
    Annotated,
    Annotations,
    Corners,
    Faults,
    annotated,
    below,
    files_below,
    is_picture,
    left_out,
    number,
    part_above,
    part_of,
    size_written,
)
from frostline.data.found import plain
from frostline.errors import DataError
from frostline.values import Part

OF_BOXES = "instances"  # beside files of captions, of key points, of pictures without annotations
KEYS = (b'"images"', b'"annotations"', b'"categories"')


def claims_coco(root: Path, files: Sequence[Path]) -> list[Path]:
    """The JSON files among them that speak of pictures, annotations and categories.

    Where a folder holds files named for instances, it is only those: others annotate the same pictures otherwise.
    """
    fitting = [file for file in files if file.suffix.lower() == ".json" and _is_coco(file)]
    named = {file.parent for file in fitting if file.stem.startswith(OF_BOXES)}
    return [file for file in fitting if file.parent not in named or file.stem.startswith(OF_BOXES)]


def _is_coco(file: Path) -> bool:
    content = file.read_bytes()
    return all(key in content for key in KEYS)


def read_coco(root: Path, files: Sequence[Path]) -> Annotations:
    """The pictures that the files list, with their boxes. Raises DataError for a file that is no COCO after all.

    Pictures are looked for where the file is, then anywhere in the data set's folder by the path that is given. The
    part is the one that the file is named after (instances_val2017.json), else one of the folders above it or above
    the picture. Crowds are dropped, since no detector is taught them: what is detected there counts as false, where
    COCO's own evaluation would pass it over. Category ids are matched by name across files.
    """
    home = _home(root)
    documents = [(file, _document(file)) for file in files]
    classes = _classes([document for _, document in documents])
    pictures = _by_name(files_below(home))
    faults, seen = Faults(list), dict[Path, Annotated]()
    for file, document in documents:
        for one in _pictures(file, document, classes, pictures, home, faults):
            if one.picture in seen:
                faults["pictures are listed more than once; the first time counts"].append(below(one.picture, home))
            seen.setdefault(one.picture, one)
    if root.is_dir():
        without = left_out((picture for some in pictures.values() for picture in some), seen, home)
        faults["pictures are listed in no annotation file and are left out"] += without
    return Annotations("COCO", home, tuple(seen.values()), classes, faults)


def _home(root: Path) -> Path:
    if root.is_dir():
        return root
    return root.parent.parent if root.parent.name.lower() == "annotations" else root.parent


def _document(file: Path) -> Mapping[str, Any]:
    try:
        found: Any = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}; mend or remove it") from error
    for key in ("images", "annotations", "categories"):
        rows: Any = found.get(key) if isinstance(found, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(
                f"{file} has no list {key!r} of objects; a COCO file has images, annotations and categories; mend or "
                "remove it"
            )
    return found


def _classes(documents: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of all categories, in the order of their ids file by file."""
    names: dict[str, None] = {}
    for document in documents:
        rows = sorted(document["categories"], key=lambda row: (number(row.get("id")), str(row.get("name"))))
        names.update((_name(row), None) for row in rows)
    return tuple(names)


def _name(category: Mapping[str, Any]) -> str:
    return plain(str(category.get("name", category.get("id"))).strip())


def _by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = defaultdict(list)
    for file in filter(is_picture, files):
        names[plain(file.name)].append(file)
    return names


def _pictures(
    file: Path,
    document: Mapping[str, Any],
    classes: Sequence[str],
    pictures: Mapping[str, Sequence[Path]],
    home: Path,
    faults: Faults,
) -> Iterable[Annotated]:
    boxes: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in document["annotations"]:
        boxes[str(row.get("image_id"))].append(row)
    numbers = {str(row.get("id")): classes.index(_name(row)) for row in document["categories"]}
    part = part_of(file.stem) or part_above(file, home)
    for row in document["images"]:
        named = str(row.get("file_name", ""))
        own = boxes.pop(str(row.get("id")), [])
        picture = _picture(file, named, part, pictures)
        if picture is None:
            faults["pictures that are listed do not exist and are left out"].append(plain(named))
            continue
        sound = list(_boxes(own, numbers, below(picture, home), faults))
        yield annotated(
            picture, part or part_above(picture, home), sound, size_written(row.get("height"), row.get("width"))
        )
    orphans = [f"picture {key}" for key, own in boxes.items() for _ in own]
    faults["boxes belong to a picture that is not listed and are dropped"] += orphans


def _picture(file: Path, named: str, part: Part, pictures: Mapping[str, Sequence[Path]]) -> Path | None:
    """The picture of that path from the file on, else any whose path ends so: one in a folder of that part first."""
    name = plain(named.replace("\\", "/")).removeprefix("./")
    fitting = [
        path for path in pictures.get(name.rsplit("/", 1)[-1], ()) if plain(path.as_posix()).endswith(f"/{name}")
    ]
    beside = [path for path in fitting if plain(path.as_posix()) == plain((file.parent / name).as_posix())]
    same = [path for path in fitting if part and part_of(path.parent.name) == part]
    return next(iter([*beside, *same, *fitting]), None)


def _boxes(
    rows: Iterable[Mapping[str, Any]], numbers: Mapping[str, int], name: str, faults: Faults
) -> Iterable[tuple[Corners, int]]:
    for row in rows:
        box: Any = row.get("bbox")
        label = numbers.get(str(row.get("category_id")))
        if row.get("iscrowd"):
            faults["boxes around crowds are dropped; what is detected there counts as false"].append(name)
        elif not isinstance(box, list) or len(box) != 4:
            faults["annotations without a box are dropped"].append(name)
        elif label is None:
            faults["boxes of no known class are dropped"].append(name)
        else:
            left, top, width, height = map(number, box)
            yield (left, top, left + width, top + height), label
