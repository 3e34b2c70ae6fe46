"""Whether the learning rates of a plan are trained faster together, stacked, than one after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench.measure import Call, Trial, least
from frostline.plan import legal_depths, plan
from frostline.tasks import heads
from frostline.training.device import Device, arranged
from frostline.training.loop import started
from frostline.training.prepare import prepared
from frostline.training.step import Going, Steps, stacking_quietly
from frostline.values import Backbone, Head, Recipe, Way

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
        with stacking_quietly(), _calls(trial, backbone, way, device, depth) as (alone, together):
            try:
                one_by_one, at_once = least([alone, together])
            except RuntimeError:  # an operation that cannot be stacked, or memory that ran out
                return found
        if at_once * GAIN > one_by_one:
            return found
        found = depth
    return found


@contextmanager
def _calls(trial: Trial, backbone: Backbone, way: Way, device: Device, depth: int) -> Generator[tuple[Call, Call]]:
    """A few steps above a cut at every rate: one after the other, and stacked; each as trainings take them."""
    anatomy, last = trial.anatomy, len(trial.anatomy.layers)
    halves = Halves(backbone.module.to(trial.where), anatomy)
    with torch.no_grad(), device.autocast():
        crossing = halves.taps(trial.inputs, (depth, last))
        features = pool(anatomy, last, crossing[last], trial.inputs).shape[1]
        cargo = (*crossing[depth][: anatomy.crossing(depth)], *(trial.inputs[name] for name in anatomy.beside(depth)))
    targets = torch.arange(trial.count, device=trial.where) % 2

    with ExitStack() as stack:

        def begun() -> list[Going]:
            found = list[Going]()
            for rate in RATES:
                of = plan(anatomy.layers, Recipe(1, rate), freeze=depth)
                head = heads.made(Head(), features, 2, seed=0)
                opened = prepared(backbone, anatomy, of, head, start=depth, seed=0, device=device)
                found.append(started(stack.enter_context(opened), of, device, graphs=way.graphs))
                found[-1].learner.mode(0)
            return found

        each, stacked = [Steps([one], device) for one in begun()], Steps(begun(), device)
        for steps in (*each, stacked):
            stack.callback(steps.close)

        def taken(several: Sequence[Steps]) -> Call:
            def run() -> None:
                told = [steps.take(cargo, targets) for steps in several for _ in range(STEPS)]
                torch.stack([loss for each in told for loss, _ in each.values()]).tolist()  # a GPU is done then

            return run

        yield taken(each), taken([stacked])
