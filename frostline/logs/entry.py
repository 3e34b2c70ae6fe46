"""What a log is told, whatever library it is for: one entry for each training, and one for the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

ANSWER = "answer"  # the name of the entry that is no training

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Point:
    """A value within a training."""

    step: int  # the epoch, from 0
    value: float
    when: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Entry:
    """One training, or the answer of the whole run."""

    name: str  # no two entries of a run share it; it can name a folder
    began: float  # seconds since 1970
    ended: float  # seconds since 1970
    params: Mapping[str, Value]
    curves: Mapping[str, tuple[Point, ...]] = field(default_factory=dict[str, tuple[Point, ...]])
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    text: str = ""  # Markdown


class Log(Protocol):
    """Where entries are written, each of them whole or not at all."""

    def written(self) -> frozenset[str]:
        """The names of the entries that are there."""
        ...

    def write(self, entry: Entry) -> None:
        """One more, in place of an earlier one of that name. Raises StoreError."""
        ...
