"""Classes of places: the new layers on several depths of a classifier that say of every place what it belongs to.

SegFormer's decoder, which has no convolution wider than one place: the map of each stride becomes one of a common
width, is drawn as large as the finest, and their sum is read class by class. SegFormer multiplies two matrices for each
stride and lays what they give side by side before the second; with nothing between them that is one matrix each, and a
sum, which is computed before a map is drawn large. Its batch norm is a group norm here: batches are small, and a
training may be short.
Source: Xie et al., "SegFormer", NeurIPS 2021, arXiv:2105.15203.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (4, 8, 16, 32)  # pixels of the input that a step of the map is wide
WIDTH = 256  # as in SegFormer-B0 and B1
GROUPS = 32


@final
class Decoder(nn.Module):
    """From the maps of several depths, finest first, to logits of places (n, classes, h, w) at the finest stride.

    It says of itself how it was made: from maps (channels, height, width), for answers of a size.
    """

    levels: Tensor
    made: Tensor

    def __init__(self, levels: Sequence[tuple[int, ...]], classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("levels", torch.tensor([list(level) for level in levels]))
        self.register_buffer("made", torch.tensor([classes, *size]))
        self.reads = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels, *_ in levels)
        self.norm = nn.GroupNorm(GROUPS, WIDTH)
        self.says = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, crossing: Sequence[Sequence[Tensor]]) -> Tensor:
        """From what crosses each of the depths that it reads."""
        first, *others = (read(maps[0]) for read, maps in zip(self.reads, crossing, strict=True))
        for coarse in others:
            first = first + enlarged(coarse, first.shape[-2:])
        return self.says(self.norm(first).relu())


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (n, k, h, w) as large as that, with what lies between two places drawn between them."""
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
