"""The depths that a head reads which says where things are: which ones, its task knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from frostline.backbones.anatomy import Anatomy
from frostline.errors import OptionError
from frostline.search.arms import distinct, exact, grid
from frostline.settings import Settings
from frostline.tasks import heads
from frostline.tasks.table import TASKS
from frostline.tasks.task import Levels
from frostline.training.prepare import read_at, top
from frostline.values import Arm, Backbone, Head, HeadKind, Plan, Preprocessing


def head_kind(settings: Settings, backbone: Backbone) -> HeadKind:
    """The kind of head that a search begins with."""
    task = TASKS[settings.task]
    if backbone.queries and task.levels is not None:
        if settings.detector is not None:
            raise OptionError(
                f"detector is {settings.detector!r}, and {backbone.name!r} finds things by layers of its own; leave "
                "it away, or give a backbone that classifies"
            )
        return "queries"
    return task.head if settings.detector is None else task.heads[settings.detector]


def squashed(backbone: Backbone, task: str) -> Backbone:
    """The backbone on whole examples: nothing that lies at an edge may be cut off."""
    how = backbone.preprocessing
    if not isinstance(how, Preprocessing):
        raise OptionError(f"the task is {task}, and {backbone.name!r} reads no maps; give a convolutional backbone")
    if backbone.queries and "queries" not in TASKS[task].recipes:
        raise OptionError(f"the task is {task}, and {backbone.name!r} finds things; give a backbone that classifies")
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


def head_on(settings: Settings, backbone: Backbone, anatomy: Anatomy) -> Head:
    """New layers on what crosses depths as it is, the last of which they sit on; no probe can start them."""
    return Head(head_kind(settings, backbone), cuts=anatomy.levels[:-1], start="random")


def on_crossing(arms: Sequence[Arm], head: Head) -> tuple[Arm, ...]:
    """The arms with such a head; no probe can start it, and none can do without the top.

    So everything frozen is trained as well, lp_ft is full fine-tuning, no layers are dropped, and none is averaged with
    a probe (WiSE-FT).
    """
    found = list[Arm]()
    for arm in arms:
        of = arm.plan
        if of.above == "drop" or arm.id == "lp_ft" or of.blend != 1 or top(of) != len(of.layers):
            continue
        wide = replace(arm, plan=replace(of, head=head))
        if exact(arm):
            wide = replace(wide, id="head_only", rates=grid(of.recipe.lr), protected=True, baseline="head_only")
        found.append(wide)
    return distinct(found)


def unpooled(
    anatomy: Anatomy, of: Plan, classes: int, size: tuple[int, int], *, seed: int, answer: tuple[int, ...] = ()
) -> nn.Module:
    """Fresh layers on what crosses the depths that a plan's head reads: maps of inputs of a size, rows of queries.

    `answer` is the shape of what is asked of one example, for a head that answers in it.
    """
    shapes = [anatomy.layers[depth - 1].shape for depth in read_at(of)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if of.head.kind == "queries":
            return heads.Queries(shapes[-1][-1] - 4, classes)
        if of.head.kind == "decoder":
            return heads.Decoder(shapes, classes, (answer[0], answer[1]))
        return heads.Pyramid(shapes, classes, size, of.head.kind)
