"""The calls that calibration times: the network up to a cut, and from a cut on with gradients."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.data.intake import Intake, inputs_of, intake
from frostline.evidence import cost
from frostline.training.device import arranged
from frostline.training.graphs import recorded
from frostline.values import Backbone, Calibration, Examples, Layout, Precision, Way

Call = Callable[[], None]
Share = tuple[int, int]  # threads of each training, and how many trainings there are at a time

ROUNDS = 4  # in which ways are compared, after one to warm up
PATIENCE = 6.0  # seconds of comparing, from which two rounds are enough
HOPELESS = 2.0  # times as slow as the best, twice: not tried again
GAIN = {"channels_last": 1.05, "bf16": 1.15}  # how much faster a way must be than one without it: bf16 rounds
RECORDED = 1.05  # and recorded steps than those that are not: recording takes some steps itself
TAKEN = 1.1  # how much more must get done by several threads, or by trainings side by side, than by one of one


@dataclass(frozen=True, slots=True)
class Trial:
    """What is measured on: one batch of the data, on the device."""

    backbone: Backbone
    anatomy: Anatomy
    inputs: Mapping[str, Tensor]

    @property
    def where(self) -> torch.device:
        """The device."""
        return self.inputs[self.anatomy.data].device

    @property
    def count(self) -> int:
        """Examples of the batch."""
        return len(self.inputs[self.anatomy.data])


def trial(backbone: Backbone, anatomy: Anatomy, examples: Examples, where: torch.device, batch: int) -> Trial:
    """The first examples, as many as a batch has, over and over where there are fewer."""
    found = intake(backbone, examples)
    return Trial(backbone, anatomy, inputs_of(found, rows_of(found, len(examples), batch), where))


def rows_of(found: Intake, examples: int, batch: int) -> NDArray[np.int64]:
    """Where they differ in length, those of about the mean length: what a batch takes on average is then measured."""
    rows = np.arange(examples)
    if found.sizes is not None:
        rows = np.argsort(np.abs(found.sizes - found.sizes.mean()), kind="stable")
    return np.resize(rows, batch)


def measure(
    trial: Trial,
    examples: Examples,
    *,
    precisions: Sequence[Precision],
    shares: Sequence[Share],
    folder: Path | None,
) -> Calibration:
    """Seconds of every layer on this machine, in the way that was found fastest, measured on copies of the network.

    `precisions` and `shares` are those to choose from, the plainest first. Leaves torch at the threads of the way.
    """
    anatomy, where, batch = trial.anatomy, trial.where, trial.count
    threads = max(threads for threads, _ in shares)
    opening = intake(trial.backbone, examples, workers=threads)
    rows = rows_of(opening, len(examples), batch)
    way = fastest(trial, precisions=precisions, shares=shares)
    torch.set_num_threads(way.threads)
    halves, inputs = _halves(trial, way), trial.inputs

    def forward_to(depth: int) -> Call:
        def run() -> None:
            with _cast(trial, way):
                halves.prefix(inputs, depth)

        return _waiting(run, where)  # the pass that fills the store is not recorded either

    def decode() -> None:
        inputs_of(opening, rows, torch.device("cpu"))

    def hand(sample: NDArray[np.uint8]) -> None:
        torch.from_numpy(sample).to(where)  # ends when the last byte is there

    calls = cost.Bench(
        forward_to,
        lambda depth: _step(halves, trial, way, depth),
        lambda depth: _step(halves, trial, way, depth, learns=False),
        _update(halves.module, way, where),
        batch,
        str(where),
        decode,
        hand if where.type == "cuda" else None,
    )
    return replace(cost.calibrate(anatomy.layers, calls, folder), way=way)


def fastest(trial: Trial, *, precisions: Sequence[Precision], shares: Sequence[Share]) -> Way:
    """The way in which training steps of the whole network are done fastest here; ways are compared in turn.

    First, on a GPU, whether steps are recorded, then the layout and the precision, then how threads are shared. What is
    not the plainest must be worth it. Trainings side by side share the memory's bandwidth: how much slower they are is
    measured beside forks.
    """
    threads = max(threads for threads, _ in shares)
    torch.set_num_threads(threads)
    layouts, graphs = _layouts(trial.backbone.module), _worth_recording(trial, Way(threads, precision=precisions[0]))
    ways = [Way(threads, layout, precision, graphs=graphs) for precision in precisions for layout in layouts]
    took = least([_whole(trial, way) for way in ways]) if len(ways) > 1 else [1.0]
    way = best_way(dict(zip(ways, took, strict=True)))
    if len(shares) == 1 and shares[0][1] == 1:
        return way
    alone = [*dict.fromkeys(threads for threads, _ in shares)]
    seconds = dict(zip(alone, least([_on(threads, _whole(trial, way)) for threads in alone]), strict=True))
    beside = {share: _beside(trial, way, share, seconds[share[0]]) for share in shares}
    threads, at_once = best_share(beside)
    slower = beside[threads, at_once] / seconds[threads]
    return replace(way, threads=threads, at_once=at_once, slower=max(1.0, slower))


def _worth_recording(trial: Trial, way: Way) -> bool:
    """Whether steps of the whole network are faster on a GPU recorded; not where they cannot be."""
    if trial.where.type != "cuda":
        return False
    alone, replayed = least([_whole(trial, way), _whole(trial, replace(way, graphs=True))])
    return replayed * RECORDED < alone


def best_way(took: Mapping[Way, float]) -> Way:
    """The fastest layout and precision by the seconds of a step; what is not the plainest must be so much faster."""
    return min(took, key=lambda way: took[way] * GAIN.get(way.layout, 1.0) * GAIN.get(way.precision, 1.0))


def best_share(beside: Mapping[Share, float]) -> Share:
    """The share by which most steps a second are done, from the seconds of one while the others are at work."""

    def done(share: Share) -> float:
        return share[1] / beside[share] / (1.0 if share == (1, 1) else TAKEN)

    return max(beside, key=done)


def least(
    calls: Sequence[Call], *, rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The least seconds of each, in turn, after one round to warm up: what else the machine does only ever adds.

    What is hopeless twice is not called any more (a first call has more to do); long calls have two rounds.
    """
    started, took = clock(), [_seconds(call, clock) for call in calls]
    doubted = list[int]()
    while again := [i for i, seconds in enumerate(took) if seconds > HOPELESS * min(took) and i not in doubted]:
        for i in again:
            took[i] = min(took[i], _seconds(calls[i], clock))
        doubted += again
    going = [i for i, seconds in enumerate(took) if seconds <= HOPELESS * min(took)]
    for number in range(rounds):
        for i in going:
            seconds = _seconds(calls[i], clock)
            took[i] = min(took[i], seconds) if number else seconds
        if number and clock() - started > PATIENCE:
            break
    return took


@contextmanager
def brief_disk() -> Generator[Path | None]:
    """A folder to measure a disk in that is gone afterwards; None where there is no room for one."""
    try:
        room = shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:
        room = 0
    if room < 4 * cost.SAMPLE:
        yield None
    else:
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            yield Path(folder)


# ------------------------------------------------------------------------------------------------ the calls


def _halves(trial: Trial, way: Way) -> Halves:
    return Halves(arranged(trial.backbone.module, way.layout).to(trial.where).eval(), trial.anatomy)


def _whole(trial: Trial, way: Way) -> Call:
    """A training step of the whole network, on a copy."""
    return _step(_halves(trial, way), trial, way, 0)


def _step(halves: Halves, trial: Trial, way: Way, depth: int, *, learns: bool = True) -> Call:
    """Forward and backward of everything above a depth, without the optimiser's part.

    Where nothing `learns`, a gradient is carried to the input, as it would be to a layer that learns further below;
    inputs that have none, whole numbers, are taken to cost what learning does.
    """
    with _cast(trial, way):
        frontier = halves.prefix(trial.inputs, depth)
    beside = {name: trial.inputs[name] for name in trial.anatomy.beside(depth)}
    carried = not learns and any(tensor.is_floating_point() for tensor in frontier)
    wanted = [] if carried else _above(halves, depth)
    frontier = tuple(tensor.detach().requires_grad_(carried and tensor.is_floating_point()) for tensor in frontier)

    def run() -> None:
        for parameter in halves.module.parameters():
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        with _cast(trial, way):
            found = halves.suffix(frontier, depth, inputs=beside or None, until=len(halves.anatomy.layers))
        torch.stack([tensor.float().square().mean() for tensor in found]).sum().backward()
        for tensor in (*wanted, *frontier):
            tensor.grad = None

    return _waiting(_taken(run, way), trial.where)


def _update(module: nn.Module, way: Way, where: torch.device) -> Call:
    """A step of the optimiser for all parameters, with the clipping before it; rate 0, so that it changes nothing."""
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in module.parameters()]
    optimiser = torch.optim.AdamW(copies, lr=0.0, fused=True, capturable=way.graphs)
    for copy in copies:
        copy.grad = torch.zeros_like(copy)

    def run() -> None:
        nn.utils.clip_grad_norm_(copies, 1.0)
        optimiser.step()

    return _waiting(_taken(run, way), where)


def _above(halves: Halves, depth: int) -> list[nn.Parameter]:
    frozen = {name for layer in halves.anatomy.layers[:depth] for name in layer.members}
    return [parameter for name, parameter in halves.module.named_parameters() if name not in frozen]


def _layouts(module: nn.Module) -> tuple[Layout, ...]:
    """Only convolutions have a layout to choose."""
    convolutions = any(parameter.ndim == 4 for parameter in module.parameters())
    return ("contiguous", "channels_last") if convolutions else ("contiguous",)


def _cast(trial: Trial, way: Way) -> AbstractContextManager[object]:
    """As `Device.autocast`, of which one process has only one."""
    kind = torch.float16 if way.precision == "fp16" else torch.bfloat16
    return torch.autocast(trial.where.type, kind, enabled=way.precision != "fp32")


def _on(threads: int, step: Call) -> Call:
    def run() -> None:
        torch.set_num_threads(threads)
        step()

    return run


def _beside(trial: Trial, way: Way, share: Share, alone: float) -> float:
    """Seconds of a step while the other trainings of a share are at work too."""
    threads, count = share
    if count == 1:
        return alone
    with _neighbours(_whole(trial, way), (count - 1) * threads):
        return least([_on(threads, _whole(trial, way))])[0]


@contextmanager
def _neighbours(step: Call, count: int) -> Generator[None]:
    """So many processes that take a step over and over, on one thread each, until this is left.

    They are forks, and so have the network without reading it again. A fork must not start threads, which these do not.
    """
    leader, children = os.getpid(), list[int]()
    try:
        for _ in range(count):
            with catch_warnings():
                simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
                child = os.fork()
            if child == 0:
                _endlessly(step, leader)
            children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _endlessly(step: Call, leader: int) -> NoReturn:
    """In a fork: never comes back, and ends with the process that it is a fork of."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        while os.getppid() == leader:
            step()
    finally:
        os._exit(0)


def _seconds(call: Call, clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started


def _taken(run: Call, way: Way) -> Call:
    """Recorded where the way says so; as it is written where it cannot be, as a training does then."""
    if way.graphs:
        with suppress(RuntimeError):
            return recorded(run)
    return run


def _waiting(run: Call, where: torch.device) -> Call:
    """The call to its end: a GPU works on after it has come back."""

    def call() -> None:
        run()
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    return call
