"""Data sets of Hugging Face, in memory or as they were saved in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.data.answers import answers_of, one_table
from frostline.data.cells import text_of
from frostline.data.found import PARTS, Found, existing, joined, listed, plain, values_of
from frostline.data.kinds import KINDS, PAIRS
from frostline.data.tables import LABELS
from frostline.errors import DataError
from frostline.values import Inputs, Kind, Part, Question

SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk leaves in its folder


def read_hub(
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
        **one_table([it for _, it in pieces], name),
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
