"""Whether the learning rates of a plan are trained faster together, stacked, than one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench.measure import Trial, least
from frostline.plan import legal_depths, plan
from frostline.tasks import heads
from frostline.training.device import Device, arranged
from frostline.training.loop import Batch, Going, Learner, stacking_quietly, started, train_together
from frostline.training.prepare import prepared
from frostline.values import Backbone, Head, Plan, Recipe, Way

RATES = (1e-5, 3e-5, 1e-4)  # as many as an arm has; small, so that nothing runs away
STEPS = 4  # of one measurement
GAIN = 1.1  # how many times as fast it must be


def stacking(trial: Trial, way: Way, device: Device) -> int | None:
    """The least freeze depth from which on stacked training is faster here; None where it is not.

    Begins above the deepest cut, where steps are short and stacking gains most, and goes down while it gains. On a CPU
    that is mostly one look: replicas do better in processes there.
    """
    backbone, found = replace(trial.backbone, module=arranged(trial.backbone.module, way.layout).eval()), None
    for depth in reversed(legal_depths(trial.anatomy.layers)[:-1]):
        with stacking_quietly(), _calls(trial, backbone, device, depth) as (alone, together):
            try:
                one_by_one, at_once = least([alone, together])
            except RuntimeError:  # an operation that cannot be stacked, or memory that ran out
                return found
        if at_once * GAIN > one_by_one:
            return found
        found = depth
    return found


@contextmanager
def _calls(
    trial: Trial, backbone: Backbone, device: Device, depth: int
) -> Generator[tuple[Callable[[], None], Callable[[], None]]]:
    """A few steps above a cut at every rate: one after the other, and stacked."""
    anatomy, last = trial.anatomy, len(trial.anatomy.layers)
    halves = Halves(backbone.module.to(trial.where), anatomy)
    with torch.no_grad(), device.autocast():
        crossing = halves.taps({anatomy.data: trial.pictures}, (depth, last))
        features = pool(anatomy, last, crossing[last]).shape[1]
    targets = torch.arange(len(trial.pictures), device=trial.where) % 2

    def feed(epoch: int) -> Iterator[Batch]:
        for _ in range(STEPS):
            yield crossing[depth], targets

    with ExitStack() as stack:
        several = list[tuple[Learner, Plan]]()
        for rate in RATES:
            of = plan(anatomy.layers, Recipe(1, rate), freeze=depth)
            head = heads.made(Head(), features, 2, seed=0)
            opened = prepared(backbone, anatomy, of, head, start=depth, seed=0, device=device)
            several.append((stack.enter_context(opened), of))

        def begun() -> list[Going]:
            return [started(taught, of, device) for taught, of in several]

        def alone() -> None:
            for one in begun():
                list(train_together([one], feed, STEPS, device))

        yield alone, lambda: _all(train_together(begun(), feed, STEPS, device))


def _all(epochs: Iterator[object]) -> None:
    for _ in epochs:
        pass
