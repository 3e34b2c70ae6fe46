"""Does the choice of `find` keep up with what people do? Several splits of one data set, paired.

    python benchmarks/five_splits.py DATA --backbone B [--weights W] [--image-size N] [--splits 5] [--out FILE.md]

All pictures below DATA are pooled; each split sets 30% of every class aside as the test folder. The score of the model
that `find` hands back is compared, on that same test folder, with the linear probe and with tuned full fine-tuning,
both trained in the same run.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import frostline


def split(source: Path, target: Path, seed: int) -> None:
    """Links of the pictures as train/CLASS and test/CLASS."""
    rng = np.random.default_rng(seed)
    classes: dict[str, list[Path]] = {}
    for file in sorted(source.rglob("*")):
        if file.suffix.lower() in {".jpg", ".jpeg", ".png"}:
            classes.setdefault(file.parent.name, []).append(file)
    for name, files in classes.items():
        for rank, number in enumerate(rng.permutation(len(files))):
            part = "test" if rank < 0.3 * len(files) else "train"
            place = target / part / name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:05d}{files[number].suffix}").symlink_to(files[number].resolve())


def main() -> None:
    """One run a split; prints and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    heads = ("split", "chosen", "test", "linear probe", "full fine-tuning", "minus the better", "seconds")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    gaps: list[float] = []
    folder = Path(tempfile.mkdtemp())
    try:
        for number in range(given.splits):
            split(given.data, folder / f"data{number}", number)
            started = time.perf_counter()
            found = frostline.find(
                str(folder / f"data{number}"),
                given.backbone,
                weights=given.weights,
                image_size=given.image_size,
                effort=given.effort,
                out=str(folder / f"run{number}"),
                seed=number,
            ).summary
            probe, full = (found["baselines"][name]["certified"]["mean"] for name in ("linear_probe", "full_finetune"))
            ours = found["score"]["value"]
            gaps.append(ours - max(probe, full))
            row = (number, found["decision"]["arm"], f"{ours:.3f}", f"{probe:.3f}", f"{full:.3f}", f"{gaps[-1]:+.3f}")
            lines.append(f"| {' | '.join(map(str, row))} | {time.perf_counter() - started:.0f} |")
            print(lines[-1], flush=True)
            shutil.rmtree(folder / f"run{number}")
    finally:
        shutil.rmtree(folder)
    spread = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
    lines.append(f"\nMean difference to the better one: {statistics.mean(gaps):+.4f} (standard error {spread:.4f})\n")
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
