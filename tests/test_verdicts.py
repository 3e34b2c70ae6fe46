"""What a verdict says: a difference without signs, on the side where it lies."""

import pytest

from frostline.run import verdicts
from frostline.values import Estimate


@pytest.mark.parametrize(
    ("gap", "metric", "said"),
    [
        (
            (-0.035, -0.047, -0.024),
            "accuracy",
            "scores 3.5 points (2.4 to 4.7) below training from scratch in accuracy",
        ),
        ((0.19, 0.111, 0.268), "macro_f1", "scores 19.0 points (11.1 to 26.8) above training from scratch in macro_f1"),
        ((0.005, -0.01, 0.02), "accuracy", "scores 0.5 points (from 1.0 below to 2.0 above) above training from"),
        ((0.0, -0.01, 0.0), "accuracy", "scores 0.0 points (0.0 to 1.0) below training from scratch"),
        ((-0.125, -0.25, -0.0625), "log_loss", "scores 0.125 nats (0.062 to 0.250) worse than training from scratch"),
    ],
)
def test_a_difference_is_said_without_signs_on_the_side_where_it_lies(
    gap: tuple[float, float, float], metric: str, said: str
) -> None:
    verdict = verdicts.negative_transfer(Estimate(*gap), metric)
    assert said in verdict.evidence
    assert verdict.evidence.endswith("on the same examples.")
    assert verdict.holds == (gap[1] <= 0)
    assert verdict.advice.endswith(".")
