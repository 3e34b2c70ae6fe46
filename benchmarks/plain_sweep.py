"""A plain PyTorch loop over the same depths and learning rates, against `frostline find`, in turn on one machine.

    python benchmarks/plain_sweep.py [DATA --backbone B [--weights W]] [--rounds 3] [--out FILE.md]

The plain loop is what a careful user writes: pictures decoded once and kept in memory, for every cut and each of three
learning rates one training on the schedule and batch that `find` took, frozen layers in eval mode and without gradient,
the optimiser over what learns, a new last layer. One seed, and its best is chosen in hindsight on the very pictures
that it is scored on. Without DATA: 300 handwritten digits and the network that come with the package.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import frostline
from frostline import journey
from frostline.backbones.cuts import dissect
from frostline.backbones.load import load
from frostline.data.batches import decode
from frostline.data.read import read
from frostline.demo import network
from frostline.plan import legal_depths
from frostline.values import Backbone

RATES = (1e-3 / 3, 1e-3, 3e-3)
DIGITS = (f"{network.__file__}:glyphs", str(network.WEIGHTS))


def plain(data: Path, backbone: Backbone, epochs: int, batch: int) -> tuple[float, float]:
    """Seconds of the sweep, and the best accuracy of it on what is not in the training folder."""
    started = time.perf_counter()
    examples, anatomy = read(data), dissect(backbone)
    assert backbone.preprocessing is not None
    inputs = torch.from_numpy(decode(examples, np.arange(len(examples)), backbone.preprocessing))
    targets = torch.from_numpy(examples.targets)
    train = torch.tensor([part == "train" for part in examples.parts])
    seen, labels, best = inputs[train], targets[train], 0.0
    for depth in legal_depths(anatomy.layers):
        frozen = {name for layer in anatomy.layers[:depth] for name in layer.members}
        quiet = [name for layer in anatomy.layers[:depth] for name in layer.modules]
        for rate in RATES:
            model = renewed(backbone.module, len(examples.classes))
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name not in frozen)
            learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimiser = torch.optim.AdamW(learning, lr=rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(seen) // batch))
            for _ in range(epochs):
                model.train()
                for name in quiet:
                    model.get_submodule(name).eval()
                for rows in torch.randperm(len(seen)).split(batch):
                    loss = nn.functional.cross_entropy(logits(model, seen[rows]), labels[rows])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
            with torch.no_grad():
                model.eval()
                said = torch.cat([logits(model, some).argmax(1) for some in inputs[~train].split(64)])
            best = max(best, (said == targets[~train]).float().mean().item())
    return time.perf_counter() - started, best


def renewed(module: nn.Module, classes: int) -> nn.Module:
    """A copy with a new last layer; dropout is left as it is."""
    model = copy.deepcopy(module)
    name, last = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    above, _, own = name.rpartition(".")
    setattr(model.get_submodule(above), own, nn.Linear(last.in_features, classes))
    return model


def logits(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Of a plain network, or of one of transformers."""
    found: Any = model(pictures)
    return found if isinstance(found, torch.Tensor) else found.logits


def main() -> None:
    """Rounds of find, plain, find, plain ...; prints and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--backbone", default=DIGITS[0])
    parser.add_argument("--weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[tuple[float, float, float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or journey.demo_digits(Path(folder) / "digits")
        weights = given.weights if given.data else DIGITS[1]
        epochs = None if given.data else journey.DEMO_EPOCHS
        for number in range(given.rounds):
            out, started = f"{folder}/run{number}", time.perf_counter()
            run = frostline.find(str(data), given.backbone, weights=weights, epochs=epochs, out=out, seed=number)
            took = time.perf_counter() - started
            alone = took - run.summary["cost"]["baseline_seconds"]
            recipe = run.plan.recipe
            swept, best = plain(data, load(given.backbone, weights=weights), recipe.epochs, recipe.batch)
            rows.append((swept, took, alone, best, run.summary["score"]["value"]))
            print(rows[-1], flush=True)
    text = f"{data.name}, {Path(given.backbone).name}, {table(rows)}"
    print(text)
    if given.out:
        given.out.write_text(text)


def table(rows: list[tuple[float, float, float, float, float]]) -> str:
    """Medians with their spread, and ratios round by round."""

    def line(name: str, values: list[float], form: str) -> str:
        return f"| {name} | {statistics.median(values):{form}} | {min(values):{form}} | {max(values):{form}} |"

    swept, took, alone, best, chosen = map(list, zip(*rows, strict=True))
    return "\n".join(
        [
            f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {len(rows)} rounds",
            "",
            "| | median | least | most |",
            "|---|---|---|---|",
            line("plain sweep, seconds", swept, ".1f"),
            line("find, seconds", took, ".1f"),
            line("find without the baselines it times apart, seconds", alone, ".1f"),
            line("plain / find", [a / b for a, b in zip(swept, took, strict=True)], ".2f"),
            line("plain / find without baselines", [a / b for a, b in zip(swept, alone, strict=True)], ".2f"),
            line("best accuracy of the sweep (chosen in hindsight)", best, ".3f"),
            line("accuracy of the model of find (`score`)", chosen, ".3f"),
            "",
        ]
    )


if __name__ == "__main__":
    main()
