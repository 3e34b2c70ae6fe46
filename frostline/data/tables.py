"""Tables with a column of picture paths and one of labels: CSV, TSV, JSONL, Parquet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.data.folders import SUFFIXES
from frostline.data.found import PARTS, Found, listed, plain, values_of
from frostline.errors import DataError, LabelError
from frostline.values import Part

if TYPE_CHECKING:  # half a second that only tables are worth
    import pandas as pd

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "picture")
MISSING = ("NAType", "NaTType")  # of pandas
LABELS = ("label", "labels", "class", "class_name", "category", "target", "y", "species")
SPLITS = ("split", "part", "partition", "subset", "set", "fold")
_AS_WRITTEN: Any = False  # pandas' own stubs know no False here
GROUPS = ("group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; None where the table has none."""

    path: str
    label: str
    split: str | None
    group: str | None
    values: str | None = None


def is_frame(source: Any) -> bool:
    """Whether it is a pandas DataFrame, told without loading pandas."""
    return type(source).__name__ == "DataFrame" and type(source).__module__.split(".")[0] == "pandas"


def read_table(
    given: Path | pd.DataFrame,
    *,
    label: str | None = None,
    path: str | None = None,
    group: str | None = None,
    values: str | None = None,
) -> Found:
    """One row a picture, of a file or a frame. Paths start at the file's folder, or, of a frame, where Python runs.

    Columns not named are found by their names.

    Raises DataError for a table that cannot be parsed or lacks a column (listing the columns it has), LabelError
    for rows without a label.
    """
    file, frame = (given, _parsed(given)) if isinstance(given, Path) else (Path("the frame"), given.rename(columns=str))
    if frame.empty:
        raise DataError(f"{file} holds no rows; a row a picture is needed, with its path and its label")
    home = "the folder that Python runs in" if is_frame(given) else "the table's own folder"
    columns = detect(frame, str(file), label=label, path=path, group=group, values=values)
    labels = labels_of(list(frame[columns.label]), f"column {columns.label!r} of {file}")
    names = [plain(str(value)) if text_of(value) else "" for value in frame[columns.path]]
    empty = [f"row {row + 1}" for row, name in enumerate(names) if not name]
    if empty:
        raise DataError(
            f"{len(empty)} rows of {file} have no picture in column {columns.path!r} ({listed(empty)}); "
            "every row needs one; fill them in or remove the rows"
        )
    inputs = tuple(file.parent / str(value) for value in frame[columns.path])
    if not any(picture.is_file() for picture in inputs):
        raise DataError(
            f"none of the {len(inputs)} pictures that {file} names exists; {str(inputs[0])!r} is where the first was "
            f"looked for; paths are absolute or start at {home}"
        )
    seen: Counter[str] = Counter()
    ids: list[str] = []
    for row, name in enumerate(names):
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#row-{row + 1}")
    return Found(
        source=str(file),
        ids=tuple(ids),
        inputs=inputs,
        labels=labels,
        parts=("",) * len(ids) if columns.split is None else parts_of(list(frame[columns.split]), str(file)),
        groups=None if columns.group is None else tuple(text_of(value) for value in frame[columns.group]),
        detected=f"a table of {len(ids)} rows: {_named(columns)}",
        values=None if values is None else values_of(list(frame[values]), f"column {values!r} of {file}"),
    )


def _parsed(file: Path) -> pd.DataFrame:
    import pandas as pd

    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(file)
        elif suffix == ".jsonl":
            frame = pd.read_json(file, lines=True, dtype=_AS_WRITTEN)
        else:
            # only empty cells are missing: "None" and "NA" are names that classes do have
            frame = pd.read_csv(
                file, sep=_separator(file), dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig"
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error}); save the table as UTF-8") from error
    except Exception as error:  # a row of another kind makes parsers raise whatever they stumble over
        raise DataError(f"{file} cannot be read as {suffix[1:].upper()}: {error}; mend or convert the table") from error
    return frame


def _separator(file: Path) -> str:
    """The one of tab, semicolon and comma that the first line holds most of."""
    with file.open(encoding="utf-8-sig") as lines:
        head = lines.readline()
    return "\t" if file.suffix.lower() == ".tsv" else max(",", ";", "\t", key=head.count)


def detect(
    frame: pd.DataFrame,
    source: str,
    *,
    label: str | None = None,
    path: str | None = None,
    group: str | None = None,
    values: str | None = None,
) -> Columns:
    """Which column is what. Columns that the caller names must exist; the others go by usual names."""
    names = [str(name) for name in frame.columns]
    for wanted in (label, path, group, values):
        if wanted is not None and wanted not in names:
            raise DataError(f"{source} has no column {wanted!r}; its columns are {', '.join(map(repr, names))}")
    path = path or _usual(names, PATHS) or _by_content(frame)
    label = label or _usual([name for name in names if name != path], LABELS)
    for found, what, flag, usual in ((path, "picture paths", "path", PATHS), (label, "labels", "label", LABELS)):
        if found is None:
            raise DataError(
                f"{source} has no column that is known to hold {what}; its columns are "
                f"{', '.join(map(repr, names))}; name one with `{flag}`, or call it {usual[0]!r}"
            )
    assert path is not None and label is not None
    rest = [name for name in names if name not in (path, label)]
    return Columns(path, label, _split_column(frame, rest), group or _usual(rest, GROUPS), values)


def _usual(names: list[str], usual: tuple[str, ...]) -> str | None:
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _by_content(frame: pd.DataFrame) -> str | None:
    """The one column whose cells all end like pictures do."""
    fitting = [
        str(name)
        for name in frame.columns
        if all(Path(str(value)).suffix.lower() in SUFFIXES for value in frame[name].head(50))
    ]
    return fitting[0] if len(fitting) == 1 else None


def _split_column(frame: pd.DataFrame, names: list[str]) -> str | None:
    """A column of that name counts only if it says train, validation or test; "fold" may well hold numbers."""
    name = _usual(names, SPLITS)
    if name is None or not any(text_of(value).lower() in PARTS for value in frame[name]):
        return None
    return name


def _named(columns: Columns) -> str:
    said = [f"pictures in {columns.path!r}", f"labels in {columns.label!r}"]
    said += [f"parts in {columns.split!r}"] if columns.split else []
    said += [f"groups in {columns.group!r}"] if columns.group else []
    said += [f"values in {columns.values!r}"] if columns.values else []
    return ", ".join(said)


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
            f"{len(missing)} of {len(texts)} labels are missing in {source} ({listed(missing)}); every picture needs "
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
