"""Similarity against the textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from frostline.errors import DataError
from frostline.evidence.similarity import batchnorm_shift, cka


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(3, 30), left=st.integers(1, 20), right=st.integers(1, 20), seed=st.integers(0, 99))
def test_cka_is_the_normalised_hsic_of_linear_kernels(rows: int, left: int, right: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rows, left)) + 3, rng.standard_normal((rows, right))
    centring = np.eye(rows) - 1 / rows

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.trace(x @ x.T @ centring @ y @ y.T @ centring)) / (rows - 1) ** 2

    assert cka(a, b) == pytest.approx(hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)), abs=1e-9)


@pytest.mark.parametrize("width", [5, 60])
def test_rotation_scale_and_shift_are_no_difference(width: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((30, width))
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    assert cka(a, 4 * a @ rotation + 7) == pytest.approx(1)
    assert cka(a, np.ones((30, 2))) == 0


def test_other_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="3 and 4 rows"):
        cka(np.zeros((3, 2)), np.zeros((4, 2)))


def test_batch_norm_shift_is_the_divergence_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(2)
    mean, target_mean = rng.standard_normal((2, 6))
    variance, target_variance = rng.uniform(0.5, 2, (2, 6))
    source, target = (
        Normal(torch.from_numpy(m), torch.from_numpy(v + 1e-5).sqrt())
        for m, v in ((mean, variance), (target_mean, target_variance))
    )
    expected = float(kl_divergence(target, source).mean())
    assert batchnorm_shift(mean, variance, target_mean, target_variance) == pytest.approx(expected)
    assert batchnorm_shift(mean, variance, mean, variance) == 0
    assert batchnorm_shift(mean, np.zeros(6), mean, np.zeros(6)) == 0
