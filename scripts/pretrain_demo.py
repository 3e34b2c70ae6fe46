"""Make the weights of `frostline demo` from nothing: printed letters, drawn as the handwritten digits were.

Every letter is drawn in the fonts that matplotlib brings (DejaVu, STIX, Computer Modern), bent, thinned or thickened
as a hand would, and reduced to 8 x 8 counts of ink exactly as the digits of the demo were: 32 x 32 black and white,
then the number of black points in each 4 x 4 square (E. Alpaydin and C. Kaynak, 1998, UCI "optdigits").
No digit is drawn and none is looked at. One run takes about two minutes on two cores:

    python scripts/pretrain_demo.py
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from frostline.demo.network import LETTERS, WEIGHTS, glyphs

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
PAGE = 64  # pixels of a glyph before it is bent
FILL = 50  # of which its longer side takes this many, so that bending loses nothing


def draw(letter: str, font: ImageFont.FreeTypeFont) -> NDArray[np.float32]:
    """One glyph, ink 1 on paper 0, centred and scaled to fill the page."""
    canvas = Image.new("L", (400, 400), 0)
    ImageDraw.Draw(canvas).text((100, 100), letter, fill=255, font=font)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font {font.getname()} draws nothing for {letter!r}; take it from FONTS")
    ink = canvas.crop(box)
    scale = FILL / max(ink.size)
    ink = ink.resize((max(4, round(ink.width * scale)), max(4, round(ink.height * scale))), Image.Resampling.LANCZOS)
    page = Image.new("L", (PAGE, PAGE), 0)
    page.paste(ink, ((PAGE - ink.width) // 2, (PAGE - ink.height) // 2))
    return np.asarray(page, dtype=np.float32) / np.float32(255)


def draw_all() -> tuple[Tensor, Tensor]:
    """Every letter in every font (glyphs x 1 x PAGE x PAGE) and which letter each is."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("matplotlib is not installed; its fonts draw the letters: `make demo` installs it")
    folder = Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 160) for name in FONTS]
    pages = np.stack([draw(letter, font) for font in fonts for letter in LETTERS])
    return torch.from_numpy(pages)[:, None], torch.arange(len(LETTERS)).repeat(len(fonts))


def bend(pages: Tensor, rng: torch.Generator) -> Tensor:
    """Turn, slant, stretch, shift and warp each page: half its size in pixels, so 32 x 32."""
    n = len(pages)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    angle, slant = 0.16 * normal(n), 0.2 * normal(n)
    wide, high = torch.exp(0.2 + 0.15 * normal(n)), torch.exp(0.06 * normal(n))
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
    shape = torch.stack([wide, slant, torch.zeros(n), high], 1).view(n, 2, 2)
    grid = functional.affine_grid(torch.cat([turn @ shape, 0.04 * normal(n, 2, 1)], 2) * 0.86, [n, 1, 32, 32], False)
    # a smooth field of displacements, from a coarse random one: what tells a hand from a font
    warp = functional.interpolate(0.07 * normal(n, 2, 4, 4), size=(32, 32), mode="bicubic", align_corners=True)
    return functional.grid_sample(pages, grid + warp.permute(0, 2, 3, 1), align_corners=False)


def reduce(ink: Tensor, rng: torch.Generator) -> Tensor:
    """From 32 x 32 ink to what the network reads: thickness, threshold, 4 x 4 counts, then 16 x 16 pixels of 0..1."""
    n = len(ink)
    blurred = functional.avg_pool2d(ink, 3, 1, padding=1)
    level = torch.empty(n, 1, 1, 1).uniform_(0.1, 0.45, generator=rng)  # low swells a stroke, high thins it
    strokes = (blurred > level).float()
    strokes = torch.where(torch.rand(strokes.shape, generator=rng) < 0.01, 1 - strokes, strokes)
    counts = (functional.avg_pool2d(strokes, 4) * 16).round() / 16
    # through the 256 steps of a stored picture, as the demo's digits go
    small = (counts * 255).round() / 255
    return functional.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False).clamp(0, 1)


def batch(pages: Tensor, letters: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`size` letters as the network reads them, normalised as `default_cfg` says, and which they are."""
    rows = torch.randint(0, len(pages), (size,), generator=rng)
    return (reduce(bend(pages[rows], rng), rng) - 0.3) / 0.3, letters[rows]


def train(network: nn.Module, steps: int, rng: torch.Generator) -> None:
    """AdamW over one cycle; every batch is drawn anew, so no letter is seen twice."""
    pages, letters = draw_all()
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    started = time.perf_counter()
    for step in range(steps):
        inputs, targets = batch(pages, letters, 256, rng)
        loss = functional.cross_entropy(network(inputs), targets, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {time.perf_counter() - started:.0f} s", flush=True)


def accuracy(network: nn.Module, rng: torch.Generator) -> float:
    """On 4,096 letters drawn anew."""
    pages, letters = draw_all()
    network.eval()
    with torch.inference_mode():
        inputs, targets = batch(pages, letters, 4096, rng)
        return (network(inputs).argmax(1) == targets).float().mean().item()


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    network = glyphs()
    train(network, options.steps, torch.Generator().manual_seed(options.seed))
    print(f"letters told apart: {accuracy(network, torch.Generator().manual_seed(options.seed + 1)):.2%}")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, options.out, {"task": f"printed letters: {LETTERS}", "made_by": "scripts/pretrain_demo.py"})
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
