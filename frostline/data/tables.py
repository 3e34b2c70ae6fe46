"""Tables with a column of paths or texts and one of labels: CSV, TSV, JSONL, Parquet."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frostline.data.answers import answers_of
from frostline.data.cells import parts_of, text_of
from frostline.data.found import PARTS, Found, listed, plain, values_of
from frostline.data.kinds import KINDS, PAIRS
from frostline.errors import DataError
from frostline.values import Kind, Question, Text

if TYPE_CHECKING:  # half a second that only tables are worth
    import pandas as pd

LABELS = ("label", "labels", "class", "class_name", "category", "target", "y", "species")
SPLITS = ("split", "part", "partition", "subset", "set", "fold")
_AS_WRITTEN: Any = False  # pandas' own stubs know no False here
QUOTED = re.compile(r'"(?:[^"]|"")*"')  # a whole cell
GROUPS = ("group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; None where the table has none."""

    inputs: tuple[str, ...]  # of paths or texts; two hold pairs of texts
    labels: tuple[str, ...]  # several of labels or of numbers
    split: str | None
    group: str | None
    values: str | None = None


def is_frame(source: Any) -> bool:
    """Whether it is a pandas DataFrame, told without loading pandas."""
    return type(source).__name__ == "DataFrame" and type(source).__module__.split(".")[0] == "pandas"


def read_table(
    given: Path | pd.DataFrame,
    kind: Kind = "pictures",
    *,
    label: str | None = None,
    path: str | None = None,
    group: str | None = None,
    values: str | None = None,
    question: Question = "classification",
) -> Found:
    """One row an example, of a file or a frame. Paths start at the file's folder, or, of a frame, where Python runs.

    Columns not named are found by their names; `path` may name two, with a comma between, that are read as pairs of
    texts. A file whose first line is an example like the others has columns called "column 1", "column 2", ...

    Raises DataError for a table that cannot be parsed or lacks a column (listing the columns it has), LabelError
    for rows without a label.
    """
    file, frame = (given, _parsed(given)) if isinstance(given, Path) else (Path("the frame"), given.rename(columns=str))
    if frame.empty:
        held = "its text" if kind == "texts" else "its path"
        raise DataError(f"{file} holds no rows; a row a {KINDS[kind].one} is needed, with {held} and its label")
    if kind == "texts" and isinstance(given, Path):
        frame = _with_names(given, frame, path, label)
    several = question != "classification"
    columns = detect(frame, str(file), kind, label=label, path=path, group=group, values=values, several=several)
    cells = {name: list(frame[name]) for name in columns.labels}
    labels, classes, table = answers_of(cells, question, str(file))
    if kind == "texts":
        inputs, ids = _texts(frame, columns), tuple(f"row-{row + 1}" for row in range(len(frame)))
    else:
        home = "the folder that Python runs in" if is_frame(given) else "the table's own folder"
        inputs, ids = _files(frame, columns, file, home, kind)
    return Found(
        source=str(file),
        ids=ids,
        inputs=inputs,
        labels=labels,
        parts=("",) * len(ids) if columns.split is None else parts_of(list(frame[columns.split]), str(file)),
        groups=None if columns.group is None else tuple(text_of(value) for value in frame[columns.group]),
        detected=f"a table of {len(ids)} rows: {_named(columns, kind)}",
        values=None if values is None else values_of(list(frame[values]), f"column {values!r} of {file}"),
        kind=kind,
        classes=classes,
        table=table,
    )


def _files(
    frame: pd.DataFrame, columns: Columns, file: Path, home: str, kind: Kind
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The paths of a column, and a name of each. Raises DataError where some are missing or none exists."""
    (column,), one = columns.inputs, KINDS[kind].one
    names = [plain(str(value)) if text_of(value) else "" for value in frame[column]]
    empty = [f"row {row + 1}" for row, name in enumerate(names) if not name]
    if empty:
        raise DataError(
            f"{len(empty)} rows of {file} have no {one} in column {column!r} ({listed(empty)}); "
            "every row needs one; fill them in or remove the rows"
        )
    inputs = tuple(file.parent / str(value) for value in frame[column])
    if not any(place.is_file() for place in inputs):
        raise DataError(
            f"none of the {len(inputs)} {kind} that {file} names exists; {str(inputs[0])!r} is where the first was "
            f"looked for; paths are absolute or start at {home}"
        )
    seen: Counter[str] = Counter()
    ids: list[str] = []
    for row, name in enumerate(names):
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#row-{row + 1}")
    return inputs, tuple(ids)


def _texts(frame: pd.DataFrame, columns: Columns) -> tuple[Text, ...]:
    """The texts of a column, or the pairs of two; empty cells stay, for the check to count them."""
    cells = [[text_of(value) for value in frame[name]] for name in columns.inputs]
    return tuple(cells[0]) if len(cells) == 1 else tuple(zip(cells[0], cells[1], strict=True))


def _with_names(file: Path, frame: pd.DataFrame, path: str | None, label: str | None) -> pd.DataFrame:
    """The frame as it is, or, where the first line of a file is an example and no names, with that line as a row.

    So it is where nothing in that line is a name that is usual or was asked for, and one of its cells, a short one,
    stands in its column again and again.
    """
    import pandas as pd

    names = [str(name) for name in frame.columns]
    asked = {*(path or "").split(","), label} - {"", None}
    known = {*KINDS["texts"].columns, *LABELS, *SPLITS, *GROUPS, *(name for pair in PAIRS for name in pair), *asked}
    if file.suffix.lower() not in (".csv", ".tsv") or any(name.strip().lower() in known for name in names):
        return frame
    again = [frame[name].tolist() for name in names]
    if not any(2 * cells.count(name) >= len(cells) / len(set(cells)) for name, cells in zip(names, again, strict=True)):
        return frame
    whole = pd.concat([pd.DataFrame([names], columns=frame.columns), frame], ignore_index=True)
    whole.columns = pd.Index([f"column {number}" for number in range(1, len(names) + 1)])
    return whole


def texts_in(file: Path, path: str | None = None) -> list[Text]:
    """The texts of a table that need have no labels, or the pairs of two columns. Raises DataError."""
    frame = _with_names(file, _parsed(file), path, None)
    names = [str(name) for name in frame.columns]
    pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    one = _usual(names, KINDS["texts"].columns) or _by_content(frame, "texts", None)
    inputs = tuple(path.split(",")) if path else pair or (() if one is None else (one,))
    if not inputs or any(name not in names for name in inputs):
        raise DataError(
            f"{file} has no column that is known to hold texts; its columns are {', '.join(map(repr, names))}; call it "
            "'text'"
        )
    return list(_texts(frame, Columns(inputs, (), None, None)))


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
            plainly: Any = csv.QUOTE_NONE if suffix == ".tsv" and _stray_quotes(file) else csv.QUOTE_MINIMAL
            frame = pd.read_csv(
                file,
                sep=_separator(file),
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                encoding="utf-8-sig",
                quoting=plainly,
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error}); save the table as UTF-8") from error
    except Exception as error:  # a row of another kind makes parsers raise whatever they stumble over
        raise DataError(f"{file} cannot be read as {suffix[1:].upper()}: {error}; mend or convert the table") from error
    return frame


def _stray_quotes(file: Path) -> bool:
    """Whether quotation marks are parts of the texts of a file with tabs, and quote nothing.

    So it is where some cell begins with one and is no whole quotation; but not where, read as quotations, all lines
    have as many cells, and read without not: quoted cells may hold tabs and ends of lines.
    """
    stray, widths = False, set[int]()
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for line in lines:
            cells = line.rstrip("\r\n").split("\t")
            widths.add(len(cells) if line.strip() else 0)
            stray = stray or any(cell.startswith('"') and not QUOTED.fullmatch(cell) for cell in cells)
    if not stray or len(widths - {0}) == 1:
        return stray
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return len({len(cells) for cells in csv.reader(lines, delimiter="\t")} - {0}) > 1


def _separator(file: Path) -> str:
    """The one of tab, semicolon and comma that the first line holds most of."""
    with file.open(encoding="utf-8-sig") as lines:
        head = lines.readline()
    return "\t" if file.suffix.lower() == ".tsv" else max(",", ";", "\t", key=head.count)


def detect(
    frame: pd.DataFrame,
    source: str,
    kind: Kind = "pictures",
    *,
    label: str | None = None,
    path: str | None = None,
    group: str | None = None,
    values: str | None = None,
    several: bool = False,
) -> Columns:
    """Which column is what. Columns that the caller names must exist; the others go by usual names."""
    names = [str(name) for name in frame.columns]
    inputs = () if path is None else (path,) if kind != "texts" or path in names else tuple(path.split(","))
    given = () if label is None else (label,) if label in names or not several else tuple(label.split(","))
    for wanted in (*given, *inputs, group, values):
        if wanted is not None and wanted not in names:
            raise DataError(f"{source} has no column {wanted!r}; its columns are {', '.join(map(repr, names))}")
    if len(inputs) > 2:
        raise DataError(f"path is {path!r}; one column of texts or two that are read as pairs can be named")
    usual = KINDS[kind].columns
    if not inputs and kind == "texts":
        inputs = next((pair for pair in PAIRS if set(pair) <= set(names)), ())
    if not inputs:
        one = _usual(names, usual) or _by_content(frame, kind, label)
        inputs = () if one is None else (one,)
    if not given:
        one = _usual([n for n in names if n not in inputs], LABELS) or _left_over(names, inputs)
        given = () if one is None else (one,)
    what = "texts" if kind == "texts" else f"{KINDS[kind].one} paths"
    for found, held, flag, called in ((inputs, what, "path", usual), (given, "labels", "label", LABELS)):
        if not found:
            raise DataError(
                f"{source} has no column that is known to hold {held}; its columns are "
                f"{', '.join(map(repr, names))}; name one with `{flag}`, or call it {called[0]!r}"
            )
    rest = [name for name in names if name not in (*inputs, *given)]
    return Columns(inputs, given, _split_column(frame, rest), group or _usual(rest, GROUPS), values)


def _left_over(names: list[str], inputs: tuple[str, ...]) -> str | None:
    """Of a table without names of its own, the one column besides the texts."""
    rest = [name for name in names if name not in inputs]
    return rest[0] if len(rest) == 1 and rest[0].startswith("column ") else None


def _usual(names: list[str], usual: tuple[str, ...]) -> str | None:
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _by_content(frame: pd.DataFrame, kind: Kind, label: str | None) -> str | None:
    """The one column whose cells all end like files of the kind do; of texts, the one whose cells hold most words."""
    names = [str(name) for name in frame.columns if name != label]
    if kind == "texts":
        words = {name: np.mean([str(cell).count(" ") for cell in frame[name].head(50)]) for name in names}
        best = max(names, key=lambda name: words[name], default=None)
        return best if best is not None and words[best] >= 1 else None
    suffixes = KINDS[kind].suffixes
    fitting = [n for n in names if all(Path(str(value)).suffix.lower() in suffixes for value in frame[n].head(50))]
    return fitting[0] if len(fitting) == 1 else None


def _split_column(frame: pd.DataFrame, names: list[str]) -> str | None:
    """A column of that name counts only if it says train, validation or test; "fold" may well hold numbers."""
    name = _usual(names, SPLITS)
    if name is None or not any(text_of(value).lower() in PARTS for value in frame[name]):
        return None
    return name


def _named(columns: Columns, kind: Kind) -> str:
    held = f"{kind} in {columns.inputs[0]!r}" if len(columns.inputs) == 1 else f"pairs of texts in {columns.inputs}"
    said = [held, f"labels in {', '.join(map(repr, columns.labels))}"]
    said += [f"parts in {columns.split!r}"] if columns.split else []
    said += [f"groups in {columns.group!r}"] if columns.group else []
    said += [f"values in {columns.values!r}"] if columns.values else []
    return ", ".join(said)
