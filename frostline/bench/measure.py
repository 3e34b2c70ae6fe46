"""The calls that calibration times: the network up to a cut, and from a cut on with gradients."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier

import numpy as np
import torch
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.data import batches
from frostline.evidence import cost
from frostline.training.device import arranged
from frostline.values import Backbone, Calibration, Examples, Layout, Precision, Way

Call = Callable[[], None]
Share = tuple[int, int]  # threads of each training, and how many trainings there are at a time

ROUNDS = 4  # in which ways are compared, after one to warm up
PATIENCE = 6.0  # seconds of comparing, from which two rounds are enough
HOPELESS = 2.0  # times as slow as the best in the first round: not tried again
GAIN = {"channels_last": 1.05, "bf16": 1.15}  # how much faster a way must be than one without it: bf16 rounds
TAKEN = 1.1  # how much more must get done by several threads, or by trainings side by side, than by one of one


@dataclass(frozen=True, slots=True)
class Trial:
    """What is measured on: one batch of the data, on the device."""

    backbone: Backbone
    anatomy: Anatomy
    pictures: Tensor

    @property
    def where(self) -> torch.device:
        """The device."""
        return self.pictures.device


def measure(
    backbone: Backbone,
    anatomy: Anatomy,
    examples: Examples,
    where: torch.device,
    *,
    batch: int,
    precisions: Sequence[Precision],
    shares: Sequence[Share],
    folder: Path | None,
) -> Calibration:
    """Seconds of every layer on this machine, in the way that was found fastest, measured on copies of the network.

    `precisions` and `shares` are those to choose from, the plainest first. Leaves torch at the threads of the way.
    """
    how = backbone.preprocessing
    assert how is not None, "pictures come with preprocessing"
    rows = np.resize(np.arange(len(examples)), batch)
    trial = Trial(backbone, anatomy, torch.from_numpy(batches.decode(examples, rows, how)).to(where))
    threads = max(threads for threads, _ in shares)
    way = fastest(trial, precisions=precisions, shares=shares)
    torch.set_num_threads(way.threads)
    halves, inputs = _halves(trial, way), {anatomy.data: trial.pictures}

    def forward_to(depth: int) -> Call:
        def run() -> None:
            with _cast(trial, way):
                halves.prefix(inputs, depth)
            _wait(where)

        return run

    def decode() -> None:
        batches.decode(examples, rows, how, workers=threads)

    calls = cost.Bench(
        forward_to,
        lambda depth: _step(halves, trial, way, depth),
        lambda depth: _step(halves, trial, way, depth, learns=False),
        _update(halves.module, where),
        batch,
        str(where),
        decode,
    )
    return replace(cost.calibrate(anatomy.layers, calls, folder), way=way)


def fastest(trial: Trial, *, precisions: Sequence[Precision], shares: Sequence[Share]) -> Way:
    """The way in which training steps of the whole network are done fastest here; ways are compared in turn.

    First the layout and the precision, then how threads are shared. What is not the plainest must be worth it.
    """
    threads = max(threads for threads, _ in shares)
    torch.set_num_threads(threads)
    layouts = _layouts(trial.backbone.module)
    ways = [Way(threads, layout, precision) for precision in precisions for layout in layouts]
    took = least([_whole(trial, way) for way in ways]) if len(ways) > 1 else [1.0]
    worth = [seconds * GAIN.get(w.layout, 1) * GAIN.get(w.precision, 1) for seconds, w in zip(took, ways, strict=True)]
    way = ways[worth.index(min(worth))]
    if len(shares) == 1 and shares[0][1] == 1:
        return way
    tried = [*dict.fromkeys([*((threads, 1) for threads, _ in shares), *shares])]
    seconds = dict(zip(tried, least([_together(trial, way, share) for share in tried]), strict=True))
    # steps a second, of all trainings
    done = {share: share[1] / seconds[share] / (1 if share == (1, 1) else TAKEN) for share in shares}
    threads, at_once = max(done, key=lambda share: done[share])
    slower = max(1.0, seconds[threads, at_once] / seconds[threads, 1])
    return replace(way, threads=threads, at_once=at_once, slower=slower)


def least(
    calls: Sequence[Call], *, rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The least seconds of each, in turn, after one round to warm up: what else the machine does only ever adds.

    What is hopeless in the first round is not called again, and has that round's seconds; long calls have two rounds.
    """
    started, took = clock(), [_seconds(call, clock) for call in calls]
    going = [i for i, first in enumerate(took) if first <= HOPELESS * min(took)]
    for number in range(ROUNDS):
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
    inputs that have none, such as words, are taken to cost what learning does.
    """
    with _cast(trial, way):
        frontier = halves.prefix({trial.anatomy.data: trial.pictures}, depth)
    carried = not learns and any(tensor.is_floating_point() for tensor in frontier)
    wanted = [] if carried else _above(halves, depth)
    frontier = tuple(tensor.detach().requires_grad_(carried and tensor.is_floating_point()) for tensor in frontier)

    def run() -> None:
        for parameter in halves.module.parameters():
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        with _cast(trial, way):
            found = halves.suffix(frontier, depth, until=len(halves.anatomy.layers))
        torch.stack([tensor.float().square().mean() for tensor in found]).sum().backward()
        for tensor in (*wanted, *frontier):
            tensor.grad = None
        _wait(trial.where)

    return run


def _update(module: nn.Module, where: torch.device) -> Call:
    """A step of the optimiser for all parameters, with the clipping before it; rate 0, so that it changes nothing."""
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in module.parameters()]
    optimiser = torch.optim.AdamW(copies, lr=0.0)
    for copy in copies:
        copy.grad = torch.zeros_like(copy)

    def run() -> None:
        nn.utils.clip_grad_norm_(copies, 1.0)
        optimiser.step()
        _wait(where)

    return run


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


def _together(trial: Trial, way: Way, share: Share) -> Call:
    """So many steps side by side, on so many threads and a copy of the network each.

    Processes share the memory's bandwidth as threads do, and not the interpreter: they are a little faster still.
    """
    threads, count = share
    steps, gate = [_whole(trial, way) for _ in range(count)], Barrier(count)

    def one(step: Call) -> None:
        torch.set_num_threads(threads)
        gate.wait()
        step()

    def run() -> None:
        if count == 1:
            one(steps[0])
            return
        with ThreadPoolExecutor(count) as pool:
            for _ in pool.map(one, steps):  # raises what a step raised
                pass

    return run


def _seconds(call: Call, clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started


def _wait(where: torch.device) -> None:
    """A GPU works on after the call has come back."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
