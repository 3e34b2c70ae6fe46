"""A bench that is laid for a forecast plans like that of a search and keeps pooled features alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stage
import torch
from stage import CALIBRATION
from world import HOME, draw

from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench.bench import Bench, Source
from frostline.bench.lay import lay
from frostline.bench.task import ALL, plan_training
from frostline.data.batches import decode
from frostline.journey import probe_with
from frostline.plan import plan
from frostline.settings import Settings, settings
from frostline.values import Arm, Event, Precision, Recipe, Unit, Way

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("lay"), 20)


def given(data: Path, **more: object) -> Settings:
    backbone = {"backbone": f"{HOME / 'network.py'}:glyphs", "weights": str(HOME / "letters.safetensors")}
    return settings({"data": str(data), **backbone, "device": "cpu", "threads": 2, "epochs": 5, **more})


def both(
    wanted: Settings, folder: Path, *, decode: float = CALIBRATION.decode, precision: Precision = "fp32"
) -> tuple[Bench, Bench]:
    """The bench of a forecast and that of a search, with one calibration: seven slow layers, so that storing pays."""
    layers = {"forward": (1e-2,) * 7, "backward": (2e-2,) * 7, "carry": (1e-2,) * 7}
    calibration = replace(CALIBRATION, **layers, way=Way(at_once=2, precision=precision), decode=decode)
    return lay(wanted, Source(), calibration=calibration, dry=True), lay(
        wanted, Source(), folder=folder, calibration=calibration
    )


@pytest.mark.parametrize("workers", [None, 1, 3])
@pytest.mark.parametrize("storage", [0, MEBIBYTE, 8 * 2**30])
def test_a_forecast_plans_as_the_search_would(workers: int | None, storage: int, data: Path, tmp_path: Path) -> None:
    dry, real = both(given(data, workers=workers, storage=storage), tmp_path)
    assert dry.workers == real.workers == (workers or 2)
    assert dry.forecast == real.forecast
    assert {depth: stored.tier for depth, stored in dry.whole.items()} == {
        depth: stored.tier for depth, stored in real.whole.items()
    }
    assert bool(dry.whole) == (storage > 0)
    for depth, stored in dry.whole.items():
        assert stored.key == real.whole[depth].key
        assert stored.bytes == pytest.approx(real.whole[depth].bytes, rel=0.01)
    for depth, features in real.pooled.items():
        np.testing.assert_array_equal(dry.pooled[depth][:], features[:])


def test_a_forecast_counts_the_bytes_of_the_precision_that_is_computed_in(data: Path, tmp_path: Path) -> None:
    dry, real = both(given(data, workers=1, precision="bf16"), tmp_path, precision="bf16")
    assert "bfloat16" in {field.dtype for stored in real.whole.values() for field in stored.fields}
    for depth, stored in dry.whole.items():
        assert stored.fields == real.whole[depth].fields


def test_a_forecast_keeps_pooled_features_alone(data: Path, tmp_path: Path) -> None:
    dry, real = both(given(data, workers=1), tmp_path)
    assert len(dry.whole) > 1
    for stored in dry.whole.values():
        assert dry.store.begun(stored.key) == (None, 0)
        assert real.store.held(stored.key) == real.whole[stored.key.depth]


def test_a_probe_forecasts_what_the_search_stores(data: Path, tmp_path: Path) -> None:
    wanted = given(data, workers=1, storage=5 * MEBIBYTE, precision="fp32")
    events: list[Event] = []
    probed = probe_with(wanted, show=events.append)
    learned = len(probed.bench.split.folds[0].train)
    assert {event.total for event in events if event.stage == "control"} == {learned}  # nothing else is looked at
    assert probed.bench.calibration.read["disk"] > 1e3  # measured, where a bench without a folder takes it for useless
    assert probed.document()["forecast"]["bytes"] == probed.stored <= 5 * MEBIBYTE
    real = lay(probed.bench.settings, Source(), folder=tmp_path, calibration=probed.bench.calibration)
    assert probed.stored == pytest.approx(sum(stored.bytes for stored in real.whole.values()), rel=0.01)
    assert all(probed.bench.store.begun(stored.key) == (None, 0) for stored in probed.bench.whole.values())


def test_costs_are_measured_and_storing_is_weighed_by_what_one_training_reads(tmp_path: Path) -> None:
    """Pictures of a test part take no part in it: no training reads them."""
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 4), (many, 160)):
        draw(folder / "train", 20)
        draw(folder / "test", count, seed=1)
    small, large = (both(given(folder, workers=1), tmp_path / f"{folder.name}-run")[1] for folder in (few, many))
    assert small.forecast.without == pytest.approx(large.forecast.without)
    assert (
        lay(given(many, recalibrate=True, precision="fp32"), Source(), dry=True).calibration.batch == 16
    )  # that of 48, not of 528


def test_what_crosses_a_cut_is_stored_of_what_may_be_learned_and_pooled_features_of_all(tmp_path: Path) -> None:
    draw(tmp_path / "data", 21)
    rows = sorted(path.relative_to(tmp_path) for path in (tmp_path / "data").rglob("*.png"))
    lines = [f"{path},{path.parent.name},{'test' if path.stem == '000' else 'train'}" for path in rows]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *lines]))  # each class begins with its test
    _, bench = both(given(tmp_path / "table.csv", workers=1), tmp_path / "run")
    kept, how = np.asarray(bench.examples.parts) != "test", bench.backbone.preprocessing
    assert how is not None
    assert bench.places.tolist() != list(range(63))
    rows = np.flatnonzero(kept)[::-3]
    halves = Halves(bench.backbone.module, bench.anatomy)
    for depth, stored in bench.whole.items():
        assert stored.rows == kept.sum() == 60
        assert bench.stores(depth, rows)
        assert not bench.stores(depth, np.flatnonzero(~kept))
    for row in (*rows[:3], *np.flatnonzero(~kept)):
        picture = {bench.anatomy.data: torch.from_numpy(decode(bench.examples, np.asarray([row]), how))}
        for depth, features in bench.pooled.items():
            expected = pool(bench.anatomy, depth, halves.prefix(picture, depth))
            np.testing.assert_allclose(features[np.asarray([row])], expected, rtol=1e-4, atol=1e-5)
        if kept[row]:
            np.testing.assert_array_equal(bench.stored(0, np.asarray([row]))[0], picture[bench.anatomy.data].numpy())
    arm = Arm("arm", plan(bench.anatomy.layers, Recipe(1, 1e-3), freeze=2), (1e-3,))
    assert plan_training(bench, arm, Unit("arm", 1e-3, 1, 0, 0, 1)).start == max(d for d in bench.whole if d <= 2)
    assert plan_training(bench, arm, Unit("arm", 1e-3, 1, ALL, 0, 1)).start == 0  # what certified is learned too


@pytest.mark.parametrize(
    ("demands", "stored"), [({2: 30.0}, {2}), ({0: 30.0}, {0}), ({0: 3.0, 3: 30.0}, {0, 3}), ({}, set[int]())]
)
def test_what_is_known_to_be_trained_is_what_is_stored_for(demands: dict[int, float], stored: set[int]) -> None:
    wanted = settings({"data": "arrays", "backbone": f"{stage.__file__}:small", "weights": "none", "device": "cpu"})
    source = Source(data=stage.pictures(48))
    found = lay(wanted, source, calibration=stage.CALIBRATION, demands=lambda layers: demands)
    assert set(found.whole) == stored


def test_what_is_not_planned_any_more_takes_no_room(data: Path, tmp_path: Path) -> None:
    """A run that is resumed with other workers has another plan, and the bytes of one."""
    _, first = both(given(data, workers=1), tmp_path)
    assert len(first.whole) > 1
    _, second = both(given(data, workers=1, storage=0), tmp_path)
    assert not second.whole
    assert not list((tmp_path / "activations").glob("*whole*"))
    for depth, features in first.pooled.items():
        np.testing.assert_array_equal(second.pooled[depth][:], features[:])
