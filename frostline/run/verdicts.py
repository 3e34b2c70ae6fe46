"""What a user should be told about their transfer, each with a measured interval and an advice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frostline.report import words
from frostline.search import scores
from frostline.values import Arm, Estimate, Evidence, Outcome, Verdict

DRAWS = 2000


def negative_transfer(gap: Estimate, metric: str) -> Verdict:
    """How training from scratch at a fair budget compares with the chosen model; `gap` is ours less scratch.

    Only where scratch is shown to be better is it negative transfer; where neither is, that is said by its own name.
    """
    evidence = f"the chosen model scores {_against(gap, metric, 'training from scratch')}, on the same examples."
    if gap.low > 0:
        return Verdict("negative_transfer", False, evidence, "Transfer helps here.")
    if gap.high < 0:
        advice = "Pre-training hurts here: train from scratch, or look for a source nearer to your data."
        return Verdict("negative_transfer", True, evidence, advice)
    advice = "Transfer is not shown to help: compare with another backbone, or collect more examples to tell."
    return Verdict("transfer_not_shown", True, evidence, advice)


def overfitting(chosen: Outcome, targets: NDArray[np.int64], *, confidence: float, balance: bool = False) -> Verdict:
    """Whether the loss on unseen rows is well above that on training rows; needs a trained, not an exact, arm.

    `balance` says that classes weighed alike in training: then they do here.
    """
    truth = targets[chosen.rows]
    losses = scores.losses(chosen.log_probabilities, truth) * (scores.balanced(truth) if balance else 1.0)
    rng = np.random.default_rng(0)
    means = losses[rng.integers(0, len(losses), (DRAWS, len(losses)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    train = chosen.epochs[-1].loss
    evidence = (
        f"log-loss {losses.mean():.3f} ({low:.3f} to {high:.3f}) on validation, {train:.3f} on the training examples."
    )
    holds = bool(low > train + 0.1 and low > 1.5 * train)
    advice = (
        "Collect more examples, or add augmentation (--augment); plans that freeze more were in the race too."
        if holds
        else "Nothing to do."
    )
    return Verdict("overfitting", holds, evidence, advice)


def irrelevant_source(evidence: Sequence[Evidence]) -> Verdict | None:
    """Whether the pre-trained features are no better than those of a random network; None without that control."""
    best = max(evidence, key=lambda e: e.score.mean)
    if best.random is None:
        return None
    random = max(e.random for e in evidence if e.random is not None)
    holds = best.score.low <= random
    text = (
        f"the best linear probe scores {100 * best.score.mean:.1f}% ({100 * best.score.low:.1f} to "
        f"{100 * best.score.high:.1f}%), the best one on a random network {100 * random:.1f}%."
    )
    advice = (
        "Try another backbone: these features carry little for your task." if holds else "The source fits the task."
    )
    return Verdict("irrelevant_source", holds, text, advice)


def saturated_grid(arm: Arm, rate: float) -> Verdict:
    """Whether the best learning rate lies at the edge of the arm's (once widened) grid."""
    evidence = f"the best learning rate is {rate:.3g} of {', '.join(f'{each:.3g}' for each in arm.rates)}."
    if rate in (arm.rates[0], arm.rates[-1]):
        return Verdict(
            "saturated_grid", True, evidence, "A better rate may lie beyond: try more epochs or another batch size."
        )
    return Verdict("saturated_grid", False, evidence, "Nothing to do.")


def _against(gap: Estimate, metric: str, other: str) -> str:
    """A difference as people say it: "3.5 points above scratch in accuracy (interval: 2.4 to 4.7 above)"."""
    share, loss = metric in words.SHARES, metric == "log_loss"
    unit = "points " if share else "nats " if loss else ""
    more, less = ("better than", "worse than") if loss else ("above", "below")

    def size(value: float) -> str:
        return f"{abs(100 * value):.1f}" if share else f"{abs(value):.3f}" if loss else words.number(abs(value))

    mean, low, high = size(gap.mean), size(gap.low), size(gap.high)
    side = more if gap.mean > 0 or (gap.mean == 0 and gap.low >= 0) else less
    up, down = more.split()[0], less.split()[0]
    if gap.low < 0 < gap.high:
        ends = f"from {low} {down} to {high} {up}"
    else:
        ends = f"{low} to {high} {up}" if side == more else f"{high} to {low} {down}"
    return f"{mean} {unit}{side} {other} in {words.called(metric)} (interval: {ends})"
