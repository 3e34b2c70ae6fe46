"""The depths that a head reads which finds where things are: the last of each stride."""

from __future__ import annotations

from dataclasses import replace

from frostline.backbones.anatomy import Anatomy
from frostline.errors import OptionError
from frostline.tasks.detector import depths_of
from frostline.values import Backbone, Layer, Preprocessing


def squashed(backbone: Backbone) -> Backbone:
    """The backbone on whole examples: nothing that lies at an edge may be cut off."""
    how = backbone.preprocessing
    if not isinstance(how, Preprocessing):
        raise OptionError(f"the task is detection, and {backbone.name!r} reads no maps; give a convolutional backbone")
    return replace(backbone, preprocessing=replace(how, resize=None))


def with_levels(anatomy: Anatomy, backbone: Backbone) -> Anatomy:
    """The anatomy up to the last depth that such a head reads: what pools behind it has no use.

    Raises PlanError where a stride is missing.
    """
    levels = levels_of(anatomy.layers, backbone)
    last = levels[-1]
    return replace(
        anatomy,
        layers=anatomy.layers[:last],
        ports=anatomy.ports[:last],
        needs=anatomy.needs[:last],
        pools=anatomy.pools[:last],
        levels=levels,
    )


def levels_of(layers: tuple[Layer, ...], backbone: Backbone) -> tuple[int, ...]:
    """The last cut of each stride, rising."""
    how = backbone.preprocessing
    assert isinstance(how, Preprocessing), "`squashed` refuses others"
    shapes = [layer.shape if layer.cut else () for layer in layers]
    return tuple(depths_of(shapes, how.size))
