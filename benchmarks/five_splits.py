"""Does the choice of `find` keep up with what people do? Several splits of one data set, paired.

    python benchmarks/five_splits.py DATA --backbone B [--weights W] [--option KEY=VALUE ..] [--rows FILE.jsonl]
        [--out FILE.md]

All pictures below DATA are pooled; each split sets 30% of every class aside as the test folder. The score of the model
that `find` hands back is compared, on that same test folder, with the linear probe and with tuned full fine-tuning,
both trained in the same run. Each is compared with over all splits; the better one of every single split, chosen in
hindsight, stands beside it and flatters those two. With `--rows`, splits that the file holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def value_of(text: str) -> Any:
    """What an option says: JSON where it is that, 30 or [0.5] or true; else the text itself, 30m or macro_f1."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def of_a_task() -> argparse.ArgumentParser:
    """A parser that knows which pictures and which network are meant, and any other option of `find`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--option", action="append", default=[], help="KEY=VALUE, any other option of find")
    parser.add_argument("--out", type=Path)
    return parser


def options_of(given: argparse.Namespace) -> dict[str, Any]:
    """The options of `find` that were given."""
    found = {key: value_of(text) for key, text in (option.split("=", 1) for option in given.option)}
    return found | ({"weights": given.weights} if given.weights else {})


def main() -> None:
    """One run a split; prints and writes a table."""
    parser = of_a_task()
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--rows", type=Path, help="where each split is kept as soon as it is there")
    given = parser.parse_args()
    task = f"`{given.data.name}`, `{given.backbone}` {' '.join(given.option)}"
    done = known(given.rows, task)
    for number in range(given.splits):
        if number not in done:
            done[number] = {
                "task": task,
                **one(number, given.data, given.backbone, options_of(given)),
            }
            print(line(done[number]), flush=True)
            if given.rows:
                with given.rows.open("a") as file:
                    file.write(json.dumps(done[number]) + "\n")
    heads = ("split", "chosen", "its score", "linear probe", "full fine-tuning", "seconds")
    rows = [done[number] for number in range(given.splits)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *map(line, rows)]
    lines += ["", *differences(np.array([row["scores"] for row in rows]))]
    text = "\n".join(lines)
    print(text)
    if given.out:
        given.out.write_text(f"{task}\n\n{text}\n")


def known(file: Path | None, task: str) -> dict[int, dict[str, Any]]:
    """The splits of this task that an earlier call kept."""
    rows = map(json.loads, file.read_text().splitlines()) if file is not None and file.exists() else ()
    return {row["split"]: row for row in rows if row["task"] == task}


def one(number: int, data: Path, backbone: str, options: dict[str, Any]) -> dict[str, Any]:
    """One split: the scores of the choice, of the linear probe and of full fine-tuning."""
    folder = Path(tempfile.mkdtemp())
    try:
        split(data, folder / "data", number)
        started = time.perf_counter()
        found = frostline.find(str(folder / "data"), backbone, out=str(folder / "run"), seed=number, **options).summary
        took = time.perf_counter() - started
    finally:
        shutil.rmtree(folder)
    others = [found["baselines"][name]["certified"]["mean"] for name in ("linear_probe", "full_finetune")]
    return {
        "split": number,
        "chosen": found["decision"]["arm"],
        "scores": [found["score"]["value"], *others],
        "seconds": round(took),
    }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    scores = " | ".join(f"{value:.3f}" for value in row["scores"])
    return f"| {row['split']} | {row['chosen']} | {scores} | {row['seconds']} |"


def differences(rows: NDArray[np.float64]) -> list[str]:
    """The choice's mean score minus each of the others', paired by split, with standard errors."""
    ours, probe, full = rows.T
    others = {"linear probe": probe, "full fine-tuning": full, "the better of each split": np.maximum(probe, full)}
    found: list[str] = []
    for name, theirs in others.items():
        gaps = ours - theirs
        error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        found.append(f"- minus {name}: {100 * gaps.mean():+.1f} points (standard error {100 * error:.1f})")
    return found


if __name__ == "__main__":
    main()
