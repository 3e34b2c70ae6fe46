"""What `find` takes as the data grow: seconds and memory at several numbers of examples.

    python benchmarks/growth.py [--sizes 250 1000 4000 16000] [--epochs 1] [--effort quick] [--workers N]
        [--out FILE.md]

Handwritten digits, shifted and with noise so that no two are the same, as 16 x 16 pictures in folders, and the network
that comes with the package. The schedule is the same at every size, so that a cost that is linear in the examples shows
as the same seconds an example. Memory is what all processes of a run hold together that no file backs, its most over
the run, looked at four times a second; Linux alone tells it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from told import machine, tell

from frostline.demo import network

SIDE = 16  # pixels


def drawn(folder: Path, count: int) -> None:
    """Pictures in class folders."""
    rng = np.random.default_rng(0)
    pictures, labels = load_digits(return_X_y=True)
    for number in range(count):
        row = number % len(labels)
        place = folder / str(labels[row])
        place.mkdir(parents=True, exist_ok=True)
        large = np.kron(pictures[row].reshape(8, 8) * 13, np.ones((2, 2)))
        moved = np.roll(large, rng.integers(-2, 3, 2), axis=(0, 1)) + rng.normal(0, 12, (SIDE, SIDE))
        Image.fromarray(np.clip(moved, 0, 255).astype(np.uint8)).save(place / f"{number:06d}.png")


def held(leader: int) -> int:
    """Bytes that a process and all below it hold and no file backs."""
    parents, anonymous = dict[int, int](), dict[int, int]()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            said = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it ended a moment ago
            continue
        parents[int(said["Pid"])] = int(said["PPid"])
        anonymous[int(said["Pid"])] = 1024 * int(said.get("RssAnon", "0 kB").split()[0])
    family = {leader}
    while more := {one for one, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(anonymous.get(one, 0) for one in family)


def measured(count: int, options: list[str]) -> dict[str, float]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn(folder / "digits", count)
        command = [
            sys.executable, "-m", "frostline", "find", str(folder / "digits"), "--json", "--out", str(folder / "run"),
            "--backbone", f"{network.__file__}:glyphs", "--weights", str(network.WEIGHTS), *options,
        ]  # fmt: skip
        started, most = time.perf_counter(), 0
        with (folder / "said").open("w") as said, (folder / "errors").open("w") as errors:
            process = subprocess.Popen(command, stdout=said, stderr=errors)
            while process.poll() is None:
                most = max(most, held(process.pid))
                time.sleep(0.25)
        if process.returncode:
            raise SystemExit(f"find failed on {count} examples: {(folder / 'errors').read_text()[-2000:]}")
        took, cost = time.perf_counter() - started, json.loads((folder / "said").read_text())["cost"]
        stored = sum(file.stat().st_size for file in (folder / "run" / "activations").rglob("*.bin"))
    return {
        "examples": count,
        "seconds": took,
        "fill": cost["fill_seconds"],
        "probe": cost["probe_seconds"],
        "trainings": cost["race_seconds"] + cost["final_seconds"] + cost["baseline_seconds"],
        "memory": most,
        "stored": stored,
    }


def main() -> None:
    """One run a size; prints and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000, 16000])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = ["--epochs", str(given.epochs), "--effort", given.effort]
    options += [] if given.workers is None else ["--workers", str(given.workers)]
    lines = [
        f"{' '.join(options)}; {machine()}",
        "",
        "| examples | seconds | fill | probes | trainings, added up | of these an example | memory, MB | stored, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in given.sizes:
        row = measured(count, options)
        each = 1000 * (row["fill"] + row["probe"] + row["trainings"]) / count
        lines.append(
            f"| {count:,} | {row['seconds']:.0f} | {row['fill']:.1f} | {row['probe']:.1f} | {row['trainings']:.0f} | "
            f"{each:.1f} ms | {row['memory'] / 1e6:.0f} | {row['stored'] / 1e6:.0f} |"
        )
        print(lines[-1], flush=True)
    tell(lines, given.out)


if __name__ == "__main__":
    main()
