"""Regret: what each way to choose gives away against the best of an exhaustive grid, in points, and what it costs.

    python -m benchmarks.regret.table ASSETS [--grids FOLDER] [--work FOLDER] [--rows FILE.jsonl] [--out FILE.md]

For each grid of `grid.py`, Frostline searches on the same pictures (`find` with the grid's schedule, three seeds), and
beside it stands what people do: the linear probe, full fine-tuning from a new head and from the probe's at the learning
rate that selects best, the last block, half the depth, the cut that a score without training prefers, and the winner of
the whole sweep on the examples to select by. All choose on those; all are judged on the grid's examples that say the
truth, as means over seeds. Regret is the best strategy in hindsight minus that. Cost is in full fine-tunings at one
rate: modelled for the others, the seconds of its trainings for Frostline. Searches that the rows file holds are not run
again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import frostline
from benchmarks.predictions import Predictions, read
from benchmarks.regret.grid import EPOCHS, PAIRS, SEEDS, drawn


def best(grid: Predictions) -> float:
    """The truth of the best arm at its best rate, chosen in hindsight, as a mean over seeds."""
    settings = set(zip(grid.arm, grid.rate, strict=True))
    return max(float(grid.true[(grid.arm == arm) & (grid.rate == rate)].mean()) for arm, rate in settings)


def swept(grid: Predictions) -> float:
    """The truth of the winner of the whole sweep, seed by seed."""
    everything = np.ones(len(grid.arm), bool)
    return float(np.mean([grid.true[grid.first(everything, seed)] for seed in grid.seeds]))


def rules(grid: Predictions) -> dict[str, tuple[float, float]]:
    """Truth and cost of what people do; the cost is that of three rates, in full fine-tunings."""
    depths, top = grid.facts["cuts"], len(grid.facts["layers"])
    costs = {arm: grid.cost(arm).training for arm in grid.arms}
    inner = [depth for depth in depths if depth < top]
    half = min(inner, key=lambda depth: abs(depth - top / 2))

    def of(arm: str) -> tuple[float, float]:
        times = 1 if arm.startswith("probe@") else 3
        return float(grid.tuned(arm).mean()), times * costs[arm] / costs["full_finetune"]

    def preferred(score: str) -> str:
        """Frozen up to the cut that a score prefers: the probe itself where that is the last one."""
        found = {int(depth): value for depth, value in grid.facts["scores"][score].items()}
        depth = max(found, key=lambda depth: found[depth])
        return f"freeze@{depth}" if depth < top else f"probe@{depth}"

    return {
        "linear probe": of(f"probe@{depths[-1]}"),
        "full fine-tuning": of("full_finetune"),
        "probe, then fine-tuning": of("lp_ft"),
        "last block": of(f"freeze@{inner[-1]}"),
        "half the depth": of(f"freeze@{half}"),
        "best leave-one-out probe": of(preferred("ridge_loo")),
        "LogME, standardised": of(preferred("logme")),
        "H-score": of(preferred("h_score")),
        "the whole sweep's winner": (
            swept(grid),
            sum(costs[arm] for arm in grid.arm) / SEEDS / costs["full_finetune"],
        ),
    }


def searched(name: str, size: int, seed: int, assets: Path, work: Path) -> dict[str, Any]:
    """One search on the pictures of a grid: its truth, its claim, and its cost in full fine-tunings."""
    pair, folder = PAIRS[name], work / f"{name}-{size}"
    if not (folder / "data").exists():
        drawn(pair, assets, size, folder / "partial")
        (folder / "partial").rename(folder / "data")
    parts = {"train": "train", "select": "validation", "truth": "test"}
    for file in (file for part in ("train", "validation") for file in (folder / "data" / part).rglob("*.png")):
        place = folder / "find" / parts[file.name.split("-")[0]] / file.parent.name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(file.resolve())
    options = {**pair.options, **({} if pair.weights is None else {"weights": str(assets / pair.weights)})}
    backbone = pair.backbone.format(assets=assets) if "{" in pair.backbone else str(assets / pair.backbone)
    started = time.perf_counter()
    out = str(folder / f"find-{seed}")
    found = frostline.find(
        str(folder / "find"), backbone, out=out, seed=seed, epochs=EPOCHS, resume=True, **options
    ).summary
    cost = found["cost"]
    trained = cost["race_seconds"] + cost["final_seconds"] + cost["fill_seconds"] + cost["probe_seconds"]
    return {
        "pair": name,
        "size": size,
        "seed": seed,
        "arm": found["decision"]["arm"],
        "truth": found["score"]["value"],
        "certified": found["decision"]["certified"],
        "cost": trained / cost["full_finetune_seconds"],
        "seconds": round(time.perf_counter() - started),
    }


def table(grids: Mapping[str, Predictions], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a way to choose: mean and largest regret in points, and cost."""
    regret: dict[str, list[float]] = {}
    cost: dict[str, list[float]] = {}
    for name, grid in grids.items():
        mine = [row for row in rows if f"{row['pair']}-{row['size']}" == name]
        known: dict[str, tuple[float, float]] = rules(grid)
        if mine:
            known["Frostline"] = tuple(float(np.mean([row[key] for row in mine])) for key in ("truth", "cost"))
        for rule, (truth, spent) in known.items():
            regret.setdefault(rule, []).append(100 * (best(grid) - truth))
            cost.setdefault(rule, []).append(spent)
    heads = ("way to choose", "mean regret", "largest", "cost", *grids)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for rule, values in sorted(regret.items(), key=lambda item: float(np.mean(item[1]))):
        cells = [f"{np.mean(values):.2f}", f"{max(values):.2f}", f"{np.mean(cost[rule]):.1f}"]
        lines.append(f"| {rule} | {' | '.join(cells)} | {' | '.join(f'{value:.1f}' for value in values)} |")
    hindsight = " | ".join(f"{100 * best(grid):.1f}%" for grid in grids.values())
    return [*lines, f"| *best in hindsight, accuracy* | | | | {hindsight} |"]


def main() -> None:
    """Searches, then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("assets", type=Path)
    parser.add_argument("--grids", type=Path, default=Path(__file__).parent / "grids")
    parser.add_argument("--work", type=Path, default=Path("runs/regret"))
    parser.add_argument("--rows", type=Path, default=Path(__file__).parent / "grids" / "found.jsonl")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sized = [(name, size) for name, pair in PAIRS.items() for size in pair.sizes]
    grids = {f"{n}-{s}": read(file) for n, s in sized if (file := given.grids / f"{n}-{s}.npz").exists()}
    rows: list[dict[str, Any]] = []
    if given.rows.exists():
        rows = [json.loads(line) for line in given.rows.read_text().splitlines()]
    known = {(row["pair"], row["size"], row["seed"]) for row in rows}
    for name, size in sized:
        for seed in range(SEEDS):
            if f"{name}-{size}" in grids and (name, size, seed) not in known:
                rows.append(searched(name, size, seed, given.assets.resolve(), given.work))
                print(rows[-1], flush=True)
                with given.rows.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    text = "\n".join(table(grids, rows))
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
