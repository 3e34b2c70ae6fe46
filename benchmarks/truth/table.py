"""What is known of transfer learning, and what the engine's own trainings say to it: one line each.

    python -m benchmarks.truth.table [--from FOLDER] [--out FILE.md]

Means over seeds in per cent; of two, in brackets their difference and its standard error. `tests/test_truth.py` asks
for the orderings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.predictions import Predictions, read
from benchmarks.truth.crossover import EPOCHS as EXAMPLES
from benchmarks.truth.crowd import DEPTH
from benchmarks.truth.planted import PLANTED
from benchmarks.truth.transfer import BLOCKS
from benchmarks.truth.world import TABLES

Stored = Callable[[str], Predictions]


def than(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    """ "62.1 and 58.0 (+4.1, 0.6)": two means, their difference and its standard error over seeds."""
    gaps = 100 * (ours - theirs)
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{100 * ours.mean():.1f} and {100 * theirs.mean():.1f} ({gaps.mean():+.1f}, {error:.1f})"


def curve(table: Predictions, names: list[str]) -> str:
    """Means, arm after arm."""
    return " ".join(f"{100 * table.tuned(name).mean():.1f}" for name in names)


def rows(stored: Stored) -> Iterator[tuple[str, str, str]]:
    """(what is known, whose, what was measured), of the tables that are there."""
    for part in (_yosinski, _surgery, _crowd, _planted, _crossover):
        try:
            yield from list(part(stored))
        except FileNotFoundError as missing:
            print(f"left out, for want of {missing.filename}")


def _yosinski(stored: Stored) -> Iterator[tuple[str, str, str]]:
    near, far, depths = stored("transfer-similar"), stored("transfer-dissimilar"), range(1, BLOCKS + 1)
    paper = "Yosinski et al. 2014"
    for called, table in (("a similar target: the last costs", near), ("a dissimilar one: ever more", far)):
        found = curve(table, [f"frozen@{k}" for k in depths])
        yield f"The first 1 to 6 of 6 blocks frozen under new layers, {called}", paper, found
    yield "Transferred and learning on: no depth loses", paper, curve(near, [f"tuned@{k}" for k in depths])
    yield "... and beats scratch (at 4 of 6)", paper, than(near.tuned("tuned@4"), near.tuned("scratch"))
    longer = than(near.tuned("tuned@4"), near.tuned("scratch-longer"))
    yield "... also scratch for twice as long", paper, longer
    own = than(near.tuned("tuned@4"), near.tuned("self-tuned@4"))
    yield "... and a network that learned the target itself", paper, own
    random = curve(near, [f"random-frozen@{k}" for k in depths])
    yield "Frozen random layers: collapse with depth", paper, random


def _surgery(stored: Stored) -> Iterator[tuple[str, str, str]]:
    paper = "Lee et al. 2023"
    for name, layer, says in (
        ("permuted", "head", "Classes changed places: the head alone, against all layers"),
        ("moved", "only@0", "Inputs moved: the first layer alone, against all layers"),
        *((f"spoilt-{at}", f"only@{at}", f"Layer {at} spoilt: it alone, against all layers") for at in range(3)),
    ):
        table = stored(f"surgical-{name}")
        yield says, paper, than(table.tuned(layer), table.tuned("all"))
    table = stored("surgical-steep")
    for name, says in (("sgd", "under SGD better frozen"), ("adamw", "under AdamW it matters little")):
        found = than(table.tuned(f"{name}, freeze@1"), table.tuned(f"{name}, freeze@0"))
        yield f"A first layer with outsized gradients: {says}", "Kumar et al. 2022", found


def _crowd(stored: Stored) -> Iterator[tuple[str, str, str]]:
    probes = [f"probe@{k}" for k in range(1, DEPTH + 1)]
    for name, says, paper in (
        ("few-own", "Probes of a deep network that saw four classes, of these: rise", "Masarczyk et al. 2023"),
        ("few", "... of other classes: fall", "Masarczyk et al. 2023"),
        ("many", "... of one that saw forty: do not", "Harun et al. 2024"),
        ("shuffled", "... and of that with its last three layers spoilt: fall there", "planted"),
        ("random", "... of one that learned random labels by heart: fall", "Maennel et al. 2020"),
    ):
        yield says, paper, curve(stored(f"crowd-{name}"), probes)
    table = stored("crowd-random")
    dropped = than(table.tuned("drop@1"), table.tuned("full_finetune"))
    yield "... and all but its first layer are better dropped than tuned", "Maennel et al. 2020", dropped


def _planted(stored: Stored) -> Iterator[tuple[str, str, str]]:
    names = [f"freeze@{f}" for f in range(4)]
    for depth in PLANTED:
        table = stored(f"planted-{depth}")
        yield f"{depth} layers of 4 are shared: freezing 0 to 3, each at its own rate", "planted", curve(table, names)
        for rate in (table.rate.min(), table.rate.max()):
            at = [table.true[(table.arm == name) & (table.rate == rate)].mean() for name in names]
            yield f"... all at {rate:g}", "planted", " ".join(f"{100 * value:.1f}" for value in at)


def _crossover(stored: Stored) -> Iterator[tuple[str, str, str]]:
    for count in EXAMPLES:
        table = stored(f"crossover-{count}")
        found = curve(table, ["freeze@2", "freeze@1", "freeze@0", "scratch"])
        yield f"{count:,} examples: two layers frozen, one, none, scratch", "He et al. 2019", found


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="folder", type=Path, default=TABLES)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = ["| what is known | from | measured here, % |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(lambda name: read(given.folder / f"{name}.npz"))]
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
