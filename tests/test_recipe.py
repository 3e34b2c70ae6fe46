"""Laws of the default recipe: more data, fewer epochs, more steps; and what the user says goes before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from frostline.bench.recipe import FEWEST, FULL, recipe
from frostline.settings import settings

PLAIN = settings({"data": "d", "backbone": "b"})


@given(st.integers(2, 200_000), st.integers(2, 200_000))
def test_more_examples_mean_fewer_epochs_larger_batches_and_no_fewer_samples_seen(one: int, other: int) -> None:
    few, many = sorted((one, other))
    small, large = recipe(PLAIN, few), recipe(PLAIN, many)
    assert FEWEST <= large.epochs <= small.epochs <= FULL
    assert small.batch <= large.batch
    assert few * small.epochs <= 1.1 * many * large.epochs  # epochs are whole numbers


def test_a_detector_learns_for_so_many_steps_at_least_unless_it_is_told_otherwise() -> None:
    boxes = {"data": "d", "backbone": "b", "task": "detection"}
    found = [recipe(settings(boxes), count, "proposals") for count in (3, 30, 198, 205, 5000)]
    assert [(of.epochs, of.batch) for of in found] == [(150, 3), (19, 4), (3, 4), (3, 4), (3, 4)]
    assert recipe(settings({**boxes, "batch_size": 64}), 205, "proposals").epochs == 3
    assert recipe(settings({**boxes, "epochs": 2}), 30, "proposals").epochs == 2


def test_a_batch_is_no_larger_than_the_data_and_what_is_asked_for_is_done() -> None:
    assert recipe(PLAIN, 7).batch == 7
    asked = recipe(settings({"data": "d", "backbone": "b", "epochs": 3, "batch_size": 5}), 100_000)
    assert (asked.epochs, asked.batch) == (3, 5)
