"""The verdicts of a run: each from what the search already knows, or from one more look at what it kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.bench.bench import Bench
from frostline.bench.forgetting import Kept, likeness
from frostline.bench.recipe import weighs_alike
from frostline.evidence.probes import RidgeProbe, better_than_the_mean, ridge_loo
from frostline.run import entrants, terms, verdicts
from frostline.run.ended import Ended
from frostline.search import race as races
from frostline.search import standing
from frostline.search.arms import best_probe, exact
from frostline.search.scores import balanced
from frostline.tasks.measures.table import hinted
from frostline.values import Evidence, Outcome, Verdict, asked

FORGETS = 0.01  # of the source's examples: a share, whatever the metric's units are


def judged(ended: Ended, kept: Kept | None) -> tuple[Verdict, ...]:
    """Every verdict that this run measured."""
    bench, chosen = ended.bench, ended.chosen
    given, targets = bench.settings, bench.examples.targets
    ours = chosen.certification[:1] or chosen.validation
    gaps = {
        baseline.name: standing.difference(ours, baseline.judged, targets, terms.aim(bench))
        for baseline in ended.baselines
        if baseline.name in ("scratch", "scratch_equal", "linear_probe")
    }
    helps = "scratch" in gaps and gaps["scratch"].low > 0
    told: list[Verdict | None] = [*relevance(ended, helps), mislabelled(ended), *moved(ended, kept)]
    if "scratch" in gaps:
        told.append(verdicts.negative_transfer(gaps["scratch"], given.metric, gaps["scratch_equal"]))
    if not exact(chosen.arm):
        if "linear_probe" in gaps:
            told.append(verdicts.too_much_frozen(gaps["linear_probe"], given.metric, terms.aim(bench).epsilon))
        plan, epochs = chosen.arm.plan, chosen.validation[0].epochs
        told.append(verdicts.unstable_gradients(epochs))
        told.append(verdicts.jump_on_unfreezing(plan, epochs, given.confidence))
        balance = chosen.arm.plan.recipe.balance
        if asked(targets) in ("classification", "multilabel"):  # elsewhere what is learned by is not what is judged by
            told.append(
                verdicts.overfitting(
                    chosen.validation[0], targets, confidence=given.confidence, balance=balance, others=by_depth(ended)
                )
            )
        raced = next(
            arm for turn in reversed(races.rounds(ended.race)) for arm in turn.entrants if arm.id == chosen.arm.id
        )
        told.append(verdicts.saturated_grid(raced, chosen.arm.plan.recipe.lr))
    return tuple(verdict for verdict in told if verdict is not None)


def by_depth(ended: Ended) -> dict[int, Outcome]:
    """Trainings in full of the network itself that differ in how much they freeze, one for each number of layers."""
    found, bench = dict[int, Outcome](), ended.bench
    for it in (ended.chosen, *ended.finalists, *ended.baselines):
        outcome, plan = it.validation[0], it.arm.plan
        whole = bool(outcome.epochs) and len(outcome.epochs) >= plan.recipe.epochs
        plain = plan.adapter is None and plan.blend == 1 and not plan.thaw and plan.head.kind == "linear"
        above = all(plan.train[plan.freeze :]) and plan.above == "tune"
        if whole and plain and above and bench.of(it.arm.id) is bench:
            found.setdefault(plan.freeze, outcome)
    return found


def relevance(ended: Ended, helps: bool) -> tuple[Verdict | None, ...]:
    """Whether the source fits the task: of each backbone that raced, and of all of them.

    The chosen one is known to have helped where it beats training from scratch. Nothing where probes give a hint
    alone: how well they count boxes says too little.
    """
    if hinted(ended.bench.examples.targets):
        return ()
    if not ended.bench.rivals:
        return (verdicts.irrelevant_source(ended.evidence, helps=helps),)
    tuned = ended.bench.of(ended.chosen.arm.id).tag
    told = {t: verdicts.irrelevant_source(curve, helps=helps and t == tuned) for t, curve in ended.curves.items()}
    known = {tag: verdict for tag, verdict in told.items() if verdict is not None}
    each = (replace(verdict, evidence=f"of {tag}, {verdict.evidence}") for tag, verdict in known.items())
    none = verdicts.no_relevant_source(list(known), [v.holds for v in known.values()]) if known else None
    right = {tag: recognised(ended.bench.rivals[tag], curve) for tag, curve in ended.curves.items()}
    best = max(right, key=lambda tag: right[tag].mean())
    weaker = (verdicts.weaker_source(tag, best, right, ended.bench.settings.confidence) for tag in right if tag != best)
    return (*each, none, *weaker)


def recognised(bench: Bench, curve: Sequence[Evidence]) -> NDArray[np.bool_]:
    """Which training examples the best probe of a network recognises without having learned from them.

    Of labels and of numbers those that it tells better than what is known without looking: the mean of all.
    """
    train, depth = bench.split.folds[0].train, best_probe(curve)
    if asked(bench.examples.targets) != "classification":
        return better_than_the_mean(bench.pooled[depth][train], bench.examples.targets[train])
    return probe_of(bench, depth).scores.argmax(axis=1) == bench.examples.targets[train]


def probe_of(bench: Bench, depth: int) -> RidgeProbe:
    """The probe at a cut, with what it says of each training example that was left out, class by class."""
    train = bench.split.folds[0].train
    targets = bench.examples.targets[train]
    balance = balanced(targets) if weighs_alike(bench.settings) else None
    return ridge_loo(bench.pooled[depth][train], targets, classes=len(bench.examples.classes), weights=balance)


def probed(bench: Bench, curves: entrants.Curves) -> tuple[dict[str, Any], ...]:
    """What the probes say of each backbone, the best one first; nothing where there is one."""
    rows, right = list[dict[str, Any]](), {tag: recognised(each, curves[tag]) for tag, each in bench.rivals.items()}
    leader = max(right, key=lambda tag: right[tag].mean(), default="")
    for each in bench.rivals.values():
        curve, gap = curves[each.tag], verdicts.behind(each.tag, leader, right, bench.settings.confidence)
        best = next(e for e in curve if e.cut.depth == best_probe(curve))
        verdict = verdicts.irrelevant_source(curve)
        rows.append(
            {
                "tag": each.tag,
                "backbone": each.settings.backbone,
                "weights": each.backbone.weights,
                "layers": [layer.name for layer in each.anatomy.layers],
                "probe": {"depth": best.cut.depth, **asdict(best.score)},
                "untrained": max((e.random for e in curve if e.random is not None), default=None),
                "behind": asdict(gap),
                "distance": best.distance,
                "relevant": None if verdict is None else not verdict.holds,
            }
        )
    return tuple(sorted(rows, key=lambda row: -row["probe"]["mean"]))


def rivals(ended: Ended) -> tuple[dict[str, Any], ...]:
    """What became of each backbone, best probe first; nothing where there was one."""
    stages, rows = races.stages(ended.race), list[dict[str, Any]]()
    for row in probed(ended.bench, ended.curves):
        mine = [arm.id for arm in ended.race.arms if ended.bench.of(arm.id).tag == row["tag"]]
        done = [name for name in mine if stages[name][0] == "finalist"]
        rows.append({**row, "chosen": row["tag"] == ended.bench.tag, "finalists": done, "arms": len(mine)})
    return tuple(rows)


def moved(ended: Ended, kept: Kept | None) -> tuple[Verdict, ...]:
    """What the model handed back no longer knows of the source; nothing of layers that are gone or new."""
    bench, chosen = ended.bench, ended.chosen
    aim = terms.aim(bench)
    if kept is not None:
        after = kept.after.get(chosen.arm.id)
        return () if after is None else (verdicts.forgetting(kept, after, FORGETS, aim.confidence),)
    if chosen.arm.plan.freeze == chosen.arm.plan.keep:
        return ()
    like = likeness(bench, chosen.arm, chosen.validation[0].unit)
    return () if like is None else (verdicts.drift(like),)


def mislabelled(ended: Ended) -> Verdict | None:
    """Whether more examples contradict their label than overlapping classes explain, and which; None where few.

    Of classes alone.
    """
    if asked(ended.bench.examples.targets) != "classification":
        return None
    bench, train = ended.bench, ended.bench.split.folds[0].train
    probe = probe_of(bench, best_probe(ended.evidence))
    ids = [bench.examples.ids[row] for row in train]
    return verdicts.label_noise(probe.log_probabilities, bench.examples.targets[train], ids, bench.settings.confidence)
