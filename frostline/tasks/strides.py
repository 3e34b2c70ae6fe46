"""Which depths of a network hold maps: of each stride the last, which is the best that it knows at that size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from frostline.errors import PlanError


def depths_of(shapes: Sequence[tuple[int, ...]], size: tuple[int, int], strides: Sequence[int]) -> list[int]:
    """The depths that a head of these strides reads, rising; `shapes` are what crosses depths 1, 2, ...

    Depths where no map (channels, height, width) crosses are passed over. Raises PlanError where a stride has none.
    """
    found: dict[int, int] = {}
    for depth, shape in enumerate(shapes, start=1):
        for stride in strides:
            if len(shape) == 3 and shape[1:] == tuple(math.ceil(side / stride) for side in size):
                found[stride] = depth
    if missing := [stride for stride in strides if stride not in found]:
        raise PlanError(
            f"no layer gives maps of stride {missing[0]} for pictures of {size[0]} x {size[1]}; the head reads the "
            f"strides {tuple(strides)}: take a convolutional backbone, or sides that are multiples of {max(strides)}"
        )
    return [found[stride] for stride in strides]
