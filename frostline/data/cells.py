"""Cells of tables, as text: what is a label, a part of the data, or nothing."""

from __future__ import annotations

from typing import Any

from frostline.data.found import PARTS, listed, plain
from frostline.errors import DataError, LabelError
from frostline.values import Part

MISSING = ("NAType", "NaTType")  # of pandas


def parts_of(values: list[Any], source: str) -> tuple[Part, ...]:
    """Cells of a split column; an empty one belongs to no part. Raises DataError naming what is no part."""
    unknown = sorted({text_of(value) for value in values} - {""}, key=str)
    unknown = [text for text in unknown if text.lower() not in PARTS]
    if unknown:
        raise DataError(f"{source} has the parts {listed(unknown)}; allowed are {', '.join(PARTS)}; rename them")
    return tuple(PARTS[text.lower()] if (text := text_of(value)) else "" for value in values)


def labels_of(values: list[Any], source: str) -> tuple[str, ...]:
    """Labels as names: 3, 3.0 and "3" are the same class. Raises LabelError naming rows without one."""
    texts = tuple(text_of(value) for value in values)
    missing = [f"row {row + 1}" for row, text in enumerate(texts) if not text or text.lower() == "nan"]
    if missing:
        raise LabelError(
            f"{len(missing)} of {len(texts)} labels are missing in {source} ({listed(missing)}); every example needs "
            "one; fill them in or remove the rows"
        )
    return texts


def text_of(value: Any) -> str:
    """A cell as text; "" for an empty one, and no ".0" behind a whole number that passed through a float."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if type(value).__name__ in MISSING:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return plain(str(value).strip())
