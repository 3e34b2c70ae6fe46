"""The distance from the source against the textbook formula, and against batch norms that saw the data."""

from __future__ import annotations

import copy
from itertools import permutations

import numpy as np
import pytest
import stage
import torch
from stage import Small
from torch import nn
from torch.distributions import Normal, kl_divergence

from frostline.bench.shift import shifts
from frostline.evidence.similarity import batchnorm_shift, cka, proxy_distance

ANATOMY = stage.anatomy(stage.network())


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


def _seen(network: nn.Module, pictures: torch.Tensor) -> nn.Module:
    """The network with the statistics that it measures on these pictures itself, as training mode does."""
    seen = copy.deepcopy(network)
    for norm in (m for m in seen.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    for _ in range(8):  # a norm's input depends on those below it: each pass settles one more of the seven
        for norm in (m for m in seen.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
        with torch.no_grad():
            seen.train()
            for drop in (m for m in seen.modules() if isinstance(m, nn.Dropout)):
                drop.eval()
            seen(pictures)
    return seen.eval()


def test_data_that_the_batch_norms_measured_lies_at_no_distance_and_other_data_far() -> None:
    pictures = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = _seen(Small(), pictures)
    near = shifts(network, ANATOMY, [{"x": pictures[:40]}, {"x": pictures[40:]}], (1, 2, 3, 4))
    far = shifts(network, ANATOMY, [{"x": 3 * pictures + 1}], (1, 2, 3, 4))
    assert set(near) == {1, 2, 3, 4}
    assert max(near.values()) < 1e-3  # the norms divide by n - 1, the shift by n
    assert far[1] > 1


def test_the_shift_of_a_depth_is_that_of_the_norms_since_the_depth_before() -> None:
    pictures = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = Small().eval()
    each = shifts(network, ANATOMY, [{"x": pictures}], (1, 2, 3, 4))
    both = shifts(network, ANATOMY, [{"x": pictures}], (1, 3))
    assert both[1] == pytest.approx(each[1])
    assert both[3] == pytest.approx((each[2] + each[3]) / 2)  # two norms in each block
    assert [len(m._forward_pre_hooks) for m in network.modules()] == [0] * len([*network.modules()])


def test_a_network_without_batch_norms_tells_nothing_of_its_source() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    network(torch.zeros(1, 3, 8, 8))
    assert shifts(network, ANATOMY, [], (1,)) == {}


def _independence(one: np.ndarray, other: np.ndarray) -> float:
    """The U-statistic behind the unbiased estimate, term by term: means over tuples of examples that all differ."""
    a, b = one @ one.T, other @ other.T
    n = len(a)
    pairs = np.mean([a[i, j] * b[i, j] for i, j in permutations(range(n), 2)])
    fours = np.mean([a[i, j] * b[q, r] for i, j, q, r in permutations(range(n), 4)])
    threes = np.mean([a[i, j] * b[i, q] for i, j, q in permutations(range(n), 3)])
    return float(pairs + fours - 2 * threes)


def test_likeness_is_the_ratio_of_unbiased_independence_criteria() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((7, 3)) + 1, rng.standard_normal((7, 5))
    other[:, 0] += one[:, 0]
    expected = _independence(one, other) / (_independence(one, one) * _independence(other, other)) ** 0.5
    assert cka(one, other) == pytest.approx(expected)


def test_likeness_ignores_turns_and_scale_and_is_nothing_by_chance_however_wide_the_features() -> None:
    rng = np.random.default_rng(1)
    one = rng.standard_normal((200, 400))
    turn = np.linalg.qr(rng.standard_normal((400, 400)))[0]
    assert cka(one, 3 * one @ turn + 5) == pytest.approx(1)
    assert abs(cka(one, rng.standard_normal((200, 400)))) < 0.05
    assert 0.3 < cka(one, one + rng.standard_normal(one.shape)) < 0.7
    assert np.isnan(cka(one, np.ones((200, 3))))
    assert np.isnan(cka(one[:3], one[:3]))


def test_what_cannot_be_told_apart_lies_at_no_distance_and_what_always_can_at_two() -> None:
    rng = np.random.default_rng(2)
    source, alike, far = rng.standard_normal((300, 8)), rng.standard_normal((500, 8)), rng.standard_normal((120, 8)) + 6
    assert proxy_distance(source, alike, seed=0) < 0.3
    assert proxy_distance(source, far, seed=0) == pytest.approx(2, abs=0.02)
    between = proxy_distance(source, alike + 0.5, seed=0)
    assert 0.5 < between < 1.8
    assert proxy_distance(source, alike, seed=0) == proxy_distance(source, alike, seed=0)
