"""The profile of a data set, against closed forms and brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frostline.data.profile import duplicates, participation_ratio, profile, with_features
from frostline.data.read import read
from frostline.values import Examples


def test_sizes_classes_and_duplicates_are_those_of_the_files(tmp_path: Path) -> None:
    sizes = [(5, 9), (20, 10), (40, 30), (12, 12), (8, 8)]
    for number, (height, width) in enumerate(sizes):
        place = tmp_path / ("a" if number < 3 else "b")
        place.mkdir(exist_ok=True)
        Image.new("RGB", (width, height), (number, 0, 0)).save(place / f"{number}.png")
    (tmp_path / "b" / "copy.png").write_bytes((tmp_path / "b" / "3.png").read_bytes())
    examples = read(tmp_path)
    known = profile(examples)
    assert known.classes == {"a": 3, "b": 3}
    assert known.imbalance == 1
    assert known.sizes == ((5, 9), (12, 12), (40, 30))
    assert known.duplicates == (("b/3.png", "b/copy.png"),)
    assert [tuple(examples.ids[row] for row in same) for same in duplicates(examples)] == [("b/3.png", "b/copy.png")]


def test_equal_arrays_are_duplicates() -> None:
    pixels = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    pixels[3] = pixels[1]
    examples = Examples(("0", "1", "2", "3"), pixels, np.asarray([0, 0, 1, 1]), ("a", "b"), ("",) * 4, None)
    assert duplicates(examples) == ((1, 3),)
    assert profile(examples).sizes[0] == (3, 3)


@given(dimensions=st.integers(1, 12), extra=st.integers(0, 20))
def test_directions_used_alike_count_as_many_as_they_are(dimensions: int, extra: int) -> None:
    axes = np.concatenate([np.eye(dimensions), -np.eye(dimensions)])
    padded = np.concatenate([axes, np.ones((len(axes), extra))], axis=1)  # constants use no direction
    assert participation_ratio(padded) == pytest.approx(dimensions)


def test_the_participation_ratio_is_that_of_the_eigenvalues() -> None:
    for shape in ((40, 7), (7, 40)):
        features = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
        values = np.linalg.eigvalsh(np.cov(features.T))
        assert participation_ratio(features) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert participation_ratio(np.ones((4, 3))) == 0.0


def test_features_complete_the_profile() -> None:
    pixels = np.zeros((6, 3, 3), np.uint8)
    examples = Examples(tuple("012345"), pixels, np.asarray([0, 0, 0, 1, 1, 1]), ("a", "b"), ("",) * 6, None)
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    known = with_features(profile(examples), features, ((0, 1, 2), (3, 4)))
    assert known.near_duplicates == 4
    assert with_features(profile(examples), features, None).near_duplicates is None  # the features cannot tell
    assert known.effective_dimension == participation_ratio(features)
