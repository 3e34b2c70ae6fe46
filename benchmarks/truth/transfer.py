"""What Yosinski et al. measured (2014), in small: how transferable the layers of a network are, and what distance does.

A network of six blocks learns to tell eight shapes, whatever their texture (A). It is transferred to eight other
shapes (B, similar) and to the textures of the same pictures (B, dissimilar): its first k blocks frozen under new ones,
the same learning on, everything else. Beside it stand a network that learned B itself, one that learned nothing, and
training from scratch for as long and for twice as long. Everything is repeated with other pictures and other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.predictions import Predictions
from benchmarks.truth.world import Pictures, joined, reads, taught, trained
from frostline.plan import plan
from frostline.values import Arm, Head, Layer, Recipe

SIDE, MEAN, STD = 20, 0.35, 0.25
BLOCKS, EPOCHS, SEEDS = 6, 20, 5
LEARN, JUDGE, SOURCE = 400, 800, 4000
RATES = (3e-3, 1e-2)
KINDS = 8  # of shapes and of textures in a task
FRESH = Head(start="random")


class Six(nn.Module):
    """Six convolutional blocks and a head, over grey pictures."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.default_cfg = reads(SIDE, KINDS, mean=MEAN, std=STD)
        widths, strides = (1, 16, 16, 24, 24, 32, 32), (1, 2, 1, 2, 1, 1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.blocks = nn.Sequential(*map(block, widths, widths[1:], strides))
            self.head = nn.Linear(widths[-1], KINDS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


def block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A convolution with its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def shape(kind: int, x: NDArray[np.float64], y: NDArray[np.float64], r: float) -> NDArray[np.bool_]:
    """Which points lie in a shape of radius r about the origin; y runs downwards."""
    far, box, thin = np.hypot(x, y), np.maximum(abs(x), abs(y)), 1.2
    return (
        far < r,
        abs(far - r) < thin,
        box < 0.85 * r,
        abs(box - 0.85 * r) < thin,
        abs(x) + abs(y) < 1.2 * r,
        ((abs(x) < thin) | (abs(y) < thin)) & (box < r),
        (abs(abs(x) - abs(y)) < thin) & (box < r),
        (abs(y) < 1.6) & (abs(x) < r),
        (abs(x) < 1.6) & (abs(y) < r),
        (y + r > 2 * abs(x)) & (y < 0.7 * r),
        (r - y > 2 * abs(x)) & (y > -0.7 * r),
        ((abs(x + 0.6 * r) < thin) & (abs(y) < r)) | ((abs(y - 0.8 * r) < thin) & (abs(x) < 0.7 * r)),
        ((abs(x) < thin) & (abs(y) < r)) | ((abs(y + 0.8 * r) < thin) & (abs(x) < 0.8 * r)),
        ((abs(abs(x) - 0.7 * r) < thin) & (abs(y) < r)) | ((abs(y - 0.8 * r) < thin) & (abs(x) < 0.7 * r)),
        np.minimum(np.hypot(x - 0.6 * r, y), np.hypot(x + 0.6 * r, y)) < 0.45 * r,
        (far < r) & (y < 0),
    )[kind]


def texture(kind: int, x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Brightness between 0 and 1 at points, with a random phase."""
    shift = rng.uniform(0, 4)

    def waves(along: NDArray[np.float64]) -> NDArray[np.float64]:
        return (np.sin((along + shift) * 2 * np.pi / 4) > 0).astype(float)

    return (
        lambda: np.full(x.shape, 0.6),
        lambda: waves(x),
        lambda: waves(y),
        lambda: waves((x + y) / np.sqrt(2)),
        lambda: waves((x - y) / np.sqrt(2)),
        lambda: abs(waves(x) - waves(y)),
        lambda: waves(x) * waves(y),
        lambda: rng.uniform(size=x.shape),
    )[kind]()


def drawn(count: int, shapes: Sequence[int], by: str, seed: int) -> Pictures:
    """Textured shapes somewhere on noise, labelled by their place in `shapes` or by their texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(float)
    pixels, labels = np.empty((count, SIDE, SIDE), np.uint8), np.empty(count, np.int64)
    for number in range(count):
        first, second = number % KINDS, int(rng.integers(KINDS))
        kind, filled = (first, second) if by == "shape" else (second, first)
        r = rng.uniform(5, 7.5)
        x, y = columns - rng.uniform(r, SIDE - 1 - r), rows - rng.uniform(r, SIDE - 1 - r)
        inside = shape(shapes[kind], x, y, r)
        bright = np.where(inside, 0.3 + 0.6 * texture(filled, x, y, rng), 0.2) + rng.normal(0, 0.12, x.shape)
        pixels[number] = np.clip(255 * bright, 0, 255)
        labels[number] = first
    return Pictures(pixels, labels)


def recipe() -> Recipe:
    """Kept layers learn as fast as new ones, as in the paper; what decides is the rate, which is tuned."""
    return Recipe(EPOCHS, RATES[0], kept_lr=1.0)


def under_new(layers: Sequence[Layer], *, frozen: bool) -> Iterator[Arm]:
    """The first k blocks kept, frozen or learning, under new ones."""
    for k in range(1, BLOCKS + 1):
        above = "tune" if k == BLOCKS else "reinit"
        held = plan(layers, recipe(), keep=k, freeze=k if frozen else 0, above=above, head=FRESH)
        yield Arm(f"{'frozen' if frozen else 'tuned'}@{k}", held, RATES)


def strategies(layers: Sequence[Layer]) -> Iterator[Arm]:
    """What a search chooses among: probes, and all layers kept with the first f of them frozen."""
    for k in range(1, BLOCKS + 1):
        above = "tune" if k == BLOCKS else "drop"
        yield Arm(f"probe@{k}", plan(layers, recipe(), keep=k, freeze=k, above=above), RATES[:1])
    for f in range(BLOCKS):
        yield Arm(f"freeze@{f}", plan(layers, replace(recipe(), kept_lr=0.3), freeze=f), RATES)


def all_of(layers: Sequence[Layer]) -> Iterator[Arm]:
    """Every way to use a network that knows something."""
    yield from under_new(layers, frozen=True)
    yield from under_new(layers, frozen=False)
    yield from strategies(layers)


def scratch(layers: Sequence[Layer]) -> Iterator[Arm]:
    """Nothing kept, as long as the others and twice as long."""
    for times, name in ((1, "scratch"), (2, "scratch-longer")):
        longer = replace(recipe(), epochs=times * EPOCHS)
        yield Arm(name, plan(layers, longer, keep=0, above="reinit", head=FRESH, statistics="batch"), RATES)


def half(layers: Sequence[Layer]) -> Iterator[Arm]:
    """Those of a network that learned the task itself."""
    yield from under_new(layers, frozen=True)
    yield from under_new(layers, frozen=False)


def made(seed: int) -> dict[str, Predictions]:
    """One table for the similar target, one for the dissimilar one."""
    theirs, ours = range(0, 16, 2), range(1, 16, 2)
    known = taught(Six(seed), drawn(SOURCE, theirs, "shape", seed + 100), epochs=20, seed=seed, mean=MEAN, std=STD)
    tables = dict[str, Predictions]()
    for target, by in (("similar", "shape"), ("dissimilar", "texture")):
        learn, judge = drawn(LEARN, ours, by, seed + 200), drawn(JUDGE, ours, by, 999)
        own = taught(Six(seed + 50), learn, epochs=2 * EPOCHS, seed=seed, mean=MEAN, std=STD)
        sources: list[tuple[str, nn.Module, Callable[[Sequence[Layer]], Iterable[Arm]]]] = [
            ("", known, all_of), ("self-", own, half), ("random-", Six(seed + 70), frozen), ("", known, scratch),
        ]  # fmt: skip
        parts = [trained(learn, judge, module, arms, prefix=prefix, seeds=(seed,)) for prefix, module, arms in sources]
        tables[f"transfer-{target}"] = joined(parts, {"epochs": EPOCHS, "train": LEARN})
    return tables


def frozen(layers: Sequence[Layer]) -> Iterator[Arm]:
    """Those of a network that learned nothing."""
    return under_new(layers, frozen=True)
