"""Image folders: root/<class>/* and root/{train,val,test}/<class>/*."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from frostline.data.found import PARTS, Found, listed, plain
from frostline.errors import DataError, LabelError
from frostline.values import Part

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "tga"),
    )
)
TABLES = frozenset((".csv", ".tsv", ".jsonl", ".parquet"))
LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))  # what operating systems leave behind


def read_folder(root: Path, *, least: int = 2) -> Found:
    """The pictures below `root`, each labelled by its class folder; there are `least` of them.

    A class folder may be nested: what lies below it belongs to it. Hidden files and what operating systems leave
    behind are passed over; files of other types are named in a warning.
    Raises DataError for a folder without pictures, LabelError for pictures without a class folder.
    """
    parts = _parts(root)
    rows: list[tuple[Part, str, Path]] = []
    warnings: list[str] = []
    others: Counter[str] = Counter()
    nested = 0
    for folder, part in parts:
        for entry in _folders(folder):
            pictures, foreign = _pictures(entry)
            others.update(foreign)
            nested += sum(picture.parent != entry for picture in pictures)
            rows.extend((part, plain(entry.name), picture) for picture in pictures)
            if not pictures:
                warnings.append(f"the folder {str(entry.relative_to(root))!r} holds no picture and is passed over")
        loose = [file for file in _files(folder) if file.suffix.lower() in SUFFIXES]
        if loose and rows:
            warnings.append(f"{len(loose)} pictures in {folder.name!r} lie outside any class folder; passed over")
    if not rows:
        raise _nothing(root, [folder for folder, _ in parts])
    if others:
        kinds = ", ".join(f"{count} {kind or 'without suffix'}" for kind, count in sorted(others.items()))
        warnings.append(f"files that are no pictures are passed over: {kinds}")
    if least > 1:
        _two_classes(root, rows)
    return Found(
        source=str(root),
        ids=tuple(plain(picture.relative_to(root).as_posix()) for _, _, picture in rows),
        inputs=tuple(picture for _, _, picture in rows),
        labels=tuple(label for _, label, _ in rows),
        parts=tuple(part for part, _, _ in rows),
        groups=None,
        detected=_detected(rows, nested),
        warnings=tuple(warnings) + _ignored(root, parts),
    )


def _parts(root: Path) -> list[tuple[Path, Part]]:
    """The folders that hold class folders, and which part of the data each is.

    `train` has to be among them, so that a class called "test" is not mistaken for one.
    """
    named: list[tuple[Path, Part]] = [
        (folder, PARTS[folder.name.lower()]) for folder in _folders(root) if folder.name.lower() in PARTS
    ]
    if any(part == "train" for _, part in named) and (len(named) > 1 or _folders(named[0][0])):
        return sorted(named, key=lambda pair: ("train", "validation", "test").index(pair[1]))
    return [(root, "")]


def _ignored(root: Path, parts: list[tuple[Path, Part]]) -> tuple[str, ...]:
    used = {folder for folder, _ in parts}
    extra = [] if root in used else [folder.name for folder in _folders(root) if folder not in used]
    return (f"beside the parts of the data these folders are passed over: {listed(extra)}",) if extra else ()


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and _counts(entry.name))


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and _counts(entry.name))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LITTER


def _pictures(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Every picture below the folder, and how many files of other types lie there."""
    pictures: list[Path] = []
    foreign: Counter[str] = Counter()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _counts(name))
        for name in sorted(filter(_counts, names)):
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES:
                pictures.append(Path(place) / name)
            else:
                foreign[suffix] += 1
    return pictures, foreign


def _nothing(root: Path, folders: list[Path]) -> DataError:
    files = [file for folder in folders for file in _files(folder)]
    pictures = [file.name for file in files if file.suffix.lower() in SUFFIXES]
    tables = [str(file) for file in files if file.suffix.lower() in TABLES]
    wanted = "one folder a class is needed, as in FOLDER/cats/1.jpg or FOLDER/train/cats/1.jpg"
    hint = f"; or give the table itself, {listed(tables)}" if tables else ""
    if pictures:
        return LabelError(
            f"{root} holds {len(pictures)} pictures but no class folders, so they have no labels; {wanted}{hint}"
        )
    return DataError(f"{root} holds no pictures; {wanted}, or a table with paths and labels{hint}")


def _two_classes(root: Path, rows: list[tuple[Part, str, Path]]) -> None:
    labels = {label for _, label, _ in rows}
    if len(labels) > 1:
        return
    (only,) = labels
    inner = [entry.name for entry in _folders(root / only)] if (root / only).is_dir() else []
    hint = f"; its own folders are {listed(inner)}, so {str(root / only)!r} may be what is meant" if inner else ""
    raise LabelError(
        f"{root} holds one class only, {only!r}; at least two class folders are needed; "
        f"add pictures of another class{hint}"
    )


def _detected(rows: list[tuple[Part, str, Path]], nested: int) -> str:
    counts = Counter(part for part, _, _ in rows)
    classes = len({label for _, label, _ in rows})
    shares = ", ".join(f"{part} {count}" for part, count in counts.items() if part)
    below = f", {nested} of them in folders below their class" if nested else ""
    return f"image folders: {len(rows)} pictures of {classes} classes{f' ({shares})' if shares else ''}{below}"
