"""Planted depth: tasks whose best cut is known because the target shares its first layers with the source.

    python -m benchmarks.truth.planted [--seeds N] [--rows FILE.jsonl] [--out FILE.md]

The source is a random network of four hidden layers. The target's labels come from a network that shares the source's
first d layers and is random above them: d layers are worth keeping as they are, what lies above is worth nothing. With
few examples, freezing d layers is best: fewer frozen layers are learned anew from noise, more of them are wrong. `find`
is asked, and the table says how often its answer freezes d. Tasks that the rows file holds are not searched again.

`made` trains the same arms at five learning rates: which depth looks best at one rate for all is a matter of that rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import frostline
from benchmarks.predictions import Predictions
from benchmarks.truth.world import Pictures, joined, reads, trained
from frostline.plan import plan
from frostline.values import Arm, Layer, Recipe

SIDE, LAYERS, CLASSES = 6, 4, 4
WIDTH = SIDE * SIDE
STEP = 36 / 255  # of grey for a standard deviation of the input
PLANTED, EPOCHS, SEEDS = (1, 2, 3), 36, 5
SWEPT = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2)  # at one rate for all, another depth looks best
SIZES = {"train": 400, "validation": 1500, "test": 1000}


class Layered(nn.Module):
    """Hidden layers of one width over a small grey picture; layer by layer, what goes into the ReLU is standardised."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.default_cfg = reads(SIDE, CLASSES, std=STEP)
        draw = torch.Generator().manual_seed(seed)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
        self.settle(torch.randn(4000, WIDTH, generator=draw))

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Scale every layer to outputs of mean 0 and variance 1 on these inputs, before the ReLU."""
        for layer in [block[0] for block in self.blocks] + [self.head]:
            out = x @ layer.weight.T
            layer.weight /= out.std(dim=0)[:, None]
            layer.bias.copy_(-(out.mean(dim=0) / out.std(dim=0)))
            x = torch.relu(x @ layer.weight.T + layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x.flatten(1)))


def teacher(source: Layered, shared: int, seed: int) -> Layered:
    """A network with the source's first layers and random ones above."""
    other = Layered(seed)
    for mine, theirs in zip(list(other.blocks)[:shared], source.blocks, strict=False):
        mine.load_state_dict(theirs.state_dict())
    other.settle(torch.randn(4000, WIDTH, generator=torch.Generator().manual_seed(seed + 1)))
    return other


def drawn(count: int, labels: Layered, seed: int) -> Pictures:
    """Grey pictures of independent normal values, with the classes that a network gives them as it reads them."""
    rng = np.random.default_rng(seed)
    pictures = np.clip(np.round(127.5 + 255 * STEP * rng.standard_normal((count, SIDE, SIDE))), 0, 255).astype(np.uint8)
    seen = (torch.from_numpy(pictures).float()[:, None] / 255 - 0.5) / STEP
    with torch.no_grad():
        return Pictures(pictures, labels(seen).argmax(dim=1).numpy())


def task(depth: int, seed: int) -> tuple[Layered, Layered]:
    """The source, and the network that labels a task whose best cut is at a depth."""
    source = Layered(1000 * seed)
    return source, teacher(source, depth, 1000 * seed + 1)


def searched(depth: int, seed: int, **options: Any) -> dict[str, Any]:
    """What `find` answers for a task, and how every arm of its final came out."""
    source, labels = task(depth, seed)
    with tempfile.TemporaryDirectory() as folder:
        for part, count in SIZES.items():
            drawn(count, labels, 10 * seed + len(part)).laid(Path(folder) / "data" / part)
        given = {"device": "cpu", "image_size": SIDE, "epochs": EPOCHS, "seed": seed, **options}
        found = frostline.find(str(Path(folder) / "data"), source, out=str(Path(folder) / "run"), **given).summary
    decided = found["decision"]
    return {
        "planted": depth,
        "seed": seed,
        "arm": decided["arm"],
        "freeze": decided["plan"]["freeze"],
        "above": decided["plan"]["above"],
        "certified": decided["certified"],
        "score": found["score"]["value"],
        "baselines": {name: row["certified"]["mean"] for name, row in found["baselines"].items()},
        "arms": {row["id"]: (row["stage"], row["score"]["mean"]) for row in found["arms"]},
    }


def freezing(layers: Sequence[Layer]) -> Iterator[Arm]:
    """All layers kept and the first f of them frozen, at rates from far too low to far too high."""
    for f in range(LAYERS):
        yield Arm(f"freeze@{f}", plan(layers, Recipe(EPOCHS, 1e-3, kept_lr=1.0), freeze=f), SWEPT)


def made(seed: int) -> dict[str, Predictions]:
    """A table for each planted depth; a seed is other pictures of the same task."""
    tables = dict[str, Predictions]()
    for depth in PLANTED:
        source, labels = task(depth, 0)
        judge, learn = drawn(SIZES["validation"], labels, 500), drawn(SIZES["train"], labels, seed)
        found = trained(learn, judge, source, freezing, seeds=(seed,))
        tables[f"planted-{depth}"] = joined([found], {"planted": depth, "epochs": EPOCHS})
    return tables


def main() -> None:
    """Searches, then how often the planted depth was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.rows is not None and given.rows.exists():
        rows = [json.loads(line) for line in given.rows.read_text().splitlines()]
    known = {(row["planted"], row["seed"]) for row in rows}
    for seed in range(given.seeds):
        for depth in PLANTED:
            if (depth, seed) not in known:
                rows.append(searched(depth, seed))
                print(rows[-1], flush=True)
                if given.rows is not None:
                    with given.rows.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    lines = ["| planted | searched | found | answer | linear probe | full fine-tuning | scratch |", "|" + "---|" * 7]
    for depth in PLANTED:
        mine = [row for row in rows if row["planted"] == depth]
        found = sum(row["freeze"] == depth for row in mine)
        others = [[row["baselines"][name] for row in mine] for name in ("linear_probe", "full_finetune", "scratch")]
        cells = [f"{100 * np.mean(column):.1f}%" for column in ([row["score"] for row in mine], *others)]
        lines.append(f"| {depth} | {len(mine)} | {found} | {' | '.join(cells)} |")
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
