"""What the truth tests share: a data set on disk, a network that learned something, every arm trained on the engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F

from benchmarks.predictions import Predictions, gathered
from frostline.backbones.cuts import dissect
from frostline.bench.bench import Source
from frostline.bench.lay import backbone_of, lay
from frostline.bench.unit import perform
from frostline.run import terms
from frostline.search.arms import exact
from frostline.settings import settings
from frostline.values import Arm, Calibration, Cost, Layer, Outcome, Unit

M = TypeVar("M", bound=nn.Module)
TABLES = Path(__file__).with_name("tables")
SELECTING = 4  # every fourth example that is judged by serves to select, the others say the truth


@dataclass(frozen=True, eq=False)
class Pictures:
    """Grey pictures, n x height x width of 0..255, and their classes."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def laid(self, folder: Path) -> None:
        """One file a picture, in a folder a class; names are in the order of the pictures."""
        for number, (pixels, label) in enumerate(zip(self.pixels, self.labels, strict=True)):
            place = folder / f"class-{label:02d}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:06d}.png")


def reads(side: int, classes: int, *, mean: float = 0.5, std: float) -> dict[str, Any]:
    """The `default_cfg` of a network that reads square grey pictures."""
    return {
        "input_size": (1, side, side), "mean": (mean,), "std": (std,), "crop_pct": 1.0,
        "interpolation": "nearest", "num_classes": classes, "classifier": "head",
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trained:
    """Arms trained on one bench, under the names that they have in the table."""

    arms: Mapping[str, tuple[Arm, Cost]]
    outcomes: Sequence[Outcome]
    targets: NDArray[np.int64]  # of the examples that were judged by
    layers: Sequence[Layer]


def trained(
    learn: Pictures,
    judge: Pictures,
    module: nn.Module,
    arms: Callable[[Sequence[Layer]], Iterable[Arm]],
    *,
    prefix: str = "",
    seeds: Sequence[int] = (0,),
    **options: Any,
) -> Trained:
    """Every arm at all its rates with all seeds, from the store and by the loop that `find` uses.

    What is predicted stands in the order of the pictures to judge by.
    Costs are modelled as if all layers cost the same, and storing always paid: so they are the same on any machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        learn.laid(Path(folder) / "train")
        judge.laid(Path(folder) / "validation")
        # nobody reads a test part; without one, some of the others would be set aside
        places = np.concatenate([np.flatnonzero(learn.labels == label)[:2] for label in np.unique(learn.labels)])
        Pictures(255 - learn.pixels[places], learn.labels[places]).laid(Path(folder) / "test")
        size = learn.pixels.shape[1]
        given = {"device": "cpu", "threads": 1, "workers": 1, "image_size": size, **options}
        resolved = settings({"data": folder, "backbone": "given", **given})
        source = Source(module=module)
        depth = len(dissect(backbone_of(resolved, source)).layers)
        bench = lay(resolved, source, calibration=_even(depth))
        found = [replace(arm, id=prefix + arm.id) for arm in arms(bench.anatomy.layers)]
        units = [
            (arm, Unit(arm.id, rate, 1, 0, seed, arm.plan.recipe.epochs))
            for arm in found
            for rate in arm.rates
            for seed in (seeds[:1] if exact(arm) else seeds)
        ]
        done = [perform(bench, arm, unit) for arm, unit in units]
    names = [bench.examples.ids[row].rpartition("/")[2] for row in done[0].rows]
    order, rows = np.argsort(names), np.arange(len(names))
    told = [replace(o, rows=rows, log_probabilities=o.log_probabilities[order]) for o in done]
    costs = {arm.id: (arm, terms.cost_of(bench, arm.plan)) for arm in found}
    return Trained(costs, told, judge.labels, bench.anatomy.layers)


def joined(parts: Sequence[Trained], facts: Mapping[str, Any]) -> Predictions:
    """Several benches of the same network and the same examples to judge by, as one table."""
    first = parts[0]
    if any(not np.array_equal(part.targets, first.targets) for part in parts):
        raise ValueError("the parts were judged by different examples")
    arms = {name: arm for part in parts for name, arm in part.arms.items()}
    truth = np.arange(len(first.targets)) % SELECTING > 0
    classes = [f"class-{number:02d}" for number in range(int(first.targets.max()) + 1)]
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    return gathered(arms, first.layers, outcomes, first.targets, truth, {**facts, "classes": classes})


def taught(module: M, learn: Pictures, *, epochs: int, rate: float = 3e-3, seed: int = 0, mean: float, std: float) -> M:
    """The module after a plain training on pictures, in place."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.from_numpy(learn.pixels).float()[:, None] / 255 - mean) / std
    y = torch.from_numpy(learn.labels)
    optimiser = torch.optim.AdamW(module.parameters(), rate, weight_decay=0.01)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).split(64):
            optimiser.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    return module.eval()


def _even(depth: int) -> Calibration:
    """Layers that all cost the same, and so much that what may be stored is."""
    speed = {"memory": 1e10, "disk": 1e9}
    return Calibration(
        (1e-2,) * depth, (2e-2,) * depth, (1e-2,) * depth, speed, speed, 1e-3, batch=32, device="cpu",
        macs_per_second=1e9,
    )  # fmt: skip
