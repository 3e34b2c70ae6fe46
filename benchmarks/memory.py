"""The most memory that `find` holds, beside a plain full fine-tuning of the same network on the same pictures.

    python benchmarks/memory.py DATA --backbone B [--weights W] [--option KEY=VALUE ..] [--workers 1 2] [--out FILE.md]

DATA has a train/ folder. The plain loop is that of `plain_sweep.py`: all pictures decoded and kept, one training of
everything, two epochs on the batch that `find` takes (memory does not grow after the first). Each runs in a process of
its own. Memory is what that process and all below it hold together that no file backs, looked at twenty times a second;
Linux alone tells it.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from five_splits import of_a_task, options_of
from growth import held
from plain_sweep import RATES, plain
from told import tell

import frostline
from frostline import journey
from frostline.bench import recipe
from frostline.bench.bench import Source
from frostline.bench.lay import FOLDS, backbone_of
from frostline.data.read import read
from frostline.data.split import split

EPOCHS = 2


def tuned(data: Path, backbone: str, options: Mapping[str, Any]) -> None:
    """One plain full fine-tuning."""
    given = journey.resolve(str(data), backbone, dict(options))[0]
    learned = split(read(data), seed=given.seed, folds=FOLDS).folds[0].train
    batch = recipe.recipe(given, len(learned)).batch
    plain(data, backbone_of(given, Source()), EPOCHS, batch, RATES[1:2], depths=(0,))


def searched(data: Path, backbone: str, options: Mapping[str, Any]) -> None:
    """One search."""
    with tempfile.TemporaryDirectory() as folder:
        frostline.find(str(data), backbone, out=f"{folder}/run", **options)


def watched(work: Callable[..., None], *given: object) -> tuple[float, int]:
    """Seconds of some work in a process of its own, and the most bytes that it and all below it held."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=given)
    started, most = time.perf_counter(), 0
    process.start()
    while process.is_alive():
        most = max(most, held(process.pid or 0))
        time.sleep(0.05)
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed with exit code {process.exitcode}")
    return time.perf_counter() - started, most


def main() -> None:
    """The plain loop, then searches; prints and writes a table."""
    parser = of_a_task()
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    options = options_of(given)
    contestants: list[tuple[str, Callable[..., None], dict[str, Any]]] = [
        ("plain full fine-tuning", tuned, options),
        *((f"find --workers {count}", searched, {**options, "workers": count}) for count in given.workers),
    ]
    lines = [
        f"{given.data.name}, {Path(given.backbone).name} {' '.join(given.option)}, torch {torch.__version__}",
        "",
        "| | seconds | memory, MB | over the plain loop |",
        "|---|---|---|---|",
    ]
    base = 0
    for name, work, with_options in contestants:
        seconds, most = watched(work, given.data, given.backbone, with_options)
        base = base or most
        lines.append(f"| {name} | {seconds:.0f} | {most / 1e6:.0f} | {most / base:.2f} |")
        print(lines[-1], flush=True)
    tell(lines, given.out)


if __name__ == "__main__":
    main()
