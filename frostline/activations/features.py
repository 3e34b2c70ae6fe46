"""Pooled features as they are asked for: what all cuts of all examples come to need not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frostline.activations.store import Store, Stored


class Rows(Protocol):
    """Features of examples; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Examples, features."""
        ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.float32]:
        """Those of some examples, by their numbers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """One cut's, in the order of the examples, read from the store for the rows that are asked for."""

    store: Store
    stored: Stored
    places: NDArray[np.int64]  # of every example in the set

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places), *self.stored.fields[0].shape)

    def __getitem__(self, rows: Any, /) -> NDArray[np.float32]:
        return self.store.read(self.stored, self.places[rows])[0]
