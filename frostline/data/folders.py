"""Folders of classes: root/<class>/* and root/{train,val,test}/<class>/*."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from frostline.data.found import PARTS, Found, listed, plain
from frostline.data.kinds import KINDS, Traits
from frostline.errors import DataError, LabelError
from frostline.values import Kind, Part

TABLES = frozenset((".csv", ".tsv", ".jsonl", ".parquet"))
LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))  # what operating systems leave behind


def read_folder(root: Path, kind: Kind = "pictures", *, least: int = 2) -> Found:
    """The files of a kind below `root`, each labelled by its class folder; there are `least` of these.

    A class folder may be nested: what lies below it belongs to it. Hidden files and what operating systems leave
    behind are passed over; files of other types are named in a warning.
    Raises DataError for a folder without any, LabelError for files without a class folder.
    """
    parts, traits = _parts(root), KINDS[kind]
    rows: list[tuple[Part, str, Path]] = []
    warnings: list[str] = []
    others: Counter[str] = Counter()
    nested = 0
    for folder, part in parts:
        for entry in _folders(folder):
            files, foreign = _of_kind(entry, traits)
            others.update(foreign)
            nested += sum(file.parent != entry for file in files)
            rows.extend((part, plain(entry.name), file) for file in files)
            if not files:
                warnings.append(f"the folder {str(entry.relative_to(root))!r} holds no {traits.one} and is passed over")
        loose = [file for file in _files(folder) if file.suffix.lower() in traits.suffixes]
        if loose and rows:
            warnings.append(f"{len(loose)} {kind} in {folder.name!r} lie outside any class folder; passed over")
    if not rows:
        raise _nothing(root, [folder for folder, _ in parts], kind)
    if others:
        named = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(others.items()))
        warnings.append(f"files that are no {kind} are passed over: {named}")
    if least > 1:
        _two_classes(root, rows, kind)
    return Found(
        source=str(root),
        ids=tuple(plain(file.relative_to(root).as_posix()) for _, _, file in rows),
        inputs=tuple(_written(file) for _, _, file in rows) if kind == "texts" else tuple(file for _, _, file in rows),
        labels=tuple(label for _, label, _ in rows),
        parts=tuple(part for part, _, _ in rows),
        groups=None,
        detected=_detected(rows, nested, kind),
        warnings=tuple(warnings) + _ignored(root, parts),
        kind=kind,
    )


def _written(file: Path) -> str:
    """What a file of text says; nothing where it is no UTF-8, and then it is counted among the unreadable ones."""
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


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


def _of_kind(folder: Path, traits: Traits) -> tuple[list[Path], Counter[str]]:
    """Every file of a kind below the folder, and how many files of other types lie there."""
    found: list[Path] = []
    foreign: Counter[str] = Counter()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _counts(name))
        for name in sorted(filter(_counts, names)):
            suffix = Path(name).suffix.lower()
            if suffix in traits.suffixes:
                found.append(Path(place) / name)
            else:
                foreign[suffix] += 1
    return found, foreign


def _nothing(root: Path, folders: list[Path], kind: Kind) -> DataError:
    files = [file for folder in folders for file in _files(folder)]
    loose = [file.name for file in files if file.suffix.lower() in KINDS[kind].suffixes]
    tables = [str(file) for file in files if file.suffix.lower() in TABLES]
    end = {"pictures": "cats/1.jpg", "texts": "good/1.txt", "recordings": "yes/1.wav"}[kind]
    wanted = f"one folder a class is needed, as in FOLDER/{end} or FOLDER/train/{end}"
    hint = f"; or give the table itself, {listed(tables)}" if tables else ""
    if loose:
        return LabelError(
            f"{root} holds {len(loose)} {kind} but no class folders, so they have no labels; {wanted}{hint}"
        )
    held = "texts" if kind == "texts" else "paths"
    return DataError(f"{root} holds no {kind}; {wanted}, or a table with {held} and labels{hint}")


def _two_classes(root: Path, rows: list[tuple[Part, str, Path]], kind: Kind) -> None:
    labels = {label for _, label, _ in rows}
    if len(labels) > 1:
        return
    (only,) = labels
    inner = [entry.name for entry in _folders(root / only)] if (root / only).is_dir() else []
    hint = f"; its own folders are {listed(inner)}, so {str(root / only)!r} may be what is meant" if inner else ""
    raise LabelError(
        f"{root} holds one class only, {only!r}; at least two class folders are needed; "
        f"add {kind} of another class{hint}"
    )


def _detected(rows: list[tuple[Part, str, Path]], nested: int, kind: Kind) -> str:
    counts = Counter(part for part, _, _ in rows)
    classes = len({label for _, label, _ in rows})
    shares = ", ".join(f"{part} {count}" for part, count in counts.items() if part)
    below = f", {nested} of them in folders below their class" if nested else ""
    folders = "image folders" if kind == "pictures" else f"folders of {kind}"
    return f"{folders}: {len(rows)} {kind} of {classes} classes{f' ({shares})' if shares else ''}{below}"
