"""What a reader found, before anything was opened, and the checks that turn it into Examples."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data import kinds
from frostline.data.kinds import KINDS, Checked
from frostline.errors import DataError, LabelError
from frostline.values import Examples, Inputs, Kind, Part, Targets, asked, picked

Progress = Callable[[int, int], None]  # examples checked, examples in all

FORGIVEN = 3  # files: in a small folder one bad file is already more than any sensible share
THREADS = 4
PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
FEWEST = 10  # examples to learn labels or numbers from
NAMED = 5  # how many offenders a message lists


@dataclass(frozen=True, slots=True)
class Found:
    """Examples with the labels they were given; row i of each field belongs together."""

    source: str  # how messages call the data
    ids: tuple[str, ...]
    inputs: Inputs
    labels: tuple[str, ...]
    parts: tuple[Part, ...]
    groups: tuple[str, ...] | None
    detected: str
    warnings: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None  # in the data set's own order; None sorts the labels
    values: NDArray[np.float64] | None = None  # a number an example, for a metric of the user's own
    kind: Kind = "pictures"
    table: Targets | None = None  # labels or numbers, a column each of `classes`; then `labels` tells rows apart alone

    def at(self, rows: Sequence[int]) -> Found:
        """These rows alone."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            inputs=picked(self.inputs, np.asarray(rows, np.int64)),
            labels=tuple(self.labels[row] for row in rows),
            parts=tuple(self.parts[row] for row in rows),
            groups=None if self.groups is None else tuple(self.groups[row] for row in rows),
            values=None if self.values is None else self.values[np.asarray(rows, np.int64)],
            table=None if self.table is None else self.table[np.asarray(rows, np.int64)],
        )


def listed(names: Sequence[str]) -> str:
    """The first few of them, quoted, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def existing(source: Any, *, folder: bool = False) -> Path:
    """The path that data lies at. Raises DataError naming what is there instead."""
    if not isinstance(source, str | Path):
        raise DataError(f"data of type {type(source).__name__} is no path; give the path of a folder or table")
    place = Path(source).expanduser()
    if not place.exists():
        near = place.parent
        seen = sorted(entry.name for entry in near.iterdir() if not entry.name.startswith(".")) if near.is_dir() else []
        beside = f"; {near} holds {listed(seen)}" if seen else ""
        raise DataError(f"{place} does not exist{beside}; give the path of a folder or table that does")
    if folder and not place.is_dir():
        raise DataError(f"{place} is a file, not a folder; give a folder, or leave the data format to `auto`")
    return place


def joined(several: Sequence[Inputs]) -> Inputs:
    """Those of one kind behind each other."""
    every: Any = tuple(item for inputs in several for item in inputs)
    return every


def values_of(cells: Sequence[Any], source: str) -> NDArray[np.float64]:
    """A finite number from each cell. Raises DataError naming the first rows where there is none."""
    found = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        with suppress(TypeError, ValueError):
            found[row] = float(cell)
    sound = np.isfinite(found)
    wrong = [f"row {row + 1}: {cell}" for row, cell in enumerate(cells) if not sound[row]]
    if wrong:
        raise DataError(f"{source} holds {len(wrong)} cells that are no finite numbers ({listed(wrong)}); mend them")
    return found


def beside(found: Found, other: Found) -> Found:
    """The data with the examples of another place as its shifted part. Raises DataError, LabelError.

    The other's own parts do not count: nothing is learned from any of them. Its labels must be labels of the data.
    """
    if isinstance(found.inputs, np.ndarray) or isinstance(other.inputs, np.ndarray):
        raise DataError(
            f"{other.source} cannot stand beside {found.kind} in arrays; give both as folders, tables or data sets"
        )
    if found.values is not None and other.values is None:
        raise DataError(f"{other.source} lacks the column of values that {found.source} has; add it to a table of it")
    if found.table is not None and (other.table is None or other.classes != found.classes):
        raise LabelError(f"{other.source} has the columns {other.classes} to learn, and {found.source} {found.classes}")
    strange = sorted(set(other.labels) - set(found.labels)) if found.table is None else []
    if strange:
        raise LabelError(
            f"{other.source} holds {listed(strange)}, which is no class of {found.source} "
            f"({listed(sorted(set(found.labels)))}); rename or remove it"
        )
    more = len(other.ids)
    return replace(
        found,
        ids=(*found.ids, *(f"shifted/{name}" for name in other.ids)),
        inputs=(*found.inputs, *other.inputs),
        labels=(*found.labels, *other.labels),
        parts=(*found.parts, *("shifted",) * more),
        groups=None if found.groups is None else (*found.groups, *("",) * more),
        detected=f"{found.detected}; shifted: {other.detected}",
        warnings=(*found.warnings, *other.warnings),
        values=None if other.values is None or found.values is None else np.concatenate([found.values, other.values]),
        table=None if other.table is None or found.table is None else np.concatenate([found.table, other.table]),
    )


def plain(text: str) -> str:
    """One spelling for names that look alike: accents composed, undecodable bytes of a file name replaced."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))


def ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels: by value where all are whole numbers, else by name."""
    different = set(labels)
    if all(label.lstrip("-").isdecimal() for label in different):
        return tuple(sorted(different, key=lambda label: (int(label), label)))
    return tuple(sorted(different))


def examples_of(
    found: Found, *, limit: float, other: Found | None = None, progress: Progress | None = None
) -> Examples:
    """Every example opened once, the unreadable ones set apart, the labels checked.

    Unreadable files are skipped and listed; more than `limit` of all files, and more than three, refuse the data.
    What `other` holds becomes the shifted part; it is checked by itself, and only its labels have to be known.
    Raises DataError for that and for no example at all, LabelError for labels that nothing can be learned from.
    """
    found, skipped, marks = _sound(found, limit, progress)
    classes = found.classes or ordered([*found.labels, *(label for label, _ in skipped)])
    warnings = _labels_checked(found, classes) if found.table is None else _table_checked(found, classes)
    gone = [it for _, it in skipped]
    if other is not None:
        away, lost, more = _sound(other, limit, progress)
        found, marks = beside(found, away), [*marks, *more]
        gone += [(f"shifted/{name}", reason) for _, (name, reason) in lost]
    if gone:
        names = listed([name for name, _ in gone])
        what = "files" if found.kind != "texts" else "texts"
        warnings += (f"{len(gone)} of {len(found.ids) + len(gone)} {what} cannot be read and are skipped: {names}",)
    numbers = {name: number for number, name in enumerate(classes)}
    return Examples(
        ids=found.ids,
        inputs=found.inputs,
        targets=np.asarray([numbers[label] for label in found.labels], np.int64)
        if found.table is None
        else found.table,
        classes=classes,
        parts=found.parts,
        groups=found.groups,
        skipped=tuple(gone),
        detected=found.detected,
        warnings=found.warnings + warnings + _conflicts(found, marks),
        values=found.values,
        kind=found.kind,
    )


Lost = tuple[str, tuple[str, str]]  # a label, and (id, reason) of an example that cannot be read


def _sound(found: Found, limit: float, progress: Progress | None) -> tuple[Found, list[Lost], list[bytes]]:
    """What can be read, what cannot, and a mark of each example's content."""
    reasons, marks = checked(found.inputs, found.kind, progress)
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    skipped = [(found.labels[row], (found.ids[row], reason)) for row, reason in enumerate(reasons) if reason]
    if not kept or (len(skipped) > FORGIVEN and len(skipped) > limit * len(found.ids)):
        first = "; ".join(f"{name}: {reason}" for _, (name, reason) in skipped[:NAMED])
        raise DataError(
            f"{len(skipped)} of {len(found.ids)} {found.kind} of {found.source} cannot be read ({first}); at most "
            f"{limit:.0%} of them, or {FORGIVEN}, are skipped; mend or remove the others"
        )
    return found.at(kept), skipped, [marks[row] for row in kept]


def _labels_checked(found: Found, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Raises LabelError where no class can be learned; what is only suspicious comes back as warnings."""
    if len(classes) < 2:
        raise LabelError(
            f"{found.source} holds one class only, {listed(classes)}; at least two are needed to tell apart; "
            f"add {found.kind} of another class"
        )
    total, learnable = Counter(found.labels), Counter[str]()
    learnable.update(label for label, part in zip(found.labels, found.parts, strict=True) if part in ("", "train"))
    few = [name for name in classes if total[name] < 2]
    if few:
        counts = ", ".join(f"{name!r} has {total[name]}" for name in few[:NAMED])
        more = f" and {len(few) - NAMED} more classes likewise" if len(few) > NAMED else ""
        hint = "; the label column may be the wrong one" if len(few) > max(NAMED, len(classes) // 2) else ""
        raise LabelError(
            f"too few readable {found.kind} a class in {found.source}: {counts}{more}; each needs at least two, one to "
            f"learn from and one to be judged on; add {found.kind} or remove the class{hint}"
        )
    unseen = [name for name in classes if not learnable[name]]
    if unseen:
        raise LabelError(
            f"{listed(unseen)} of {found.source} stands in validation or test only, never in training; no network "
            f"can learn it; add training {found.kind} or remove the class"
        )
    warnings: list[str] = []
    for part in ("validation", "test"):
        present = {label for label, its in zip(found.labels, found.parts, strict=True) if its == part}
        absent = [name for name in classes if name not in present]
        if present and absent:
            warnings.append(
                f"the {part} part holds no {KINDS[found.kind].one} of {listed(absent)}: nothing is measured on it there"
            )
    return tuple(warnings)


def _table_checked(found: Found, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Raises LabelError where nothing can be learned; labels that are nearly never or always there are warned of."""
    assert found.table is not None
    if asked(found.table) in ("detection", "segmentation"):  # checked by whoever read them
        return ()
    learnable = found.table[[part in ("", "train") for part in found.parts]]
    if len(learnable) < FEWEST:
        raise LabelError(
            f"{found.source} holds {len(learnable)} {found.kind} to learn from; at least {FEWEST} are needed"
        )
    if asked(found.table) == "regression":
        still = [name for name, column in zip(classes, learnable.T, strict=True) if column.std() == 0]
        if still:
            raise LabelError(f"{listed(still)} of {found.source} is the same number everywhere; name another column")
        return ()
    few = [n for n, column in zip(classes, learnable.T, strict=True) if min(column.sum(), (1 - column).sum()) < 2]
    if len(few) == len(classes):
        raise LabelError(f"no label of {found.source} is there on some {found.kind} and not on others, twice each")
    return (f"there or not on fewer than two {found.kind} to learn from: {listed(few)}",) if few else ()


def _conflicts(found: Found, marks: Sequence[bytes]) -> tuple[str, ...]:
    """The same example under two labels, or on two sides of the user's own split."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, mark in enumerate(marks):
        rows[mark].append(row)
    labels = [same for same in rows.values() if len({found.labels[row] for row in same}) > 1]
    parts = [same for same in rows.values() if len({found.parts[row] for row in same}) > 1]
    warnings: list[str] = []
    if labels:
        names = " and ".join(f"{found.ids[row]!r} ({found.labels[row]})" for row in labels[0][:NAMED])
        warnings.append(f"{len(labels)} {found.kind} stand under more than one label, for example {names}")
    if parts:
        names = " and ".join(repr(found.ids[row]) for row in parts[0][:NAMED])
        warnings.append(f"{len(parts)} {found.kind} stand in more than one part of the data, for example {names}")
    return tuple(warnings)


def checked(
    inputs: Inputs, kind: Kind = "pictures", progress: Progress | None = None
) -> tuple[list[str | None], list[bytes]]:
    """Why each example cannot be read (None where it can), and a mark of its content that equal ones share."""
    if isinstance(inputs, np.ndarray):
        return [None] * len(inputs), marked(inputs)
    reasons: list[str | None] = []
    marks: list[bytes] = []
    for number, (reason, mark) in enumerate(_checks(inputs, kind), 1):
        reasons.append(reason)
        marks.append(mark)
        if progress is not None:
            progress(number, len(inputs))
    return reasons, marks


def _checks(inputs: Sequence[Any], kind: Kind) -> Iterator[Checked]:
    check = KINDS[kind].check
    if kind == "texts":  # nothing is opened
        yield from map(check, inputs)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(check, inputs)


def marked(inputs: Inputs) -> list[bytes]:
    """A mark of each example's content, without decoding it: equal files, pixels or texts share it."""
    if isinstance(inputs, np.ndarray):
        return [kinds.marked(each) for each in inputs]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(kinds.marked, inputs))
