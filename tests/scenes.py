"""Pictures of coloured discs and squares on noise, with a mask of each: value 1 is a disc, 2 a square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("nothing", "disc", "square")
COLOURS = ((230, 60, 60), (60, 60, 230), (230, 220, 60))


def scene(rng: np.random.Generator, size: tuple[int, int] = (48, 40)) -> tuple[Image.Image, Image.Image]:
    """A picture that is wider than high, and its mask."""
    width, height = size
    picture = Image.fromarray(rng.integers(0, 70, (height, width, 3)).astype(np.uint8))
    mask = Image.new("L", size, 0)
    pens = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(1, 4))):
        kind, side = int(rng.integers(1, 3)), int(rng.integers(12, 20))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        for pen, fill in zip(pens, (COLOURS[int(rng.integers(3))], kind), strict=True):
            (pen.ellipse if kind == 1 else pen.rectangle)((x, y, x + side, y + side), fill=fill)
    return picture, mask


def scenes(folder: Path, count: int, *, seed: int = 0, named: bool = True) -> Path:
    """A data set of them, in images/ and masks/; `named` with classes.txt."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        picture, mask = scene(rng)
        picture.save(folder / "images" / f"{number:02d}.png")
        mask.save(folder / "masks" / f"{number:02d}.png")
    if named:
        (folder / "classes.txt").write_text("\n".join(KINDS) + "\n")
    return folder
