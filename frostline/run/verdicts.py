"""What a user should be told about their transfer, each with a measured interval and an advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from frostline.bench.forgetting import Kept
from frostline.report import words
from frostline.search import scores
from frostline.values import Arm, Epoch, Estimate, Evidence, Outcome, Plan, Verdict

DRAWS = 2000
LEAP = 10.0  # times the gradient of the epoch before
STILL = 1e-6  # of a layer's weights: a step smaller than that is rounding in single precision
CHANGED = 0.2  # of the source's answers
UNLIKE = 0.5  # of 1, features before and after
ENOUGH = 0.75  # of the examples that are recognised without being learned from
NAMED = 8  # suspects
LONG = "training from scratch for three times the epochs"  # which is fair to it: it catches up late (He et al. 2019)
SHORT = "training from scratch for as many"
JUMP = 1.1  # times the loss of the epoch before a thaw


def negative_transfer(gap: Estimate, metric: str, equal: Estimate) -> Verdict:
    """How training from scratch on a fair, long schedule compares with the chosen model; `gap` is ours less scratch.

    `equal` is ours less scratch for as many epochs as ours. Only where scratch is shown to be better on the long one,
    and ours not on the short one, is it negative transfer: else the training is what is short. Where neither is shown
    to be better, that is said by its own name.
    """
    far, near = (_against(gap, metric, LONG), _against(equal, metric, SHORT))
    evidence = f"the chosen model scores {far}, and {near}, on the same examples."
    if gap.low > 0:
        return Verdict("negative_transfer", False, evidence, "Transfer helps here.")
    if gap.high < 0 < equal.low:
        advice = (
            "The source is ahead for as many epochs, so it is the schedule that is short: search again with three "
            "times the epochs (--epochs)."
        )
        return Verdict("short_training", True, evidence, advice)
    if gap.high < 0:
        advice = "Pre-training hurts here: train from scratch, or look for a source nearer to your data."
        return Verdict("negative_transfer", True, evidence, advice)
    advice = "Transfer is not shown to help: compare with another backbone, or collect more examples to tell."
    if equal.low > 0:
        advice = "Transfer saves training time here; that it gives a better model than patience does is not shown."
    return Verdict("transfer_not_shown", True, evidence, advice)


def overfitting(
    chosen: Outcome,
    targets: NDArray[np.int64],
    *,
    confidence: float,
    balance: bool = False,
    others: Mapping[int, Outcome] | None = None,
) -> Verdict:
    """Whether the loss on unseen rows is well above that on training rows; needs a trained, not an exact, arm.

    `balance` says that classes weighed alike in training: then they do here. `others` were trained as long, by how many
    layers they froze: how their gaps compare is told.
    """
    losses = _losses(chosen, targets, balance)
    rng = np.random.default_rng(0)
    means = losses[rng.integers(0, len(losses), (DRAWS, len(losses)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    train = chosen.epochs[-1].loss
    evidence = (
        f"log-loss {losses.mean():.3f} ({low:.3f} to {high:.3f}) on validation, {train:.3f} on the training examples."
    )
    gaps = {f: _losses(o, targets, balance).mean() - o.epochs[-1].loss for f, o in sorted((others or {}).items())}
    if len(gaps) > 1:
        evidence += f" The gap by frozen layers: {', '.join(f'{gap:+.2f} at {f}' for f, gap in gaps.items())}."
    holds = bool(low > train + 0.1 and low > 1.5 * train)
    advice = (
        "Collect more examples, or add augmentation (--augment); plans that freeze more were in the race too."
        if holds
        else "Nothing to do."
    )
    return Verdict("overfitting", holds, evidence, advice)


def _losses(outcome: Outcome, targets: NDArray[np.int64], balance: bool) -> NDArray[np.float64]:
    truth = targets[outcome.rows]
    return scores.losses(outcome.log_probabilities, truth) * (scores.balanced(truth) if balance else 1.0)


def irrelevant_source(evidence: Sequence[Evidence], *, helps: bool = False) -> Verdict | None:
    """Whether the pre-trained features are no better than those of a random network; None without that control.

    What `helps`, as a model trained from it is shown to beat the one from scratch, is relevant all the same.
    """
    best = max(evidence, key=lambda e: e.score.mean)
    if best.random is None:
        return None
    random = max(e.random for e in evidence if e.random is not None)
    poor = best.score.low <= random
    text = (
        f"the best linear probe scores {words.ranged(best.score.mean, best.score.low, best.score.high, best.metric)}, "
        f"the best one on a random network {words.score(random, best.metric)}."
    )
    advice = "The source fits the task."
    if poor:
        advice = "Try another backbone: these features carry little for your task."
        if helps:
            advice = "The source helps as a start to train from, not by its features as they are."
    return Verdict("irrelevant_source", poor and not helps, text, advice)


def no_relevant_source(tags: Sequence[str], irrelevant: Sequence[bool]) -> Verdict:
    """Whether none of the backbones that raced knows anything of use."""
    useful = [tag for tag, none in zip(tags, irrelevant, strict=True) if not none]
    if useful:
        said = f"{words.listed(useful)} {'bring' if len(useful) > 1 else 'brings'} more than an untrained network does."
        return Verdict("no_relevant_source", False, said, "Nothing to do.")
    said = f"of {words.listed(list(tags))}, none has features that are better than those of an untrained network."
    return Verdict("no_relevant_source", True, said, "Look for a backbone whose source lies nearer to your task.")


def behind(tag: str, best: str, right: Mapping[str, NDArray[np.bool_]], confidence: float) -> Estimate:
    """How far the best probe of a network lies behind that of the best network, on the same examples; a share.

    Which one is best was seen on these examples too, so the error is shared among all pairs (Bonferroni).
    """
    pairs = len(right) * (len(right) - 1) // 2
    tail = (1 - confidence) / max(1, pairs) / 2
    gaps, rng = right[best].astype(float) - right[tag].astype(float), np.random.default_rng(0)
    means = gaps[rng.integers(0, len(gaps), (DRAWS, len(gaps)))].mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(gaps.mean()), float(low), float(high))


def weaker_source(tag: str, best: str, right: Mapping[str, NDArray[np.bool_]], confidence: float) -> Verdict:
    """Whether the best probe of a network is shown to be worse than that of the best network."""
    gap = behind(tag, best, right, confidence)
    evidence = (
        f"the best linear probe of {tag} recognises {100 * right[tag].mean():.1f}% of the training examples, that of "
        f"{best} {100 * right[best].mean():.1f}% (difference: {100 * gap.low:+.1f} to {100 * gap.high:+.1f} points)."
    )
    advice = f"What {tag} was trained on is worth less for your task; its strategies raced all the same."
    return Verdict("weaker_source", gap.low > 0, evidence, advice if gap.low > 0 else "Nothing to do.")


def too_much_frozen(gap: Estimate, metric: str, epsilon: float) -> Verdict:
    """What freezing everything would have cost; `gap` is ours less the linear probe at the last cut."""
    evidence = f"the chosen model scores {_against(gap, metric, 'a linear probe on frozen features')}."
    holds = gap.low > epsilon
    advice = "As they are, these features miss what your data needs: layers have to learn." if holds else ""
    return Verdict("underfitting_when_frozen", holds, evidence, advice)


def unstable_gradients(epochs: Sequence[Epoch]) -> Verdict | None:
    """Whether the gradient leapt from one epoch to the next while the loss rose, or a layer that learns stood still.

    None where nothing below the head learned. The norms are those before clipping.
    """
    norms = [epoch.gradient for epoch in epochs]
    leaps = [
        later.number
        for before, later in pairwise(epochs)
        if later.diverged or (later.gradient > LEAP * before.gradient and later.loss > before.loss)
    ]
    said = f"the norm of the gradient lay between {min(norms):.2g} and {max(norms):.2g}"
    if leaps or epochs[-1].diverged:
        at = leaps[0] if leaps else epochs[-1].number
        advice = f"Gradients exploded in epoch {at + 1}: lower the learning rate, or clip them more (clip)."
        return Verdict("exploding_gradients", True, f"{said}.", advice)
    layers = list(dict.fromkeys(flow.layer for epoch in epochs for flow in epoch.flows))
    if len(layers) < 2:
        return None
    furthest = {name: max(f.update for e in epochs for f in e.flows if f.layer == name) for name in layers}
    still = [name for name, update in furthest.items() if update < STILL]
    evidence = (
        f"{said}; the largest step of a layer was between {min(furthest.values()):.1g} and "
        f"{max(furthest.values()):.1g} of its weights."
    )
    if still:
        advice = f"No gradient to speak of reaches {words.listed(still[:4])}: freeze up to there, or begin them anew."
        return Verdict("vanishing_gradients", True, evidence, advice)
    return Verdict("unstable_gradients", False, evidence, "Nothing to do.")


def jump_on_unfreezing(plan: Plan, epochs: Sequence[Epoch], confidence: float) -> Verdict | None:
    """Whether the loss jumped where layers thawed, by more than its batches scatter; None where none thaw."""
    by = {epoch.number: epoch for epoch in epochs}
    thaws = [epoch for epoch, _ in plan.thaw if epoch in by and epoch - 1 in by]
    if not thaws:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def rise(epoch: int) -> tuple[float, float]:
        before, after = by[epoch - 1], by[epoch]
        return after.loss - before.loss, z * (before.error**2 + after.error**2) ** 0.5

    worst = max(thaws, key=lambda epoch: rise(epoch)[0] - rise(epoch)[1])
    gap, width = rise(worst)
    holds = gap - width > (JUMP - 1) * by[worst - 1].loss
    evidence = (
        f"where layers thawed in epoch {worst + 1}, the training loss went from {by[worst - 1].loss:.3f} to "
        f"{by[worst].loss:.3f} (interval of the difference: {gap - width:+.3f} to {gap + width:+.3f})."
    )
    advice = "Thaw at a lower rate: a smaller kept_lr, or a longer warmup." if holds else "Nothing to do."
    return Verdict("jump_on_unfreezing", holds, evidence, advice)


def forgetting(kept: Kept, after: NDArray[np.bool_], epsilon: float, confidence: float) -> Verdict:
    """What a model no longer knows of its source: how much less often it is right, or says what it said."""
    n = len(after)
    if kept.how == "answers":
        changed = Estimate.of_share(float(1 - after.mean()), n, confidence)
        evidence = (
            f"of {n} of your examples, the source's own output layer names another class than before for "
            f"{100 * changed.mean:.0f}% ({100 * changed.low:.0f} to {100 * changed.high:.0f}%)."
        )
        holds = changed.low > CHANGED
        advice = (
            "Give labelled examples of the source (--source) to see what that means for its own task; freezing more, "
            "L2-SP and WiSE-FT keep more."
        )
        return Verdict("forgetting", holds, evidence, advice if holds else "Nothing to do.")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, n, (DRAWS, n))
    drops = (kept.before.astype(float) - after.astype(float))[rows].mean(axis=1)
    low, high = np.quantile(drops, [(1 - confidence) / 2, (1 + confidence) / 2])
    asked = "its own output layer" if kept.how == "output layer" else "a linear probe fitted before"
    evidence = (
        f"on {n} examples of the source, by {asked}, the network was right in {100 * kept.before.mean():.1f}% before "
        f"the training and is in {100 * after.mean():.1f}% after it (difference: {0.0 - 100 * high:+.1f} to "
        f"{0.0 - 100 * low:+.1f} points)."
    )
    holds = bool(low > epsilon)
    advice = (
        "To keep what it knew, freeze more, pull to the source (l2_sp) or go halfway back (wise_ft): "
        "`frostline compare --source` shows what each of them keeps."
    )
    return Verdict("forgetting", holds, evidence, advice if holds else "Nothing to do.")


def drift(like: Estimate) -> Verdict:
    """How far the features behind the last layer moved, for a network whose own answers nobody can ask."""
    evidence = (
        f"on your examples, the features behind the last layer are alike to {like.mean:.2f} before and after the "
        f"training (CKA, {like.low:.2f} to {like.high:.2f}; 1 is unchanged)."
    )
    holds = like.high < UNLIKE
    advice = (
        "Most of what the source made of your examples is gone: give labelled examples of it (--source) to see what it "
        "forgot, or freeze more."
    )
    return Verdict("forgetting", holds, evidence, advice if holds else "Nothing to do.")


def label_noise(
    predictions: NDArray[np.float64], labels: NDArray[np.int64], ids: list[str], confidence: float
) -> Verdict | None:
    """Whether more examples contradict their label than classes that overlap explain, the surest of them by name.

    `predictions` are log-probabilities of each example that were made without it. An example is a suspect where they
    speak for another class as strongly as they do for the right one in half of the examples that they get right. Were
    margins of one normal law, a known share of them would lie so far on the wrong side; where more do, labels are
    wrong. Only classes of which three in four examples are recognised say anything: rare ones that are taken for a
    frequent one are not mislabelled. None where these have fewer than 50 examples together.
    """
    others = predictions.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    every = predictions[np.arange(len(labels)), labels] - others.max(axis=1)
    known = [label for label in np.unique(labels) if (every[labels == label] > 0).mean() >= ENOUGH]
    rows = np.flatnonzero(np.isin(labels, known))
    n, margins = len(rows), every[rows]
    if n < 50:
        return None
    right = float((margins > 0).mean())
    suspects = np.flatnonzero(margins <= -np.median(margins[margins > 0]))
    share, law = Estimate.of_share(len(suspects) / n, n, confidence), NormalDist()
    mean = law.inv_cdf(min(right, 1 - 0.5 / n))
    expected = law.cdf(law.inv_cdf(min(right, 1 - 0.5 / n) / 2) - 2 * mean)
    holds = share.low > expected + 0.01
    evidence = (
        f"{len(suspects)} of {n} training examples ({100 * share.low:.1f} to {100 * share.high:.1f}%) contradict their "
        f"label as surely as others confirm theirs; classes that overlap as these do explain {100 * expected:.1f}%."
    )
    surest = [ids[int(rows[at])] for at in sorted(suspects.tolist(), key=lambda at: margins[at])[:NAMED]]
    advice = f"Look at the labels of {words.listed(surest)} first." if holds else "Nothing to do."
    return Verdict("label_noise", holds, evidence, advice)


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
