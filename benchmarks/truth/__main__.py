"""The tables that the truth tests replay, made anew.

    python -m benchmarks.truth [--only NAME ..] [--into FOLDER]

Every training is one of the engine's own. What is there already is not made again; remove a file to have it anew. Work
that was interrupted goes on at the seed where it stopped: seeds that are done lie in FOLDER/parts until all are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.predictions import Predictions, concatenated, read
from benchmarks.truth import bank, crossover, crowd, planted, surgical, transfer
from benchmarks.truth.world import TABLES

MAKERS: dict[str, tuple[Callable[[int], dict[str, Predictions]], int]] = {
    module.__name__.rpartition(".")[2]: (module.made, module.SEEDS)
    for module in (planted, surgical, crossover, crowd, transfer, bank)
}


def main() -> None:
    """Table after table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--into", type=Path, default=TABLES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        if not any(given.into.glob(f"{name}*.npz")):
            make(name, given.into)


def make(name: str, into: Path) -> None:
    """The tables of one maker: seed after seed, then all as one."""
    maker, seeds = MAKERS[name]
    parts = into / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        if any(parts.glob(f"{name}*.seed-{seed}.npz")):
            continue
        started = time.perf_counter()
        for table, found in maker(seed).items():
            found.write(parts / f"{table}.seed-{seed}.npz")
        print(f"{name}, seed {seed}: {(time.perf_counter() - started) / 60:.1f} min", flush=True)
    for table in sorted({file.name.split(".")[0] for file in parts.glob(f"{name}*.seed-*.npz")}):
        files = [parts / f"{table}.seed-{seed}.npz" for seed in range(seeds)]
        whole = concatenated([read(file) for file in files])
        whole.write(into / f"{table}.npz")
        for file in files:
            file.unlink()
        print(f"{table}.npz: {len(whole.arm)} trainings, {(into / f'{table}.npz').stat().st_size / 1e6:.2f} MB")
    if not any(parts.iterdir()):
        parts.rmdir()


if __name__ == "__main__":
    main()
