"""A plain PyTorch loop over the same depths and learning rates, against `frostline find`, in turn on one machine.

    python benchmarks/plain_sweep.py [--rounds 3] [--out FILE.md]

The plain loop is what a careful user writes: pictures decoded once and kept in memory, for every cut and each of three
learning rates one training on the full schedule, frozen layers in eval mode and without gradient, the optimiser over
what learns. Data: 300 handwritten digits to learn from; network: the one that comes with the package.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from frostline import journey
from frostline.backbones.cuts import dissect
from frostline.backbones.load import load
from frostline.data.batches import decode
from frostline.data.read import read
from frostline.demo import network
from frostline.plan import legal_depths

RATES = (1e-3 / 3, 1e-3, 3e-3)
BATCH = 16


def plain(data: Path, epochs: int) -> tuple[float, float]:
    """Seconds of the sweep, and the best test accuracy of it."""
    started = time.perf_counter()
    examples, backbone = read(data), load(f"{network.__file__}:glyphs", weights=str(network.WEIGHTS))
    anatomy = dissect(backbone)
    assert backbone.preprocessing is not None
    inputs = torch.from_numpy(decode(examples, np.arange(len(examples)), backbone.preprocessing))
    targets = torch.from_numpy(examples.targets)
    train = torch.tensor([part == "train" for part in examples.parts])
    best = 0.0
    for depth in legal_depths(anatomy.layers):
        frozen = {name for layer in anatomy.layers[:depth] for name in layer.members}
        quiet = [name for layer in anatomy.layers[:depth] for name in layer.modules]
        for rate in RATES:
            model = copy.deepcopy(backbone.module)
            model.head = nn.Linear(model.head.in_features, len(examples.classes))
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name not in frozen)
            learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimiser = torch.optim.AdamW(learning, lr=rate)
            fit(model, quiet, optimiser, (inputs[train], targets[train]), epochs)
            with torch.no_grad():
                model.eval()
                found = (model(inputs[~train]).argmax(1) == targets[~train]).float().mean().item()
            best = max(best, found)
    return time.perf_counter() - started, best


Data = tuple[torch.Tensor, torch.Tensor]


def fit(model: nn.Module, quiet: list[str], optimiser: torch.optim.Optimizer, data: Data, epochs: int) -> None:
    """Cosine schedule, batches of 16, what is frozen in eval mode."""
    inputs, targets = data
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(targets) // BATCH))
    for _ in range(epochs):
        model.train()
        for name in quiet:
            model.get_submodule(name).eval()
        for rows in torch.randperm(len(targets)).split(BATCH):
            loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def main() -> None:
    """Rounds of plain, find, plain, find ...; prints and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[tuple[float, float, float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            data = journey.demo_digits(Path(folder) / "digits")
            swept, best = plain(data, journey.DEMO_EPOCHS)
            started = time.perf_counter()
            found = journey.demo(out=f"{folder}/demo{number}", seed=number).summary
            took = time.perf_counter() - started
            alone = took - found["cost"]["baseline_seconds"]
            rows.append((swept, took, alone, best, found["score"]["value"]))
            print(rows[-1], flush=True)
    text = table(rows)
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
            line("best test accuracy of the sweep (chosen in hindsight)", best, ".3f"),
            line("test accuracy of the model of find", chosen, ".3f"),
            "",
        ]
    )


if __name__ == "__main__":
    main()
