"""What a network's numbers are, as a short text: proves that frozen means frozen, and addresses the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from frostline.errors import CutError


def fingerprint(module: nn.Module, names: Iterable[str] | None = None, *, below: str = "") -> str:
    """A hash of parameters and buffers: their names, shapes, dtypes and bytes, in the order of their names.

    `names` are of parameters and buffers in the whole module; None takes all of them, buffers that are not saved with
    the weights included. `below` is the fingerprint of what comes before, which is then part of this one.
    Two modules on different devices with equal numbers have equal fingerprints.
    Raises CutError naming what the module does not have.
    """
    digest = hashlib.blake2b(below.encode(), digest_size=16)
    for name, tensor in _tensors(module, names).items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def alike(one: nn.Module, other: nn.Module, names: Iterable[str] | None = None) -> bool:
    """Whether these parameters and buffers of two modules are alike to the bit, as equal fingerprints say; None: all.

    Memory is compared and not hashed: 5 times as fast as two fingerprints of a ResNet-50. Raises CutError likewise.
    """
    names = None if names is None else list(names)
    pairs = zip(_tensors(one, names).values(), _tensors(other, names).values(), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and torch.equal(*_beside(a, b)) for a, b in pairs)


def _tensors(module: nn.Module, names: Iterable[str] | None) -> dict[str, torch.Tensor]:
    """Parameters and buffers in the order of their names. Raises CutError naming what the module does not have."""
    tensors: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    wanted = sorted(tensors if names is None else set(names))
    unknown = [name for name in wanted if name not in tensors]
    if unknown:
        raise CutError(
            f"{', '.join(unknown[:5])} is no parameter or buffer of this network; its names are those of "
            "`named_parameters()` and `named_buffers()`"
        )
    return {name: tensors[name].detach() for name in wanted}


def _beside(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of both on one device."""
    return (_flat(one), _flat(other)) if one.device == other.device else (_flat(one.cpu()), _flat(other.cpu()))


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The numbers without a copy where they lie in one piece on the CPU already."""
    return _flat(tensor.cpu()).numpy().data if tensor.numel() else memoryview(b"")


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes, so that not-a-number equals itself and -0 is not 0."""
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat
