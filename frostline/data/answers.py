"""What is asked of each example, from columns, lists and arrays: classes as names, or a table of labels or numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.cells import labels_of, text_of
from frostline.data.found import Found, listed, ordered, values_of
from frostline.errors import DataError, LabelError
from frostline.values import Question, Targets, asked


def answers_of(
    cells: Mapping[str, Sequence[Any]], question: Question, source: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None, Targets | None]:
    """What is asked of each row, from its columns: labels as names; and of other tasks what the columns of a table
    are called, and that table. Raises DataError and LabelError.

    Labels stand in one column as lists, or as names with a | or ; between, or in columns of 0 and 1, one a label.
    """
    first, *others = cells
    if question == "classification":
        return labels_of(list(cells[first]), f"column {first!r} of {source}"), None, None
    if question == "regression":
        table = np.stack([values_of(column, f"column {name!r} of {source}") for name, column in cells.items()], axis=1)
        return tuple(",".join(f"{v:g}" for v in row) for row in table), tuple(cells), table
    if others:
        flags = np.stack([values_of(column, f"column {name!r} of {source}") for name, column in cells.items()], axis=1)
        if not np.isin(flags, (0, 1)).all():
            raise LabelError(
                f"the columns {listed(list(cells))} of {source} hold more than 0 and 1; several columns of "
                "labels say of each whether it is there"
            )
        names, there = tuple(cells), flags.astype(np.int64)
    else:
        sets = [_label_set(cell) for cell in cells[first]]
        names = ordered([name for found in sets for name in found])
        there = np.asarray([[name in found for name in names] for found in sets], np.int64).reshape(len(sets), -1)
        if len(names) < 2:
            raise LabelError(
                f"column {first!r} of {source} holds {len(names)} different labels; at least two are "
                "needed: lists, or names with a | or ; between"
            )
    return tuple("|".join(n for n, on in zip(names, row, strict=True) if on) for row in there.tolist()), names, there


def _label_set(cell: Any) -> frozenset[str]:
    """The labels of a cell: a list, one written out, or names with a | or ; between; an empty cell has none."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return frozenset(text_of(name) for name in list(cell)) - {""}
    text = text_of(cell)
    if text.startswith("[") and text.endswith("]"):
        text = re.sub(r"[\[\]'\"]", "", text).replace(",", "|")
    return frozenset(part.strip() for part in re.split(r"[|;]", text)) - {""}


def given_answers(
    given: Any, question: Question, source: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None, NDArray[Any] | None]:
    """Labels of a list or an array; of labels and numbers with several columns, these are called by their place."""
    found = given if question == "multilabel" and isinstance(given, list | tuple) else np.asarray(given)
    if isinstance(found, np.ndarray) and found.ndim == 2:
        return answers_of({str(n): found[:, n].tolist() for n in range(found.shape[1])}, question, source)
    return answers_of({"value": list(found)}, question, source)


def counted(names: tuple[str, ...], classes: tuple[str, ...] | None) -> str:
    """How many classes or columns there are, in words."""
    return f"{len(set(names))} classes" if classes is None else f"{len(classes)} columns"


def one_table(found: Sequence[Found], source: str) -> dict[str, Any]:
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
