"""Where training runs and at which precision, through Accelerate."""

from __future__ import annotations

import copy
import ctypes
import ctypes.util
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from torch import nn

from frostline.errors import OptionError
from frostline.values import Layout, Precision

Device = Accelerator
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h: mallopt(3)
_MIXED: dict[Precision, str] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def accelerator(device: str = "auto", precision: str = "fp32") -> Device:
    """The accelerator for "auto", "cpu", "cuda" or "mps" at "fp32", "bf16" or "fp16". Raises OptionError.

    At the precision "auto" it is at "fp32": another may be chosen once it was measured.
    """
    precision = "fp32" if precision == "auto" else precision
    if precision not in _MIXED:
        raise OptionError(f"precision is {precision!r}; allowed are {', '.join(_MIXED)}")
    found = _available()
    if device != "auto" and device not in found:
        raise OptionError(f"device is {device!r}; this machine has {', '.join(found)} (auto takes {found[0]})")
    chosen = found[0] if device == "auto" else device
    if chosen == "cpu" and precision == "fp16":
        raise OptionError("precision is 'fp16' on a CPU, which has no fast fp16; use bf16 or fp32")
    if chosen == "cpu":
        _keep_pages()
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]  a second run may want other values
    return Accelerator(cpu=chosen == "cpu", mixed_precision=_MIXED[precision])


def precisions(where: torch.device, asked: str) -> tuple[Precision, ...]:
    """What calibration may choose from, the plainest first: for "auto", what the device can compute in."""
    if asked in _MIXED:
        return (asked,)
    half = where.type == "cpu" or (where.type == "cuda" and torch.cuda.is_bf16_supported())
    return ("fp32", "bf16") if half else ("fp32",)


def _keep_pages() -> None:
    """Let this process keep the memory that a training step frees: the next step asks for the same again.

    The C library of most Linux systems gives blocks of more than 32 MB back to the system at once, which then has to
    clear and map them anew in every step. `reset_peak` gives back what is left over between trainings.
    """
    library = ctypes.CDLL(ctypes.util.find_library("c")) if sys.platform == "linux" else None
    if library is not None and platform.libc_ver()[0] == "glibc":
        library.mallopt(M_MMAP_THRESHOLD, 2**30)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def scaled(device: Device, optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser with the device's loss scaling, where it has one.

    `Accelerator.prepare_optimizer` would keep it, and the network it trains, until the process ends; and where nothing
    is scaled, the library's wrappers of a step look for optional packages on disk each time: 0.1 ms.
    """
    return optimiser if device.scaler is None else AcceleratedOptimizer(optimiser, scaler=device.scaler)


def backward(device: Device, loss: torch.Tensor) -> None:
    """The gradients of a loss, scaled where the device scales."""
    if device.scaler is None:
        loss.backward()
    else:
        device.backward(loss)


def clipped(
    device: Device, optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], largest: float
) -> torch.Tensor:
    """Clip the gradients, free of the loss's scale, to a norm over all of them; returns the norm before."""
    if device.scaler is not None:
        device.unscale_gradients(optimiser)
    return nn.utils.clip_grad_norm_(parameters, largest)


def arranged(module: nn.Module, layout: Layout) -> nn.Module:
    """A copy whose convolutions keep their weights in that memory format, and so compute in it; the same numbers."""
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return copy.deepcopy(module).to(memory_format=formats[layout])


def _available() -> list[str]:
    kinds = ["cpu"]
    if torch.backends.mps.is_available():
        kinds.insert(0, "mps")
    if torch.cuda.is_available():
        kinds.insert(0, "cuda")
    return kinds


def free_bytes(where: torch.device) -> int:
    """Memory of a GPU that nobody uses, what torch keeps for later included; none of another device counts."""
    if where.type != "cuda":
        return 0
    kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return int(torch.cuda.mem_get_info(where)[0]) + kept


def total_bytes(where: torch.device) -> int:
    """All memory of a GPU; none of another device counts."""
    return int(torch.cuda.get_device_properties(where).total_memory) if where.type == "cuda" else 0


def reset_peak(where: torch.device) -> int:
    """Begin to measure peak memory anew; returns the bytes that are held already, for `peak_bytes`."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    if sys.platform == "linux":
        ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)  # what earlier arms freed goes back first
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark: proc(5)
        except OSError:
            return torch.cuda.memory_allocated(where) if where.type == "cuda" else 0
    return torch.cuda.memory_allocated(where) if where.type == "cuda" else _high_water()


def peak_bytes(held: int, where: torch.device) -> int:
    """Peak memory since `reset_peak`, beyond what it said was held: so an arm's peak is its own.

    Of the allocator of a GPU, else of this process.
    """
    return max(0, (torch.cuda.max_memory_allocated(where) if where.type == "cuda" else _high_water()) - held)


def _high_water() -> int:
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
