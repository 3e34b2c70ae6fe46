"""Who takes part in a race: the strategies that the evidence suggests, of one backbone or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from frostline.bench.bench import Bench
from frostline.bench.fisher import fisher
from frostline.bench.levels import head_kind, head_on, on_crossing
from frostline.bench.recipe import recipe
from frostline.plan import plan
from frostline.report import words
from frostline.search import strategies
from frostline.search.arms import baselines, exact, propose
from frostline.training import adapters
from frostline.values import Arm, Event, Evidence, Head, Plan, Recipe, Show, silent

RIVAL_ARMS = 4  # trained arms of each backbone but the one whose probe is best
Curves = Mapping[str, Sequence[Evidence]]  # the probes of each backbone, by its tag


def scratch_of(bench: Bench, epochs: int) -> Arm:
    """Training from scratch beside a full schedule of so many epochs: it is given more of them."""
    recipe = replace(base_recipe(bench), epochs=epochs)
    (arm,) = baselines(bench.anatomy.layers, recipe=recipe, batch_norms=batch_norms(bench))
    arm = replace(arm, plan=headed(bench, arm.plan))
    return augmented(bench, _tagged(arm, bench.tag))


def leading(bench: Bench, curves: Curves, *, show: Show = silent) -> Bench:
    """The bench of the backbone whose probe is best, which brings most strategies; the first of equals."""
    if not bench.rivals:
        return bench
    best = {each.tag: max(curves[each.tag], key=lambda e: e.score.mean) for each in bench.every}
    for tag, evidence in best.items():
        untaught = max((e.random for e in curves[tag] if e.random is not None), default=None)
        known = words.score(untaught, evidence.metric)
        beside = "" if untaught is None else f", on an untrained network {known}"
        scored = words.score(evidence.score.mean, evidence.metric)
        text = f"{tag}: the best linear probe scores {scored} (depth {evidence.cut.depth}){beside}"
        show(Event("probe", text=text))
    return max(bench.every, key=lambda each: best[each.tag].score.mean)


def together(bench: Bench, evidence: Curves) -> tuple[Arm, ...]:
    """The arms of the race: those that a backbone's evidence suggests, and of its rivals the indispensable ones.

    Probes order the backbones and rule none out: each brings its probes and its first strategies to the first round.
    """
    if not bench.rivals:
        return proposed(bench, evidence[bench.tag])
    own = [_tagged(arm, bench.tag) for arm in proposed(bench, evidence[bench.tag])]
    first = [arm for arm in own if arm.protected or exact(arm)]
    found, later = list(first), [arm for arm in own if arm not in first]
    for rival in bench.every:
        arms = [] if rival is bench else proposed(rival, evidence[rival.tag])
        mine = [replace(_tagged(arm, rival.tag), protected=False) for arm in arms]
        trained = [arm for arm in mine if not exact(arm)][:RIVAL_ARMS]
        # where time is short, a schedule takes the first ones: each network brings two before the leading one's rest
        found += [*(arm for arm in mine if exact(arm)), *trained[:2]]
        later += trained[2:]
    return (*found, *later)


def _tagged(arm: Arm, tag: str) -> Arm:
    return replace(arm, id=f"{tag}.{arm.id}") if tag else arm


def proposed(bench: Bench, evidence: Sequence[Evidence]) -> tuple[Arm, ...]:
    """The arms that this evidence suggests, or all known strategies where these are to be compared."""
    if bench.settings.strategies == "known":
        return known(bench, evidence)
    layers, kinds = bench.anatomy.layers, len(bench.examples.classes)
    examples, norms = len(bench.split.folds[0].train), batch_norms(bench)
    arms = propose(layers, evidence, recipe=base_recipe(bench), classes=kinds, examples=examples, batch_norms=norms)
    return tuple(augmented(bench, arm) for arm in suited(bench, arms))


def suited(bench: Bench, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms that can have the head for what is asked, with it."""
    head = _head(bench)
    return tuple(arms) if head.pools else on_crossing(arms, head)


def headed(bench: Bench, of: Plan) -> Plan:
    """The plan with a head for what is asked: where things are to be found, one that says where they are."""
    head = _head(bench)
    return of if head.pools else replace(of, head=head)


def _head(bench: Bench) -> Head:
    return head_on(bench.settings, bench.backbone, bench.anatomy)


def known(bench: Bench, evidence: Sequence[Evidence]) -> tuple[Arm, ...]:
    """Every known strategy that this network allows, seeded by this evidence."""
    layers, base = bench.anatomy.layers, base_recipe(bench)
    ranks = fisher(bench, Arm("lp_ft", plan(layers, base), (base.lr,))) if _head(bench).pools else None
    arms = strategies.compared(layers, evidence, recipe=base, fisher=ranks, **_allowing(bench))
    return tuple(augmented(bench, arm) for arm in suited(bench, arms))


def unavailable(bench: Bench, arms: Sequence[Arm]) -> tuple[str, ...]:
    """Which of the known strategies are not among these, and why."""
    return strategies.left_out(arms, unprobed=not _head(bench).pools, **_allowing(bench))


class _Allowing(TypedDict):
    """What decides which strategies a network and its data allow."""

    classes: int
    examples: int
    batch_norms: bool
    adaptable: bool


def _allowing(bench: Bench) -> _Allowing:
    return {
        "classes": len(bench.examples.classes),
        "examples": len(bench.split.folds[0].train),
        "batch_norms": batch_norms(bench),
        "adaptable": adapters.possible(bench.backbone.module, bench.anatomy.layers),
    }


def augmented(bench: Bench, arm: Arm) -> Arm:
    """The arm as its full training runs: on examples that vary, where that was asked for; a closed form never does."""
    kind = bench.settings.augment
    if kind is None or exact(arm):
        return arm
    return replace(arm, plan=replace(arm.plan, recipe=replace(arm.plan.recipe, augment=kind)))


def batch_norms(bench: Bench) -> bool:
    """Whether any layer holds statistics that a training could move."""
    return any(name.endswith("running_mean") for layer in bench.anatomy.layers for name in layer.members)


def base_recipe(bench: Bench) -> Recipe:
    """The recipe that all arms vary."""
    return recipe(bench.settings, len(bench.split.folds[0].train), head_kind(bench.settings, bench.backbone))
