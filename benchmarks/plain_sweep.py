"""A plain PyTorch loop over the same depths and learning rates, against `frostline find`, in turn on one machine.

    python benchmarks/plain_sweep.py [DATA --backbone B [--weights W] [--option KEY=VALUE ..]] [--rounds 3]
        [--rates 3] [--quick] [--cached] [--out FILE.md]

The plain loop is what a careful user writes: pictures decoded once and kept in memory, for every cut and each of three
learning rates one training on the schedule and batch that `find` took, frozen layers in eval mode and without gradient,
the optimiser over what learns, a new last layer. One seed, and its best is chosen in hindsight on the very pictures
that it is scored on. Without DATA: 300 handwritten digits and the network that come with the package.

Of the sweep, the trainings that freeze nothing are one tuned full fine-tuning. With `--rates 1` each depth is trained
at one rate, and the seconds are multiplied by three: rates take the same time, and nothing is said of scores.
`--cached` adds the same trainings above Frostline's store, one after another; `--quick` adds `find --effort quick`.
What `find` takes without the baselines that it times apart is its time less their share of all trainings, which run
side by side.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from five_splits import value_of
from torch import nn

import frostline
from frostline import journey
from frostline.backbones.cuts import dissect
from frostline.bench.bench import Source
from frostline.bench.lay import backbone_of, lay
from frostline.bench.unit import perform
from frostline.data.batches import decode
from frostline.data.read import read
from frostline.demo import network
from frostline.journey import Result
from frostline.plan import legal_depths, plan
from frostline.run.course import cores, shared, single_blas
from frostline.values import Arm, Backbone, Layer, Recipe, Unit

RATES = (1e-3 / 3, 1e-3, 3e-3)
DIGITS = (f"{network.__file__}:glyphs", str(network.WEIGHTS))


@dataclass(frozen=True)
class Swept:
    """What a sweep came to."""

    seconds: float  # of everything, three rates a depth
    tuned: float  # of them, those of the trainings that freeze nothing
    best: float  # accuracy on what is not in the training folder


def plain(
    data: Path,
    backbone: Backbone,
    epochs: int,
    batch: int,
    rates: Sequence[float] = RATES,
    depths: Sequence[int] | None = None,
) -> Swept:
    """The sweep of a careful user, over all depths unless some are named."""
    started = time.perf_counter()
    examples, anatomy = read(data), dissect(backbone)
    assert backbone.preprocessing is not None
    inputs = torch.from_numpy(decode(examples, np.arange(len(examples)), backbone.preprocessing))
    targets = torch.from_numpy(examples.targets)
    train = torch.tensor([part == "train" for part in examples.parts])
    seen, labels, best, spent = inputs[train], targets[train], 0.0, dict[int, float]()
    before = time.perf_counter() - started
    for depth in legal_depths(anatomy.layers) if depths is None else depths:
        started = time.perf_counter()
        frozen = {name for layer in anatomy.layers[:depth] for name in layer.members}
        quiet = [name for layer in anatomy.layers[:depth] for name in layer.modules]
        for rate in rates:
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
        spent[depth] = (time.perf_counter() - started) * len(RATES) / len(rates)
        print(f"  freeze {depth}: {spent[depth]:.1f} s", flush=True)
    return Swept(before + sum(spent.values()), before + spent[0], best)


def cached(data: Path, backbone: str, options: Mapping[str, Any], epochs: int, batch: int) -> float:
    """Seconds of the same trainings above what Frostline stores, one after another, the fill with them."""
    given, _ = journey.resolve(str(data), backbone, {**options, "workers": 1, "epochs": epochs, "batch_size": batch})
    with tempfile.TemporaryDirectory() as folder, single_blas():
        depths = partial(_demanded, epochs=float(len(RATES) * epochs))
        bench = lay(shared(given, cores()), Source(), folder=Path(folder), demands=depths)
        started = time.perf_counter()
        for depth in legal_depths(bench.anatomy.layers):
            made = plan(bench.anatomy.layers, Recipe(epochs, RATES[1], batch=batch), freeze=depth)
            for rate in RATES:
                perform(bench, Arm(f"freeze@{depth}", made, RATES), Unit(f"freeze@{depth}", rate, 1, 0, 0, epochs))
        return bench.seconds["fill"] + time.perf_counter() - started


def _demanded(layers: Sequence[Layer], epochs: float) -> dict[int, float]:
    return dict.fromkeys(legal_depths(layers)[:-1], epochs)


def found(data: Path, backbone: str, options: Mapping[str, Any], folder: str) -> tuple[float, float, Result]:
    """Seconds of a search, and of it without the baselines that it times apart."""
    started = time.perf_counter()
    result = frostline.find(str(data), backbone, out=folder, **options)
    took, cost = time.perf_counter() - started, result.summary["cost"]
    trained = cost["race_seconds"] + cost["final_seconds"] + cost["baseline_seconds"]
    wall = cost["total_seconds"] - cost["fill_seconds"] - cost["probe_seconds"]
    return took, took - wall * cost["baseline_seconds"] / trained, result


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
    parser.add_argument("--option", action="append", default=[], help="KEY=VALUE, any other option of find")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=int, default=len(RATES), choices=(1, len(RATES)))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rates = RATES if given.rates > 1 else RATES[1:2]
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or journey.demo_digits(Path(folder) / "digits")
        options = {key: value_of(text) for key, text in (option.split("=", 1) for option in given.option)}
        options |= {"weights": given.weights} if given.data else {"weights": DIGITS[1], "epochs": journey.DEMO_EPOCHS}
        for number in range(given.rounds):
            row = dict[str, float]()
            row["find"], row["alone"], run = found(
                data, given.backbone, {**options, "seed": number}, f"{folder}/run{number}"
            )
            print(f"  find: {row['find']:.1f} s, without the baselines {row['alone']:.1f} s", flush=True)
            recipe = run.plan.recipe
            backbone = backbone_of(journey.resolve(str(data), given.backbone, options)[0], Source())
            swept = plain(data, backbone, recipe.epochs, recipe.batch, rates)
            row |= {"sweep": swept.seconds, "tuned": swept.tuned, "score": run.summary["score"]["value"]}
            if len(rates) > 1:
                row["best"] = swept.best
            if given.quick:
                fast = {**options, "seed": number, "effort": "quick"}
                _, row["quick"], _ = found(data, given.backbone, fast, f"{folder}/quick{number}")
            if given.cached:
                row["cached"] = cached(data, given.backbone, options, recipe.epochs, recipe.batch)
            rows.append(row)
            print({name: round(value, 3) for name, value in row.items()}, flush=True)
    text = f"{data.name}, {Path(given.backbone).name} {' '.join(given.option)}, {table(rows)}"
    print(text)
    if given.out:
        given.out.write_text(text)


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """Medians with their spread, and ratios round by round."""

    def line(name: str, form: str, top: str, below: str | None = None, times: float = 1.0) -> list[str]:
        if any(key not in row for row in rows for key in (top, below or top)):
            return []
        values = [times * row[top] / (1.0 if below is None else row[below]) for row in rows]
        return [f"| {name} | {statistics.median(values):{form}} | {min(values):{form}} | {max(values):{form}} |"]

    return "\n".join(
        [
            f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {len(rows)} rounds",
            "",
            "| | median | least | most |",
            "|---|---|---|---|",
            *line("plain sweep, one seed, seconds", ".1f", "sweep"),
            *line("the same above the store, seconds", ".1f", "cached"),
            *line("one tuned full fine-tuning of it, seconds", ".1f", "tuned"),
            *line("find, seconds", ".1f", "find"),
            *line("find without the baselines it times apart, seconds", ".1f", "alone"),
            *line("find --effort quick without them, seconds", ".1f", "quick"),
            *line("plain sweep / find", ".2f", "sweep", "find"),
            *line("plain sweep of three seeds / find", ".2f", "sweep", "find", 3.0),
            *line("plain sweep / sweep above the store", ".2f", "sweep", "cached"),
            *line("find without baselines / tuned full fine-tuning", ".2f", "alone", "tuned"),
            *line("find --effort quick without baselines / tuned full fine-tuning", ".2f", "quick", "tuned"),
            *line("best accuracy of the sweep (chosen in hindsight)", ".3f", "best"),
            *line("accuracy of the model of find (`score`)", ".3f", "score"),
            "",
        ]
    )


if __name__ == "__main__":
    main()
