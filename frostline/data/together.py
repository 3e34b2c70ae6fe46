"""Rows that belong together, from the pairs that link them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


def linked(count: int, pairs: Iterable[tuple[int, int]], *, most: int | None = None) -> list[tuple[int, ...]]:
    """All rows 0..count-1 as the sets that chains of pairs make of them, single rows too, by their smallest row.

    With `most`, a pair that would make a set of more rows links nothing; then the order of the pairs matters.
    """
    parent, size = list(range(count)), [1] * count

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        if low != high and (most is None or size[low] + size[high] <= most):
            parent[high] = low
            size[low] += size[high]
    sets: dict[int, list[int]] = defaultdict(list)
    for row in range(count):
        sets[root(row)].append(row)
    return [tuple(rows) for rows in sets.values()]
