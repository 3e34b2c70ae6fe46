"""What more examples would give: extrapolated from probes on parts, and checked where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.evidence.growth import DRAWS, PARTS, grown
from frostline.evidence.probes import log_probabilities, ridge_loo
from frostline.search.scores import balanced
from frostline.values import Fold


def world(
    count: int, seed: int, *, noise: float = 3.0, classes: int = 4, width: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Classes about centres of their own, which overlap."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(classes, width))
    labels = np.arange(count) % classes
    features = centres[labels] * 1.2 + rng.normal(size=(count, width)) * noise
    return features.astype(np.float32), labels.astype(np.int64)


def told(count: int, seed: int, unseen: int = 800, noise: float = 3.0, depths: tuple[int, ...] = (3, 5)):
    features, labels = world(2 * count + unseen, seed, noise=noise)
    fold = Fold(np.arange(count), np.arange(2 * count, 2 * count + unseen))
    known = {3: features, 5: features[:, :10]}
    return grown({depth: known[depth] for depth in depths}, labels, fold, seed=seed), features, labels, fold


@pytest.mark.parametrize(("count", "noise"), [(160, 3.0), (160, 5.0), (640, 3.0), (640, 5.0)])
def test_twice_the_examples_give_about_what_was_foretold(count: int, noise: float) -> None:
    """The truth, a probe that learned from twice as many, lies in the interval, and nearer than what is now."""
    inside, off, now = 0, [], []
    for seed in range(8):
        (wide,), features, labels, fold = told(count, seed, noise=noise, depths=(3,))
        linear = ridge_loo(features[: 2 * count], labels[: 2 * count]).linear
        rows = fold.validation
        truth = float((log_probabilities(linear, features[rows]).argmax(axis=1) == labels[rows]).mean())
        inside += wide.twice.low <= truth <= wide.twice.high
        off.append(wide.twice.mean - truth)
        now.append(wide.scores[-1].mean - truth)
    assert inside >= 7, inside
    assert np.square(off).mean() < np.square(now).mean()


def test_more_examples_never_hurt_in_the_law_and_all_of_them_are_the_last_point() -> None:
    (wide, narrow), features, labels, fold = told(160, 3)
    assert wide.sizes == (20, 40, 80, 160) == narrow.sizes
    assert (wide.depth, narrow.depth) == (3, 5)
    linear = ridge_loo(features[:160], labels[:160]).linear
    seen = log_probabilities(linear, features[fold.validation]).argmax(axis=1) == labels[fold.validation]
    assert wide.scores[-1].mean == pytest.approx(seen.mean())
    for growth in (wide, narrow):
        assert all(at.low <= at.mean <= at.high for at in (*growth.scores, growth.twice))
        assert growth.twice.high <= 1
    assert wide.twice.mean > wide.scores[-1].mean > wide.scores[0].mean


def test_features_that_say_nothing_do_not_grow() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 4
    (growth,) = grown(
        {1: rng.normal(size=(600, 20)).astype(np.float32)}, labels, Fold(np.arange(200), np.arange(200, 600)), seed=0
    )
    assert growth.twice.mean < 0.35


def test_too_few_of_a_class_say_nothing_and_classes_may_count_alike() -> None:
    assert told(40, 0)[0] == ()
    features, labels = world(900, 1, classes=2)
    rare = np.flatnonzero((labels == 0) | (np.arange(900) % 5 == 1))
    features, labels = features[rare], labels[rare]
    fold = Fold(np.arange(300), np.arange(300, len(labels)))
    (plain,) = grown({1: features}, labels, fold, seed=0)
    (alike,) = grown({1: features}, labels, fold, seed=0, balance=balanced)
    assert plain.scores[0].mean > alike.scores[0].mean + 0.02


def test_parts_hold_every_class_and_the_same_seed_says_the_same() -> None:
    assert told(160, 2)[0] == told(160, 2)[0]
    assert PARTS[-1] == 1 < DRAWS
