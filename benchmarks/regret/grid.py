"""Exhaustive grids: every way to use a network up to about ten cuts, trained on real pairs, with what each predicted.

    python -m benchmarks.regret.grid ASSETS [--pair NAME ..] [--size N ..] [--work FOLDER] [--into FOLDER]

For each pair of a network and a task, and each number of examples, about ten cuts are taken. At every cut the layers
below are kept, frozen or learning, and those above are tuned, begun anew or dropped; beside these stand full
fine-tuning from the probe's head and from a new one, and training from scratch. Each is trained at three learning rates
with three seeds on the full schedule; a linear probe is exact and needs neither. What a training predicted is kept
example by example, on a quarter as many examples as it learned from, to select by, and on up to 600 others, which say
the truth. Finished trainings are kept in the work folder: run again, it goes on. A grid is one .npz file of about a MB.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.predictions import gathered
from benchmarks.regret.scores import h_score, logme
from frostline import journey
from frostline.bench.again import Job
from frostline.bench.bench import Bench, Source
from frostline.bench.curve import probe_cuts
from frostline.plan import legal_depths, plan
from frostline.run import course, entrants, terms
from frostline.search.arms import exact
from frostline.values import Arm, Head, Layer, Outcome, Recipe, Unit

CUTS, SEEDS, EPOCHS, SCRATCH = 10, 3, 8, 3
TRUTH = 600  # examples that say the truth, where there are as many
ADAM = (3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Pair:
    """A network and a task for it."""

    data: str  # below the assets
    backbone: str
    weights: str | None
    options: Mapping[str, Any]
    sizes: tuple[int, ...]  # examples to learn from and to select by
    rates: tuple[float, ...]
    turned: bool = False  # pictures inverted and turned by a quarter


CIFAR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "image_size": 32}
RESNET = ("resnet_cifar.py:resnet20", "weights/cifar_resnets/resnet20.safetensors")
MOBILE = ("hf/{assets}/weights/mobilenetv1_025_128_in1k/hf", None)
PAIRS = {
    "resnet20-cifar_shifted": Pair(
        "datasets/cifar10_jpeg", *RESNET, CIFAR, (1000, 300), tuple(3 * rate for rate in ADAM), turned=True
    ),
    "resnet20-flowers5": Pair("datasets/flowers5", *RESNET, CIFAR, (600, 200), tuple(3 * rate for rate in ADAM)),
    "mobilenet-hymenoptera": Pair("datasets/hymenoptera", *MOBILE, {"image_size": 96}, (240, 120), ADAM),
    "mobilenet-flowers5": Pair("datasets/flowers5", *MOBILE, {"image_size": 96}, (600, 200), ADAM),
}


def drawn(pair: Pair, assets: Path, size: int, folder: Path) -> None:
    """Its pictures as train/CLASS, and validation/CLASS with those to select by and those that say the truth."""
    rng = np.random.default_rng(0)
    classes: dict[str, list[Path]] = {}
    for file in sorted((assets / pair.data).rglob("*")):
        if file.suffix.lower() in {".jpg", ".jpeg", ".png"}:
            classes.setdefault(file.parent.name, []).append(file)
    each = {"train": round(0.8 * size / len(classes)), "select": round(0.2 * size / len(classes))}
    smallest = min(len(files) for files in classes.values())
    each["truth"] = min(TRUTH // len(classes), smallest - sum(each.values()) - 4)
    each["spare"] = 2  # in a test part, which nobody reads: so nothing of the others is set aside
    places = {"train": "train", "select": "validation", "truth": "validation", "spare": "test"}
    for name, files in classes.items():
        different = list({file.read_bytes(): file for file in files}.values())
        rest = iter([different[number] for number in rng.permutation(len(different))])
        for part, count in each.items():
            place = folder / places[part] / name
            place.mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(islice(rest, count)):
                picture = Image.open(file).convert("RGB")
                picture = ImageOps.invert(picture).rotate(90) if pair.turned else picture
                picture.save(place / f"{part}-{number:04d}.png")


def cuts(layers: Sequence[Layer]) -> list[int]:
    """About ten legal depths, spread evenly, the shallowest and the deepest among them."""
    legal = [depth for depth in legal_depths(layers) if depth]
    return sorted({legal[round(at)] for at in np.linspace(0, len(legal) - 1, min(CUTS, len(legal)))})


def arms(layers: Sequence[Layer], rates: tuple[float, ...], batch: int) -> Iterator[Arm]:
    """Every way to use the network."""
    recipe, whole = Recipe(EPOCHS, rates[1], batch=batch), len(layers)
    fresh = Head(start="random")
    yield Arm("lp_ft", plan(layers, recipe), rates)
    yield Arm("full_finetune", plan(layers, recipe, head=fresh), rates)
    longer = replace(recipe, epochs=SCRATCH * EPOCHS, kept_lr=1.0)
    yield Arm("scratch", plan(layers, longer, keep=0, above="reinit", head=fresh, statistics="batch"), rates)
    for c in cuts(layers):
        above = "tune" if c == whole else "drop"
        yield Arm(f"probe@{c}", plan(layers, recipe, keep=c, freeze=c, above=above), (rates[1],))
        if c == whole:
            continue
        yield Arm(f"freeze@{c}", plan(layers, recipe, freeze=c), rates)
        yield Arm(f"drop@{c}", plan(layers, recipe, keep=c, above="drop"), rates)
        yield Arm(f"reinit@{c}", plan(layers, recipe, keep=c, above="reinit", head=fresh), rates)
        yield Arm(f"freeze@{c}-reinit", plan(layers, recipe, keep=c, freeze=c, above="reinit", head=fresh), rates)


def units(arm: Arm) -> Iterator[Unit]:
    """All trainings of an arm."""
    seeds = 1 if exact(arm) else SEEDS
    for rate in arm.rates:
        for seed in range(seeds):
            yield Unit(arm.id, rate, 0, 0, seed, arm.plan.recipe.epochs)


def made(name: str, size: int, assets: Path, work: Path) -> tuple[Bench, tuple[Arm, ...], list[Outcome]]:
    """Every training of a grid, those that a former call finished read back."""
    pair, folder = PAIRS[name], work / f"{name}-{size}"
    if not (folder / "data").exists():
        drawn(pair, assets, size, folder / "partial")
        (folder / "partial").rename(folder / "data")
    given, _ = journey.resolve(
        str(folder / "data"),
        pair.backbone.format(assets=assets) if pair.backbone.startswith("hf/") else str(assets / pair.backbone),
        {
            **pair.options,
            **({} if pair.weights is None else {"weights": str(assets / pair.weights)}),
            "epochs": EPOCHS,
            "out": str(folder / "run"),
            "resume": True,
        },
    )
    with course.begun(given) as run:
        bench = course.laid(run, Source(), demands=partial(demanded, rates=pair.rates))
        learned = len(bench.split.folds[0].train)
        assert abs(learned - 0.8 * size) <= len(bench.examples.classes), f"{learned} examples are learned from"
        every = tuple(arms(bench.anatomy.layers, pair.rates, entrants.base_recipe(bench).batch))
        jobs = [Job(arm, unit, keep=False) for arm in every for unit in units(arm)]
        left = course.missing(bench, jobs, course.told(run))
        seconds = sum(terms.unit_seconds(bench, job.arm, job.unit) for job in left if not exact(job.arm))
        started, done = time.perf_counter(), len(jobs) - len(left)
        print(
            f"{name}, {size} examples: {done} of {len(jobs)} are there; about {seconds / 60:.0f} core minutes",
            flush=True,
        )
        for outcome in course.trained(bench, left, replace(run, ahead=seconds)):
            done += 1
            if done % 20 == 0:
                print(
                    f"  {done} of {len(jobs)}, {(time.perf_counter() - started) / 60:.1f} min, {outcome.unit.key}",
                    flush=True,
                )
        found = course.told(run)
        return bench, every, [found[job.unit] for job in jobs]


def demanded(layers: Sequence[Layer], rates: Sequence[float]) -> dict[int, float]:
    """Epochs that start at each depth: two strategies freeze up to it."""
    return {c: 2.0 * EPOCHS * SEEDS * len(rates) for c in cuts(layers) if c < len(layers)}


def scored(bench: Bench) -> dict[str, dict[int, float]]:
    """What needs no training, at every cut: the leave-one-out accuracy of a linear probe, and published scores."""
    rows = bench.split.folds[0].train
    targets, chosen = bench.examples.targets[rows], cuts(bench.anatomy.layers)
    features = {depth: bench.pooled[depth][rows] for depth in chosen}
    return {
        "ridge_loo": {e.cut.depth: e.score.mean for e in probe_cuts(bench) if e.cut.depth in features},
        "logme": {depth: logme(found, targets) for depth, found in features.items()},
        "h_score": {depth: h_score(found, targets) for depth, found in features.items()},
    }


def packed(bench: Bench, every: Sequence[Arm], outcomes: Sequence[Outcome], file: Path) -> None:
    """The grid as one file."""
    rows = outcomes[0].rows
    facts = {
        "classes": bench.examples.classes,
        "cuts": cuts(bench.anatomy.layers),
        "train": len(bench.split.folds[0].train),
        "epochs": EPOCHS,
        "scores": scored(bench),
    }
    arms = {arm.id: (arm, terms.cost_of(bench, arm.plan)) for arm in every}
    truth = np.array(["/truth-" in bench.examples.ids[row] for row in rows])
    gathered(arms, bench.anatomy.layers, outcomes, bench.examples.targets[rows], truth, facts).write(file)


def main() -> None:
    """Grid after grid."""
    parser = argparse.ArgumentParser()
    parser.add_argument("assets", type=Path)
    parser.add_argument("--pair", nargs="*", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--size", type=int, nargs="*", help="those of the pairs by default")
    parser.add_argument("--work", type=Path, default=Path("runs/regret"))
    parser.add_argument("--into", type=Path, default=Path(__file__).parent / "grids")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    for name in given.pair:
        for size in given.size or PAIRS[name].sizes:
            file = given.into / f"{name}-{size}.npz"
            if file.exists():
                continue
            packed(*made(name, size, given.assets.resolve(), given.work), file)
            shutil.rmtree(given.work / f"{name}-{size}" / "run" / "activations", ignore_errors=True)
            sys.stdout.write(f"{file}: {file.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
