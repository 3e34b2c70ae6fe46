"""A metric of the user's own: a function in a Python file, with what the data say of each example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import OptionError
from frostline.settings import is_own
from frostline.userfile import failed, function
from frostline.values import Examples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TRIED = 20  # resamples, and classes by themselves, that a metric must stand before anything is trained


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """A metric of the user's own, FILE.py:NAME; more is better.

    The function gets class ids (n) and probabilities (n, classes) and returns a number. Where it has parameters of
    these names, it also gets `weights` (n), how often each example counts, and `values` (n), a number that the data
    hold of each example. Where it takes no weights, examples that count twice stand there twice.
    """

    name: str
    file: Path
    call: Callable[..., Any]
    takes: frozenset[str]
    values: Floats | None  # of all examples

    def __call__(self, log_probabilities: NDArray[np.float32], targets: Ints, weights: Floats, rows: Ints) -> Floats:
        """The metric under each row of `weights`. Raises OptionError where the function does."""
        probabilities = np.exp(log_probabilities.astype(np.float64))
        broken = ~np.isfinite(probabilities).all(axis=1)  # of a training that diverged: it knows nothing
        probabilities[broken] = 1 / probabilities.shape[1]
        return np.array([self._under(probabilities, targets, each, rows) for each in weights])

    def _under(self, probabilities: Floats, targets: Ints, weights: Floats, rows: Ints) -> float:
        if not weights.any():
            return float("nan")
        taken = (
            np.arange(len(rows)) if "weights" in self.takes else np.repeat(np.arange(len(rows)), weights.astype(int))
        )
        given = {"weights": weights[taken]} if "weights" in self.takes else {}
        if self.values is not None and "values" in self.takes:
            given["values"] = self.values[rows[taken]]
        try:
            return float(self.call(targets[taken], probabilities[taken], **given))
        except Exception as error:  # whatever a user's function may raise
            called, classes = self.name.rpartition(":")[2], len(np.unique(targets[taken][weights[taken] > 0]))
            what = f"fails in {called} on a resample of {len(taken)} examples of {classes} classes"
            said = f"{what} (where it is not defined, it may return nan)"
            raise failed(error, self.file, said, OptionError) from error


@lru_cache(maxsize=4)
def read(name: str) -> tuple[Path, Callable[..., Any], Mapping[str, inspect.Parameter]]:
    """The function that FILE.py:NAME names, with its parameters. Raises OptionError where there is none."""
    file, _, called = name.rpartition(":")
    place = Path(file).expanduser().resolve()
    call = function(place, called, OptionError)
    try:
        return place, call, inspect.signature(call).parameters
    except ValueError as error:
        raise OptionError(f"{name} does not say what it takes: {error}; wrap it in a function of your own") from error


def metric_of(name: str, examples: Examples) -> str | Own:
    """The metric of that name, or the user's own that FILE.py:NAME names, tried on predictions that know nothing.

    It is tried on all examples, on some resamples, and on each class by itself. Raises OptionError where there is none,
    where it wants values and the data hold none, and where it fails.
    """
    if not is_own(name):
        return name
    place, call, parameters = read(name)
    takes = frozenset(parameters)
    if "values" in takes and examples.values is None and parameters["values"].default is inspect.Parameter.empty:
        raise OptionError(f"{name} wants the values of the examples, and none are given; name their column: --values")
    if "values" not in takes and examples.values is not None:
        raise OptionError(f"values are given, and {name} has no parameter of that name; add it, or leave them away")
    own = Own(name, place, call, takes, examples.values)
    n, classes = len(examples), len(examples.classes)
    nothing = np.full((n, classes), -np.log(classes), np.float32)
    rng, rows = np.random.default_rng(0), np.arange(n)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(TRIED)]
    alone = [(examples.targets == c).astype(np.float64) for c in range(min(classes, TRIED))]
    said = own(nothing, examples.targets, np.stack([np.ones(n), *drawn, *alone]), rows)[0]
    if not np.isfinite(said):
        raise OptionError(f"{name} returns {said} where every class is equally likely; a finite number is needed")
    return own
