"""A user's data, whatever its form, as Examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.boxes import FoundBoxes, read_boxes
from frostline.data.folders import TABLES, read_folder
from frostline.data.found import PARTS, Found, Progress, examples_of, joined, listed, ordered, plain, values_of
from frostline.data.indexed import is_indexed, read_indexed
from frostline.data.kinds import KINDS, PAIRS
from frostline.data.pictures import pixels_of, size_of
from frostline.data.tables import LABELS, answers_of, is_frame, read_table, text_of
from frostline.errors import DataError, LabelError, OptionError
from frostline.values import Examples, Inputs, Kind, Part, Question, Text, asked

FORMATS = ("auto", "folder", "table", "huggingface", "arrays")
BARE = ("arrays", "folder")  # have no columns
ORDER: tuple[Part, ...] = ("train", "validation", "test")
SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk leaves in its folder


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
    limit: float = 0.05,
    progress: Progress | None = None,
) -> Examples:
    """The examples of a folder, a table, a data frame, a data set of Hugging Face or PyTorch, or a pair of arrays.

    `kind` says what they are: what a backbone reads decides it; `question` what their labels answer.
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
    if question == "detection":
        if kind != "pictures" or not isinstance(source, str | Path):
            raise DataError(
                "boxes are read from a folder or file of COCO, Pascal VOC or YOLO, for a backbone of pictures"
            )
        if shifted is not None:
            raise OptionError(f"shifted is {shifted!r}, and detection has no use for it yet; leave it away")
    form = "folder" if question == "detection" else _form(source, kind) if data_format == "auto" else data_format
    other = None if shifted is None else _form(shifted, kind)
    if other in (None, *BARE):
        _refuse_columns(source, form, columns)
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
    if question == "detection":
        return _boxes(read_boxes(existing(source)))
    if question != "classification" and form == "folder":
        raise DataError(
            f"{source} is a folder of classes, and the task is {question}; give a table with a column of labels or "
            "numbers, or arrays"
        )
    if form == "arrays":
        if kind == "texts":
            return _pair_of_lists(source, question)
        if kind != "pictures":
            raise DataError(f"{kind} cannot be given as arrays; give a folder, a table or a Hugging Face data set")
        return read_indexed(source, progress=progress) if is_indexed(source) else _arrays(source, question)
    if form == "huggingface":
        return _hugging_face(source, kind, question, label=label, column=path, group=group, values=values)
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


def _pair_of_lists(source: Any, question: Question) -> Found:
    """Texts, or pairs of them, and their labels."""
    if not isinstance(source, tuple) or len(source) != 2 or len(source[0]) != len(source[1]) or not len(source[0]):
        raise DataError("texts are given as a pair (texts, labels), two lists of the same length")
    texts = tuple(map(_text_or_pair, source[0]))
    if len({type(text) for text in texts}) > 1:
        raise DataError("some of the texts are pairs and others are not; give all of them as texts, or all as pairs")
    names, classes, table = _given_answers(source[1], question, "the list of labels")
    return Found(
        source="the lists",
        ids=tuple(f"row-{row}" for row in range(len(names))),
        inputs=texts,
        labels=names,
        parts=("",) * len(names),
        groups=None,
        detected=f"lists: {len(names)} texts, {_counted(names, classes)}",
        kind="texts",
        classes=classes,
        table=table,
    )


def _text_or_pair(given: Any) -> Text:
    """A text, or a pair of them, as Python's own; nothing where there is none, for the check to count it."""
    if given is None or isinstance(given, str):
        return str(given or "")
    parts = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(parts, list | tuple) and len(parts) == 2 and all(isinstance(it, str | None) for it in parts):
        return str(parts[0] or ""), str(parts[1] or "")
    raise DataError(f"{str(given)[:60]!r} is neither a text nor a pair of two texts, as each of the first list must be")


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
        **_one_table(found, str(folder)),
    )


def _one_table(found: Sequence[Found], source: str) -> dict[str, Any]:
    """The labels or numbers of several tables as one: a label that one of them lacks is nowhere there in it."""
    if found[0].table is None:
        return {}
    names = ordered([name for each in found for name in each.classes or ()])
    if asked(found[0].table) == "regression":
        names = found[0].classes or ()
        if any(each.classes != names for each in found):
            raise DataError(f"the tables of {source} have different columns of numbers; name the same in all")
    parts = list[NDArray[Any]]()
    for each in found:
        assert each.table is not None and each.classes is not None
        part = np.zeros((len(each.table), len(names)), each.table.dtype)
        part[:, [names.index(name) for name in each.classes]] = each.table
        parts.append(part)
    return {"classes": names, "table": np.concatenate(parts)}


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


# ------------------------------------------------------------------------------------------------ arrays


def _arrays(source: Any, question: Question = "classification") -> Found:
    if not isinstance(source, tuple) or len(source) != 2:
        raise DataError("arrays are given as a pair (pictures, labels), two arrays of the same length")
    pictures, labels = np.asarray(source[0]), np.asarray(source[1])
    if len(labels) != len(pictures) or (labels.ndim != 1 and question == "classification"):
        raise LabelError(
            f"labels have the shape {labels.shape} beside {len(pictures)} pictures; one label a picture is needed, "
            f"in an array of shape ({len(pictures)},)"
        )
    if len(pictures) == 0:
        raise DataError("the arrays are empty; at least two pictures of two classes each are needed")
    names, classes, table = _given_answers(source[1], question, "the array of labels")
    pixels = pixels_of(pictures)
    return Found(
        source="the arrays",
        ids=tuple(f"row-{row}" for row in range(len(names))),
        inputs=pixels,
        labels=names,
        parts=("",) * len(names),
        groups=None,
        detected=f"arrays: {len(names)} pictures of {'x'.join(map(str, pixels.shape[1:]))}, {_counted(names, classes)}",
        classes=classes,
        table=table,
    )


def _given_answers(
    given: Any, question: Question, source: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None, NDArray[Any] | None]:
    """Labels of a list or an array; of labels and numbers with several columns, these are called by their place."""
    found = given if question == "multilabel" and isinstance(given, list | tuple) else np.asarray(given)
    if isinstance(found, np.ndarray) and found.ndim == 2:
        return answers_of({str(n): found[:, n].tolist() for n in range(found.shape[1])}, question, source)
    return answers_of({"value": list(found)}, question, source)


def _counted(names: tuple[str, ...], classes: tuple[str, ...] | None) -> str:
    return f"{len(set(names))} classes" if classes is None else f"{len(classes)} columns"


# ------------------------------------------------------------------------------------------------ Hugging Face


def _hugging_face(
    source: Any,
    kind: Kind,
    question: Question,
    *,
    label: str | None,
    column: str | None,
    group: str | None,
    values: str | None,
) -> Found:
    """A Dataset or DatasetDict, or the folder where one was saved. Encoded files are held in memory."""
    import datasets

    if isinstance(source, str | Path):
        place = existing(source)
        try:
            source = datasets.load_from_disk(str(place))
        except Exception as error:  # its files may hold anything
            raise DataError(
                f"{place} cannot be read as a saved Hugging Face data set: {error}; save it again"
            ) from error
        name = str(place)
    else:
        name = "the Hugging Face data set"
    whole: dict[str, Any] = {str(k): v for k, v in source.items()} if isinstance(source, dict) else {"": source}
    unknown = [part for part in whole if part and part.lower() not in PARTS]
    if unknown:
        raise DataError(f"{name} has the parts {listed(unknown)}; allowed are {', '.join(PARTS)}; rename them")
    pieces = [(part, _rows(data, name, kind, question, (column, label, group, values))) for part, data in whole.items()]
    kinds: list[Part] = [PARTS[part.lower()] if part else "" for part, rows in pieces for _ in rows.labels]
    first = pieces[0][1]
    return Found(
        source=name,
        ids=tuple(
            f"{part}/row-{row}" if part else f"row-{row}" for part, it in pieces for row in range(len(it.labels))
        ),
        inputs=joined([it.inputs for _, it in pieces]),
        labels=tuple(text for _, it in pieces for text in it.labels),
        parts=tuple(kinds),
        groups=None if first.groups is None else tuple(text for _, it in pieces for text in it.groups or ()),
        detected=f"a Hugging Face data set of {len(kinds)} rows: {first.detected}",
        values=None if values is None else np.concatenate([it.values for _, it in pieces if it.values is not None]),
        kind=kind,
        **_one_table([it for _, it in pieces], name),
    )


def _rows(
    data: Any, name: str, kind: Kind, question: Question, columns: tuple[str | None, str | None, str | None, str | None]
) -> Found:
    """One part of a data set."""
    import datasets

    features: Mapping[str, Any] = data.features
    usual = next((key for key in features if key.lower() in LABELS), None)
    classes = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    holding = _holding(features, kind, columns[0])
    several = question != "classification" and columns[1] is not None and columns[1] not in features
    asked_for = columns[1].split(",") if several and columns[1] is not None else [columns[1]]
    fitting, what = classes[:1] or [usual] * (usual is not None), f"{name}: a label column"
    labels = [_column(each, fitting, features, what) for each in asked_for]
    if not holding or any(key not in features for key in holding):
        asked = f" called {columns[0]!r}" if columns[0] is not None else ""
        wanted = {
            "pictures": "a picture column (an Image feature)",
            "recordings": "a column of Audio",
            "texts": "a text column",
        }
        raise DataError(
            f"{name}: {wanted[kind]}{asked} is missing; the columns are {', '.join(map(repr, features))}; name one"
        )
    feature = {"pictures": datasets.Image, "recordings": datasets.Audio}.get(kind)
    if feature is not None and not isinstance(features[holding[0]], feature):
        called = feature.__name__
        raise DataError(f"column {holding[0]!r} of {name} is no {called} feature; cast it with datasets.{called}()")
    for wanted in columns[2:]:
        if wanted is not None and wanted not in features:
            raise DataError(f"{name} has no column {wanted!r}; its columns are {', '.join(map(repr, features))}")
    stored = data if feature is None else data.cast_column(holding[0], feature(decode=False))
    stored = stored.with_format(None)
    cells = {label: _named(list(stored[label]), features[label]) for label in labels}
    said_labels, names, table = answers_of(cells, question, name)
    said = [f"{kind} in {' and '.join(map(repr, holding))}", f"labels in {', '.join(map(repr, labels))}"]
    said += [f"{what} in {column!r}" for what, column in zip(("groups", "values"), columns[2:], strict=True) if column]
    numbers = columns[3]
    return Found(
        source=name,
        ids=(),
        inputs=_held(stored, holding, kind),
        labels=said_labels,
        classes=names,
        table=table,
        parts=(),
        groups=None if columns[2] is None else tuple(plain(text_of(value)) for value in stored[columns[2]]),
        detected=", ".join(said),
        values=None if numbers is None else values_of(list(stored[numbers]), f"column {numbers!r} of {name}"),
    )


def _named(cells: list[Any], feature: Any) -> list[Any]:
    """Cells with their classes called by name, those in lists, too."""
    import datasets

    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.ClassLabel):
        # -1 is how these data sets spell "no label"
        return [None if number is None or number < 0 else feature.int2str(number) for number in cells]
    if isinstance(inner, datasets.ClassLabel):
        return [[inner.int2str(number) for number in found or ()] for found in cells]
    return cells


def _holding(features: Mapping[str, Any], kind: Kind, asked: str | None) -> tuple[str, ...]:
    """The columns of a data set that hold the examples; two hold pairs of texts; none where nothing fits."""
    import datasets

    if asked is not None:
        return (asked,) if kind != "texts" or asked in features else tuple(asked.split(","))
    if kind == "texts":
        pair = next((pair for pair in PAIRS if set(pair) <= set(features)), None)
        return pair or tuple(key for key in features if key.lower() in KINDS[kind].columns)[:1]
    wanted = datasets.Image if kind == "pictures" else datasets.Audio
    return tuple(key for key, feature in features.items() if isinstance(feature, wanted))[:1]


def _held(stored: Any, holding: tuple[str, ...], kind: Kind) -> Inputs:
    """The examples of a data set's columns; empty ones stay, for the check to count them."""
    if kind != "texts":
        return tuple(b"" if it is None else it["bytes"] or Path(it["path"] or "") for it in stored[holding[0]])
    cells = [["" if it is None else str(it) for it in stored[key]] for key in holding]
    return tuple(cells[0]) if len(cells) == 1 else tuple(zip(cells[0], cells[1], strict=True))


def _column(asked: str | None, fitting: Sequence[str | None], features: Mapping[str, Any], what: str) -> str:
    found = asked if asked is not None else (fitting[0] if fitting else None)
    if found is None or found not in features:
        lacking = f" called {asked!r}" if asked is not None else ""
        raise DataError(f"{what}{lacking} is missing; the columns are {', '.join(map(repr, features))}; name one")
    return found
