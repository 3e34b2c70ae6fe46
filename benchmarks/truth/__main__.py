"""The tables that the truth tests replay, made anew.

    python -m benchmarks.truth [--only NAME ..] [--into FOLDER]

Every training is one of the engine's own. What is there already is not made again; remove a file to have it anew.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.truth import bank, planted, surgical, transfer
from benchmarks.truth.world import TABLES

MAKERS = {"planted": planted.made, "transfer": transfer.made, "surgical": surgical.made, "bank": bank.made}


def main() -> None:
    """Table after table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--into", type=Path, default=TABLES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.into.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        if any(given.into.glob(f"{name}*.npz")):
            continue
        started = time.perf_counter()
        for table, found in MAKERS[name]().items():
            file = given.into / f"{table}.npz"
            found.write(file)
            print(f"{file.name}: {len(found.arm)} trainings, {file.stat().st_size / 1e6:.2f} MB", flush=True)
        print(f"{name}: {(time.perf_counter() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
