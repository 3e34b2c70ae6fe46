"""Nautilus' workload "how deep to freeze", in small: ResNet-50, 4 depths x 2 batch sizes x 3 learning rates.

    python benchmarks/nautilus.py [--pictures 500] [--side 64] [--epochs 5] [--rounds 3] [--only NAME ..]
        [--out FILE.md]

Nakandala and Kumar (SIGMOD 2022) freeze ResNet-50 up to four depths of its last six blocks and measured 190 minutes
plain, 67 with stored activations that models share: 2.83 times as fast. Here random weights and pictures of noise, 80%
to learn from and 20% to predict. In turn, each in a process of its own:

- plain: one loop after another, pictures in the memory of the device, frozen layers in eval mode and without gradient;
- cached: Frostline's store, one training after another;
- fused: what a search does with the same trainings by default: side by side in processes, or stacked, as measured;
- raced: a race of the default effort among them, to the same number of epochs.

Seconds of Frostline are those of its fill and of its trainings. Set-up (tracing the network, measuring the machine,
starting processes) is stated apart. The bound is what no store makes faster: the forward pass of the frozen layers once
for all, then forward and backward of the rest for each training, from seconds a layer that were measured; beside it
that of arithmetic alone, with a backward pass of twice the forward pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from told import machine, tell
from torch import nn

from frostline.plan import depth_of, plan
from frostline.values import Arm, Layer, Recipe, Unit

WHERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DEPTHS = ("layer4.1", "layer4.0", "layer3.5", "layer3.4")  # the last frozen block
BATCHES, RATES, CLASSES = (16, 32), (2e-5, 3e-5, 5e-5), 2
MEAN, STD = "0.5,0.5,0.5", "0.25,0.25,0.25"


def drawn(folder: Path, count: int, side: int) -> None:
    """Pictures of noise in two classes, 80% of them to learn from."""
    rng = np.random.default_rng(0)
    for number in range(count):
        part = "val" if number % 5 == 4 else "train"
        place = folder / part / f"class{number // 5 % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(place / f"{number:05d}.png")


def plain(folder: Path, side: int, epochs: int) -> dict[str, float]:
    """24 loops over pictures that are decoded once."""
    import timm

    from frostline.data.read import read

    examples = read(folder)
    pixels = np.stack([np.asarray(Image.open(path)) for path in examples.inputs])
    inputs = ((torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) / 0.25).to(WHERE)
    train = torch.tensor([part == "train" for part in examples.parts], device=WHERE)
    labels, started = torch.from_numpy(examples.targets).to(WHERE), time.perf_counter()
    for depth in DEPTHS:
        for batch in BATCHES:
            for rate in RATES:
                torch.manual_seed(0)
                model = timm.create_model("resnet50", num_classes=CLASSES).to(WHERE)
                frozen = below(model, depth)
                for part in frozen:
                    part.requires_grad_(False)
                optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
                seen, told = inputs[train], labels[train]
                for _ in range(epochs):
                    model.train()
                    for part in frozen:
                        part.eval()
                    for rows in torch.randperm(len(seen), device=WHERE).split(batch):
                        loss = nn.functional.cross_entropy(model(seen[rows]), told[rows])
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                with torch.no_grad():
                    model.eval()
                    for some in inputs[~train].split(batch):
                        model(some).cpu()
    return {"seconds": time.perf_counter() - started}


def below(model: nn.Module, depth: str) -> list[nn.Module]:
    """The blocks up to and with the one that is named."""
    stage, block = int(depth[5]), int(depth[7:])
    parts = [model.get_submodule("conv1"), model.get_submodule("bn1")]
    for number in range(1, stage + 1):
        blocks = list(model.get_submodule(f"layer{number}").children())
        parts += blocks if number < stage else blocks[: block + 1]
    return parts


def arms(layers: Sequence[Layer], epochs: int) -> list[Arm]:
    """One for each depth and batch size, with all three rates; a new head on top, as the plain loop has it."""
    found: list[Arm] = []
    for depth in DEPTHS:
        for batch in BATCHES:
            recipe = Recipe(epochs, RATES[1], kept_lr=1.0, batch=batch)
            made = plan(layers, recipe, freeze=depth_of(layers, depth))
            found.append(Arm(f"{depth}-{batch}", made, RATES))
    return found


def engine(kind: str, folder: Path, side: int, epochs: int) -> dict[str, float]:
    """The same trainings with Frostline."""
    from frostline import journey
    from frostline.bench.again import Job
    from frostline.bench.bench import Bench, Source
    from frostline.bench.unit import perform
    from frostline.run import course
    from frostline.search import race as races
    from frostline.search.schedule import schedule

    def bound(bench: Bench, several: Sequence[Arm]) -> tuple[float, float]:
        """Seconds of all trainings from a perfect store, and how many times as fast arithmetic alone lets it be."""
        rows, seconds = len(bench.split.folds[0].train), bench.calibration
        flops = np.array([layer.macs for layer in bench.anatomy.layers], dtype=np.float64)
        took, live, cached = 0.0, 0.0, 0.0
        for arm in several:
            f, times = arm.plan.freeze, len(arm.rates) * epochs * rows
            took += times * (sum(seconds.forward[f:]) + sum(seconds.backward[f:]))
            live, cached = live + times * (flops.sum() + 2 * flops[f:].sum()), cached + times * 3 * flops[f:].sum()
        once = rows * sum(seconds.forward[: max(arm.plan.freeze for arm in several)])
        return took + once, live / (cached + rows * flops.sum())

    given, _ = journey.resolve(
        str(folder), "timm/resnet50",
        {"weights": "none", "image_size": side, "mean": MEAN, "std": STD, "epochs": epochs, "batch_size": BATCHES[1],
         "out": str(folder.parent / f"run-{kind}"), "workers": 1 if kind == "cached" else None},
    )  # fmt: skip
    begun = time.perf_counter()
    with course.begun(course.shared(given, course.cores())) as run:
        times = float(len(BATCHES) * len(RATES) * epochs)
        bench = course.laid(run, Source(), demands=lambda of: {depth_of(of, depth): times for depth in DEPTHS})
        several = arms(bench.anatomy.layers, epochs)
        units = [(arm, Unit(arm.id, rate, 1, 0, 0, epochs)) for arm in several for rate in RATES]
        run = replace(run, ahead=1e9)  # other processes are worth their start
        course.roused(bench, run)
        before, started = time.perf_counter() - begun, time.perf_counter()
        if kind == "raced":
            course.race(bench, races.start(several, schedule("default", epochs, rows=400)), run)
        elif kind == "fused":
            list(course.trained(bench, [Job(arm, unit, keep=False) for arm, unit in units], run))
        else:
            for arm, unit in units:
                perform(bench, arm, unit)
        took = time.perf_counter() - started
    fill, (least, ratio) = bench.seconds["fill"], bound(bench, several)
    side_by_side = bench.workers / bench.calibration.way.slower if kind != "cached" else 1.0
    return {
        "seconds": fill + took,
        "before": before - fill,
        "bound": least / side_by_side,
        "arithmetic": ratio,
    }


def run(kind: str, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """One contestant in a process of its own."""
    command = [sys.executable, __file__, "--one", kind, "--folder", str(folder), "--side", str(given.side)]
    done = subprocess.run([*command, "--epochs", str(given.epochs)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr[-3000:])
        raise SystemExit(f"{kind} failed")
    return json.loads(done.stdout.splitlines()[-1])


KINDS = ("plain", "cached", "fused", "raced")


def main() -> None:
    """Rounds of all contestants in turn; prints and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        with contextlib.redirect_stdout(sys.stderr):
            made: Any = plain if given.one == "plain" else lambda *of: engine(given.one, *of)
            found = made(given.folder, given.side, given.epochs)
        print(json.dumps(found))
        return
    told: dict[str, list[dict[str, float]]] = {kind: [] for kind in given.only}
    for number in range(given.rounds):
        turn = number % len(given.only)
        for kind in given.only[turn:] + given.only[:turn]:
            with tempfile.TemporaryDirectory() as name:
                drawn(Path(name) / "data", given.pictures, given.side)
                told[kind].append(run(kind, Path(name) / "data", given))
            print(kind, told[kind][-1], flush=True)
    lines = [
        f"{given.pictures} pictures at {given.side} pixels, {given.epochs} epochs, {given.rounds} rounds; "
        f"{machine()}, torch {torch.__version__}",
        "",
        "| | seconds | least to most | plain over it | bound over it | set-up |",
        "|---|---|---|---|---|---|",
    ]
    base = statistics.median(one["seconds"] for one in told["plain"]) if "plain" in told else float("nan")
    for kind, found in told.items():
        took = sorted(one["seconds"] for one in found)
        middle = statistics.median(took)
        reached = statistics.median(one.get("bound", 0.0) / one["seconds"] for one in found)
        before = statistics.median(one.get("before", 0.0) for one in found)
        lines.append(
            f"| {kind} | {middle:.1f} | {took[0]:.1f} to {took[-1]:.1f} | {base / middle:.2f} | "
            f"{f'{reached:.2f}' if reached and kind != 'raced' else ''} | {f'{before:.1f}' if before else ''} |"
        )
    ratios = [one["arithmetic"] for found in told.values() for one in found if "arithmetic" in one]
    if ratios:
        lines += [
            "",
            f"Arithmetic alone would let a perfect store be {ratios[0]:.2f} times as fast as the plain loops.",
        ]
    tell(lines, given.out)


if __name__ == "__main__":
    main()
