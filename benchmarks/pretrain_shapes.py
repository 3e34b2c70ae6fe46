"""A small detector, pre-trained from nothing on drawn shapes, and a target of other shapes that look otherwise.

    python benchmarks/pretrain_shapes.py OUT [--steps 2000] [--kept] [--unmeasured] [--out FILE.md]

The source: discs, squares, triangles, crosses and rings, filled with one colour, on blurred coloured ground; no picture
is seen twice. The target: stars, half moons, hexagons and arrows, hatched or drawn with a thin line, on striped grey
ground: 80 labelled pictures, and 200 to judge.

OUT/network holds an RT-DETR with its processor, OUT/target/{train,test} the target as COCO. Then the target is learned
in plain PyTorch with transformers' own loss: full fine-tuning, and the same network from scratch, with as many epochs
and with three times as many, each at its best rate in hindsight. `--kept` measures the network that OUT has already.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from told import machine, tell
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_convert
from transformers import (
    AutoModelForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
)
from transformers.utils import logging

SIDE, FINE = 96, 2  # pixels of a picture, and how much finer it is drawn
LABELLED, JUDGED = 80, 200  # pictures of the target
BATCH = 16
EPOCHS, RATES = 12, (1e-4, 3e-4, 1e-3)  # of the target
ARMS = (("fine-tuning", False, EPOCHS), ("scratch", True, EPOCHS), ("scratch, longer", True, 3 * EPOCHS))
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures (n, 3, side, side), 0 to 1, and of each its boxes (m, 4) x1 y1 x2 y2 in shares and their labels (m)."""

    pictures: Tensor
    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]

    def wanted(self, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """As transformers is told of them."""
        return [
            {"class_labels": self.labels[row], "boxes": box_convert(self.boxes[row], "xyxy", "cxcywh")} for row in rows
        ]


# ------------------------------------------------------------------------------------------------ drawing


def ring_of(corners: int, far: float, near: float | None = None, turn: float = 0.0) -> Points:
    """Corners around the middle, every other one `near` where that is given."""
    radii = [far if near is None or n % 2 == 0 else near for n in range(corners)]
    angles = [turn + 2 * math.pi * n / corners for n in range(corners)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def half_moon(turn: float) -> Points:
    """Half a disc."""
    angles = [turn + math.pi * n / 24 for n in range(25)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def turned(points: Points, turn: float) -> Points:
    """The points, turned around the middle."""
    cos, sin = math.cos(turn), math.sin(turn)
    return [(cos * x - sin * y, sin * x + cos * y) for x, y in points]


HALF: Points = [(-1, -0.3), (-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3)]
CROSS: Points = [*HALF, *((-x, -y) for x, y in HALF)]
ARROW: Points = [(-1, -0.25), (0.1, -0.25), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.25), (-1, 0.25)]
Outline = Callable[[float], Points]  # of a turn, in radians: within a disc of radius 1
SOURCE: dict[str, Outline] = {
    "disc": lambda turn: ring_of(40, 1.0),
    "square": lambda turn: ring_of(4, 1.0, turn=turn),
    "triangle": lambda turn: ring_of(3, 1.0, turn=turn),
    "cross": lambda turn: turned(CROSS, turn),
    "ring": lambda turn: ring_of(40, 1.0),
}
TARGET: dict[str, Outline] = {
    "star": lambda turn: ring_of(10, 1.0, 0.45, turn=turn),
    "half moon": half_moon,
    "hexagon": lambda turn: ring_of(6, 1.0, turn=turn),
    "arrow": lambda turn: turned(ARROW, turn),
}


def ground(rng: np.random.Generator, *, striped: bool) -> Image.Image:
    """What lies behind the shapes."""
    if not striped:
        coarse = Image.fromarray(rng.integers(40, 216, (rng.integers(2, 6), rng.integers(2, 6), 3)).astype(np.uint8))
        return coarse.resize((SIDE * FINE, SIDE * FINE), Image.Resampling.BICUBIC)
    rows, columns = np.mgrid[: SIDE * FINE, : SIDE * FINE]
    angle, wide = rng.uniform(0, math.pi), rng.uniform(8, 24) * FINE
    waves = np.sin((rows * math.sin(angle) + columns * math.cos(angle)) * 2 * math.pi / wide + rng.uniform(0, 6))
    grey = rng.uniform(90, 170) + 25 * waves
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))


def shape(picture: Image.Image, name: str, outline: Points, rng: np.random.Generator) -> Image.Image:
    """The picture with one shape on it, as those of its task look."""
    mask = Image.new("L", picture.size)
    pen = ImageDraw.Draw(mask)
    if name in SOURCE:
        pen.polygon(outline, fill=255)
        if name == "ring":
            middle = np.mean(outline, axis=0)
            pen.polygon([tuple(middle + 0.55 * (np.array(point) - middle)) for point in outline], fill=0)
    else:
        pen.polygon(outline, fill=255)
        inner = Image.new("L", picture.size)
        ImageDraw.Draw(inner).polygon(outline, fill=255, outline=0, width=2 * FINE)
        hatch = np.zeros((SIDE * FINE, SIDE * FINE), bool)
        if rng.random() < 0.5:
            rows, columns = np.indices(hatch.shape)
            hatch = (rows + (1 if rng.random() < 0.5 else -1) * columns) % (5 * FINE) < 2 * FINE
        mask = Image.fromarray(np.where((np.asarray(inner) > 0) & ~hatch, 0, np.asarray(mask)).astype(np.uint8))
    colour = tuple(int(c) for c in np.where(rng.random(3) < 0.5, rng.integers(0, 60, 3), rng.integers(196, 256, 3)))
    return Image.composite(Image.new("RGB", picture.size, colour), picture, mask)


def scene(
    shapes: dict[str, Outline], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """One picture with one to five shapes that hardly overlap, their boxes in shares, and which they are."""
    picture, names = ground(rng, striped=shapes is TARGET), list(shapes)
    boxes, labels = list[NDArray[np.float64]](), list[int]()
    for _ in range(int(rng.integers(1, 6))):
        radius, label = rng.uniform(6, 19) * FINE, int(rng.integers(len(names)))
        middle = rng.uniform(radius, SIDE * FINE - radius, 2)
        outline = [(middle[0] + radius * x, middle[1] + radius * y) for x, y in shapes[names[label]](rng.uniform(0, 7))]
        corners = np.concatenate([np.min(outline, axis=0), np.max(outline, axis=0)]) / (SIDE * FINE)
        if any(_meet(corners, box) for box in boxes):
            continue
        picture = shape(picture, names[label], outline, rng)
        boxes.append(corners)
        labels.append(label)
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float64)
    noisy = pixels + rng.normal(0, rng.uniform(2, 12), pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8), np.array(boxes, np.float32), np.array(labels, np.int64)


def _meet(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((np.maximum(one[:2], other[:2]) < np.minimum(one[2:], other[2:])).all())


def drawn(shapes: dict[str, Outline], count: int, rng: np.random.Generator) -> Drawn:
    """So many pictures, each anew."""
    pictures, boxes, labels = zip(*(scene(shapes, rng) for _ in range(count)), strict=True)
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return Drawn(pixels, [torch.from_numpy(one) for one in boxes], [torch.from_numpy(one) for one in labels])


def lay_out(part: Drawn, out: Path) -> None:
    """A COCO file beside its pictures."""
    out.mkdir(parents=True)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (pixels, boxes, labels) in enumerate(zip(part.pictures, part.boxes, part.labels, strict=True)):
        name = f"{number:04d}.png"
        Image.fromarray((255 * pixels).round().byte().permute(1, 2, 0).numpy()).save(out / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for (left, top, right, bottom), label in zip((SIDE * boxes).tolist(), labels.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            )
    kinds = [{"id": number, "name": name} for number, name in enumerate(TARGET)]
    told = {"images": images, "annotations": annotations, "categories": kinds}
    (out / "annotations.json").write_text(json.dumps(told))


# ------------------------------------------------------------------------------------------------ learning


def network(kinds: Sequence[str]) -> RTDetrForObjectDetection:
    """An RT-DETR of a sixteenth of the usual width, with 30 queries and batch norms that learn."""
    convolutions = RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], layer_type="basic"
    )
    convolutions.out_features = ["stage2", "stage3", "stage4"]
    config = RTDetrConfig(
        backbone_config=convolutions,
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=64,
        encoder_in_channels=[32, 64, 96],
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=64,
        num_queries=30,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_layers=3,
        decoder_attention_heads=4,
        num_denoising=30,
        anchor_image_size=None,
        id2label=dict(enumerate(kinds)),
        label2id={name: at for at, name in enumerate(kinds)},
    )
    return RTDetrForObjectDetection(config)


def step(module: nn.Module, optimiser: torch.optim.Optimizer, batch: Drawn, rows: Sequence[int]) -> float:
    """One step with transformers' own loss; its value."""
    loss = module(batch.pictures[list(rows)], labels=batch.wanted(rows)).loss
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    return loss.item()


def found(module: nn.Module, judge: Drawn) -> MeanAveragePrecision:
    """What it finds on pictures, beside the truth, to be computed."""
    module.eval()
    measure = MeanAveragePrecision()
    for rows in torch.arange(len(judge.pictures)).split(100):
        with torch.inference_mode():
            said = module(judge.pictures[rows])
        scores, where = said.logits.sigmoid().flatten(1).topk(100)
        kinds = said.logits.shape[2]
        corners = box_convert(said.pred_boxes, "cxcywh", "xyxy").gather(
            1, (where // kinds)[..., None].expand(-1, -1, 4)
        )
        answers = [
            {"boxes": box, "scores": score, "labels": label}
            for box, score, label in zip(corners, scores, where % kinds, strict=True)
        ]
        truth = [{"boxes": judge.boxes[row], "labels": judge.labels[row]} for row in rows.tolist()]
        measure.update(answers, truth)
    return measure


def judged(module: nn.Module, judge: Drawn) -> tuple[float, float]:
    """mAP@50 and mAP on COCO's rules."""
    told = found(module, judge).compute()
    return float(told["map_50"]), float(told["map"])


def pretrain(out: Path, steps: int, seed: int) -> str:
    """Learn the source, write network and processor; how well it went, in a line."""
    rng, started, busy = np.random.default_rng(seed), time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    module, judge = network(list(SOURCE)), drawn(SOURCE, 300, np.random.default_rng(seed + 1))
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    for count in range(1, steps + 1):
        module.train()
        loss = step(module, optimiser, drawn(SOURCE, BATCH, rng), range(BATCH))
        schedule.step()
        if count % 250 == 0:
            print(f"step {count}/{steps}: loss {loss:.2f}, mAP@50 {judged(module, judge)[0]:.3f}", flush=True)
    module.save_pretrained(out)
    RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}, do_normalize=False).save_pretrained(out)
    rough, strict = judged(module, judge)
    took, of_one_core = time.perf_counter() - started, time.process_time() - busy
    return (
        f"Source: {steps * BATCH} pictures of {len(SOURCE)} kinds, each seen once, in {took:.0f} s "
        f"({of_one_core:.0f} s of one core); mAP@50 {rough:.3f} and mAP {strict:.3f} on {len(judge.pictures)} others."
    )


def begun(folder: Path, seed: int, *, fresh: bool) -> nn.Module:
    """The network with new class layers for the target; `fresh` begins all of it anew."""
    torch.manual_seed(seed)
    module = AutoModelForObjectDetection.from_pretrained(
        folder, num_labels=len(TARGET), id2label=dict(enumerate(TARGET)), ignore_mismatched_sizes=True
    )
    return type(module)(module.config) if fresh else module


def learned(module: nn.Module, train: Drawn, epochs: int, lr: float, seed: int) -> nn.Module:
    """The module after all epochs: AdamW over one cycle, all weights."""
    rng, steps = torch.Generator().manual_seed(seed), epochs * -(-len(train.pictures) // 4)
    optimiser = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        module.train()
        for rows in torch.randperm(len(train.pictures), generator=rng).split(4):
            step(module, optimiser, train, rows.tolist())
            schedule.step()
    return module


def measure(train: Drawn, test: Drawn, folder: Path, seed: int) -> list[str]:
    """The target, learned in every way."""
    lines = [f"Target: {len(train.pictures)} labelled pictures, {len(test.pictures)} to judge.", ""]
    lines += ["| arm | epochs | rate | mAP@50 | mAP |", "|---|---|---|---|---|"]
    for name, fresh, epochs in ARMS:
        for lr in RATES:
            rough, strict = judged(learned(begun(folder, seed, fresh=fresh), train, epochs, lr, seed), test)
            lines.append(f"| {name} | {epochs} | {lr} | {rough:.3f} | {strict:.3f} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Pre-train, lay out, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--steps", type=int, default=2000, help="of 16 pictures each")
    parser.add_argument("--kept", action="store_true", help="measure the network that OUT has already")
    parser.add_argument("--unmeasured", action="store_true", help="write network and target, and no more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # class layers of another width are what is asked for
    logging.disable_progress_bar()
    lines = [f"Drawn shapes on {machine()}, torch {torch.__version__}.", ""]
    rng = np.random.default_rng(options.seed + 2)
    train, test = drawn(TARGET, LABELLED, rng), drawn(TARGET, JUDGED, rng)
    shutil.rmtree(options.folder / "target", ignore_errors=True)
    for name, part in (("train", train), ("test", test)):
        lay_out(part, options.folder / "target" / name)
    if not options.kept:
        lines += [pretrain(options.folder / "network", options.steps, options.seed), ""]
    if not options.unmeasured:
        lines += measure(train, test, options.folder / "network", options.seed)
    tell(lines, options.out)


if __name__ == "__main__":
    main()
