"""A small real network with all that makes training from a cut hard, and a bench laid for it.

Its blocks hold batch norms with statistics of their own and dropout; the residual add lies outside of their modules.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.bench.bench import Bench, Source
from frostline.bench.lay import lay
from frostline.plan import plan
from frostline.settings import settings
from frostline.training.device import Device, accelerator
from frostline.values import Arm, Backbone, Calibration, Head, Plan, Recipe, Unit, Way

WIDTH, CLASSES = 8, 3
DEVICE = os.environ.get("FROSTLINE_TEST_DEVICE", "cpu")  # where the laws of training are tested: cuda, on a GPU
WAY = Way(graphs=DEVICE == "cuda")
CALIBRATION = Calibration(
    forward=(1e-2,) * 4,  # slow layers, so that storing pays at every depth
    backward=(2e-2,) * 4,
    carry=(1e-2,) * 4,
    read={"memory": 1e10, "disk": 1e9},
    write={"memory": 1e10, "disk": 1e9},
    decode=1e-3,
    batch=16,
    device=DEVICE,
    macs_per_second=1e9,
)


class Block(nn.Module):
    """A residual block with batch norms and dropout; no bias before a norm, where its gradient is rounding alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(WIDTH)
        self.drop = nn.Dropout(0.2)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.drop(self.norm1(self.conv1(x)).relu())
        return (self.norm2(self.conv2(inner)) + x).relu()


class Small(nn.Module):
    """A stem, three blocks and a head; reads pictures of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.default_cfg = {
            "input_size": (3, 8, 8),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": 4,
            "classifier": "head",
        }
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.head = nn.Linear(WIDTH, 4)
        for name, tensor in self.named_buffers():
            if name.endswith("running_mean"):
                nn.init.normal_(tensor, 0.0, 0.2)
            elif name.endswith("running_var"):
                nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def small() -> nn.Module:
    """The factory that `frostline find --backbone stage.py:small` would name."""
    return Small()


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> Backbone:
    """The network at a precision, with a way to begin it anew."""

    def fresh(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Small().to(dtype).eval()

    data = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return Backbone("small", fresh(seed), {"x": data}, "x", None, "none", fresh)


def anatomy(backbone: Backbone) -> Anatomy:
    """Its four layers, each of them a cut."""
    found = dissect(backbone)
    assert [layer.name for layer in found.layers] == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert all(layer.cut for layer in found.layers)
    return found


def cpu() -> Device:
    return accelerator("cpu")


def device() -> Device:
    """Where the laws of training are tested."""
    return accelerator(DEVICE)


def pictures(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy pictures of three classes, each brighter in another channel."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % CLASSES
    found = rng.integers(0, 150, (count, 8, 8, 3))
    found[np.arange(count), :, :, targets] += 14
    return found.astype(np.uint8), targets


def bench(
    folder: Path | None,
    *,
    count: int = 48,
    data: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    way: Way | None = None,
    **given: Any,
) -> Bench:
    """A bench on which everything is stored; `given` are further settings."""
    wanted = {"data": "arrays", "backbone": f"{__file__}:small", "weights": "none", "device": DEVICE, "threads": 1}
    resolved = settings({**wanted, "batch_size": 8, "epochs": 2, **given})
    calibration = replace(CALIBRATION, way=replace(way, graphs=WAY.graphs) if way else WAY)
    return lay(resolved, Source(data=data or pictures(count)), folder=folder, calibration=calibration)


def arm(bench: Bench, name: str = "arm", *, recipe: Recipe | None = None, start: str = "probe", **given: Any) -> Arm:
    """An arm with one rate; `given` go to `plan`."""
    recipe = recipe or Recipe(epochs=2, lr=1e-2, batch=8)
    head = Head(start="random" if start == "random" else "probe")
    return Arm(name, plan(bench.anatomy.layers, recipe, head=head, **given), (recipe.lr,))


def unit(arm: Arm, *, fold: int = 0, seed: int = 0) -> Unit:
    return Unit(arm.id, arm.plan.recipe.lr, 1, fold, seed, arm.plan.recipe.epochs)


def frozen_names(plan: Plan) -> list[str]:
    """Parameters and buffers that must not move."""
    return [name for layer in plan.layers[: plan.freeze] for name in layer.members]
