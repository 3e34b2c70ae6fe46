"""One unit of the search: trained from the store or from raw inputs, and predicted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.activations.fingerprint import alike
from frostline.backbones.halves import Halves
from frostline.bench.bench import Bench
from frostline.bench.levels import unpooled
from frostline.bench.resident import given_up, resident
from frostline.bench.task import Training, fold_of, lengths, plan_training, reader, stored
from frostline.data import batches
from frostline.data.intake import inputs_of
from frostline.errors import FrozenMoved, RunFailed
from frostline.evidence import probes
from frostline.search.arms import exact
from frostline.search.scores import balanced
from frostline.tasks import heads
from frostline.training import adapters, checkpoint, device, loop, underway
from frostline.training.feed import Held, feed, steps
from frostline.training.prepare import prepared, read_at, reestimate
from frostline.training.step import Batch, Feed, Going, Learner, stacking_quietly
from frostline.values import Arm, Epoch, Outcome, Targets, Unit, asked

FINALISTS = "finalists"  # the folder in a run for weights that may be handed back
UNDERWAY = "underway"  # and for trainings that are not at their end
KEPT_EVERY = 30.0  # seconds, at the end of an epoch
SMALLEST_BATCH = 2  # halving after running out of memory ends here


Task = tuple[Unit, Training]
Table = NDArray[np.float32]


def perform(bench: Bench, arm: Arm, unit: Unit, *, keep: bool = False) -> Outcome:
    """Train one arm as the unit says and predict its validation rows; `keep` leaves the weights in the run.

    Raises FrozenMoved where something frozen is not what it was, RunFailed where memory runs out whatever the batch.
    A training that diverges is an Outcome that says so.
    """
    return perform_together(bench, arm, (unit,), keep=keep)[0]


def perform_together(bench: Bench, arm: Arm, units: Sequence[Unit], *, keep: bool = False) -> tuple[Outcome, ...]:
    """As `perform`, for units that differ in their learning rates alone: each comes out as it would by itself.

    Seconds are shared equally among them, and so is peak memory where they were trained at once. Only a `stackable`
    arm takes more than one unit.
    """
    bench = bench.of(arm.id)
    if bench.rivals:
        torch.set_num_threads(bench.calibration.way.threads)
    live = keep and arm.plan.recipe.augment != "none"
    tasks = [(unit, plan_training(bench, arm, unit, live=live)) for unit in units]
    started = time.perf_counter()
    if not exact(arm):
        _resident(bench, tasks[0][1])  # what is stored is no part of what a training takes
    held = device.reset_peak(bench.device.device)
    if exact(arm):
        found = [_probed(bench, training, unit, keep=keep) for unit, training in tasks]
    else:
        found = _trained(bench, tasks, keep=keep)
    seconds = (time.perf_counter() - started) / len(tasks)
    peak = device.peak_bytes(held, bench.device.device) // found[0].together
    return tuple(replace(outcome, seconds=outcome.seconds + seconds, peak_bytes=peak) for outcome in found)


def stackable(bench: Bench, arm: Arm) -> bool:
    """Whether the rates of an arm are trained together here: where that was measured to be faster, and is the same.

    Batch norms that follow the batch would have to be updated through the stack, and fp16's one loss scale is shared.
    Dropout draws the mask that a training alone draws only on contiguous tensors of a CPU.
    """
    bench = bench.of(arm.id)
    way, plan = bench.calibration.way, arm.plan
    if way.stacked is None or plan.freeze < way.stacked or exact(arm) or way.precision == "fp16":
        return False
    if not plan.head.pools or plan.statistics == "batch" or plan.above == "reinit" or plan.adapter is not None:
        return False
    same_mask = way.layout == "contiguous" and bench.device.device.type == "cpu"
    return same_mask or not any(_drops(bench, name) for layer in plan.layers[plan.freeze :] for name in layer.modules)


def _drops(bench: Bench, name: str) -> bool:
    """Whether a module is a dropout that draws."""
    return float(getattr(bench.backbone.module.get_submodule(name), "p", 0.0) or 0.0) > 0


def starting_head(bench: Bench, fold: int, depths: tuple[int, ...], *, balance: bool) -> probes.Linear:
    """The probe on some cuts, fitted on the training rows of a fold; kept, since many arms start from it.

    Of numbers it is the ridge of what `scale` makes of them.
    """
    key = (fold, depths, balance)
    if key not in bench.heads:
        rows = fold_of(bench, fold).train
        targets, classes = bench.examples.targets[rows], len(bench.examples.classes)
        weights = balanced(targets) if balance else None
        bench.heads[key] = probes.first_head(features_at(bench, depths, rows), targets, classes, weights=weights)
    return bench.heads[key]


def features_at(bench: Bench, depths: tuple[int, ...], rows: NDArray[np.int64]) -> Table:
    """Pooled features of some cuts, side by side."""
    return np.concatenate([bench.pooled[depth][rows] for depth in depths], axis=1)


def kept_weights(bench: Bench, unit: Unit) -> Path:
    """Where `perform` leaves the weights of a unit that is to be kept."""
    folder = bench.of(unit.arm).folder
    assert folder is not None, "weights are kept in a run directory alone"
    return folder / FINALISTS / f"{unit.key}.safetensors"


def _probed(bench: Bench, training: Training, unit: Unit, *, keep: bool) -> Outcome:
    """The closed form: nothing below the head learns, so the probe is the result."""
    depths = read_at(training.plan)
    linear = starting_head(bench, training.fold, depths, balance=training.plan.recipe.balance)
    if keep:
        checkpoint.write(kept_weights(bench, unit), bench.backbone.module, head_of(bench, training), training.plan)

    head = head_of(bench, training)

    def predicted(rows: NDArray[np.int64]) -> Table:
        with torch.inference_mode():
            outputs = probes.outputs(linear, features_at(bench, depths, rows))
            if isinstance(head, heads.Scaled):
                outputs = outputs * _numpy(head.spread) + _numpy(head.centre)
            return bench.task.predictions(torch.from_numpy(outputs)).numpy()

    shifted = bench.split.shifted
    return Outcome(
        unit,
        training.predict,
        predicted(training.predict),
        0.0,
        0,
        shifted=predicted(shifted) if len(shifted) else None,
    )


def _trained(bench: Bench, tasks: Sequence[Task], *, keep: bool) -> list[Outcome]:
    unit, training = tasks[0]
    batch, near = training.plan.recipe.batch, True
    if len(tasks) > 1:
        # what cannot be stacked after all, for memory or for an operation, goes one by one: after the except clause, as
        # the error holds on to all that was made
        with suppress(RuntimeError):
            return _attempt(bench, tasks, batch, keep=keep, near=True)
        return [outcome for task in tasks for outcome in _trained(bench, [task], keep=keep)]
    while True:
        try:
            return _attempt(bench, tasks, batch, keep=keep, near=near)
        except RuntimeError as error:
            if not device.out_of_memory(error):
                raise
            if near and any(each.resident for each in bench.every):  # what is stored makes room before the batch does
                near = False
                continue
            if batch <= SMALLEST_BATCH:
                raise RunFailed(
                    f"memory ran out while {unit.arm!r} was trained, even in batches of {batch} examples; give a "
                    f"smaller {bench.intake.remedy}, fewer --workers or a smaller backbone, and go on with --resume"
                ) from error
            batch = max(SMALLEST_BATCH, batch // 2)


def _attempt(bench: Bench, tasks: Sequence[Task], batch: int, *, keep: bool, near: bool) -> list[Outcome]:
    """The tasks trained together, in batches of a size; what they share is read from the first one.

    Where it may not lie `near`, what is stored leaves the memory of a GPU first.
    """
    if not near:
        given_up(bench)
    training, targets = tasks[0][1], bench.examples.targets
    kept = training.plan.layers[: training.plan.keep]
    frozen = [name for layer in kept[: training.plan.freeze] for name in layer.members]
    frozen += [name for layer in kept[training.plan.freeze :] for name in layer.held]
    where, read, still = bench.device.device, reader(bench, training), stored(bench, training, 1)
    way, found = bench.calibration.way, list[Outcome]()
    held = None if training.live else bench.whole.get(training.start)
    waits = where.type != "cpu" if held is None else held.tier == "disk"  # on a CPU, opening takes the cores it is for
    there = _resident(bench, training) if near else None

    def placed(rows: NDArray[np.int64]) -> Held | None:
        return None if there is None else (there, bench.places[rows])

    with torch.random.fork_rng(), stacking_quietly(), ExitStack() as stack:
        learn = feed(
            read, training.rows, targets[training.rows], batch,
            device=where, seed=training.seed, waits=waits, held=placed(training.rows),
            sizes=lengths(bench, training.rows),
        )  # fmt: skip
        pairs = [(stack.enter_context(learner(bench, task)), task.plan) for _, task in tasks]
        for taught, plan in pairs:
            if plan.statistics == "reestimate":
                reestimate(taught, learn(0), plan)
        torch.manual_seed(training.seed)  # dropout above the cut
        several = [loop.started(taught, plan, bench.device, graphs=way.graphs) for taught, plan in pairs]
        epochs, before = _epochs(bench, tasks, several, learn, batch)
        look = feed(
            still, training.predict, targets[training.predict], batch,
            device=where, waits=waits, held=placed(training.predict),
        )  # fmt: skip
        for place, ((unit, task), (taught, plan)) in enumerate(zip(tasks, pairs, strict=True)):
            network, head = (taught.module.get_submodule(name) for name in ("network", "head"))
            loop.blend(taught, plan.blend)
            if plan.adapter is not None:
                adapters.merge(network)
            predicted = loop.predict(taught, look, bench.device).numpy()
            shifted = _elsewhere(bench, taught, training.start, batch)
            if plan.adapter is not None:
                adapters.remove(network)
            if not alike(network, bench.backbone.module, frozen):
                raise FrozenMoved(f"frozen layers of {unit.arm!r} changed while it was trained; the result is not kept")
            if keep:
                checkpoint.write(kept_weights(bench, unit), network, head, plan)
            own = tuple(told[place] for told in epochs if place in told)
            diverged = own[-1].diverged or (predicted.ndim == 2 and not np.isfinite(predicted).all())
            found.append(
                Outcome(unit, task.predict, predicted, before, 0, own, bool(diverged), batch, len(tasks), shifted)
            )
    return found


def _resident(bench: Bench, training: Training) -> tuple[Tensor, ...] | None:
    """What a training reads, in the memory of a GPU; None where it lies elsewhere."""
    still = not training.live and training.views == 1
    return resident(bench, training.start) if still else None


def _epochs(
    bench: Bench, tasks: Sequence[Task], several: Sequence[Going], learn: Feed, batch: int
) -> tuple[list[dict[int, Epoch]], float]:
    """All epochs of the tasks, and the seconds of those that an interrupted session left behind.

    A training by itself that takes long is kept as it goes on.
    """
    (unit, training), count = tasks[0], steps(len(tasks[0][1].rows), batch)
    if len(tasks) > 1 or bench.folder is None or bench.device.scaler is not None:
        return list(loop.train_together(several, learn, count, bench.device)), 0.0
    path = bench.folder / UNDERWAY / f"{unit.key}.safetensors"
    said = (training.plan, training.fold, training.seed, training.start, training.live, training.views, batch)
    mark = sha256(f"{said} {bench.calibration.way}".encode()).hexdigest()
    told = underway.read(path, mark, several[0])
    before, kept = sum(epoch.seconds for epoch in told), time.perf_counter()
    for epochs in loop.train_together(several, learn, count, bench.device, first=len(told)):
        told = (*told, *epochs.values())
        if time.perf_counter() - kept >= KEPT_EVERY:
            underway.write(path, mark, several[0], told)
            kept = time.perf_counter()
    path.unlink(missing_ok=True)
    return [{0: epoch} for epoch in told], before


def _elsewhere(bench: Bench, learner: Learner, start: int, batch: int) -> Table | None:
    """What a learner that starts at a cut predicts of the shifted examples, from raw inputs; None without any.

    Nothing of them is stored: what is stored, and so what trainings cost, is as it would be without them.
    """
    rows, where, anatomy = bench.split.shifted, bench.device.device, bench.anatomy
    if not len(rows):
        return None
    source = Halves(bench.backbone.module.to(where), anatomy)

    def look(epoch: int) -> Iterator[Batch]:
        for part in batches.batches(rows, batch):
            inputs = inputs_of(bench.intake, part, where)
            crossing = anatomy.gathered(source.taps(inputs, (start, *anatomy.below(start))), start)
            found = (*crossing, *(inputs[name] for name in anatomy.beside(start)))
            yield found, torch.from_numpy(bench.examples.targets[part])

    try:
        return loop.predict(learner, look, bench.device).numpy()
    finally:
        bench.backbone.module.cpu()


def learner(bench: Bench, task: Training) -> AbstractContextManager[Learner]:
    """What learns, as a task says; open while it does."""
    head, device, weights = head_of(bench, task), bench.device, None
    targets = bench.examples.targets[task.rows]
    if asked(targets) == "regression":
        weights = 1 / scale(targets)[1]
    elif task.plan.recipe.balance:
        each = dict(zip(targets.tolist(), balanced(targets).tolist(), strict=True))
        weights = torch.tensor([each.get(label, 1.0) for label in range(len(bench.examples.classes))])
    return prepared(
        bench.backbone, bench.anatomy, task.plan, head,
        start=task.start, seed=task.seed, device=device, weights=weights, task=bench.task,
    )  # fmt: skip


def _numpy(tensor: Any) -> NDArray[np.float64]:
    """A buffer, which a module hands out as whatever it may hold."""
    return tensor.detach().double().cpu().numpy()


def scale(targets: Targets) -> tuple[Tensor, Tensor]:
    """Mean and deviation of numbers to be learned, from those that are learned from."""
    spread = targets.std(axis=0)
    return torch.from_numpy(targets.mean(axis=0)), torch.from_numpy(np.where(spread > 0, spread, 1.0))


def head_of(bench: Bench, training: Training) -> torch.nn.Module:
    """The head on the cuts that the plan's reads, started as the plan says."""
    depths = read_at(training.plan)
    if not training.plan.head.pools:
        height, width = bench.intake.shape[-2:]
        classes, answer = len(bench.examples.classes), bench.examples.targets.shape[1:]
        return unpooled(bench.anatomy, training.plan, classes, (height, width), seed=training.seed, answer=answer)
    features, classes = sum(bench.pooled[depth].shape[1] for depth in depths), len(bench.examples.classes)
    head = heads.made(training.plan.head, features, classes, seed=training.seed)
    rows = fold_of(bench, training.fold).train
    if asked(bench.examples.targets) == "regression":
        head = heads.Scaled(head, *scale(bench.examples.targets[rows]))
    if training.plan.head.start == "probe":
        linear = starting_head(bench, training.fold, depths, balance=training.plan.recipe.balance)
        part = heads.linear_of(head)
        with torch.no_grad():
            part.weight.copy_(torch.from_numpy(linear.weights))
            part.bias.copy_(torch.from_numpy(linear.bias))
    return head
