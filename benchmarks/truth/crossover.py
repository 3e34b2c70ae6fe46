"""What more examples change: what was learned elsewhere is worth less, and fewer layers are worth freezing.

A source knows some prototypes; the target's lie near them. From sixty examples to nearly four thousand, what is frozen,
kept or begun anew is trained for about as many steps, and judged by the same examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.predictions import Predictions
from benchmarks.truth.surgical import LAYERS, STEP, Mlp, drawn
from benchmarks.truth.world import joined, taught, trained
from frostline.plan import plan
from frostline.values import Arm, Head, Layer, Recipe

SEEDS, JUDGE = 5, 1600
EPOCHS = {60: 60, 240: 60, 960: 30, 3840: 20}  # by the number of examples
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
ANGLE = 0.4  # radians between a prototype of the source and of the target


def made(seed: int) -> dict[str, Predictions]:
    """A table for each number of examples."""
    module = taught(Mlp(seed), drawn(6000, 900 + seed), epochs=30, seed=seed, mean=0.5, std=STEP)
    judge = drawn(JUDGE, 5000, ANGLE)

    def arms(layers: Sequence[Layer]) -> Iterator[Arm]:
        for f in range(LAYERS):
            yield Arm(f"freeze@{f}", plan(layers, recipe, freeze=f), RATES)
        yield Arm("probe", plan(layers, recipe, freeze=LAYERS), RATES[1:2])
        yield Arm("scratch", plan(layers, recipe, keep=0, above="reinit", head=Head(start="random")), RATES)

    tables = dict[str, Predictions]()
    for count, epochs in EPOCHS.items():
        recipe = Recipe(epochs, RATES[1], batch=32, kept_lr=1.0)
        found = trained(drawn(count, 10 * seed + 3, ANGLE), judge, module, arms, seeds=(seed,), batch_size=32)
        tables[f"crossover-{count}"] = joined([found], {"epochs": epochs, "train": count})
    return tables
