"""Many trainings of a few arms of one task, with what they predicted: the world that simulated races are played in.

The task is a planted one (see `planted.py`), where arms differ by points; one arm has so many trainings with different
seeds that a race can be played among copies of it, none of which is better than another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.predictions import Predictions
from benchmarks.truth.planted import EPOCHS, LAYERS, SIZES, drawn, task
from benchmarks.truth.world import joined, trained
from frostline.plan import plan
from frostline.search.arms import grid
from frostline.values import Arm, Head, Layer, Recipe

DEPTH, POOL, TRAININGS, COPIES = 3, 3000, 8, 96
SEEDS = 1  # of the task


def arms(layers: Sequence[Layer]) -> Iterator[Arm]:
    """Strategies as `find` proposes them, each at three rates."""
    recipe, fresh = Recipe(EPOCHS, 1e-3), Head(start="random")
    rates = grid(recipe.lr)
    yield Arm("full_finetune", plan(layers, recipe, head=fresh), rates)
    yield Arm("layer_decay", plan(layers, replace(recipe, layer_decay=0.7)), rates)
    for f in range(LAYERS):
        yield Arm(f"freeze@{f}", plan(layers, recipe, freeze=f), rates)
    for k in range(2, LAYERS):
        yield Arm(f"reinit@{k}", plan(layers, recipe, keep=k, freeze=1, above="reinit", head=fresh), rates)
        yield Arm(f"drop@{k}", plan(layers, recipe, keep=k, freeze=1, above="drop"), rates)
    yield Arm("probe", plan(layers, recipe, freeze=LAYERS), rates[1:2])


def copies(layers: Sequence[Layer]) -> Iterator[Arm]:
    """The one arm that races among equals are played with, at one rate."""
    yield Arm("equal", plan(layers, Recipe(EPOCHS, 1e-3), head=Head(start="random")), (1e-3,))


def made(seed: int) -> dict[str, Predictions]:
    """One table."""
    source, labels = task(DEPTH, seed)
    learn, judge = drawn(SIZES["train"], labels, seed), drawn(POOL, labels, seed + 1)
    parts = [
        trained(learn, judge, source, arms, seeds=range(TRAININGS)),
        trained(learn, judge, source, copies, seeds=range(COPIES)),
    ]
    return {"bank": joined(parts, {"planted": DEPTH, "epochs": EPOCHS})}
