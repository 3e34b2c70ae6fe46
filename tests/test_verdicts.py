"""What a verdict says: a difference without signs, on the side where it lies."""

import numpy as np
import pytest

from frostline.run import verdicts
from frostline.values import Epoch, Estimate, Outcome, Unit


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
    verdict = verdicts.negative_transfer(Estimate(*gap), metric)
    assert f"scores {said.format('training from scratch')}, " in verdict.evidence
    assert verdict.evidence.endswith("on the same examples.")
    assert (verdict.kind, verdict.holds) == (
        ("negative_transfer", gap[2] < 0) if gap[1] > 0 or gap[2] < 0 else ("transfer_not_shown", True)
    )
    assert verdict.advice.endswith(".")


@pytest.mark.parametrize(("trained_to", "holds"), [(0.1, True), (0.5, False)])
def test_overfitting_is_a_loss_on_unseen_rows_well_above_that_on_training_rows(trained_to: float, holds: bool) -> None:
    """Here 0.51 nats on unseen rows."""
    targets = np.arange(200) % 2
    verdict = verdicts.overfitting(outcome(targets, 0.6, 0.6, trained_to), targets, confidence=0.95)
    assert verdict.holds == holds
    assert "log-loss 0.511" in verdict.evidence


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
