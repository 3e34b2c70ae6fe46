"""What new layers of a task's own take: a step of training them, a prediction, and its judging."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from frostline.backbones.halves import Halves
from frostline.bench.levels import unpooled
from frostline.bench.measure import Trial, least, rows_of
from frostline.data.intake import intake
from frostline.plan import plan
from frostline.search.scores import losses
from frostline.tasks.task import Task
from frostline.training.device import Device, arranged
from frostline.training.loop import predict, started
from frostline.training.prepare import prepared
from frostline.training.step import Batch, Steps
from frostline.values import Examples, Head, Recipe, Topping, Way

STEPS = 4  # of one measurement: when all are done, the new layers answer as some that have learned


def topping(
    trial: Trial, examples: Examples, task: Task, kind: Head, recipe: Recipe, way: Way, device: Device
) -> Topping | None:
    """Measured above frozen layers, on a copy, as trainings take their steps; None where a linear head answers.

    What is to be learned is what the examples of the trial say.
    """
    if kind.pools:
        return None
    anatomy, last = trial.anatomy, len(trial.anatomy.layers)
    backbone = replace(trial.backbone, module=arranged(trial.backbone.module, way.layout).eval())
    batch = _batch(replace(trial, backbone=backbone), examples, device)
    of = plan(anatomy.layers, recipe, freeze=last, head=kind)
    height, width = trial.inputs[anatomy.data].shape[-2:]
    shape, classes = examples.targets.shape[1:], len(examples.classes)
    head = unpooled(anatomy, of, classes, (height, width), seed=0, answer=shape)
    answers = list[Tensor]()
    with prepared(backbone, anatomy, of, head, start=last, seed=0, device=device, task=task) as learner:
        steps = Steps([started(learner, of, device, graphs=way.graphs)], device)

        def step() -> None:
            told = [steps.take(*batch) for _ in range(STEPS)]
            torch.stack([loss for each in told for loss, _ in each.values()]).tolist()  # a GPU is done then

        def answer() -> None:
            answers.append(predict(learner, lambda _: iter([batch]), device))

        learner.mode(0)
        try:
            (stepping,) = least([step])
        finally:
            steps.close()
        (answering,) = least([answer])
    began = time.perf_counter()
    losses(answers[-1].numpy(), batch[1].cpu().numpy())
    judging = time.perf_counter() - began
    count, parameters = trial.count, sum(parameter.numel() for parameter in head.parameters())
    return Topping(stepping / STEPS / count, answering / count, judging / count, parameters)


def _batch(trial: Trial, examples: Examples, device: Device) -> Batch:
    """What the last layer of the network, and those that are read beside it, hand on of the trial; its targets."""
    anatomy, last = trial.anatomy, len(trial.anatomy.layers)
    halves = Halves(trial.backbone.module.to(trial.where), anatomy)
    with torch.no_grad(), device.autocast():
        taps = halves.taps(trial.inputs, (*anatomy.levels, last))
    cargo = (*anatomy.gathered(taps, last), *(trial.inputs[name] for name in anatomy.beside(last)))
    rows = rows_of(intake(trial.backbone, examples), len(examples), trial.count)
    return cargo, torch.from_numpy(examples.targets[rows]).to(trial.where)
