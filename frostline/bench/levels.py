"""The depths that a head reads which says where things are: which ones, its task knows."""

from __future__ import annotations

from dataclasses import replace

from frostline.backbones.anatomy import Anatomy
from frostline.errors import OptionError
from frostline.tasks.task import Levels
from frostline.values import Backbone, Preprocessing


def squashed(backbone: Backbone, task: str) -> Backbone:
    """The backbone on whole examples: nothing that lies at an edge may be cut off."""
    how = backbone.preprocessing
    if not isinstance(how, Preprocessing):
        raise OptionError(f"the task is {task}, and {backbone.name!r} reads no maps; give a convolutional backbone")
    return replace(backbone, preprocessing=replace(how, resize=None))


def with_levels(anatomy: Anatomy, backbone: Backbone, maps: Levels) -> Anatomy:
    """The anatomy up to the last depth that such a head reads: what pools behind it has no use.

    Raises PlanError where a map is missing.
    """
    how = backbone.preprocessing
    assert isinstance(how, Preprocessing), "`squashed` refuses others"
    levels = tuple(maps([layer.shape if layer.cut else () for layer in anatomy.layers], how.size))
    last = levels[-1]
    return replace(
        anatomy,
        layers=anatomy.layers[:last],
        ports=anatomy.ports[:last],
        needs=anatomy.needs[:last],
        pools=anatomy.pools[:last],
        levels=levels,
    )
