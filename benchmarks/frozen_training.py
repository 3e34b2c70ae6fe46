"""Training above frozen layers: what users write or run today beside Frostline, in turn on one machine.

    python benchmarks/frozen_training.py [--rounds 3] [--epochs 5] [--only NAME ..] [--work NAME ..] [--together]
        [--out FILE.md]

600 pictures at 128 pixels in batches of 32, random weights, AdamW. Everybody gets the same pictures, decoded and
normalised, in memory; each contestant runs in a process of its own, and is timed from the first batch to the last.
With --together all run in one process, after a round that is not counted: a GPU's libraries are loaded once for all,
and what a process of its own spends on that would hide a training of a second. On a GPU the table names the card's
measured ceilings, and what Frostline reaches of them.
Frostline's seconds are those of its fill and of its training; what it spends before (tracing the network, measuring the
machine) is stated apart. The bound is what nobody can beat at this precision: one forward pass of the frozen layers,
then forward and backward of the rest, from the seconds of each layer that were measured in the same process.
Each contestant says whether its frozen parameters and its frozen batch norms' statistics stayed what they were.
Peers are pinned in the dependency group `benchmarks`: pip install --group benchmarks.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from contestants import BATCH, CONTESTANTS, LIBRARIES, PICTURES, PROBES, SIZE, WHERE, WORKS, Timed, over
from told import machine, tell


def run(contestant: str, work: str, epochs: int) -> Timed:
    """One contestant in a process of its own."""
    command = [sys.executable, __file__, "--one", contestant, "--work", work, "--epochs", str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        raise SystemExit(f"{contestant} failed at {work}")
    sys.stderr.write("".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("Way(")))
    return Timed(**json.loads(done.stdout.splitlines()[-1]))


def run_here(contestant: str, work: str, epochs: int) -> Timed:
    """One contestant in this process."""
    with contextlib.redirect_stdout(sys.stderr):
        return CONTESTANTS[contestant](WORKS[work], epochs)


def ceilings() -> str:
    """What this card reaches at best: large matrix products, and copies within its memory and to it."""

    def best(call: Callable[[], object]) -> float:
        took = list[float]()
        for _ in range(8):
            started = time.perf_counter()
            call()
            took.append(over(started))
        return min(took)

    side, found = 8192, list[str]()
    for name, kind in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(side, side, device=WHERE, dtype=kind) for _ in range(2))
        found.append(f"{name} {2 * side**3 / best(lambda a=a, b=b: a @ b) / 1e12:.0f}")
    torch.backends.cuda.matmul.allow_tf32 = False
    large = torch.empty(2**31, dtype=torch.uint8, device=WHERE)
    here = torch.empty(2**28, dtype=torch.uint8)
    within = 2 * large.nbytes / best(large.clone) / 1e9
    to, pinned = (here.nbytes / best(lambda of=of: of.to(WHERE)) / 1e9 for of in (here, here.pin_memory()))
    return (
        f"Ceilings of {torch.cuda.get_device_name()}: matrix products {', '.join(found)} TFLOP/s; {within:.0f} GB/s "
        f"within its memory (read and written), {to:.1f} to it, {pinned:.1f} from pinned memory."
    )


def table(work: str, times: dict[str, list[Timed]]) -> list[str]:
    """Medians with least and most, each as a share of the plain loop's."""
    heads = ("contestant", "seconds", "least to most", "of the plain loop", "frozen unchanged", "set-up")
    lines = [f"**{work}**", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    base = statistics.median(run.seconds for run in times["plain loop"]) if "plain loop" in times else float("nan")
    for name, runs in times.items():
        took = sorted(run.seconds for run in runs)
        middle = statistics.median(took)
        kept = "yes" if all(run.unchanged for run in runs) else "NO"
        before = statistics.median(run.before for run in runs)
        lines.append(
            f"| {name} | {middle:.3g} | {took[0]:.3g} to {took[-1]:.3g} | {middle / base:.2f} | {kept} | "
            f"{f'{before:.1f}' if before else ''} |"
        )
    for name, runs in times.items():
        if runs[0].bound:
            share = statistics.median(run.bound / run.seconds for run in runs)
            bound = statistics.median(run.bound for run in runs)
            speed = statistics.median(run.flops / run.seconds for run in runs) / 1e12
            lines.append(f"\n{name}: bound {bound:.3g} s, {share:.2f} of it reached; {speed:.3g} TFLOP/s.")
    return [*lines, ""]


def main(given: Sequence[str] | None = None) -> None:
    """All contestants at all works, in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--work", nargs="*", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--one", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(given)
    if args.one:
        with contextlib.redirect_stdout(sys.stderr):
            found = CONTESTANTS[args.one](WORKS[args.work[0]], args.epochs)
        print(json.dumps({slot: getattr(found, slot) for slot in ("seconds", "unchanged", "before", "bound", "flops")}))
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES if _there(name))
    lines = [
        f"{PICTURES} pictures at {SIZE} pixels, {args.epochs} epochs, batches of {BATCH}; {args.rounds} rounds; "
        f"{machine()}; {versions}",
        "",
    ]
    if WHERE.type == "cuda":
        lines += [ceilings(), ""]
        print(lines[-2], flush=True)
    one = run_here if args.together else run
    for work in args.work:
        names = [name for name in args.only if name not in PROBES or "probe" in work]
        times: dict[str, list[Timed]] = {name: [] for name in names}
        for name in names if args.together else ():
            one(name, work, args.epochs)
        for number in range(args.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                times[name].append(one(name, work, args.epochs))
        lines += table(work, times)
        print("\n".join(table(work, times)), flush=True)
    tell(lines, args.out)


def _there(name: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


if __name__ == "__main__":
    main()
