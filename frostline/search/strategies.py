"""The strategies that people know, an arm each: what `compare` sets side by side on equal terms.

Each is what its paper or its users mean by the name, on the recipe and the grid of rates that all arms share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from frostline.plan import gradual, plan
from frostline.search.arms import (
    DECAY,
    PER_CLASS,
    best_probe,
    cut_near,
    distinct,
    grid,
    inner_cuts,
    plain_loop,
)
from frostline.values import Adapter, Arm, Evidence, Head, Layer, Plan, Recipe

ANCHOR = 30.0  # of L2-SP: at the kept layers' peak rate of 1e-4, half the way back to the source takes 230 steps
BLEND = 0.5  # of WiSE-FT: the middle between source and tuned, which the paper recommends where nothing is known
RANK = 8  # of LoRA
KNOWN = (
    "linear_probe", "best_probe", "multi_layer_probe", "mlp_probe", "attention_probe", "full_finetune", "lp_ft",
    "gradual_unfreezing", "fisher_unfreezing", "layer_decay", "l2_sp", "wise_ft", "stem_frozen", "half_frozen",
    "last_block", "surgical", "truncation", "reinitialisation", "statistics_refresh", "plain_loop", "lora",
)  # fmt: skip


_ALONE = "no probe answers in the place of the new head; head only trains it on everything frozen"
UNPROBED = {  # why there is no such strategy where no probe can start the new head
    **dict.fromkeys(("linear_probe", "best_probe", "multi_layer_probe", "mlp_probe", "attention_probe"), _ALONE),
    "lp_ft": "no probe starts the new head, which makes it full fine-tuning",
    "wise_ft": "there is no probe's head to average with",
    "fisher_unfreezing": "such answers have no likelihood to take a gradient of",
    "truncation": "the new head reads the last layer",
}


def compared(
    layers: Sequence[Layer],
    evidence: Sequence[Evidence],
    *,
    recipe: Recipe,
    classes: int,
    examples: int,
    batch_norms: bool = False,
    adaptable: bool = False,
    fisher: Sequence[float] | None = None,
) -> tuple[Arm, ...]:
    """Every known strategy that this network allows; all of them are protected, none races against time.

    `examples` are those of one training fold, `batch_norms` says whether the layers hold any, `adaptable` whether
    low-rank adapters can be put beside some of them, `fisher` is the trace of each layer's Fisher information where
    it was measured. Training from scratch is timed apart (`arms.baselines`).
    """
    found = [*_extractors(layers, evidence, recipe), *_initialisers(layers, recipe, fisher)]
    found += _partial(layers, evidence, recipe)
    if batch_norms:
        found += _normalised(layers, recipe, enough=examples >= PER_CLASS * classes)
    if adaptable:
        found.append(("lora", "lora", plan(layers, recipe, adapter=Adapter(rank=RANK))))
    arms = [Arm(name, of, _rates(of), protected=True, baseline=known) for known, name, of in found]
    return distinct(arms)


def left_out(
    arms: Sequence[Arm], *, classes: int, examples: int, batch_norms: bool, adaptable: bool, unprobed: bool = False
) -> tuple[str, ...]:
    """Which known strategies a comparison does without, and why; `unprobed` where no probe can start the new head."""
    known = {arm.baseline for arm in arms}
    reasons = {
        "attention_probe": "no cut has features at several positions",
        "lora": "the library peft is not installed, or no layer can have an adapter" if not adaptable else "",
        "statistics_refresh": "" if batch_norms else "the network has no batch norms",
        "plain_loop": (
            f"{examples} examples of {classes} classes are too few for statistics of a batch"
            if batch_norms and examples < PER_CLASS * classes
            else ""
            if batch_norms
            else "without batch norms it is full fine-tuning at one rate"
        ),
        **(UNPROBED if unprobed else {}),
    }
    few = "the network has too few cuts, or another strategy is the same there"
    return tuple(
        f"{name.replace('_', ' ')} is not among the strategies: {reasons.get(name) or few}"
        for name in KNOWN
        if name not in known
    )


Named = tuple[str, str, Plan]  # the known name, the arm's own, what it does


def _rates(of: Plan) -> tuple[float, ...]:
    return (of.recipe.lr,) if of.closed else grid(of.recipe.lr)


def _extractors(layers: Sequence[Layer], evidence: Sequence[Evidence], recipe: Recipe) -> Iterator[Named]:
    """Everything kept is frozen, and new layers read it: the last cut, the best one, several side by side."""
    last, best = max(e.cut.depth for e in evidence), best_probe(evidence)
    for known, depth in (("linear_probe", last), ("best_probe", best)):
        above = "tune" if depth == len(layers) else "drop"
        yield known, f"linear_probe@{depth}", plan(layers, recipe, keep=depth, freeze=depth, above=above)
    cuts = {cut_near(layers, share) for share in (0.25, 0.5, 0.75)} if inner_cuts(layers) else ()
    if cuts:
        head = Head(cuts=tuple(sorted(cuts)))
        yield "multi_layer_probe", "multi_layer_probe", plan(layers, recipe, freeze=len(layers), head=head)
    yield "mlp_probe", "mlp_probe", plan(layers, recipe, freeze=len(layers), head=Head("mlp"))
    many = [e.cut.depth for e in evidence if e.cut.depth and _positions(layers[e.cut.depth - 1], e.features) > 1]
    if many:  # some networks pool in their last layer
        depth, head = max(many), Head("attention")
        above = "tune" if depth == len(layers) else "drop"
        yield (
            "attention_probe",
            "attention_probe",
            plan(layers, recipe, keep=depth, freeze=depth, above=above, head=head),
        )


def _positions(layer: Layer, features: int) -> int:
    """At how many places a layer hands on its features; 0 where several tensors do."""
    return prod(layer.shape) // features if features in layer.shape else 0


def _initialisers(layers: Sequence[Layer], recipe: Recipe, fisher: Sequence[float] | None) -> Iterator[Named]:
    """Everything kept is where learning starts."""
    yield "full_finetune", "full_finetune", plan(layers, recipe, head=Head(start="random"))
    yield "lp_ft", "lp_ft", plan(layers, recipe)
    yield "gradual_unfreezing", "gradual", gradual(layers, recipe)
    if fisher is not None:
        order = sorted(range(len(layers)), key=lambda index: (-fisher[index], -index))
        yield "fisher_unfreezing", "fisher_gradual", gradual(layers, recipe, order=order)
    yield "layer_decay", "layer_decay", plan(layers, replace(recipe, layer_decay=DECAY))
    yield "l2_sp", "l2_sp", plan(layers, replace(recipe, anchor=ANCHOR))
    yield "wise_ft", "wise_ft", plan(layers, recipe, blend=BLEND)


def _partial(layers: Sequence[Layer], evidence: Sequence[Evidence], recipe: Recipe) -> Iterator[Named]:
    """Some layers stand still, learn alone, are dropped or begin anew."""
    inner, fresh = inner_cuts(layers), Head(start="random")
    if not inner:
        return
    half = cut_near(layers, 0.5)
    yield "stem_frozen", f"freeze@{inner[0]}", plan(layers, recipe, freeze=inner[0])
    yield "half_frozen", f"freeze@{half}", plan(layers, recipe, freeze=half)
    yield "last_block", f"freeze@{inner[-1]}", plan(layers, recipe, freeze=inner[-1])
    first = tuple(i < inner[min(1, len(inner) - 1)] for i in range(len(layers)))  # the stem alone is no block
    yield "surgical", "first_block", plan(layers, recipe, train=first)
    peak = best_probe(evidence)
    cut = peak if peak in inner else inner[-1]
    yield "truncation", f"drop@{cut}", plan(layers, recipe, keep=cut, above="drop")
    yield "reinitialisation", f"reinit@{cut}", plan(layers, recipe, keep=cut, above="reinit", head=fresh)


def _normalised(layers: Sequence[Layer], recipe: Recipe, *, enough: bool) -> Iterator[Named]:
    """Batch norms measured anew on the target before anything learns, or following the batches as a plain loop's do."""
    still = tuple(False for _ in layers)
    refreshed = plan(layers, recipe, train=still, statistics="reestimate", head=Head(start="random"))
    yield "statistics_refresh", "statistics_refresh", refreshed
    if enough:
        yield "plain_loop", "batch_statistics", plain_loop(layers, recipe)
