"""Recordings are opened whatever their files hold, at the rate and of the length that a network reads."""

from __future__ import annotations

import sys
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import networks_of
import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly
from world import refused, tell

from frostline.backbones.load import load
from frostline.data.intake import intake, longest
from frostline.data.profile import profile
from frostline.data.read import read
from frostline.data.recordings import milliseconds, opened, resampled, samples
from frostline.errors import BackboneError, DataError, LabelError, OptionError
from frostline.values import Examples, Waves

HOW = Waves("nowhere", networks_of.RATE, 0.3, ("input_values",))
WAVE = networks_of.sound("low", np.random.default_rng(0), seconds=0.25)


def kept(file: Path | BytesIO, wave: NDArray[Any] = WAVE, rate: int = networks_of.RATE, **given: Any) -> Any:
    soundfile.write(file, wave, rate, **given)
    return file


def waves(root: Path, count: int = 3) -> Path:
    return networks_of.recordings(root, count)


# ------------------------------------------------------------------------------------------------ one recording


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-31), ("FLOAT", 0)]
)
def test_a_wave_file_of_any_depth_holds_its_samples(tmp_path: Path, subtype: str, step: float) -> None:
    file = kept(tmp_path / "a.wav", subtype=subtype)
    found, rate = samples(file)
    assert rate == networks_of.RATE
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, WAVE, atol=step + 1e-7)
    np.testing.assert_array_equal(samples(file.read_bytes())[0], found)  # as data sets hold them
    assert milliseconds(file) == milliseconds(file.read_bytes()) == (250,)


def test_flac_is_read(tmp_path: Path) -> None:
    found, rate = samples(kept(tmp_path / "a.flac", subtype="PCM_16"))
    assert rate == networks_of.RATE
    np.testing.assert_allclose(found, WAVE, atol=2**-15)


def test_several_channels_are_averaged(tmp_path: Path) -> None:
    file = kept(tmp_path / "a.wav", np.stack([WAVE, 0.5 * WAVE, 0 * WAVE], 1), subtype="FLOAT")
    np.testing.assert_allclose(samples(file)[0], 0.5 * WAVE, atol=1e-7)


@pytest.mark.parametrize("rate", [500, 1500, 8000, 1378])
def test_another_rate_is_resampled_as_scipy_does_it(tmp_path: Path, rate: int) -> None:
    times = np.arange(round(0.25 * rate)) / rate
    wave = (0.5 * np.sin(2 * np.pi * 60 * times)).astype(np.float32)
    (found,) = opened([kept(tmp_path / "a.wav", wave, rate, subtype="FLOAT")], HOW)
    ratio = Fraction(networks_of.RATE, rate)
    expected = resample_poly(wave, ratio.numerator, ratio.denominator)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-6)
    assert abs(len(found) - 0.25 * networks_of.RATE) <= 1
    middle = slice(50, 200)  # away from the ends the same tone is heard
    np.testing.assert_allclose(found[middle], 0.5 * np.sin(2 * np.pi * 60 * np.arange(250) / 1000)[middle], atol=0.02)


def test_what_a_lower_rate_cannot_hold_is_filtered_out() -> None:
    times = np.arange(8000) / 8000
    high = np.sin(2 * np.pi * 3900 * times).astype(np.float32)
    assert np.abs(resampled(high, 8000, 1000)[50:-50]).max() < 0.01
    assert resampled(high, 8000, 8000) is high


@pytest.mark.parametrize("workers", [0, 3])
def test_recordings_that_are_too_long_are_cut_and_short_ones_end_in_silence(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, workers: int
) -> None:
    backbone = load(f"hf/{networks_of.saved(tmp_path_factory, 'normed_by_layer')}", seconds=0.2)
    long, short = (kept(tmp_path / f"{n}.wav", WAVE[:n], subtype="FLOAT") for n in (250, 90))
    how = backbone.preprocessing
    assert isinstance(how, Waves)
    assert [len(wave) for wave in opened([long, short], how, workers=workers)] == [200, 90]
    two = Examples(("a", "b"), (long, short), np.zeros(2, np.int64), (), ("", ""), None, kind="recordings")
    raw = intake(backbone, two, workers=workers).raw(np.arange(2))
    assert raw["input_values"].shape == (2, 200)
    assert raw["attention_mask"].sum(1).tolist() == [200, 90]
    assert not raw["input_values"][1, 90:].any()
    normed = (WAVE[:90] - WAVE[:90].mean()) / np.sqrt(WAVE[:90].var() + 1e-7)
    np.testing.assert_allclose(raw["input_values"][1, :90], normed, atol=1e-4)


def test_nearly_all_recordings_decide_how_long_a_network_listens(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    open_ended = load(f"hf/{networks_of.saved(tmp_path_factory, 'normed_by_group')}")
    fixed = [load(f"hf/{networks_of.saved(tmp_path_factory, name)}") for name in ("listener", "spectrogram")]
    assert [each.preprocessing.seconds for each in fixed if isinstance(each.preprocessing, Waves)] == [1.0, 0.32]
    files = tuple(kept(tmp_path / f"{n}.wav", np.resize(WAVE, n)) for n in [*range(200, 400), 9000])
    count = len(files)
    examples = Examples(
        tuple(map(str, range(count))), files, np.zeros(count, np.int64), (), ("",) * count, None, kind="recordings"
    )
    assert longest(open_ended, examples) == 0.4  # one in a hundred may be longer, and the one of 9 s is
    assert [longest(each, examples) for each in fixed] == [None, None]


# ------------------------------------------------------------------------------------------------ data sets


def test_folders_of_recordings_are_classes(tmp_path: Path) -> None:
    examples = read(waves(tmp_path), "recordings")
    assert (examples.kind, examples.classes) == ("recordings", ("high", "low"))
    assert examples.ids[0] == "high/00.wav"
    assert "6 recordings of 2 classes" in examples.detected
    sizes = profile(examples).sizes
    assert 250 <= sizes[0][0] <= sizes[1][0] <= sizes[2][0] <= 450


@pytest.mark.parametrize("column", ["path", "audio", "file"])
def test_tables_name_recordings(tmp_path: Path, column: str) -> None:
    waves(tmp_path)
    files = sorted(tmp_path.rglob("*.wav"))
    names, labels = [str(file.relative_to(tmp_path)) for file in files], [file.parent.name for file in files]
    pd.DataFrame({column: names, "label": labels}).to_csv(tmp_path / "data.csv", index=False)
    examples = read(tmp_path / "data.csv", "recordings")
    assert list(examples.inputs) == files
    assert [examples.classes[target] for target in examples.targets] == labels


def test_data_sets_of_hugging_face_hold_recordings(tmp_path: Path) -> None:
    import datasets

    waves(tmp_path)
    files = sorted(map(str, tmp_path.rglob("*.wav")))
    made = datasets.Dataset.from_dict({"audio": files, "label": [Path(file).parent.name for file in files]})
    examples = read(made.cast_column("audio", datasets.Audio(decode=False)), "recordings")
    assert len(examples) == 6
    np.testing.assert_array_equal(samples(examples.inputs[0])[0], samples(Path(files[0]))[0])
    with pytest.raises(DataError, match=r"'audio'.*cast it with datasets.Audio"):
        read(made, "recordings", path="audio")


def test_what_cannot_be_read_is_skipped_counted_and_named(tmp_path: Path) -> None:
    waves(tmp_path, 10)
    (tmp_path / "high" / "empty.wav").write_bytes(b"")
    kept(tmp_path / "high" / "silent.wav", WAVE[:0])
    (tmp_path / "low" / "broken.wav").write_bytes(b"RIFF and no more")
    examples = read(tmp_path, "recordings")
    assert dict(examples.skipped).keys() == {"high/empty.wav", "high/silent.wav", "low/broken.wav"}
    assert dict(examples.skipped)["high/silent.wav"] == "it holds no samples"
    assert "0x" not in str(examples.skipped)
    assert len(examples) == 20
    assert any("3 of 23 files cannot be read" in warning for warning in examples.warnings)
    (tmp_path / "low" / "more.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match="4 of 24 recordings"):
        read(tmp_path, "recordings")


def test_a_file_that_goes_bad_later_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"a\.wav cannot be read as a recording.*WAV, FLAC"):
        opened([file], HOW)
    with pytest.raises(DataError, match="stored in the data set cannot be read"):
        opened([b"RIFF"], HOW)
    with pytest.raises(DataError, match="does not exist"):
        opened([tmp_path / "none.wav"], HOW)


def test_what_is_wrong_with_recordings_is_named_with_a_remedy(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(DataError, match="recordings cannot be given as arrays"):
        read((np.zeros((4, 100)), [0, 1, 0, 1]), "recordings")
    kept(tmp_path / "a.wav")
    with pytest.raises(LabelError, match=r"1 recordings but no class folders.*yes/1\.wav"):
        read(tmp_path, "recordings")
    group, fixed = (f"hf/{networks_of.saved(tmp_path_factory, name)}" for name in ("normed_by_group", "listener"))
    with pytest.raises(OptionError, match=r"max_length is 8, and .* reads recordings"):
        load(group, max_length=8)
    with pytest.raises(BackboneError, match=r"seconds is 2, and .* hears 1 seconds"):
        load(fixed, seconds=2.0)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((networks_of.saved(tmp_path_factory, "normed_by_group") / name).read_bytes())
    with pytest.raises(BackboneError, match=r"feature extractor.*save_pretrained"):
        load(f"hf/{bare}")


def test_without_soundfile_the_remedy_is_told(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves(tmp_path / "data")
    network = networks_of.saved(tmp_path_factory, "normed_by_group")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(OptionError, match=r"pip install 'frostline\[audio\]'"):
        read(tmp_path / "data", "recordings")
    line = ("find", tmp_path / "data", "--backbone", f"hf/{network}", "--out", tmp_path / "run")
    refused(tell(*line), "soundfile", "frostline[audio]")
