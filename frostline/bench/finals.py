"""After the race: predictions that certify, and the checks of the engine on itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from frostline.activations.fingerprint import alike
from frostline.bench.bench import Bench
from frostline.bench.resident import given_up
from frostline.bench.task import Training, by_length, plan_training, reader
from frostline.bench.unit import kept_weights, learner
from frostline.data.intake import inputs_of
from frostline.errors import FrozenMoved, RunFailed
from frostline.training import checkpoint, loop
from frostline.training.device import out_of_memory
from frostline.training.feed import feed, steps
from frostline.training.prepare import predictor
from frostline.training.step import Batch
from frostline.values import Arm, Event, Outcome, Plan, Show, Unit, silent

TOGETHER = 2**31  # bytes of models that predict at once
CHECKED_ROWS = 128  # that the comparison of stored and live activations trains on


def certify(bench: Bench, models: Sequence[tuple[Arm, Unit]], *, show: Show = silent) -> tuple[Outcome, ...]:
    """What the kept models of units predict for the certification rows, from the raw inputs.

    Each example is opened once for all of them: that takes longer than a small network does. Where they do not fit into
    memory together, they go in two halves. Raises RunFailed where a single one does not.
    """
    given_up(bench)  # trainings are over
    if bench.rivals:  # each from its own network, in the order of the models
        found = dict[Unit, Outcome]()
        for mine in bench.every:
            ours = [(arm, unit) for arm, unit in models if mine.of(arm.id) is mine]
            found |= {outcome.unit: outcome for outcome in certify(replace(mine, rivals={}), ours, show=show)}
        return tuple(found[unit] for _, unit in models)
    bytes_each = sum(parameter.nbytes for parameter in bench.backbone.module.parameters())
    room = max(1, TOGETHER // max(1, bytes_each))
    if len(models) > room:
        return tuple(o for at in range(0, len(models), room) for o in certify(bench, models[at : at + room], show=show))
    try:
        return _certified(bench, models, show) if models else ()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(models) == 1:
            raise RunFailed(
                f"memory ran out while {models[0][1].arm!r} predicted what was set aside; give a smaller "
                f"{bench.intake.remedy} or a smaller backbone"
            ) from error
    # not in the except clause, where the error holds on to all models
    middle = len(models) // 2
    return certify(bench, models[:middle], show=show) + certify(bench, models[middle:], show=show)


def _certified(bench: Bench, models: Sequence[tuple[Arm, Unit]], show: Show) -> tuple[Outcome, ...]:
    rows, where = by_length(bench, bench.split.certification), bench.device.device
    predictors = [_predictor(bench, arm, unit) for arm, unit in models]
    found: list[list[Tensor]] = [[] for _ in models]
    parts = np.array_split(rows, steps(len(rows), min(arm.plan.recipe.batch for arm, _ in models)))
    for number, part in enumerate(parts, 1):
        inputs = inputs_of(bench.intake, part, where)
        for predict, predicted in zip(predictors, found, strict=True):
            predicted.append(predict(inputs).cpu())
        show(Event("certify", number, len(parts)))
    return tuple(
        Outcome(unit, rows, torch.cat(predicted).numpy(), 0.0, 0)
        for (_, unit), predicted in zip(models, found, strict=True)
    )


def _predictor(bench: Bench, arm: Arm, unit: Unit) -> Callable[[Mapping[str, Tensor]], Tensor]:
    network, where = copy.deepcopy(bench.backbone.module), bench.device.device
    head = checkpoint.read(kept_weights(bench, unit), network)
    return predictor(network.to(where), head.to(where), bench.anatomy, arm.plan, bench.task)


def frozen_unchanged(bench: Bench, plan: Plan, unit: Unit) -> bool:
    """Whether the kept model of a unit still has the source's frozen layers, bit for bit: read back from its file.

    Raises FrozenMoved where it has not.
    """
    names = [name for layer in plan.layers[: plan.freeze] for name in layer.members]
    network = copy.deepcopy(bench.backbone.module)
    checkpoint.read(kept_weights(bench, unit), network)
    if not alike(network, bench.backbone.module, names):
        raise FrozenMoved(f"the model of {unit.arm!r} was written with frozen layers that are not the source's")
    return True


def cached_versus_live(bench: Bench, arm: Arm, unit: Unit) -> float | None:
    """The largest difference of the batch losses of one short epoch, trained from the store and live.

    Both train the same arm on the same rows in the same order; without a difference in the activations there is none
    in the losses. The live one opens the examples themselves. In nats; None where nothing is stored that the arm reads.
    """
    stored = plan_training(bench, arm, unit)
    if stored.start not in bench.whole:
        return None
    rows = stored.rows[:CHECKED_ROWS]
    short = replace(stored, rows=rows, plan=replace(stored.plan, recipe=replace(stored.plan.recipe, batch=8)))
    bare = replace(bench, whole={}, varied=())
    cached, live = _losses(bench, short), _losses(bare, replace(short, start=0))
    return float(np.abs(np.subtract(cached, live)).max())


def _losses(bench: Bench, training: Training) -> list[float]:
    """The loss of every batch: epochs of one batch each, so that the loop yields them all."""
    targets = bench.examples.targets[training.rows]
    parts = np.array_split(np.arange(len(training.rows)), steps(len(training.rows), training.plan.recipe.batch))
    plan = replace(training.plan, recipe=replace(training.plan.recipe, epochs=len(parts)), thaw=())
    read, where = reader(bench, training), bench.device.device

    def one(epoch: int) -> Iterator[Batch]:
        part = parts[epoch]
        return feed(read, training.rows[part], targets[part], len(part), device=where)(epoch)

    with learner(bench, replace(training, plan=plan)) as taught, torch.random.fork_rng():
        torch.manual_seed(training.seed)
        return [epoch.loss for epoch in loop.train(taught, one, plan, 1, bench.device)]
