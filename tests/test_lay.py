"""A bench that is laid for a forecast plans like that of a search and keeps pooled features alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stage import CALIBRATION
from world import HOME, draw

from frostline.bench.bench import Bench, Source
from frostline.bench.lay import lay
from frostline.journey import probe_with
from frostline.settings import Settings, settings
from frostline.values import Way

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("lay"), 20)


def given(data: Path, **more: object) -> Settings:
    backbone = {"backbone": f"{HOME / 'network.py'}:glyphs", "weights": str(HOME / "letters.safetensors")}
    return settings({"data": str(data), **backbone, "device": "cpu", "threads": 2, "epochs": 5, **more})


def both(wanted: Settings, folder: Path) -> tuple[Bench, Bench]:
    """The bench of a forecast and that of a search, with one calibration: seven slow layers, so that storing pays."""
    layers = {"forward": (1e-2,) * 7, "backward": (2e-2,) * 7, "carry": (1e-2,) * 7}
    calibration = replace(CALIBRATION, **layers, way=Way(at_once=2))
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
        np.testing.assert_array_equal(dry.pooled[depth], features)


def test_a_forecast_keeps_pooled_features_alone(data: Path, tmp_path: Path) -> None:
    dry, real = both(given(data, workers=1), tmp_path)
    assert len(dry.whole) > 1
    for stored in dry.whole.values():
        assert dry.store.begun(stored.key) == (None, 0)
        assert real.store.held(stored.key) == real.whole[stored.key.depth]


def test_a_probe_forecasts_what_the_search_stores(data: Path, tmp_path: Path) -> None:
    wanted = given(data, workers=1, storage=5 * MEBIBYTE)
    probed = probe_with(wanted)
    assert probed.bench.calibration.read["disk"] > 1e3  # measured, where a bench without a folder takes it for useless
    assert probed.document()["forecast"]["bytes"] == probed.stored <= 5 * MEBIBYTE
    real = lay(probed.bench.settings, Source(), folder=tmp_path, calibration=probed.bench.calibration)
    assert probed.stored == pytest.approx(sum(stored.bytes for stored in real.whole.values()), rel=0.01)
    assert all(probed.bench.store.begun(stored.key) == (None, 0) for stored in probed.bench.whole.values())


def test_costs_are_measured_and_storing_is_weighed_by_what_one_training_reads(tmp_path: Path) -> None:
    """Pictures that certify are stored like all others, and no training ever reads them."""
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 4), (many, 400)):
        draw(folder / "train", 20)
        draw(folder / "test", count, seed=1)
    small, large = (both(given(folder, workers=1), tmp_path / f"{folder.name}-run")[1] for folder in (few, many))
    assert small.forecast.without == pytest.approx(large.forecast.without)
    assert lay(given(many, recalibrate=True), Source(), dry=True).calibration.batch == 16  # that of 48, not of 1,248
