"""The activation store beside what the disk and the memory give: writing, and reading random batches.

    python benchmarks/store.py [--megabytes 512] [--row 65536] [--rounds 5] [--out FILE.md]

Rows of float32 are appended in batches of 32 and read back in random batches of 32, as a training does; beside it the
same bytes through a plain file (written and synced; read in one go, from the disk) and through NumPy's own gather. Each
figure is a median with its least and most over rounds in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from told import machine, tell

from frostline.activations.chunks import Field
from frostline.activations.store import Key, Store, Stored, Tier

BATCH = 32


def written(store: Store, rows: np.ndarray, tier: Tier) -> Stored:
    """All rows, batch by batch."""
    key = Key("benchmark", 1)
    store.forget(key)
    writing = store.begin(key, (Field(rows.shape[1:], "float32"),), len(rows), tier=tier, batch=BATCH)
    for start in range(0, len(rows), BATCH):
        writing.append([rows[start : start + BATCH]])
    return writing.stored


def plainly(path: Path, rows: np.ndarray) -> None:
    """One file, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(rows.data)
        file.flush()
        os.fsync(file.fileno())


def forgotten(folder: Path) -> None:
    """Put what lies in a folder out of the page cache, where the system lets us."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.rglob("*.bin"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Every figure in turn, round by round; prints and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--row", type=int, default=65536, help="bytes of one example's activation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured; the system's own by default")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((given.megabytes * 10**6 // given.row, given.row // 4), dtype=np.float32)
    order = rng.permutation(len(rows))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    size, took = rows.nbytes, dict[str, list[float]]()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        for _ in range(given.rounds):
            for tier in ("memory", "disk"):
                store = Store(folder / "store", disk=2 * size, memory=2 * size)
                took.setdefault(f"store, write to {tier}", []).append(
                    timed(lambda store=store, tier=tier: written(store, rows, tier))
                )
                stored = written(store, rows, tier)
                if tier == "disk":
                    forgotten(folder)

                def read(store: Store = store, stored: Stored = stored) -> None:
                    for batch in batches:
                        store.read(stored, batch)

                if tier == "disk":
                    took.setdefault("store, random batches, first time (checksums)", []).append(timed(read))
                took.setdefault(f"store, random batches from {tier}", []).append(timed(read))
                store.forget(stored.key)
            plain = folder / "plain.bin"
            took.setdefault("plain file, written and synced", []).append(
                timed(lambda plain=plain: plainly(plain, rows))
            )
            forgotten(folder)
            took.setdefault("plain file, read in one go", []).append(timed(plain.read_bytes))
            took.setdefault("numpy, random batches from memory", []).append(
                timed(lambda: [np.take(rows, batch, axis=0) for batch in batches])
            )
            took.setdefault("numpy, copy", []).append(timed(rows.copy))
    lines = [
        f"{size / 1e6:.0f} MB in rows of {given.row} bytes, batches of {BATCH}, {given.rounds} rounds; "
        f"{machine()}, numpy {np.__version__}",
        "",
        "| what | GB/s, median | least to most |",
        "|---|---|---|",
    ]
    for what, seconds in took.items():
        speeds = sorted(size / 1e9 / second for second in seconds)
        lines.append(f"| {what} | {statistics.median(speeds):.2f} | {speeds[0]:.2f} to {speeds[-1]:.2f} |")
    tell(lines, given.out)


if __name__ == "__main__":
    main()
