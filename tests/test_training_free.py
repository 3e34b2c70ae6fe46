"""Oracles of the scores without training that the benchmark of regret compares with."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

SCORES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "regret" / "scores.py"))


def drawn(knows: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.arange(60) % 3
    return rng.normal(size=(60, 5)) + knows * np.eye(3, 5)[targets], targets


def test_logme_is_the_largest_evidence_of_a_bayesian_linear_model() -> None:
    features, targets = drawn(1.0)
    table = (features - features.mean(axis=0)) / features.std(axis=0)
    table = np.hstack([table, np.ones((60, 1))])

    def evidence(target: int) -> float:
        y = (targets == target).astype(float)

        def less(logs: np.ndarray) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(60) / beta + table @ table.T / alpha
            return -float(multivariate_normal(np.zeros(60), covariance).logpdf(y))

        return -minimize(less, np.zeros(2), method="Nelder-Mead").fun

    expected = np.mean([evidence(target) for target in range(3)]) / 60
    assert SCORES["logme"](features, targets) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("score", ["logme", "h_score"])
def test_features_that_know_the_classes_score_higher_and_shifts_and_scales_change_nothing(score: str) -> None:
    found = [SCORES[score](*drawn(knows)) for knows in (0.0, 1.0, 3.0)]
    assert found == sorted(found)
    features, targets = drawn(1.0)
    assert SCORES[score](7 * features - 100, targets) == pytest.approx(found[1], rel=1e-6)
