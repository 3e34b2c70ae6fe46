"""Near-duplicates among features: the definition by brute force, planted copies, and what must not be merged."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from frostline.data import near
from frostline.data.near import CHANCE, NEIGHBOURS, near_duplicates
from frostline.data.together import linked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def clouds(count: int, width: int, *, classes: int = 4, seed: int = 0) -> tuple[Floats, Ints]:
    """Features of distinct examples: normal clouds around a mean a class."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    return rng.normal(size=(count, width)) + rng.normal(size=(classes, width))[targets], targets


def by_definition(features: Floats, targets: Ints) -> set[frozenset[int]]:
    """The docstring in float64, row by row, all with all."""
    values = (features - features.mean(axis=0)) / features.std(axis=0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    apart = np.linalg.norm(values[:, None] - values[None], axis=2)
    ranked = np.sort(apart, axis=1)  # the row itself comes first
    eighth, sixteenth = ranked[:, NEIGHBOURS], ranked[:, 2 * NEIGHBOURS]
    dimension = 1 / np.median(np.log2(sixteenth / eighth))
    radii = eighth * (CHANCE / NEIGHBOURS) ** (1 / dimension)
    for row, target in enumerate(targets):
        others = [other for other in np.flatnonzero(targets == target) if other != row]
        radii[row] = min(radii[row], np.sqrt(np.mean(apart[row, others] ** 2)) / 2)
    close = (apart <= np.minimum(radii[:, None], radii)) & ~np.eye(len(values), dtype=bool)
    return {frozenset(found) for found in networkx.connected_components(networkx.Graph(np.argwhere(close).tolist()))}


@settings(max_examples=25)
@given(block=st.integers(1, 200), copies=st.integers(0, 20), noise=st.sampled_from([0.0, 0.2, 0.5]))
def test_near_duplicates_are_those_of_the_definition_whatever_the_block(block: int, copies: int, noise: float) -> None:
    features, targets = clouds(120, 40)
    rng = np.random.default_rng(1)
    features = np.concatenate([features, features[:copies] + noise * rng.normal(size=(copies, 40))])
    targets = np.concatenate([targets, targets[:copies]])
    found = near_duplicates(features, targets, block=block)
    assert found is not None
    assert {frozenset(rows) for rows in found} == by_definition(features, targets)


def test_among_too_many_rows_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = clouds(200, 64)
    features[1] = features[0]
    assert near_duplicates(features, targets)
    monkeypatch.setattr(near, "MOST", 199)
    assert near_duplicates(features, targets) is None


def test_copies_with_noise_are_found_and_nothing_else() -> None:
    features, targets = clouds(400, 64)
    noise = 0.2 * np.random.default_rng(1).normal(size=(40, 64))
    features, targets = np.concatenate([features, features[:40] + noise]), np.concatenate([targets, targets[:40]])
    wanted = {(row, 400 + row) for row in range(40)}
    assert set(near_duplicates(features, targets) or ()) == wanted
    assert set(near_duplicates(features, targets, sample=100) or ()) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_of_distinct_examples_fewer_than_one_in_a_hundred_is_merged(seed: int) -> None:
    for width in (16, 64, 256):
        found = near_duplicates(*clouds(300, width, seed=seed))
        assert found is not None
        assert sum(map(len, found)) <= 3, width
    sparse = near_duplicates(*clouds(2000, 12, classes=1, seed=seed), sample=200)
    assert sparse is not None
    assert len(sparse) <= 1  # from the distances in a sample it must say how near the nearest of all rows are


@pytest.mark.parametrize("seed", range(5))
def test_narrow_features_say_that_they_cannot_tell(seed: int) -> None:
    features, targets = clouds(120, 8, seed=seed)
    assert near_duplicates(features, targets) is None
    assert near_duplicates(np.maximum(features, 0), targets) is None


def test_few_rows_and_constant_features_cannot_tell() -> None:
    assert near_duplicates(*clouds(63, 64, classes=1)) is None
    assert near_duplicates(*clouds(64, 64, classes=1)) is not None
    assert near_duplicates(np.full((100, 3), 0.1, np.float32), np.arange(100) % 2) is None


def test_small_classes_that_are_told_apart_well_are_not_taken_for_copies() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(200) // 4  # the eighth neighbour is of another class
    features = 4 * rng.normal(size=(50, 64))[targets] + rng.normal(size=(200, 64))
    assert near_duplicates(features, targets) == ()


def test_no_chain_of_near_examples_swallows_a_class() -> None:
    features, targets = clouds(300, 64)
    steps = np.linspace(0, np.pi, 100)[:, None]
    start, end = np.random.default_rng(1).normal(size=(2, 64)) * 1.5
    film = np.cos(steps) * start + np.sin(steps) * end  # each frame is next to the one before
    found = near_duplicates(np.concatenate([features, film]), np.concatenate([targets, np.full(100, 4)]))
    assert found is not None
    assert any(row >= 300 for rows in found for row in rows)
    assert max(map(len, found)) <= NEIGHBOURS


@given(
    count=st.integers(1, 30),
    pairs=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40),
    most=st.none() | st.integers(1, 10),
)
def test_linked_rows_are_the_components_of_the_graph_and_no_set_is_too_large(
    count: int, pairs: list[tuple[int, int]], most: int | None
) -> None:
    pairs = [(one % count, other % count) for one, other in pairs]
    graph = networkx.Graph(pairs)
    graph.add_nodes_from(range(count))
    sets = linked(count, pairs, most=most)
    assert [rows[0] for rows in sets] == sorted(min(rows) for rows in sets)
    assert sorted(row for rows in sets for row in rows) == list(range(count))
    whole = {frozenset(rows) for rows in networkx.connected_components(graph)}
    if most is None:
        assert {frozenset(rows) for rows in sets} == whole
    else:
        assert all(len(rows) <= most for rows in sets)
        assert all(any(set(rows) <= component for component in whole) for rows in sets)
