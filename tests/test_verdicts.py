"""What a verdict says: a difference without signs, on the side where it lies."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.truth import surgical
from benchmarks.truth.world import reads, trained
from frostline.plan import plan
from frostline.run import verdicts
from frostline.values import Arm, Epoch, Estimate, Flow, Head, Outcome, Recipe, Unit


@pytest.mark.parametrize(
    ("gap", "metric", "said"),
    [
        ((-0.035, -0.047, -0.024), "accuracy", "3.5 points below {} in accuracy (interval: 2.4 to 4.7 below)"),
        ((0.19, 0.111, 0.268), "macro_f1", "19.0 points above {} in macro F1 (interval: 11.1 to 26.8 above)"),
        ((0.005, -0.01, 0.02), "accuracy", "0.5 points above {} in accuracy (interval: from 1.0 below to 2.0 above)"),
        ((0.0, -0.01, 0.0), "accuracy", "0.0 points below {} in accuracy (interval: 0.0 to 1.0 below)"),
        ((-0.125, -0.25, -0.0625), "log_loss", "0.125 nats worse than {} in log-loss (interval: 0.062 to 0.250 worse)"),
    ],
)
def test_a_difference_is_said_without_signs_on_the_side_where_it_lies(
    gap: tuple[float, float, float], metric: str, said: str
) -> None:
    verdict = verdicts.negative_transfer(Estimate(*gap), metric, Estimate(0.2, -0.1, 0.3))
    assert f"scores {said.format('training from scratch for three times the epochs')}, and " in verdict.evidence
    assert verdict.evidence.endswith("on the same examples.")
    assert (verdict.kind, verdict.holds) == (
        ("negative_transfer", gap[2] < 0) if gap[1] > 0 or gap[2] < 0 else ("transfer_not_shown", True)
    )
    assert verdict.advice.endswith(".")


def test_what_scratch_makes_up_for_by_patience_is_said_to_save_time() -> None:
    even, ahead = Estimate(0.01, -0.01, 0.03), Estimate(0.09, 0.06, 0.12)
    slow, equal = (verdicts.negative_transfer(even, "accuracy", equal) for equal in (ahead, even))
    assert slow.kind == equal.kind == "transfer_not_shown"
    assert (
        "9.0 points above training from scratch for as many in accuracy (interval: 6.0 to 12.0 above)" in slow.evidence
    )
    assert "saves training time" in slow.advice
    assert "saves" not in equal.advice


def test_a_source_that_is_ahead_for_as_many_epochs_is_not_what_longer_training_from_scratch_beats() -> None:
    behind, ahead = Estimate(-0.05, -0.07, -0.02), Estimate(0.12, 0.07, 0.16)
    short, hurts = (verdicts.negative_transfer(behind, "accuracy", equal) for equal in (ahead, behind))
    assert (short.kind, short.holds) == ("short_training", True) and "--epochs" in short.advice
    assert (hurts.kind, hurts.holds) == ("negative_transfer", True) and "train from scratch" in hurts.advice


@pytest.mark.parametrize(("trained_to", "holds"), [(0.1, True), (0.5, False)])
def test_overfitting_is_a_loss_on_unseen_rows_well_above_that_on_training_rows(trained_to: float, holds: bool) -> None:
    """Here 0.51 nats on unseen rows."""
    targets = np.arange(200) % 2
    verdict = verdicts.overfitting(outcome(targets, 0.6, 0.6, trained_to), targets, confidence=0.95)
    assert verdict.holds == holds
    assert "log-loss 0.511" in verdict.evidence


def test_the_gap_is_told_by_how_many_layers_are_frozen() -> None:
    targets = np.arange(100) % 2
    deep, shallow = outcome(targets, 0.7, 0.7, 0.3), outcome(targets, 0.6, 0.6, 0.1)
    told = verdicts.overfitting(shallow, targets, confidence=0.95, others={12: deep, 0: shallow})
    assert told.evidence.endswith("The gap by frozen layers: +0.41 at 0, +0.06 at 12.")
    alone = verdicts.overfitting(shallow, targets, confidence=0.95, others={0: shallow})
    assert "frozen layers" not in alone.evidence


def test_where_classes_weighed_alike_in_training_they_do_in_what_is_compared_with_it() -> None:
    targets = (np.arange(200) % 20 == 0).astype(np.int64)
    unsure = outcome(targets, 0.9, 0.2, 0.86)  # nearly sure of the common class, lost on the rare one
    plain = verdicts.overfitting(unsure, targets, confidence=0.95)
    alike = verdicts.overfitting(unsure, targets, confidence=0.95, balance=True)
    assert f"log-loss {0.95 * -np.log(0.9) + 0.05 * -np.log(0.2):.3f}" in plain.evidence
    assert f"log-loss {0.5 * -np.log(0.9) + 0.5 * -np.log(0.2):.3f}" in alike.evidence


def outcome(targets: np.ndarray, first: float, second: float, trained_to: float) -> Outcome:
    """One that gives each of two classes a probability where it is the truth."""
    own = np.where(targets == 0, first, second)
    table = np.where(np.eye(2)[targets] > 0, own[:, None], 1 - own[:, None])
    epochs = (Epoch(0, trained_to, None, 1.0),)
    unit = Unit("freeze@1", 1e-3, 1, 0, 0, 1)
    return Outcome(unit, np.arange(len(targets)), np.log(table).astype(np.float32), 1.0, 0, epochs)


class Deep(nn.Module):
    """Twelve hidden layers without norms; weights of their usual size, times a scale."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.default_cfg = reads(surgical.SIDE, surgical.CLASSES, std=surgical.STEP)
        widths = (surgical.SIDE**2, *[16] * 12)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairwise(widths)))
            self.head = nn.Linear(16, surgical.CLASSES)
            for block in self.blocks:
                nn.init.kaiming_normal_(block[0].weight)
                nn.init.zeros_(block[0].bias)
                block[0].weight.data *= scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x.flatten(1)))


def gradients(scale: float, recipe: Recipe) -> Any:
    learn, judge = surgical.drawn(200, 1), surgical.drawn(100, 2)
    arms = lambda layers: [Arm("all", plan(layers, recipe, head=Head(start="random")), (recipe.lr,))]  # noqa: E731
    (found,) = trained(learn, judge, Deep(scale), arms).outcomes
    return verdicts.unstable_gradients(found.epochs)


RECIPE = Recipe(epochs=4, lr=1e-3, batch=16, kept_lr=1.0)


def test_gradients_that_vanish_or_explode_in_a_badly_scaled_network_are_found_and_healthy_ones_are_not() -> None:
    healthy = gradients(1.0, RECIPE)
    assert (healthy.kind, healthy.holds) == ("unstable_gradients", False)
    vanished = gradients(0.05, RECIPE)
    assert (vanished.kind, vanished.holds) == ("vanishing_gradients", True)
    assert "blocks.0" in vanished.advice
    exploded = gradients(3.0, replace(RECIPE, optimiser="sgd", lr=0.3, clip=None))
    assert (exploded.kind, exploded.holds) == ("exploding_gradients", True)


def test_where_the_head_alone_learns_nothing_is_said_of_gradients() -> None:
    assert verdicts.unstable_gradients([Epoch(0, 1.0, None, 1.0, flows=(Flow("head", 1.0, 0.1),))]) is None


@pytest.mark.parametrize(("after", "error", "holds"), [(0.9, 0.02, True), (0.9, 0.4, False), (0.45, 0.02, False)])
def test_a_jump_of_the_loss_where_layers_thaw_is_told_from_scatter(after: float, error: float, holds: bool) -> None:
    layers = surgical_layers()
    of = plan(layers, RECIPE, train=(False,) * 3, thaw=[(2, (False, False, True))])
    epochs = [Epoch(n, loss, None, 1.0, error=error) for n, loss in enumerate((0.7, 0.5, after, 0.4))]
    verdict = verdicts.jump_on_unfreezing(of, epochs, 0.95)
    assert verdict is not None
    assert verdict.holds == holds
    assert "in epoch 3" in verdict.evidence


def test_nothing_is_said_of_thaws_where_none_are() -> None:
    assert verdicts.jump_on_unfreezing(plan(surgical_layers(), RECIPE), [Epoch(0, 1.0, None, 1.0)], 0.95) is None


def surgical_layers() -> Any:
    from frostline import journey

    return journey.layers(surgical.Mlp(0))


@pytest.mark.parametrize(("low", "holds"), [(0.03, True), (0.005, False), (-0.02, False)])
def test_features_that_frozen_miss_what_the_data_needs_are_told(low: float, holds: bool) -> None:
    verdict = verdicts.too_much_frozen(Estimate(low + 0.02, low, low + 0.04), "accuracy", 0.01)
    assert verdict.holds == holds
    assert "a linear probe on frozen features" in verdict.evidence


def margins_of(labels: np.ndarray, true: np.ndarray, spread: float, seed: int) -> np.ndarray:
    """Log-probabilities of four classes from noisy features of the true one, as a calibrated model has them."""
    features = np.eye(4)[true] + spread * np.random.default_rng(seed).standard_normal((len(true), 4))
    logits = features / spread**2
    return logits - np.logaddexp.reduce(logits, axis=1)[:, None]


@pytest.mark.parametrize("spread", [0.3, 0.45])
@pytest.mark.parametrize("seed", range(3))
def test_planted_wrong_labels_are_found_and_named_and_classes_that_overlap_are_none(spread: float, seed: int) -> None:
    rng, ids = np.random.default_rng(seed), [f"row-{row}" for row in range(600)]
    true = rng.integers(0, 4, 600)
    wrong = rng.random(600) < 0.12
    labels = np.where(wrong, (true + rng.integers(1, 4, 600)) % 4, true)
    found = verdicts.label_noise(margins_of(labels, true, spread, seed), labels, ids, 0.95)
    assert found is not None and found.holds
    named = [int(name) for name in re.findall(r"row-(\d+)", found.advice)]
    assert len(named) == verdicts.NAMED
    assert wrong[named].mean() > 0.9
    healthy = verdicts.label_noise(margins_of(true, true, spread, seed), true, ids, 0.95)
    assert healthy is not None and not healthy.holds


@pytest.mark.parametrize("rare", [0.05, 0.1, 0.2])
def test_a_rare_class_that_the_features_do_not_tell_is_not_mislabelled(rare: float) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(600) < rare).astype(np.int64)
    logits = np.stack([np.zeros(600), np.log(rare / (1 - rare)) + 0.5 * rng.standard_normal(600)], axis=1)
    predictions = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    verdict = verdicts.label_noise(predictions, labels, [str(row) for row in range(600)], 0.95)
    assert verdict is None or not verdict.holds


def test_nothing_is_said_of_labels_where_the_features_tell_too_little() -> None:
    true = np.random.default_rng(0).integers(0, 4, 600)
    ids = [str(row) for row in range(600)]
    assert verdicts.label_noise(margins_of(true, true, 2.0, 0), true, ids, 0.95) is None
    assert verdicts.label_noise(margins_of(true, true, 0.3, 0)[:40], true[:40], ids[:40], 0.95) is None
