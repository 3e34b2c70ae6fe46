"""Fine-tuning distorts features outside of what it sees (Kumar et al., ICLR 2022, arXiv:2202.10054), in two layers.

A linear network reads five features of 36 inputs; its source knows them but for an error. The target is a function of
the true features. Its forty examples lie in a subspace of eight dimensions, where fine-tuning from a new head bends the
features and nowhere else: outside of the subspace they no longer fit. A head that starts at the probe's keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.truth.planted import SIDE, STEP, WIDTH
from benchmarks.truth.world import Pictures, reads, trained
from frostline.plan import plan
from frostline.values import Arm, Head, Layer, Recipe

FEATURES, INSIDE, CLASSES, LEARN, JUDGE = 5, 8, 4, 40, 600
RECIPE = Recipe(60, 3e-3, batch=8, kept_lr=1.0, weight_decay=0.0)
RATES = (1e-3, 3e-3, 1e-2)


class Linear(nn.Module):
    """Features of a small grey picture, and a head."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.default_cfg = reads(SIDE, CLASSES, std=STEP)
        self.features = nn.Linear(WIDTH, FEATURES, bias=False)
        self.head = nn.Linear(FEATURES, CLASSES)
        with torch.no_grad():
            self.features.weight.copy_(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.flatten(1)))


def arms(layers: Sequence[Layer]) -> Iterator[Arm]:
    """The probe, fine-tuning from its head, and fine-tuning from a new one."""
    yield Arm("probe", plan(layers, RECIPE, freeze=len(layers)), RATES[1:2])
    yield Arm("probe, then fine-tuning", plan(layers, RECIPE), RATES)
    yield Arm("fine-tuning", plan(layers, RECIPE, head=Head(start="random")), RATES)


def accuracies(error: float, seed: int) -> dict[str, tuple[float, float]]:
    """Of each arm at the rate that selects best inside, on further examples inside and outside of the subspace."""
    rng = np.random.default_rng(seed)
    true = np.linalg.qr(rng.normal(size=(WIDTH, FEATURES)))[0].T
    plane = np.linalg.qr(rng.normal(size=(WIDTH, INSIDE)))[0].T
    head = rng.normal(size=(CLASSES, FEATURES))
    noise = rng.normal(size=true.shape) / np.sqrt(WIDTH)
    source = Linear(torch.from_numpy(true + error * noise))

    def pictures(x: NDArray[np.float64]) -> Pictures:
        pixels = np.clip(np.round(127.5 + 255 * STEP * x), 0, 255).astype(np.uint8)
        seen = (pixels / 255 - 0.5) / STEP
        return Pictures(pixels.reshape(-1, SIDE, SIDE), (seen @ true.T @ head.T).argmax(axis=1))

    def within(count: int) -> Pictures:
        return pictures(rng.normal(size=(count, INSIDE)) @ plane * np.sqrt(WIDTH / INSIDE))

    learn, select, near = within(LEARN), within(JUDGE), within(JUDGE)
    parts = (select, near, pictures(rng.normal(size=(JUDGE, WIDTH))))
    judge = Pictures(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))
    found: dict[str, list[tuple[float, ...]]] = {}
    for outcome in trained(learn, judge, source, arms, seeds=(seed,), batch_size=8).outcomes:
        right = outcome.log_probabilities.argmax(axis=1) == judge.labels
        found.setdefault(outcome.unit.arm, []).append(tuple(float(part.mean()) for part in np.split(right, 3)))
    best = {name: max(rows, key=lambda row: row[0]) for name, rows in found.items()}
    return {name: (inside, outside) for name, (_, inside, outside) in best.items()}
