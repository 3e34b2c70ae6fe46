"""Which layer to tune depends on what changed (Lee et al., ICLR 2023, arXiv:2210.11466), on three hidden layers.

A network learns a task of five classes well. Then the classes change places: its features are right and nothing but the
head is to learn. Or every input is scaled and moved: the first layer can undo that. Or one layer of the network is
spoilt: that layer, or one beside it, can mend it. All arms learn a new head; they differ in what learns with it.

And a first layer with outsized gradients (Kumar et al. 2022, arXiv:2211.09359): under SGD it is better frozen, while
Adam does not mind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.predictions import Predictions
from benchmarks.truth.world import Pictures, joined, reads, taught, trained
from frostline.plan import plan
from frostline.values import Arm, Head, Layer, Recipe

SIDE, WIDTH, CLASSES, LAYERS, PROTOTYPES = 5, 48, 5, 3, 3
SEEDS, EPOCHS, JUDGE, STEP = 5, 60, 1200, 36 / 255
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
RECIPE = Recipe(EPOCHS, RATES[1], batch=16, kept_lr=1.0)
SGD = replace(RECIPE, optimiser="sgd")
SCALE = 10**0.5  # of the first layer's input, its weights divided by it: ten times the gradient for its weight


class Mlp(nn.Module):
    """Three hidden layers over a small grey picture."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.default_cfg = reads(SIDE, CLASSES, std=STEP)
        widths = (SIDE * SIDE, *[WIDTH] * LAYERS)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            blocks = [nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairwise(widths)]
            self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x.flatten(1)))


class Steep(Mlp):
    """The same function, with a first layer whose gradients are large for its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(SCALE * x)


def steep(source: Mlp) -> Steep:
    """The source as such a network."""
    found = Steep(0)
    found.load_state_dict(source.state_dict())
    with torch.no_grad():
        found.blocks[0][0].weight /= SCALE
    return found


def drawn(count: int, seed: int, angle: float = 0.0) -> Pictures:
    """Grey pictures of independent normal values; the class is that of the nearest of its three prototypes.

    The prototypes are unit vectors, turned by an angle (radians) away from the source's, each in its own direction.
    """
    size = (CLASSES * PROTOTYPES, SIDE * SIDE)
    theirs, away = (np.random.default_rng(number).normal(size=size) for number in (77, 78))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    away -= (away * theirs).sum(axis=1, keepdims=True) * theirs
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    prototypes = np.cos(angle) * theirs + np.sin(angle) * away
    rng = np.random.default_rng([seed, 1])
    pixels = np.clip(np.round(127.5 + 255 * STEP * rng.normal(size=(count, SIDE * SIDE))), 0, 255).astype(np.uint8)
    labels = ((pixels / 255 - 0.5) @ prototypes.T).argmax(axis=1) // PROTOTYPES
    return Pictures(pixels.reshape(-1, SIDE, SIDE), labels)


def moved(pictures: Pictures, seed: int) -> Pictures:
    """Every input scaled and moved, each in its own measure."""
    rng = np.random.default_rng(seed)
    gain, offset = np.exp(rng.normal(0, 0.5, (SIDE, SIDE))), rng.normal(0, 30, (SIDE, SIDE))
    pixels = np.clip(np.round(127.5 + gain * (pictures.pixels - 127.5) + offset), 0, 255)
    return replace(pictures, pixels=pixels.astype(np.uint8))


def spoilt(module: Mlp, at: int, seed: int) -> Mlp:
    """The network with noise as large as the weights of one layer added to them."""
    found = deepcopy(module)
    weight = found.blocks[at][0].weight
    with torch.no_grad():
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight += weight.std() * noise
    return found


def arms(layers: Sequence[Layer]) -> Iterator[Arm]:
    """The head alone, each layer alone with it, all layers, and all from a new head."""
    yield Arm("head", plan(layers, RECIPE, freeze=len(layers)), RATES[1:2])
    for at in range(len(layers)):
        only = tuple(i == at for i in range(len(layers)))
        yield Arm(f"only@{at}", plan(layers, RECIPE, freeze=at, train=only), RATES)
    yield Arm("all", plan(layers, RECIPE), RATES)
    yield Arm("all, new head", plan(layers, RECIPE, head=Head(start="random")), RATES)


def stems(layers: Sequence[Layer]) -> Iterator[Arm]:
    """All layers or all but the first, by either optimiser, at rates that suit it."""
    for recipe, rates in ((RECIPE, RATES), (SGD, tuple(30 * rate for rate in RATES))):
        for freeze in (0, 1):
            own = replace(recipe, lr=rates[1])
            yield Arm(f"{recipe.optimiser}, freeze@{freeze}", plan(layers, own, freeze=freeze), rates)


def permuted(pictures: Pictures) -> Pictures:
    """The classes have changed places."""
    return replace(pictures, labels=np.roll(np.arange(CLASSES), 2)[pictures.labels])


def made(seed: int) -> dict[str, Predictions]:
    """A table for each change, and one for the first layer's gradients."""
    judge = drawn(JUDGE, 5000)
    module = taught(Mlp(seed), drawn(6000, 900 + seed), epochs=30, seed=seed, mean=0.5, std=STEP)
    few, more = drawn(100, 10 * seed + 1), drawn(400, 10 * seed + 2)
    tasks: list[tuple[str, Mlp, Pictures, Pictures, Callable[[Sequence[Layer]], Iterable[Arm]]]] = [
        ("permuted", module, permuted(few), permuted(judge), arms),
        ("moved", module, moved(more, 4), moved(judge, 4), arms),
        *((f"spoilt-{at}", spoilt(module, at, 20 + at), few, judge, arms) for at in range(LAYERS)),
        ("steep", steep(spoilt(module, 1, 40)), more, judge, stems),
    ]
    return {
        f"surgical-{name}": joined([trained(learn, seen, network, tried, seeds=(seed,))], {"epochs": EPOCHS})
        for name, network, learn, seen, tried in tasks
    }
