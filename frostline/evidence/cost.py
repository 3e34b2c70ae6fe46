"""What training and inference cost: measured once on this machine, modelled from then on.

The model never looks at a clock, so the same calibration gives the same costs, and timing noise changes no answer.
Where forward takes 1, forward and backward of a learning layer take about 3, and of a frozen layer on the gradient's
path about 2: it hands a gradient on and keeps none. None of the three is assumed: each is measured, layer by layer
where time allows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from frostline.errors import StoreError
from frostline.values import Calibration, Cost, Layer, Plan, Topping

Clock = Callable[[], float]
Floats = NDArray[np.float64]

SAMPLE = 64 * 2**20  # bytes written and read to measure bandwidth: as large as a chunk of the store
ADAMW, SGD = 12, 8  # bytes a learnable float32 number has besides itself: gradient, and two moments or one
PATIENCE = 0.5  # seconds: what takes longer is measured once
SHORTEST = 1e-9  # seconds: a clock may not have moved at all


@dataclass(frozen=True, slots=True)
class Bench:
    """What is to be measured, as calls that each run one batch to the end (waiting for the device)."""

    forward_to: Callable[[int], Callable[[], None]]  # depth -> runs layers[:depth] without gradient
    train_from: Callable[[int], Callable[[], None]]  # depth -> forward and backward of layers[depth:], which learn
    carry_from: Callable[[int], Callable[[], None]]  # depth -> forward of layers[depth:], and a gradient to their input
    update: Callable[[], None]  # one step of the optimiser for all parameters
    batch: int  # examples that each call runs
    device: str
    decode: Callable[[], None] | None = None  # opens and preprocesses one batch; None where it is in memory already
    hand: Callable[[NDArray[np.uint8]], None] | None = None  # bytes from memory to a device with a memory of its own


def calibrate(
    layers: Sequence[Layer],
    bench: Bench,
    folder: Path | None,
    *,
    seconds: float = 4.0,
    repetitions: int = 3,
    clock: Clock = time.perf_counter,
) -> Calibration:
    """Seconds of each layer forward and backward, and the speed of memory and of the disk under `folder`.

    The whole network is measured first, then cuts, halving the gaps, until `seconds` are spent: a slow network is
    measured at few depths, and each once. Between measured depths the time is shared out by MACs. Times are medians of
    `repetitions`, made to rise with depth by isotonic regression, since differences of noisy times can be
    negative. A `folder` of None takes the disk to be as slow as nothing: it is never worth writing to.
    Raises StoreError where the folder cannot be written.
    """
    start, depth = clock(), len(layers)
    order = _halving([0, *(layer.index + 1 for layer in layers if layer.cut), depth])
    ends: dict[int, float] = {0: 0.0}
    trains: dict[int, float] = {depth: 0.0}
    carries: dict[int, float] = {depth: 0.0}
    for at in order:
        if len(ends) > 1 and len(trains) > 1 and clock() - start > seconds:
            break
        if at > 0:
            ends[at] = _timed(bench.forward_to(at), repetitions, clock) / bench.batch
        if at < depth:
            trains[at] = _timed(bench.train_from(at), repetitions, clock) / bench.batch
            carries[at] = _timed(bench.carry_from(at), repetitions, clock) / bench.batch
    macs = np.array([max(1, layer.macs) for layer in layers], dtype=np.float64)
    forward = _shared(ends, macs)
    backward, carry = _behind(trains, forward, macs), _behind(carries, forward, macs)
    link = 0.0 if bench.hand is None else _handing(bench.hand, clock)
    memory, disk = _memory(clock), _disk(folder, clock)
    memory, read, write = (1 / (1 / speed + link) for speed in (memory, *disk))
    parameters = max(1, sum(layer.parameters for layer in layers))
    return Calibration(
        forward=tuple(map(float, forward)),
        backward=tuple(map(float, backward)),
        carry=tuple(map(float, np.minimum(carry, backward))),
        read={"memory": memory, "disk": read},
        write={"memory": memory, "disk": write},
        decode=0.0 if bench.decode is None else _timed(bench.decode, 1, clock) / bench.batch,
        batch=bench.batch,
        device=bench.device,
        macs_per_second=float(sum(layer.macs for layer in layers)) / max(SHORTEST, float(forward.sum())),
        update=_timed(bench.update, repetitions, clock) / parameters,
    )


def model_cost(
    plan: Plan,
    calibration: Calibration,
    *,
    examples: int,
    classes: int,
    features: int,
    stored: Collection[int] = (),
) -> Cost:
    """One full training of a plan on so many examples, by itself on the machine, and one example's inference.

    `features` is the length of the pooled vector that the head reads, `stored` are the depths whose activations are in
    the store; the deepest one that the plan's frozen prefix covers saves the layers below it. A recipe that augments
    does so live: it computes its prefix, and opens its examples, in every epoch. Reading is taken to
    hide behind computing: `afford` stores nothing where it would not. An adapter stands beside every kept layer from
    the frozen prefix on; its learnable numbers are estimated, as if each layer were one square matrix:
    2 * rank * sqrt(parameters). New layers that were measured take what they took, others their share of the work.
    """
    path = plan.keep if plan.above == "drop" else len(plan.layers)
    usable = [depth for depth in stored if depth <= plan.freeze] if plan.recipe.augment == "none" else []
    first = max(usable, default=0)
    steps = -(-examples // plan.recipe.batch)
    head = calibration.topping or _counted(plan, calibration, path, classes, features, batch=examples / steps)
    seconds = 0.0
    for epochs, learns in _phases(plan, path):
        compute = sum(calibration.forward[first:path]) + head.step
        for layer in range(_lowest(plan, learns), path):
            compute += calibration.backward[layer] if learns[layer] else calibration.carry[layer]
        seconds += epochs * examples * (compute + (0.0 if usable else calibration.decode))
        seconds += epochs * steps * calibration.update * _learnable(plan, learns)
    ever = [any(learns[layer] for _, learns in _phases(plan, path)) for layer in range(path)]
    learnable = _learnable(plan, ever) + head.parameters
    present = sum(layer.parameters for layer in plan.layers[:path]) + head.parameters
    kept = sum(layer.bytes for layer in plan.layers[_lowest(plan, ever) : path]) + 4 * features
    state = ADAMW if plan.recipe.optimiser == "adamw" else SGD
    return Cost(
        training=seconds,
        inference=sum(calibration.forward[:path]) + head.answer,
        memory=float(4 * present + state * learnable + plan.recipe.batch * kept),
        parameters=learnable,
    )


# --------------------------------------------------------------------------------------------------- the model


def _counted(plan: Plan, calibration: Calibration, path: int, classes: int, features: int, *, batch: float) -> Topping:
    """What a linear head, or one beside it, takes by its multiplications, and the optimiser's part of a step."""
    numbers, shape = plan.head.numbers(features, classes), plan.layers[path - 1].shape
    work = plan.head.macs(features, classes, max(1, prod(shape) // features) if features in shape else 1)
    seconds = work / calibration.macs_per_second
    return Topping(3 * seconds + calibration.update * numbers / batch, seconds, 0.0, numbers)


def _phases(plan: Plan, path: int) -> list[tuple[int, list[bool]]]:
    """(epochs, do its own weights learn? layer by layer) for each stretch between two thaws."""
    above = [plan.above == "reinit"] * (path - plan.keep)
    steps = [(0, plan.train), *((epoch, flags) for epoch, flags in plan.thaw if epoch < plan.recipe.epochs)]
    ends = [*(epoch for epoch, _ in steps[1:]), plan.recipe.epochs]
    return [(end - begin, [*flags, *above]) for (begin, flags), end in zip(steps, ends, strict=True)]


def _lowest(plan: Plan, learns: Sequence[bool]) -> int:
    """The first layer that a gradient reaches; the number of layers where the head learns alone."""
    lowest = learns.index(True) if True in learns else len(learns)
    return lowest if plan.adapter is None else min(lowest, plan.freeze)


def _learnable(plan: Plan, ever: Sequence[bool]) -> int:
    """Learnable numbers below the head."""
    total = sum(layer.parameters for layer, learns in zip(plan.layers, ever, strict=False) if learns)
    if plan.adapter is None:
        return total
    beside = (layer.parameters for layer in plan.layers[plan.freeze : plan.keep])
    return total + sum(round(min(float(size), 2 * plan.adapter.rank * size**0.5)) for size in beside)


# --------------------------------------------------------------------------------------------------- measuring


def _halving(depths: Sequence[int]) -> list[int]:
    """Both ends, then the middle of each gap: whenever measuring stops, the depths that were measured are spread."""
    left = sorted(set(depths))
    order = [left[-1], left[0]]
    gaps = [(0, len(left) - 1)]
    for low, high in gaps:  # grows while it is walked, so that wide gaps come first
        if high - low > 1:
            middle = (low + high) // 2
            order.append(left[middle])
            gaps += [(low, middle), (middle, high)]
    return order


def _timed(call: Callable[[], None], repetitions: int, clock: Clock) -> float:
    """The median after one call to warm up; a call that takes long needs no warming up, and is made once."""
    start = clock()
    call()
    if (first := clock() - start) > PATIENCE:
        return first
    times: list[float] = []
    for _ in range(repetitions):
        start = clock()
        call()
        times.append(clock() - start)
    return median(times)


def _behind(froms: Mapping[int, float], forward: Floats, macs: Floats) -> Floats:
    """Seconds of each layer's backward pass, from those of all layers above some depths, which run forward too."""
    depth, below = len(forward), np.append(0.0, np.cumsum(forward))
    left = {at: max(0.0, total - float(below[-1] - below[at])) for at, total in froms.items()}
    return _shared({depth - at: total for at, total in left.items()}, macs[::-1])[::-1]


def _shared(ends: Mapping[int, float], macs: Floats) -> Floats:
    """Seconds of each layer from seconds up to some depths, 0 among them."""
    depths = sorted(ends)
    rising = isotonic_regression([ends[depth] for depth in depths]).x
    seconds = np.zeros(len(macs))
    for low, high, spent in zip(depths[:-1], depths[1:], np.diff(rising), strict=True):
        seconds[low:high] = spent * macs[low:high] / macs[low:high].sum()
    return seconds


def _memory(clock: Clock) -> float:
    """Bytes a second of copying in memory."""
    source = np.ones(SAMPLE, np.uint8)
    target = np.empty_like(source)
    return SAMPLE / max(SHORTEST, _timed(lambda: np.copyto(target, source), 3, clock))


def _handing(hand: Callable[[NDArray[np.uint8]], None], clock: Clock) -> float:
    """Seconds a byte on the way to a device, which takes as long on the way back."""
    sample = np.ones(SAMPLE, np.uint8)
    return _timed(lambda: hand(sample), 3, clock) / SAMPLE


def _disk(folder: Path | None, clock: Clock) -> tuple[float, float]:
    """Bytes a second of reading and of writing, to the platter and not to the page cache where that can be told."""
    if folder is None:
        return 1.0, 1.0
    content = np.random.default_rng(0).bytes(SAMPLE)  # random: some disks compress
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            start = clock()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            write = clock() - start
            if os.name == "posix" and os.uname().sysname == "Linux":  # what is in the page cache is not read from disk
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = clock()
            file.read()
            read = clock() - start
    except OSError as error:
        raise StoreError(
            f"{SAMPLE} bytes could not be written to {folder} to measure the disk: {error.strerror}; free some space "
            "or choose another run directory"
        ) from error
    return SAMPLE / max(SHORTEST, read), SAMPLE / max(SHORTEST, write)
