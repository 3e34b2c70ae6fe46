"""What a detector on a pre-trained classifier comes to on BCCD, and what it takes: a prototype in plain PyTorch.

    FROSTLINE_ASSETS=... python -m benchmarks.detection_prototype --freeze 9 --epochs 4 --batch 4 --lr 3e-3

One line of JSON a training. The chain is stem, seven stages, last convolution; what is frozen is computed once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

from frostline.tasks.detector import Detector, Level

ASSETS = Path(os.environ["FROSTLINE_ASSETS"])
BCCD = ASSETS / "datasets/bccd"
CLASSES = ("RBC", "WBC", "Platelets")


def read(part: str, size: tuple[int, int], letterbox: bool = False) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, h, w) in bytes and boxes (n, m, 5) in their pixels, NaN where fewer."""
    pictures, boxes = [], []
    for name in (BCCD / f"ImageSets/Main/{part}.txt").read_text().split():
        image = Image.open(BCCD / f"JPEGImages/{name}.jpg").convert("RGB")
        sx, sy = size[1] / image.width, size[0] / image.height
        if letterbox:
            sx = sy = min(sx, sy)
        small = image.resize((round(image.width * sx), round(image.height * sy)), Image.Resampling.BILINEAR)
        canvas = Image.new("RGB", (size[1], size[0]), (128, 128, 128))
        canvas.paste(small)
        pictures.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1))
        rows = []
        for item in ET.parse(BCCD / f"Annotations/{name}.xml").getroot().iter("object"):
            x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
            if x2 > x1 and y2 > y1:
                rows.append([(x1 - 1) * sx, (y1 - 1) * sy, x2 * sx, y2 * sy, CLASSES.index(item.findtext("name"))])
        boxes.append(torch.tensor(rows).reshape(-1, 5))
    padded = torch.full((len(boxes), max(map(len, boxes)), 5), math.nan)
    for row, each in zip(padded, boxes, strict=True):
        row[: len(each)] = each
    return torch.stack(pictures), padded


def chain(pretrained: bool, seed: int) -> list[nn.Module]:
    torch.manual_seed(seed)
    net = timm.create_model("mobilenetv2_100", pad_type="same")
    if pretrained:
        net.load_state_dict(load_file(ASSETS / "weights/mobilenetv2_100_in1k/timm.safetensors"))
    stages = [nn.Sequential(net.conv_stem, net.bn1), *net.blocks, nn.Sequential(net.conv_head, net.bn2)]
    return [stage.to(memory_format=torch.channels_last) for stage in stages]


def climb(stages: list[nn.Module], x: Tensor, first: int, depths: tuple[int, ...]) -> list[Tensor]:
    found = []
    for depth in range(first + 1, max(depths) + 1):
        x = stages[depth - 1](x)
        if depth in depths:
            found.append(x)
    return found


def fit(data: Tensor) -> Tensor:
    return ((data.float() / 255 - 0.5) / 0.5).to(memory_format=torch.channels_last)


def bottom(stages: list[nn.Module], pictures: Tensor, freeze: int, depths: tuple[int, ...]) -> list[Tensor]:
    """What the training reads: the activation at the cut, where something above is computed, and the frozen levels."""
    if not freeze:
        return [pictures]
    keep = sorted({d for d in depths if d <= freeze} | ({freeze} if max(depths) > freeze else set()))
    out: list[list[Tensor]] = []
    with torch.no_grad():
        out += [climb(stages, fit(batch), 0, tuple(keep)) for batch in pictures.split(16)]
    return [torch.cat(parts).contiguous(memory_format=torch.channels_last) for parts in zip(*out, strict=True)]


def score(found: Tensor, targets: Tensor, backend: str = "faster_coco_eval") -> dict[str, float]:
    metric = MeanAveragePrecision(backend=backend, class_metrics=True)
    metric.warn_on_many_detections = False
    rows = [row[~row[:, 0].isnan()] for row in found]
    metric.update(
        [{"boxes": r[:, :4], "scores": r[:, 4], "labels": r[:, 5].long()} for r in rows],
        [{"boxes": r[:, :4], "labels": r[:, 4].long()} for r in (t[~t[:, 0].isnan()] for t in targets)],
    )
    result = metric.compute()
    return {
        "map50": round(float(result["map_50"]), 4),
        "map": round(float(result["map"]), 4),
        "class": [round(float(v), 3) for v in result["map_per_class"]],
        "shown": round(sum(len(r) for r in rows) / len(rows), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="192x256")
    parser.add_argument("--letterbox", action="store_true")
    parser.add_argument("--freeze", type=int, default=9)  # stages, 0 to 9
    parser.add_argument("--depths", default="4,6,9")
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--kept", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--convs", type=int, default=1)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--reach", type=float, default=None)
    parser.add_argument("--part", default="val")
    parser.add_argument("--flip", action="store_true")  # only where nothing is frozen
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", action="store_true")  # score after every epoch
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(int(v) for v in args.size.split("x"))
    depths = tuple(int(v) for v in args.depths.split(","))
    freeze = 0 if args.scratch else min(args.freeze, max(depths))
    stages = chain(not args.scratch, args.seed)
    for stage in stages:
        stage.eval()
    pictures, targets = read("train", size, args.letterbox)
    judged, truth = read(args.part, size, args.letterbox)
    began = time.process_time()
    stored = bottom(stages, pictures, freeze, depths)
    held = bottom(stages, judged, freeze, depths)
    filled = time.process_time() - began
    below = [d for d in depths if d <= freeze]

    def levels(rows: list[Tensor], flipped: bool = False) -> list[Tensor]:
        rows = [fit(r) if r.dtype == torch.uint8 else r.float() for r in rows]
        if flipped:
            rows = [r.flip(3) for r in rows]
        if max(depths) == freeze:
            return rows
        kept = rows[: len(below)]
        return kept + climb(stages, rows[-1], freeze, tuple(d for d in depths if d > freeze))

    with torch.no_grad():
        shapes = [tuple(level.shape[1:]) for level in levels([s[:1] for s in stored])]
    torch.manual_seed(args.seed)
    detector = Detector([Level(*s) for s in shapes], 3, size, width=args.width, convs=args.convs).to(
        memory_format=torch.channels_last
    )
    if args.reach is not None:
        nn.init.constant_(detector.head.regression_head.bbox_reg.bias, args.reach)
    learning = nn.ModuleList(stages[freeze : max(depths)])
    groups = []
    for module, lr in ((learning, args.lr * (1 if args.scratch else args.kept)), (detector, args.lr)):
        for vectors in (False, True):
            weights = [p for p in module.parameters() if (p.ndim < 2) == vectors]
            if weights:
                groups.append({"params": weights, "peak": lr, "weight_decay": 0.0 if vectors else 0.01})
    optimiser = torch.optim.AdamW(groups, lr=args.lr, fused=True)
    draw = torch.Generator().manual_seed(args.seed)
    steps = math.ceil(len(pictures) / args.batch)
    total, step, loss_mean = steps * args.epochs, 0, 0.0
    trained = judging = 0.0

    def judge() -> dict[str, float]:
        learning.eval()
        detector.eval()
        with torch.inference_mode():
            found = torch.cat(
                [
                    detector.detections(detector(levels([h[i : i + 16] for h in held])))
                    for i in range(0, len(judged), 16)
                ]
            )
        return score(found, truth)

    everything = [p for g in groups for p in g["params"]]
    for epoch in range(args.epochs):
        began, losses = time.process_time(), []
        learning.train(args.scratch)
        detector.train()
        for rows in torch.randperm(len(pictures), generator=draw).split(args.batch):
            warm = max(1, 0.1 * total)
            factor = (
                min(1.0, (step + 1) / warm)
                if step < warm
                else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
            )
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * min(1.0, factor)
            wanted, flipped = targets[rows], args.flip and bool(torch.rand((), generator=draw) < 0.5)
            if flipped:
                wanted = wanted.clone()
                wanted[..., [0, 2]] = size[1] - wanted[..., [2, 0]]
            loss = detector.loss(detector(levels([s[rows] for s in stored], flipped)), wanted)
            optimiser.zero_grad()
            loss.backward()
            if args.clip:
                nn.utils.clip_grad_norm_(everything, args.clip)
            optimiser.step()
            losses.append(loss.detach())
            step += 1
        loss_mean = float(torch.stack(losses).mean())
        trained += time.process_time() - began
        if args.each:
            print(epoch, round(loss_mean, 3), judge(), flush=True)
    began = time.process_time()
    result = judge()
    judging = time.process_time() - began
    said = {k: v for k, v in vars(args).items() if v != parser.get_default(k)} | {
        "epochs": args.epochs,
        "lr": args.lr,
        "freeze": freeze,
        "seed": args.seed,
    }
    bytes_each = sum(s[0].numel() * s.element_size() for s in stored)
    print(
        json.dumps(
            said
            | result
            | {
                "loss": round(loss_mean, 3),
                "fill_s": round(filled, 1),
                "train_s": round(trained, 1),
                "judge_s": round(judging, 1),
                "kb": bytes_each // 1024,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
