"""YOLO: a text file a picture, a line a box: class, then centre and size as shares of the picture's sides.

Whatever Ultralytics reads is read the same way; a polygon or a turned box counts as the box around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from frostline.data.annotated import (
    Annotated,
    Annotations,
    Corners,
    Faults,
    annotated,
    below,
    files_below,
    is_picture,
    number,
    part_above,
)
from frostline.data.found import listed, plain
from frostline.errors import DataError
from frostline.values import Part

NAMES = ("classes.txt", "obj.names", "_darknet.labels", "names.txt")  # of tools that write no data.yaml
PARTED: Mapping[str, Part] = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}


def claims_yolo(root: Path, files: Sequence[Path]) -> list[Path]:
    """The text files among them whose first line is a box, and the YAML files that name classes and pictures."""
    return [file for file in files if (root.is_dir() and _is_label(file)) or _is_config(file)]


def _is_label(file: Path) -> bool:
    if file.suffix.lower() != ".txt" or file.name in NAMES:
        return False
    with file.open("rb") as content:
        words = content.readline(10_000).split()
    return len(words) >= 5 and all(number(word) == number(word) for word in words)


def _is_config(file: Path) -> bool:
    if file.suffix.lower() not in (".yaml", ".yml"):
        return False
    found = _loaded(file)
    return isinstance(found, dict) and "names" in found and any(key in found for key in PARTED)


def _loaded(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def read_yolo(root: Path, files: Sequence[Path]) -> Annotations:
    """Every picture with the label file of its name: in labels/ where it lies in images/, else beside it.

    Which pictures, and their parts, say the folders or lists of data.yaml; without one it is all below the folder, by
    the names of the folders above. A picture without a label file shows nothing, as Ultralytics has it, and is told.
    Raises DataError where there are several files like data.yaml, or none of the folders that it names exists.
    """
    configs = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    if len(configs) > 1:
        raise DataError(
            f"{root} holds {len(configs)} files that name classes and pictures, {listed([str(it) for it in configs])}; "
            "one is needed; give that one itself"
        )
    home = root if root.is_dir() else root.parent
    faults = Faults(list)
    if configs:
        config: Mapping[str, Any] = _loaded(configs[0])
        parted, names = _configured(configs[0], config, faults), _named(config["names"])
    else:
        parted: dict[Path, Part] = {file: part_above(file, home) for file in files_below(home) if is_picture(file)}
        names = _listed(home)
    if not all(picture.is_relative_to(home) for picture in parted):
        home = Path(os.path.commonpath([picture.parent for picture in parted]))
    lines = {picture: list(_lines(picture, home, faults)) for picture in parted}
    faults["label files have no picture and are left out"] += _orphans(parted, home)
    if not names:
        names = {label: str(label) for label in sorted({label for some in lines.values() for label, _ in some})}
    rows = tuple(_rows(parted, lines, names, home, faults))
    return Annotations("YOLO", home, rows, tuple(names.values()), faults, shares=True)


def _configured(file: Path, config: Mapping[str, Any], faults: Faults) -> dict[Path, Part]:
    """The pictures of each part that a data.yaml names: folders, or lists of pictures, one or several a part."""
    given: list[tuple[Part, list[Any]]] = [(part, _several(config.get(key))) for key, part in PARTED.items()]
    places: list[tuple[str, Part]] = [(str(named), part) for part, several in given for named in several]
    base = file.parent / str(config.get("path") or "")
    found: dict[Path, Part] = {}
    for named, part in places:
        # Roboflow writes ../train/images and means train/images; Ultralytics tries both, too
        tried = (base / named, file.parent / named, file.parent / named.removeprefix("../"))
        place = next((it for it in tried if it.exists()), None)
        if place is None:
            faults["folders of the data.yaml do not exist and are passed over"].append(named)
            continue
        for picture in _pictures(Path(os.path.abspath(place)), base):
            if found.setdefault(picture, part) != part:
                faults["pictures stand in several parts of the data.yaml; the first counts"].append(
                    below(picture, file.parent)
                )
    if not found:
        raise DataError(
            f"{file} names the places {listed([named for named, _ in places])}, where no picture is; folders or lists "
            f"of pictures are needed, from {str(base)!r} on; correct `path`, `train` and `val`"
        )
    return found


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _pictures(place: Path, base: Path) -> list[Path]:
    if place.is_dir():
        return [file for file in files_below(place) if is_picture(file)]
    lines = filter(None, map(str.strip, place.read_text("utf-8", "replace").splitlines()))
    near = ((place.parent / line, base / line) for line in lines)
    return [picture for both in near if (picture := next(filter(Path.is_file, both), None)) is not None]


def _named(names: Any) -> dict[int, str]:
    """Class names by their number; data.yaml has them as a list or by number."""
    pairs = names.items() if isinstance(names, dict) else enumerate(_several(names))
    return dict(sorted((int(number(key)), plain(str(name))) for key, name in pairs if number(key).is_integer()))


def _listed(home: Path) -> dict[int, str]:
    """The names in a file of names, a line each; none where there is no such file."""
    file = next((file for file in files_below(home) if file.name in NAMES), None)
    return (
        {}
        if file is None
        else _named([line.strip() for line in file.read_text("utf-8-sig", "replace").splitlines() if line.strip()])
    )


def _labels(picture: Path) -> list[Path]:
    """Where the label file may be: the last folder "images" on the way becomes "labels", or beside the picture."""
    parts = list(picture.parts)
    beside = picture.with_suffix(".txt")
    if "images" not in parts[:-1]:
        return [beside]
    place = len(parts) - 2 - parts[-2::-1].index("images")
    return [Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt"), beside]


def _lines(picture: Path, home: Path, faults: Faults) -> Iterable[tuple[int, Corners]]:
    name = below(picture, home)
    file = next((file for file in _labels(picture) if file.is_file()), None)
    if file is None:
        faults["pictures have no label file and count as showing nothing"].append(name)
        return
    for line in file.read_text("utf-8-sig", "replace").splitlines():
        values = [number(word) for word in line.split()]
        box = _box(values[1:])
        if box is not None and values[0] >= 0 and values[0].is_integer():
            yield int(values[0]), box
        elif values:
            faults["lines are no box and are dropped"].append(name)


def _box(values: Sequence[float]) -> Corners | None:
    """From centre and size, or from the corners of a polygon; None from anything else."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        return None
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _orphans(pictures: Iterable[Path], home: Path) -> list[str]:
    wanted = {file for picture in pictures for file in _labels(picture)}
    there = (file for folder in {file.parent for file in wanted} for file in folder.glob("*.txt") if file not in wanted)
    return sorted(below(file, home) for file in there if _is_label(file))


def _rows(
    parted: Mapping[Path, Part],
    lines: Mapping[Path, Sequence[tuple[int, Corners]]],
    names: Mapping[int, str],
    home: Path,
    faults: Faults,
) -> Iterable[Annotated]:
    places = {label: place for place, label in enumerate(names)}
    for picture, part in parted.items():
        known = [(corners, places[label]) for label, corners in lines[picture] if label in places]
        strange = len(lines[picture]) - len(known)
        faults["boxes of no known class are dropped"] += [below(picture, home)] * strange
        yield annotated(picture, part, known)
