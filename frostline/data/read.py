"""A user's data, whatever its form, as Examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.data.folders import TABLES, read_folder
from frostline.data.found import PARTS, Found, Progress, examples_of, listed, plain, values_of
from frostline.data.indexed import is_indexed, read_indexed
from frostline.data.pictures import pixels_of
from frostline.data.tables import LABELS, is_frame, labels_of, read_table, text_of
from frostline.errors import DataError, LabelError, OptionError
from frostline.values import Examples, Part

FORMATS = ("auto", "folder", "table", "huggingface", "arrays")
BARE = ("arrays", "folder")  # have no columns
SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk leaves in its folder


def read(
    source: Any,
    *,
    data_format: str = "auto",
    label: str | None = None,
    path: str | None = None,
    group: str | None = None,
    values: str | None = None,
    shifted: str | None = None,
    limit: float = 0.05,
    progress: Progress | None = None,
) -> Examples:
    """The examples of a folder, a table, a data frame, a data set of Hugging Face or PyTorch, or a pair of arrays.

    `shifted` is the path of further ones of the same classes, which become a part of their own.
    `label`, `path`, `group` and `values` name columns where there are columns; what was found is told in `detected`.
    Every picture is decoded once: unreadable ones are skipped and listed, and the data is refused where they are
    more than three and more than the share `limit` of all. `progress` is called with (checked, all).
    Raises DataError or its child LabelError, each naming what is wrong and what is allowed.
    """
    if data_format not in FORMATS:
        raise OptionError(f"data format {data_format!r} is unknown; allowed are {', '.join(FORMATS)}")
    if not 0 <= limit <= 1:
        raise OptionError(f"limit is {limit}; it is a share of the files, between 0 and 1")
    columns = {"label": label, "path": path, "group": group, "values": values}
    kind = _kind(source) if data_format == "auto" else data_format
    other = None if shifted is None else _kind(shifted)
    if other in (None, *BARE):
        _refuse_columns(source, kind, columns)
    found = _found(source, kind, columns, progress=progress)
    away = None if shifted is None or other is None else _found(shifted, other, {**columns, "group": None}, least=1)
    return examples_of(found, limit=limit, other=away, progress=progress)


def _refuse_columns(source: Any, kind: str, columns: Mapping[str, str | None]) -> None:
    """Raise OptionError where a column is named and there are none."""
    for flag, value in columns.items():
        if value is not None and kind in BARE:
            it = "arrays have" if kind == "arrays" else f"{source} is an image folder, which has"
            raise OptionError(f"{flag} is {value!r}, but {it} no columns")


def _found(
    source: Any,
    kind: str,
    columns: Mapping[str, str | None],
    *,
    least: int = 2,
    progress: Progress | None = None,
) -> Found:
    """Whatever form it has, which `kind` names; a folder holds `least` classes."""
    label, path, group, values = columns["label"], columns["path"], columns["group"], columns["values"]
    if kind == "arrays":
        return read_indexed(source, progress=progress) if is_indexed(source) else _arrays(source)
    if kind == "huggingface":
        return _hugging_face(source, label=label, image=path, group=group, values=values)
    if kind == "table":
        frame = source if is_frame(source) else existing(source)
        return read_table(frame, label=label, path=path, group=group, values=values)
    return read_folder(existing(source, folder=True), least=least)


def _kind(source: Any) -> str:
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
        return "huggingface" if any((place / name).is_file() for name in SAVED) else "folder"
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


def _arrays(source: Any) -> Found:
    if not isinstance(source, tuple) or len(source) != 2:
        raise DataError("arrays are given as a pair (pictures, labels), two arrays of the same length")
    pictures, labels = np.asarray(source[0]), np.asarray(source[1])
    if labels.ndim != 1 or len(labels) != len(pictures):
        raise LabelError(
            f"labels have the shape {labels.shape} beside {len(pictures)} pictures; one label a picture is needed, "
            f"in an array of shape ({len(pictures)},)"
        )
    if len(pictures) == 0:
        raise DataError("the arrays are empty; at least two pictures of two classes each are needed")
    names = labels_of(labels.tolist(), "the array of labels")
    pixels = pixels_of(pictures)
    return Found(
        source="the arrays",
        ids=tuple(f"row-{row}" for row in range(len(names))),
        inputs=pixels,
        labels=names,
        parts=("",) * len(names),
        groups=None,
        detected=f"arrays: {len(names)} pictures of {'x'.join(map(str, pixels.shape[1:]))}, {len(set(names))} classes",
    )


# ------------------------------------------------------------------------------------------------ Hugging Face


def _hugging_face(source: Any, *, label: str | None, image: str | None, group: str | None, values: str | None) -> Found:
    """A Dataset or DatasetDict, or the folder where one was saved. Encoded pictures are held in memory."""
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
    pieces = [(part, _rows(data, name, (image, label, group, values))) for part, data in whole.items()]
    kinds: list[Part] = [PARTS[part.lower()] if part else "" for part, rows in pieces for _ in rows.labels]
    first = pieces[0][1]
    return Found(
        source=name,
        ids=tuple(
            f"{part}/row-{row}" if part else f"row-{row}" for part, it in pieces for row in range(len(it.labels))
        ),
        inputs=tuple(picture for _, it in pieces for picture in it.inputs),
        labels=tuple(text for _, it in pieces for text in it.labels),
        parts=tuple(kinds),
        groups=None if first.groups is None else tuple(text for _, it in pieces for text in it.groups or ()),
        detected=f"a Hugging Face data set of {len(kinds)} rows: {first.detected}",
        values=None if values is None else np.concatenate([it.values for _, it in pieces if it.values is not None]),
    )


def _rows(data: Any, name: str, columns: tuple[str | None, str | None, str | None, str | None]) -> Found:
    """One part of a data set."""
    import datasets

    features: Mapping[str, Any] = data.features
    usual = next((key for key in features if key.lower() in LABELS), None)
    classes = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    pictures = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    image = _column(columns[0], pictures[:1], features, f"{name}: a picture column (an Image feature)")
    label = _column(columns[1], classes[:1] or [usual] * (usual is not None), features, f"{name}: a label column")
    if image not in pictures:
        raise DataError(f"column {image!r} of {name} is no Image feature; cast it with datasets.Image()")
    for wanted in columns[2:]:
        if wanted is not None and wanted not in features:
            raise DataError(f"{name} has no column {wanted!r}; its columns are {', '.join(map(repr, features))}")
    stored = data.cast_column(image, datasets.Image(decode=False)).with_format(None)
    values = list(stored[label])
    if isinstance(features[label], datasets.ClassLabel):
        # -1 is how these data sets spell "no label"
        values = [None if number is None or number < 0 else features[label].int2str(number) for number in values]
    said = [f"pictures in {image!r}", f"labels in {label!r}"]
    said += [f"{what} in {column!r}" for what, column in zip(("groups", "values"), columns[2:], strict=True) if column]
    numbers = columns[3]
    return Found(
        source=name,
        ids=(),
        inputs=tuple(b"" if it is None else it["bytes"] or Path(it["path"] or "") for it in stored[image]),
        labels=labels_of(values, f"column {label!r} of {name}"),
        parts=(),
        groups=None if columns[2] is None else tuple(plain(text_of(value)) for value in stored[columns[2]]),
        detected=", ".join(said),
        values=None if numbers is None else values_of(list(stored[numbers]), f"column {numbers!r} of {name}"),
    )


def _column(asked: str | None, fitting: Sequence[str | None], features: Mapping[str, Any], what: str) -> str:
    found = asked if asked is not None else (fitting[0] if fitting else None)
    if found is None or found not in features:
        lacking = f" called {asked!r}" if asked is not None else ""
        raise DataError(f"{what}{lacking} is missing; the columns are {', '.join(map(repr, features))}; name one")
    return found
