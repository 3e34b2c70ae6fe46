"""Laws of half precision in the store: taken where bytes are short, measured before, refused where it moves too far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stage
import torch
from test_lay import both, given
from world import draw

import frostline
from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench import rounding, storing
from frostline.bench.bench import Bench, Source
from frostline.bench.lay import lay
from frostline.bench.passing import Network
from frostline.bench.unit import perform
from frostline.data.batches import decode
from frostline.errors import OptionError
from frostline.run import terms
from frostline.run.ending import findings
from frostline.settings import Settings
from frostline.values import Event


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("rounding"), 20)


def dtypes(bench: Bench) -> dict[int, str]:
    return {depth: stored.fields[0].dtype for depth, stored in bench.whole.items()}


LAYERS = {"forward": (1e-2,) * 7, "backward": (2e-2,) * 7, "carry": (1e-2,) * 7}
CALM = replace(stage.CALIBRATION, **LAYERS)  # of seven slow layers, whatever this machine is doing
SLOW = 1.0  # seconds to open a picture: what is stored saves them


def short(data: Path, tmp_path: Path) -> tuple[Settings, Bench]:
    """Settings whose bytes are too few for the set that serves most trainings, and the bench of plenty."""
    _, plenty = both(given(data, workers=1), tmp_path / "plenty", decode=SLOW)
    return given(data, workers=1, storage=int(0.6 * plenty.whole[1].bytes)), plenty


def test_half_precision_is_stored_unasked_only_where_bytes_are_short(data: Path, tmp_path: Path) -> None:
    wanted, plenty = short(data, tmp_path)
    assert set(dtypes(plenty).values()) == {"float32"}
    dry, real = both(wanted, tmp_path / "short", decode=SLOW)
    assert dtypes(dry) == dtypes(real)
    assert {dtype for depth, dtype in dtypes(real).items() if depth} == {"float16"}
    assert dry.forecast == real.forecast
    assert sum(stored.bytes for stored in real.whole.values()) <= wanted.storage
    _, exact = both(replace(wanted, storage_precision="fp32"), tmp_path / "exact", decode=SLOW)
    assert real.forecast.seconds < exact.forecast.seconds / storing.WORTH_ROUNDING
    _, hardly = both(wanted, tmp_path / "hardly")  # the same room, and little to gain
    assert set(dtypes(hardly).values()) == {"float32"}


def test_what_is_asked_for_is_stored_and_pictures_stay_as_they_are(data: Path, tmp_path: Path) -> None:
    for asked, dtype in storing.HALVES.items():
        _, bench = both(given(data, workers=1, storage_precision=asked), tmp_path / asked)
        found = dtypes(bench)
        assert found.pop(0) == "float32"
        assert found and set(found.values()) == {dtype}
        rows = np.arange(5)
        how = bench.backbone.preprocessing
        assert how is not None
        picture = {bench.anatomy.data: torch.from_numpy(decode(bench.examples, rows, how))}
        for depth in found:
            (exact,) = Halves(bench.backbone.module, bench.anatomy).prefix(picture, depth)
            (bits,) = bench.stored(depth, rows)
            kept = torch.from_numpy(bits).view(getattr(torch, dtype)).float()
            torch.testing.assert_close(kept, exact.detach().to(getattr(torch, dtype)).float(), rtol=1e-2, atol=1e-4)


def test_training_from_half_precision_is_close_to_training_from_all_of_it(tmp_path: Path) -> None:
    scores: dict[str, np.ndarray] = {}
    for asked in ("fp32", "fp16", "bf16"):
        bench = stage.bench(tmp_path / asked, storage_precision=asked)
        arm = stage.arm(bench, freeze=2)
        scores[asked] = perform(bench, arm, stage.unit(arm)).log_probabilities
    apart = {asked: float(np.abs(scores[asked] - scores["fp32"]).max()) for asked in ("fp16", "bf16")}
    assert 0 < apart["fp16"] < apart["bf16"] < 0.1


def laid(bench: Bench) -> Network:
    return Network(bench.backbone, bench.anatomy, bench.examples, bench.device, bench.settings, 10)


def test_the_change_is_that_of_the_features_behind_the_last_cut(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, storage_precision="fp32")
    last = max(bench.pooled)
    halves, rows = Halves(bench.backbone.module, bench.anatomy), np.linspace(0, 47, 32).astype(np.int64)
    exact = torch.from_numpy(bench.pooled[last][rows])
    for dtype in (torch.float16, torch.bfloat16):
        (whole,) = bench.stored(2, rows)
        with torch.no_grad():
            moved = pool(
                bench.anatomy, last, halves.suffix((torch.from_numpy(whole).to(dtype).float(),), 2, until=last)
            )
        by = ((moved - exact).norm(dim=1) / exact.norm(dim=1)).max()
        found = rounding.change(laid(bench), [2], str(dtype).removeprefix("torch."))
        assert found == pytest.approx(float(by), rel=0.05)
        assert rounding.change(laid(bench), [1, 2, last], str(dtype).removeprefix("torch.")) >= found
    assert rounding.change(laid(bench), [1, 2], "float32") == 0.0


def test_a_number_that_does_not_fit_is_an_infinite_change(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, storage_precision="fp32")
    with torch.no_grad():
        for norm in (bench.backbone.module.get_submodule("stem.1"),):
            norm.weight.fill_(1e7)  # pyright: ignore[reportCallIssue]
    assert rounding.change(laid(bench), [1], "float16") == float("inf")
    assert rounding.change(laid(bench), [1], "bfloat16") < 0.1


def test_a_plan_of_another_format_takes_its_place(data: Path, tmp_path: Path) -> None:
    for asked, dtype in (("fp16", "float16"), ("fp32", "float32"), ("bf16", "bfloat16")):
        _, bench = both(given(data, workers=1, storage_precision=asked), tmp_path)
        assert {found for depth, found in dtypes(bench).items() if depth} == {dtype}
        kept = [stored for stored in bench.store.sets() if stored.key.kind == "whole"]
        assert {stored.key.depth: stored.fields[0].dtype for stored in kept} == dtypes(bench)


def test_what_moves_too_far_is_refused_where_it_was_asked_for_and_left_where_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = short(data, tmp_path)
    monkeypatch.setattr(storing, "TOLERANCE", 1e-9)
    with pytest.raises(OptionError, match=r"storage_precision is 'fp16'.*use fp32 or bf16"):
        both(replace(wanted, storage_precision="fp16"), tmp_path / "asked", decode=SLOW)
    dry, real = both(wanted, tmp_path / "unasked", decode=SLOW)
    assert set(dtypes(real).values()) <= {"float32"}
    assert dtypes(dry) == dtypes(real)


def test_the_change_is_told_before_anything_is_stored(data: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    wanted = given(data, workers=1, storage_precision="bf16", precision="fp32")
    lay(wanted, Source(), folder=tmp_path, calibration=CALM, show=events.append)
    told = [event.text for event in events if event.text]
    (said,) = [text for text in told if "stored in bf16" in text.lower()]
    assert "1% is allowed" in said
    stages = [event.stage for event in events]
    assert stages.index("plan") < stages.index("fill")


def test_the_answer_says_that_activations_were_rounded(tmp_path: Path) -> None:
    for asked, said in (("fp32", ""), ("fp16", "float16"), ("bf16", "bfloat16")):
        bench = stage.bench(tmp_path / asked, storage_precision=asked)
        notes = " ".join(findings(bench).notes)
        assert (f"activations were stored in {said}," in notes) == bool(said)
        formats = terms.resolved(bench)["stored"]
        assert formats[0] == ["float32"]
        assert {name for depth, names in formats.items() if depth for name in names} == {said or "float32"}


def test_half_precision_of_what_is_computed_in_half_precision_is_refused(data: Path, tmp_path: Path) -> None:
    options = {"weights": "none", "precision": "bf16", "storage_precision": "fp16", "device": "cpu"}
    with pytest.raises(OptionError, match="leave it away, or add --precision fp32"):
        frostline.probe(data, f"{stage.__file__}:small", image_size=8, **options)
