"""What a verdict says: a difference without signs, on the side where it lies."""

import pytest

from frostline.run import verdicts
from frostline.values import Estimate


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
