"""Which arms take part: the known strategies, spread over the depths, and what the probes suggest.

Probes order and seed the arms; they never rule one out. Depths are spread and not bisected, since the curve over depth
need not have a single peak (Yosinski et al. 2014 measured a dip at layers 4 and 5 and a recovery at 6 and 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from frostline.plan import gradual, legal_depths, plan, with_epochs
from frostline.values import Arm, Evidence, Head, Layer, Plan, Recipe

MOST = 14
FEWEST = 8
STEP = 3.0  # from one learning rate of a grid to the next
DECAY = 0.7  # of the soft freeze: layer-wise decay between 0.65 and 0.75 is what the MAE recipes use
EQUAL = "_equal"  # behind the name of training from scratch for as many epochs as the others
SCRATCH_EPOCHS = 3  # times the epochs of the others: training from scratch catches up late (He et al. 2019)
PER_CLASS = 16  # examples a class from which statistics of a batch may replace the stored ones


def grid(rate: float) -> tuple[float, ...]:
    """The three learning rates that every trained arm may choose from: `rate` and one step to either side."""
    return (rate / STEP, rate, rate * STEP)


def exact(arm: Arm) -> bool:
    """Whether the arm's plan is closed: no seed changes its result."""
    return arm.plan.closed


def best_probe(evidence: Sequence[Evidence]) -> int:
    """The depth whose probe scored best; the shallower one of equals."""
    return max(evidence, key=lambda e: (e.score.mean, -e.cut.depth)).cut.depth


def cheapest_probe(evidence: Sequence[Evidence]) -> int:
    """The shallowest depth whose probe lies within the interval of the best one: where the plateau begins."""
    best = max(evidence, key=lambda e: (e.score.mean, -e.cut.depth))
    return min(e.cut.depth for e in evidence if e.score.mean >= best.score.low)


def propose(
    layers: Sequence[Layer],
    evidence: Sequence[Evidence],
    *,
    recipe: Recipe,
    classes: int,
    examples: int,
    batch_norms: bool = False,
) -> tuple[Arm, ...]:
    """The arms of the race, the indispensable ones first: 8 to 14, fewer where a network has too few cuts.

    `recipe.lr` is the middle of every grid (1e-3 suits AdamW; kept layers learn at `kept_lr` of it), `examples` are
    those of one training fold. `batch_norms` says whether the layers hold any. The best probe, LP-FT and full
    fine-tuning are protected. No two arms have the same plan.
    """
    arms = (
        *_probes(layers, evidence, recipe),
        *_known(layers, recipe),
        *_suggested(layers, evidence, recipe),
        *_batch(layers, recipe, batch_norms and examples >= PER_CLASS * classes),
        *_spread(layers, recipe),
    )
    chosen = distinct(arms)[:MOST]
    if len(chosen) < FEWEST:
        rest = (trained(f"freeze@{f}", plan(layers, recipe, freeze=f)) for f in inner_cuts(layers))
        chosen = distinct((*chosen, *rest))[:FEWEST]
    return chosen


def baselines(layers: Sequence[Layer], *, recipe: Recipe, batch_norms: bool = False) -> tuple[Arm, ...]:
    """What is timed apart from the race: training from scratch, with three times the epochs and the same grid.

    Without source statistics there is nothing for a batch norm to keep, so it uses those of the batch.
    """
    longer = replace(recipe, epochs=recipe.epochs * SCRATCH_EPOCHS, kept_lr=1.0, layer_decay=1.0, anchor=0.0)
    scratch = plan(
        layers,
        longer,
        keep=0,
        above="reinit",
        head=Head(start="random"),
        statistics="batch" if batch_norms else "eval",
    )
    return (trained("scratch", scratch, baseline="scratch"),)


def for_as_long(scratch: Arm, epochs: int) -> Arm:
    """Training from scratch for as many epochs as all others: what the same budget comes to without the source."""
    plan = with_epochs(scratch.plan, epochs)
    return replace(scratch, id=f"{scratch.id}{EQUAL}", plan=plan, baseline=f"{scratch.baseline}{EQUAL}")


def widen(arm: Arm, best_rate: float) -> Arm | None:
    """The arm with one more rate beyond the edge of its grid where the best one lies there; None where it does not.

    Once only: a grid of more than three rates has been widened already, a grid of one has nothing to choose.
    """
    if len(arm.rates) != 3 or best_rate not in (arm.rates[0], arm.rates[-1]):
        return None
    if best_rate == arm.rates[0]:
        return replace(arm, rates=(best_rate / STEP, *arm.rates))
    return replace(arm, rates=(*arm.rates, best_rate * STEP))


def trained(name: str, of: Plan, *, protected: bool = False, baseline: str | None = None) -> Arm:
    """An arm with the grid about its plan's rate."""
    return Arm(name, of, grid(of.recipe.lr), protected, baseline)


def _probes(layers: Sequence[Layer], evidence: Sequence[Evidence], recipe: Recipe) -> Iterable[Arm]:
    best, last = best_probe(evidence), max(e.cut.depth for e in evidence)
    for depth in (best, last, cheapest_probe(evidence)):
        whole = depth == len(layers)
        frozen = plan(layers, recipe, keep=depth, freeze=depth, above="tune" if whole else "drop")
        baseline = "linear_probe" if depth == last else None
        yield Arm(f"linear_probe@{depth}", frozen, (recipe.lr,), depth == best, baseline)


def _known(layers: Sequence[Layer], recipe: Recipe) -> Iterable[Arm]:
    yield trained("lp_ft", plan(layers, recipe), protected=True, baseline="lp_ft")
    full = plan(layers, recipe, head=Head(start="random"))
    yield trained("full_finetune", full, protected=True, baseline="full_finetune")
    inner = inner_cuts(layers)
    if inner:
        yield trained(f"freeze@{inner[0]}", plan(layers, recipe, freeze=inner[0]), baseline="stem_frozen")
        yield trained("last_block", plan(layers, recipe, freeze=inner[-1]), baseline="last_block")
    yield trained("layer_decay", plan(layers, replace(recipe, layer_decay=DECAY)), baseline="layer_decay")
    yield trained("gradual", gradual(layers, recipe), baseline="gradual_unfreezing")


def _suggested(layers: Sequence[Layer], evidence: Sequence[Evidence], recipe: Recipe) -> Iterable[Arm]:
    """Where the probe peaks below the top: the layers above it dropped, or begun anew, and some below it learning."""
    peak = best_probe(evidence)
    if peak == len(layers):
        return
    below = [f for f in legal_depths(layers) if f < peak]
    freeze = min(below, key=lambda f: (abs(f - peak / 2), f))
    yield trained(f"drop@{peak}-tune", plan(layers, recipe, keep=peak, freeze=freeze, above="drop"))
    # the layers under this head are new, so no probe of the source's features could start it
    fresh = plan(layers, recipe, keep=peak, freeze=freeze, above="reinit", head=Head(start="random"))
    yield trained(f"reinit@{peak}", fresh)


def _batch(layers: Sequence[Layer], recipe: Recipe, enough: bool) -> Iterable[Arm]:
    if enough:
        yield trained("batch_statistics", plain_loop(layers, recipe))


def plain_loop(layers: Sequence[Layer], recipe: Recipe) -> Plan:
    """What a plain training loop does: one rate for all layers, a new head, and batch norms that follow the batch.

    The probe's head would not fit: it was fitted on features that stored statistics make.
    """
    return plan(layers, replace(recipe, kept_lr=1.0), statistics="batch", head=Head(start="random"))


def _spread(layers: Sequence[Layer], recipe: Recipe) -> Iterable[Arm]:
    """Frozen up to a half, three quarters and a quarter of the way."""
    if not inner_cuts(layers):
        return
    for share in (0.5, 0.75, 0.25):
        freeze = cut_near(layers, share)
        yield trained(f"freeze@{freeze}", plan(layers, recipe, freeze=freeze))


def inner_cuts(layers: Sequence[Layer]) -> tuple[int, ...]:
    """The legal depths with some layers on either side."""
    return tuple(f for f in legal_depths(layers) if 0 < f < len(layers))


def cut_near(layers: Sequence[Layer], share: float) -> int:
    """The legal depth nearest to a share of the way; the deeper of equals. There has to be an inner one."""
    return min(inner_cuts(layers), key=lambda f: (abs(f - share * len(layers)), -f))


def distinct(arms: Iterable[Arm]) -> tuple[Arm, ...]:
    """Without those whose plan or name an earlier one has."""
    kept: list[Arm] = []
    for arm in arms:
        if all(arm.plan != other.plan and arm.id != other.id for other in kept):
            kept.append(arm)
    return tuple(kept)
