"""Networks that saw few classes or many, the right labels or random ones: when the last layers are better left behind.

A hidden point of eight numbers is seen through a fixed random network, as a small grey picture; classes are what lies
nearest to which of some centres. A source of ten layers that told four classes apart squeezes everything else out of
its last layers (the tunnel of Masarczyk et al., NeurIPS 2023, arXiv:2305.19753), one that told forty apart does not
(Harun et al., NeurIPS 2024, arXiv:2405.14469). One that learned forty classes dealt out at random kept something of the
inputs in its first layers and its mistakes in the last ones (Maennel et al., NeurIPS 2020, arXiv:2006.10455), and one
of which the weights of the last three layers changed places lost what these knew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.predictions import Predictions
from benchmarks.truth.world import Pictures, joined, reads, taught, trained
from frostline.plan import plan
from frostline.values import Arm, Head, Layer, Recipe

SIDE, WIDTH, DEPTH, HIDDEN = 6, 64, 10, 4
STEP, SPOILT = 36 / 255, 3  # layers that are spoilt
FEW, MANY, NEW, EACH = 4, 40, 4, 4  # classes of the sources and of the target, and centres of each of the latter
SEEDS, EPOCHS, LEARN, JUDGE, SOURCE = 5, 30, 300, 1200, 16000
RECIPE = Recipe(EPOCHS, 1e-3, batch=16, kept_lr=1.0)
RATES = (3e-4, 1e-3, 3e-3)


class Deep(nn.Module):
    """Ten hidden layers over a small grey picture."""

    def __init__(self, seed: int, classes: int) -> None:
        super().__init__()
        self.default_cfg = reads(SIDE, classes, std=STEP)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = [SIDE * SIDE, *[WIDTH] * DEPTH]
            self.blocks = nn.Sequential(*(layer(*pair) for pair in pairwise(widths)))
            self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x.flatten(1)))


def layer(inputs: int, outputs: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


def seen(points: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Hidden points as pictures, by a network of two layers that is the same for all."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(HIDDEN, 48)) / np.sqrt(HIDDEN), rng.normal(size=(48, SIDE * SIDE)) / np.sqrt(48)
    x = np.sin(3.0 * points @ first) @ second * np.sqrt(2)
    return np.clip(np.round(127.5 + 255 * STEP * x), 0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE)


def drawn(count: int, classes: int, seed: int, *, which: int, each: int = 1, chance: bool = False) -> Pictures:
    """Pictures of classes of so many centres each; `which` names the set, by `chance` labels are dealt at random."""
    rng = np.random.default_rng([seed, 3])
    centres = np.random.default_rng([which, 4]).normal(size=(each * classes, HIDDEN))
    points = rng.normal(size=(count, HIDDEN))
    labels = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1) % classes
    return Pictures(seen(points), rng.integers(classes, size=count) if chance else labels)


def shuffled(module: Deep, seed: int) -> Deep:
    """The network after the numbers of each of its last three layers changed places among each other."""
    found = deepcopy(module)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in found.blocks[-SPOILT:].state_dict().values():
            values.copy_(values.flatten()[torch.randperm(values.numel(), generator=draw)].view_as(values))
    return found


def probes(layers: Sequence[Layer]) -> Iterator[Arm]:
    """A probe at every depth."""
    for k in range(1, DEPTH + 1):
        yield Arm(
            f"probe@{k}", plan(layers, RECIPE, keep=k, freeze=k, above="tune" if k == DEPTH else "drop"), RATES[1:2]
        )


def ways(layers: Sequence[Layer]) -> Iterator[Arm]:
    """Probes, and learning on with all layers, with some begun anew, and with some dropped."""
    yield from probes(layers)
    fresh = Head(start="random")
    yield Arm("full_finetune", plan(layers, RECIPE, head=fresh), RATES)
    yield Arm("lp_ft", plan(layers, RECIPE), RATES)
    scratch = replace(RECIPE, epochs=2 * EPOCHS)
    yield Arm("scratch", plan(layers, scratch, keep=0, above="reinit", head=fresh, statistics="batch"), RATES)
    for k in range(1, DEPTH, 2):
        yield Arm(f"reinit@{k}", plan(layers, RECIPE, keep=k, above="reinit", head=fresh, statistics="batch"), RATES)
        yield Arm(f"drop@{k}", plan(layers, RECIPE, keep=k, above="drop"), RATES)


def made(seed: int) -> dict[str, Predictions]:
    """For each source a table on new classes; of the source that saw few classes one on these, too."""

    def source(classes: int) -> Deep:
        return taught(Deep(seed, classes), drawn(SOURCE, classes, 100 + seed, which=classes), epochs=12, **learning)

    learning = {"seed": seed, "mean": 0.5, "std": STEP}
    few, many = source(FEW), source(MANY)
    dealt = drawn(SOURCE // 8, MANY, 100 + seed, which=MANY, chance=True)
    learn, judge = (drawn(n, NEW, at, which=1, each=EACH) for n, at in ((LEARN, 10 + seed), (JUDGE, 999)))
    own = [drawn(n, FEW, at, which=FEW) for n, at in ((LEARN, 10 + seed), (JUDGE, 999))]
    found = {
        "few-own": trained(own[0], own[1], few, probes, seeds=(seed,)),
        "few": trained(learn, judge, few, probes, seeds=(seed,)),
        "many": trained(learn, judge, many, probes, seeds=(seed,)),
        "shuffled": trained(learn, judge, shuffled(many, seed), probes, seeds=(seed,)),
        "random": trained(learn, judge, taught(Deep(seed, MANY), dealt, epochs=96, **learning), ways, seeds=(seed,)),
    }
    return {f"crowd-{name}": joined([part], {"epochs": EPOCHS}) for name, part in found.items()}
