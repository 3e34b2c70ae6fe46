"""Contracts of the device: what is allowed is said, memory is an arm's own."""

from __future__ import annotations

import sys

import pytest
import torch

from frostline.errors import OptionError
from frostline.training import device

MEGA = 2**20


def test_a_device_that_this_machine_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(OptionError, match=r"device is 'tpu'; this machine has .*cpu"):
        device.accelerator("tpu")


def test_a_precision_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(OptionError, match="precision is 'fp8'; allowed are fp32, bf16, fp16"):
        device.accelerator("cpu", "fp8")  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="use bf16 or fp32"):
        device.accelerator("cpu", "fp16")


def test_a_second_accelerator_has_its_own_precision() -> None:
    first = device.accelerator("cpu", "bf16")
    with first.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    second = device.accelerator("cpu", "fp32")
    with second.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def peak(megabytes: int, where: torch.device) -> int:
    """The peak of a piece of work that allocates so much, and frees it again."""
    held = device.reset_peak(where)
    tensor = torch.ones(max(1, megabytes * MEGA // 4), device=where)
    del tensor
    return device.peak_bytes(held, where)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the high-water mark of a process")
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_peak_memory_is_that_of_the_work_at_hand_and_not_of_what_went_before(kind: str) -> None:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    small, large, again, twice = (peak(size, torch.device(kind)) for size in (1, 300, 1, 300))
    assert large - small >= 250 * MEGA
    assert large <= 350 * MEGA
    assert large - again >= 250 * MEGA
    assert twice - small >= 250 * MEGA  # also where it is no more than what was held before


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    assert device.out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert device.out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as other:
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    assert not device.out_of_memory(other.value)
