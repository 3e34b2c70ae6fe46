"""The calls that calibration times: the network up to a cut, and from a cut on with gradients."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.data import batches
from frostline.evidence import cost
from frostline.training.device import Device, Layout, arranged
from frostline.values import Backbone, Calibration, Examples


def measure(
    backbone: Backbone,
    anatomy: Anatomy,
    examples: Examples,
    device: Device,
    *,
    batch: int,
    threads: int,
    alone: bool,
    folder: Path | None,
) -> Calibration:
    """Seconds of every layer on this machine, measured on a copy of the network; leaves torch at the best threads."""
    how = backbone.preprocessing
    assert how is not None, "pictures come with preprocessing"
    rows = np.resize(np.arange(len(examples)), batch)
    where = device.device
    pictures = torch.from_numpy(batches.decode(examples, rows, how)).to(where)
    layout = _layout(backbone, anatomy, pictures, device)
    module = arranged(backbone.module, layout).to(where).eval()
    halves, inputs = Halves(module, anatomy), {anatomy.data: pictures}

    def forward_to(depth: int) -> Callable[[], None]:
        def run() -> None:
            halves.prefix(inputs, depth)
            _wait(where)

        return run

    def train_from(depth: int) -> Callable[[], None]:
        return _step(halves, inputs, depth, device)

    def decode() -> None:
        batches.decode(examples, rows, how)

    chosen = _threads(train_from(0), threads, alone=alone) if where.type == "cpu" else threads
    torch.set_num_threads(chosen)
    calls = cost.Bench(forward_to, train_from, batch, str(where), decode)
    return replace(cost.calibrate(anatomy.layers, calls, folder), threads=chosen, layout=layout)


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


def _step(halves: Halves, inputs: Mapping[str, Tensor], depth: int, device: Device) -> Callable[[], None]:
    """A training step of everything above a depth, without the optimiser's part."""
    frontier = halves.prefix(inputs, depth)
    learning = _only_above(halves.module, halves.anatomy, depth)

    def run() -> None:
        with device.autocast():
            found = halves.suffix(frontier, depth, until=len(halves.anatomy.layers))
        torch.stack([tensor.float().square().mean() for tensor in found]).sum().backward()
        for parameter in learning:
            parameter.grad = None
        _wait(device.device)

    return run


def _layout(backbone: Backbone, anatomy: Anatomy, pictures: Tensor, device: Device) -> Layout:
    """Channels last, where there are convolutions and a training step of the whole network is faster by a twentieth."""
    if all(parameter.ndim != 4 for parameter in backbone.module.parameters()):
        return "contiguous"

    def step(layout: Layout) -> Callable[[], None]:
        module = arranged(backbone.module, layout).to(device.device).eval()
        return _step(Halves(module, anatomy), {anatomy.data: pictures}, 0, device)

    plain, last = _least([step("contiguous"), step("channels_last")])
    return "channels_last" if last < 0.95 * plain else "contiguous"


def _threads(step: Callable[[], None], most: int, *, alone: bool) -> int:
    """One thread, unless all of them make a training step faster by a tenth: waiting threads take others' time.

    Where other trainings can run beside it, on the threads that are left, all of them must do 1.4 / `most` of its time.
    """
    if most == 1:
        return 1

    def on(count: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(count)
            step()

        return run

    one, all_of_them = _least([on(1), on(most)])
    return most if all_of_them < (0.9 if alone else min(0.9, 1.4 / most)) * one else 1


def _least(steps: Sequence[Callable[[], None]], rounds: int = 4) -> list[float]:
    """The least seconds of each, in turn, after one round to warm up: what else the machine does only ever adds."""
    took = [[float("inf")] for _ in steps]
    for number in range(rounds + 1):
        for step, times in zip(steps, took, strict=True):
            started = time.perf_counter()
            step()
            if number:
                times.append(time.perf_counter() - started)
    return [min(times) for times in took]


def _only_above(module: nn.Module, anatomy: Anatomy, depth: int) -> list[nn.Parameter]:
    frozen = {name for layer in anatomy.layers[:depth] for name in layer.members}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [parameter for name, parameter in module.named_parameters() if name not in frozen]


def _wait(where: torch.device) -> None:
    """A GPU works on after the call has come back."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
