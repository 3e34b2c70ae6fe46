"""The demo's network: a small residual network that this project trained on printed letters.

`scripts/pretrain_demo.py` makes its weights from nothing; the demo transfers them to handwritten digits.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

# the 37 shapes that upper and lower case leave when those that look alike are merged,
# as in the "balanced" split of Cohen et al., "EMNIST", 2017, arXiv:1702.05373
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
WEIGHTS = Path(__file__).with_name("letters.safetensors")
WIDTHS = (16, 16, 32, 32, 64, 64)  # of the six blocks; a block that widens also halves the picture


class Block(nn.Module):
    """Two 3x3 convolutions around a residual add (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(inner)) + self.shortcut(x)).relu()


class Glyphs(nn.Module):
    """A stem, six residual blocks and a linear head; reads grey pictures of 16 x 16 pixels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        # read by Frostline as it reads timm's: ink is bright, paper is 0
        self.default_cfg = {
            "input_size": (1, 16, 16),
            "mean": (0.3,),
            "std": (0.3,),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": classes,
            "classifier": "head",
        }
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        befores = (WIDTHS[0], *WIDTHS[:-1])
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip(befores, WIDTHS, strict=True)))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def glyphs(classes: int = len(LETTERS)) -> nn.Module:
    """The network with fresh weights; those in `WEIGHTS` fit it as it stands."""
    return Glyphs(classes)
