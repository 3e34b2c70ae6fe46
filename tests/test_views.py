"""Laws of stored views: short trainings see the pictures vary as they would if each were opened and varied anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stage

from frostline.bench.again import blueprints, laid
from frostline.bench.bench import Bench, Source
from frostline.bench.finals import cached_versus_live
from frostline.bench.lay import lay
from frostline.bench.unit import perform
from frostline.data import batches
from frostline.data.pictures import normalised
from frostline.errors import OptionError
from frostline.settings import settings
from frostline.values import Augment, Event, Outcome, Recipe

RECIPE = Recipe(epochs=3, lr=1e-2, batch=8, augment="flip")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return stage.bench(tmp_path_factory.mktemp("views"), augment="flip", views=3, epochs=9)


def same(one: Outcome, other: Outcome) -> bool:
    return [e.loss for e in one.epochs] == [e.loss for e in other.epochs] and np.array_equal(
        one.log_probabilities, other.log_probabilities
    )


def screened(bench: Bench, freeze: int, recipe: Recipe = RECIPE) -> Outcome:
    arm = stage.arm(bench, freeze=freeze, recipe=recipe)
    return perform(bench, arm, stage.unit(arm))


def test_the_store_holds_each_view_of_the_inputs_and_of_what_crosses_every_cut(bench: Bench) -> None:
    rows, how = np.array([5, 0, 41]), bench.backbone.preprocessing
    assert how is not None
    assert bench.whole.keys() > {0}
    assert [view.keys() for view in bench.varied] == [bench.whole.keys()] * 2
    for number in range(3):
        (inputs,) = bench.stored(0, rows, view=number)
        kind: Augment = "flip" if number else "none"
        drawn = normalised(batches.frames(bench.examples, rows, how, augment=kind, seed=0, epoch=number), how)
        np.testing.assert_array_equal(inputs, drawn)
    np.testing.assert_array_equal(bench.stored(0, rows)[0], batches.decode(bench.examples, rows, how))
    rows = np.arange(48)  # of three pictures alone, two may be mirrored alike
    assert len({bench.stored(2, rows, view=number)[0].tobytes() for number in range(3)}) == 3


@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_training_from_stored_views_is_training_from_pictures_that_vary(bench: Bench, freeze: int) -> None:
    from_pictures = screened(replace(bench, whole={}, varied=()), freeze)
    stored = screened(bench, freeze)
    assert [e.loss for e in stored.epochs] == pytest.approx([e.loss for e in from_pictures.epochs], rel=1e-5)
    np.testing.assert_allclose(stored.log_probabilities, from_pictures.log_probabilities, rtol=1e-3, atol=1e-5)
    still = screened(bench, freeze, replace(RECIPE, augment="none"))
    assert stored.epochs[0].loss == still.epochs[0].loss  # the first view is the picture as it is
    assert abs(stored.epochs[1].loss - still.epochs[1].loss) > 1e-3


def test_one_view_is_the_picture_as_it_is(tmp_path: Path) -> None:
    single = stage.bench(tmp_path, augment="flip", views=1)
    assert single.varied == ()
    assert same(screened(single, 2), screened(single, 2, replace(RECIPE, augment="none")))


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_predicted_does_not_vary(tmp_path: Path, keep: bool) -> None:
    """Neither from stored views nor where pictures vary live; a picture's own prediction would differ where it did."""
    bench = stage.bench(tmp_path, augment="flip", views=2, epochs=9)
    slow = replace(RECIPE, lr=1e-12)
    arm, plain = (stage.arm(bench, freeze=2, recipe=r) for r in (slow, replace(slow, augment="none")))
    varied, still = perform(bench, arm, stage.unit(arm), keep=keep), perform(bench, plain, stage.unit(plain))
    np.testing.assert_allclose(varied.log_probabilities, still.log_probabilities, atol=1e-6)
    mirrored = replace(bench, whole={2: bench.varied[0][2]})
    other = perform(mirrored, plain, stage.unit(plain))
    assert np.abs(other.log_probabilities - still.log_probabilities).max() > 1e-3


def test_no_view_is_stored_that_no_short_training_reads(tmp_path: Path) -> None:
    few = stage.bench(tmp_path / "few", augment="flip", epochs=6)
    many = stage.bench(tmp_path / "many", augment="flip", epochs=30)
    assert (few.views, len(few.varied)) == (2, 1)  # a third of the schedule is the longest of them
    assert (many.views, len(many.varied)) == (4, 3)


def test_views_that_nothing_reads_are_refused() -> None:
    for augment in (None, "none"):
        with pytest.raises(OptionError, match="views is 8, and no example varies; add --augment"):
            settings({"data": "d", "backbone": "b", "augment": augment, "views": 8})


def test_the_views_are_compared_with_the_pictures_too(bench: Bench) -> None:
    arm = stage.arm(bench, freeze=2, recipe=RECIPE)
    told = cached_versus_live(bench, arm, stage.unit(arm))
    assert told is not None and told < 1e-5
    swapped = replace(bench, varied=bench.varied[::-1])
    wrong = cached_versus_live(swapped, arm, stage.unit(arm))
    assert wrong is not None and wrong > 1e-3


def test_another_process_learns_from_the_same_views(tmp_path: Path) -> None:
    here = stage.bench(tmp_path, augment="flip", views=3, epochs=9, workers=2)
    there = laid(blueprints(here))
    arm = stage.arm(here, freeze=2, recipe=RECIPE)
    assert same(perform(here, arm, stage.unit(arm)), perform(there, arm, stage.unit(arm)))


def test_a_forecast_counts_every_view_and_a_second_start_computes_none(tmp_path: Path) -> None:
    told, bench = list[Event](), stage.bench(tmp_path, augment="flip", views=3, epochs=9, workers=2)
    wanted = settings({**bench.settings.document(), "resume": True})
    source = Source(data=stage.pictures(48))
    dry = lay(wanted, source, calibration=bench.calibration, dry=True)
    assert {stored.key for stored in dry.sets} == {stored.key for stored in bench.sets}
    assert sum(s.bytes for s in dry.sets) == pytest.approx(sum(s.bytes for s in bench.sets), rel=0.01)
    assert "(3 views of each example)" in bench.forecast.sentence
    again = lay(wanted, source, folder=bench.folder, calibration=bench.calibration, show=told.append)
    assert again.sets == bench.sets
    assert not [event for event in told if event.stage == "fill"]


def test_the_fill_tells_how_far_it_is_through_all_views(tmp_path: Path) -> None:
    told = list[Event]()
    wanted = settings(
        {"data": "arrays", "backbone": f"{stage.__file__}:small", "weights": "none", "device": "cpu", "threads": 1}
        | {"batch_size": 8, "epochs": 9, "augment": "flip", "views": 3}
    )
    lay(wanted, Source(data=stage.pictures(48)), folder=tmp_path, calibration=stage.CALIBRATION, show=told.append)
    steps = [(event.done, event.total) for event in told if event.stage == "fill"]
    assert {total for _, total in steps} == {3 * 48}
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1][0] == 3 * 48
