"""A user's data, whatever its form, as Examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frostline.data.answers import one_table
from frostline.data.arrays import read_arrays, read_lists
from frostline.data.boxes import FoundBoxes, read_boxes
from frostline.data.folders import TABLES, read_folder
from frostline.data.found import PARTS, Found, Progress, examples_of, existing, joined
from frostline.data.hub import SAVED, read_hub
from frostline.data.indexed import is_indexed, read_indexed
from frostline.data.masks import read_masks
from frostline.data.pictures import size_of
from frostline.data.tables import is_frame, read_table
from frostline.errors import DataError, OptionError
from frostline.values import Examples, Kind, Part, Question

FORMATS = ("auto", "folder", "table", "huggingface", "arrays")
BARE = ("arrays", "folder")  # have no columns
KEPT = (224, 224)  # height and width of masks, where no network says what it reads
PLACED: Mapping[str, str] = {  # questions that say where things are, and what answers them
    "detection": "boxes are read from a folder or file of COCO, Pascal VOC or YOLO, for a backbone of pictures",
    "segmentation": "masks are read from a folder with images and masks, for a backbone of pictures",
}
ORDER: tuple[Part, ...] = ("train", "validation", "test")


def read(
    source: Any,
    kind: Kind = "pictures",
    *,
    data_format: str = "auto",
    label: str | None = None,
    path: str | None = None,
    group: str | None = None,
    values: str | None = None,
    shifted: str | None = None,
    question: Question = "classification",
    size: tuple[int, int] | None = None,
    limit: float = 0.05,
    progress: Progress | None = None,
) -> Examples:
    """The examples of a folder, a table, a data frame, a data set of Hugging Face or PyTorch, or a pair of arrays.

    `kind` says what they are: what a backbone reads decides it; `question` what their labels answer;
    masks are kept at `size`, height and width, or at `KEPT`.
    `shifted` is the path of further ones of the same classes, which become a part of their own.
    `label`, `path`, `group` and `values` name columns where there are columns; what was found is told in `detected`.
    Every one is opened once: unreadable ones are skipped and listed, and the data is refused where they are
    more than three and more than the share `limit` of all. `progress` is called with (checked, all).
    Raises DataError or its child LabelError, each naming what is wrong and what is allowed.
    """
    if data_format not in FORMATS:
        raise OptionError(f"data format {data_format!r} is unknown; allowed are {', '.join(FORMATS)}")
    if not 0 <= limit <= 1:
        raise OptionError(f"limit is {limit}; it is a share of the files, between 0 and 1")
    columns = {"label": label, "path": path, "group": group, "values": values, "question": question}
    if question in PLACED:
        if kind != "pictures" or not isinstance(source, str | Path):
            raise DataError(PLACED[question])
        if shifted is not None:
            raise OptionError(f"shifted is {shifted!r}, and {question} has no use for it yet; leave it away")
    form = "folder" if question in PLACED else _form(source, kind) if data_format == "auto" else data_format
    other = None if shifted is None else _form(shifted, kind)
    if other in (None, *BARE):
        _refuse_columns(source, form, columns)
    if question == "detection":
        found = _boxes(read_boxes(existing(source)))
    elif question == "segmentation":
        found = read_masks(existing(source, folder=True), size or KEPT)
    else:
        found = _found(source, form, columns, kind, progress=progress)
    away = (
        None if shifted is None or other is None else _found(shifted, other, {**columns, "group": None}, kind, least=1)
    )
    return examples_of(found, limit=limit, other=away, progress=progress)


def _refuse_columns(source: Any, form: str, columns: Mapping[str, str | None]) -> None:
    """Raise OptionError where a column is named and there are none."""
    for flag, value in columns.items():
        if value is not None and form in BARE and flag != "question":
            it = "arrays have" if form == "arrays" else f"{source} is an image folder, which has"
            raise OptionError(f"{flag} is {value!r}, but {it} no columns")


def _found(
    source: Any,
    form: str,
    columns: Mapping[str, str | None],
    kind: Kind,
    *,
    least: int = 2,
    progress: Progress | None = None,
) -> Found:
    """Whatever form it has, which `form` names; a folder holds `least` classes."""
    label, path, group, values = columns["label"], columns["path"], columns["group"], columns["values"]
    question: Any = columns["question"]
    if question != "classification" and form == "folder":
        raise DataError(
            f"{source} is a folder of classes, and the task is {question}; give a table with a column of labels or "
            "numbers, or arrays"
        )
    if form == "arrays":
        if kind == "texts":
            return read_lists(source, question)
        if kind != "pictures":
            raise DataError(f"{kind} cannot be given as arrays; give a folder, a table or a Hugging Face data set")
        return read_indexed(source, progress=progress) if is_indexed(source) else read_arrays(source, question)
    if form == "huggingface":
        return read_hub(source, kind, question, label=label, column=path, group=group, values=values)
    if form == "table":
        frame = source if is_frame(source) else existing(source)
        return read_table(frame, kind, label=label, path=path, group=group, values=values, question=question)
    if form == "tables":
        given = {"label": label, "path": path, "group": group, "values": values}
        return _parted(existing(source, folder=True), kind, question, **given)
    return read_folder(existing(source, folder=True), kind, least=least)


def _boxes(found: FoundBoxes) -> Found:
    """Pictures with their boxes as one table: corners as shares of the sides, class ids, nan where there are fewer."""
    most = max((len(each) for each in found.targets), default=1)
    table = np.full((len(found.ids), max(1, most), 5), np.nan, np.float32)
    for row, (picture, each) in enumerate(zip(found.inputs, found.targets, strict=True)):
        height, width = size_of(picture)
        table[row, : len(each), :4] = each.corners / np.array([width, height, width, height], np.float32)
        table[row, : len(each), 4] = each.labels
    return Found(
        source=found.source,
        ids=found.ids,
        inputs=found.inputs,
        labels=tuple(row.tobytes().hex() for row in table),
        parts=found.parts,
        groups=None,
        detected=found.detected,
        warnings=found.warnings,
        classes=found.classes,
        table=table,
    )


def _parted(folder: Path, kind: Kind, question: Question, **columns: str | None) -> Found:
    """A folder that holds a table for each part of the data: train.tsv, dev.tsv, test.tsv."""
    found = list[Found]()
    for file, part in sorted(_part_tables(folder).items(), key=lambda pair: ORDER.index(pair[1])):
        table = read_table(file, kind, **columns, question=question)
        ids = tuple(f"{file.stem}/{name}" for name in table.ids)
        found.append(replace(table, ids=ids, parts=(part,) * len(ids)))
    first = found[0]
    inputs = joined([each.inputs for each in found])
    counts = ", ".join(f"{each.parts[0]} {len(each.ids)}" for each in found)
    return replace(
        first,
        source=str(folder),
        ids=tuple(name for each in found for name in each.ids),
        inputs=inputs,
        labels=tuple(label for each in found for label in each.labels),
        parts=tuple(part for each in found for part in each.parts),
        groups=None if first.groups is None else tuple(it for each in found for it in each.groups or ()),
        detected=f"a table for each part ({counts}): {first.detected.partition(': ')[2]}",
        values=None
        if first.values is None
        else np.concatenate([v for each in found if (v := each.values) is not None]),
        **one_table(found, str(folder)),
    )


def _part_tables(folder: Path) -> dict[Path, Part]:
    """The tables of a folder that are named like parts of the data."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES]
    return {file: PARTS[file.stem.lower()] for file in files if file.stem.lower() in PARTS}


def _form(source: Any, kind: Kind) -> str:
    """Which of FORMATS it is, told from its type and, on disk, from its name and content."""
    if isinstance(source, tuple) or is_indexed(source):
        return "arrays"
    if is_frame(source):
        return "table"
    if type(source).__module__.split(".")[0] == "datasets":
        return "huggingface"
    if not isinstance(source, str | Path):
        raise DataError(
            f"data of type {type(source).__name__} cannot be read; allowed are a path, a pair (pictures, labels) of "
            "arrays, a pandas DataFrame, or a data set of Hugging Face or PyTorch"
        )
    place = existing(source)
    if place.is_dir():
        if any((place / name).is_file() for name in SAVED):
            return "huggingface"
        return "tables" if "train" in _part_tables(place).values() else "folder"
    if place.suffix.lower() in TABLES:
        return "table"
    raise DataError(
        f"{place} is neither a folder nor a table; allowed are folders and files that end in "
        f"{', '.join(sorted(TABLES))}; unpack an archive first"
    )
