"""Every cut is proven before it is used: from NaN-filled stand-ins, the suffix must give the network's own result."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.graph import results_of
from frostline.backbones.halves import Frontier, Halves
from frostline.backbones.patch import calmed, without_cache


@dataclass(frozen=True, slots=True)
class Proof:
    """How one cut came out."""

    error: float  # largest absolute difference to the whole network's result; infinite where the suffix failed
    why: str  # what is wrong; empty where the cut holds


def prove(
    module: nn.Module, anatomy: Anatomy, example: Mapping[str, Any], *, depths: Collection[int] | None = None
) -> dict[int, Proof]:
    """Runs every cut's suffix from stand-ins of NaN and compares; gradients are compared at the middle cut.

    Raw inputs that the suffix need not read again are spoiled too. `depths` None proves every place to saw.
    """
    wanted = depths if depths is not None else [n + 1 for n, port in enumerate(anatomy.ports) if port is not None]
    halves = Halves(module, anatomy)
    halves.fill = math.nan
    example = {**halves.examples(len(example[anatomy.data])), **_precise(halves, example)}
    with calmed(module.modules()), without_cache(module), torch.no_grad():
        whole = results_of(module(**example))
        taps = halves.taps(example, wanted)
        proofs = {depth: _compare(halves, taps[depth], depth, whole, example) for depth in sorted(wanted)}
    holding = [depth for depth, proof in proofs.items() if not proof.why]
    if holding:
        middle = holding[len(holding) // 2]
        with calmed(module.modules()), without_cache(module):
            why = _gradients_differ(halves, taps[middle], middle, example)
        if why:
            proofs[middle] = Proof(proofs[middle].error, why)
    return proofs


def tolerance(tensors: Iterable[Tensor]) -> float:
    """The largest difference that rounding explains: a thousand steps of the coarsest type, at most 5%."""
    found = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return max((min(0.05, 1e3 * torch.finfo(t.dtype).eps) * (float(t.abs().max()) + 1e-6) for t in found), default=0.0)


def _precise(halves: Halves, example: Mapping[str, Any]) -> dict[str, Any]:
    like = next((p for p in halves.module.parameters() if p.is_floating_point()), None)

    def fit(value: Any) -> Any:
        if not isinstance(value, Tensor) or like is None:
            return value
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)

    return {name: tree_map(fit, value) for name, value in example.items()}


def _compare(
    halves: Halves, frontier: Frontier, depth: int, whole: Mapping[str, Tensor], example: Mapping[str, Any]
) -> Proof:
    inputs = _spoiled(example, halves.anatomy.needs[depth - 1])
    try:
        found = results_of(halves.suffix(frontier, depth, inputs=inputs))
    except Exception as problem:  # whatever a network's own code raises from NaN: it looked below the cut
        told = str(problem).splitlines()
        return Proof(
            math.inf, f"the proof failed: the suffix raised {type(problem).__name__}: {told[0] if told else ''}"
        )
    if found.keys() != whole.keys() or any(found[name].shape != whole[name].shape for name in whole):
        return Proof(math.inf, "the proof failed: the suffix gives a result of another shape")
    error = 0.0
    for name, expected in whole.items():
        if bool(found[name].isnan().any()) and not bool(expected.isnan().any()):
            return Proof(math.inf, f"the proof failed: something below the cut reaches {name!r} beside it")
        # infinities are equal to themselves, and their difference is no number
        differs = (found[name] != expected) & ~(found[name].isnan() & expected.isnan())
        if bool(differs.any()):
            error = max(error, float((found[name] - expected)[differs].abs().max()))
    allowed = tolerance(tensor[tensor.isfinite()] for tensor in whole.values())
    why = f"the proof failed: the result differs by {error:.3g}, and rounding explains {allowed:.3g}"
    return Proof(error, "" if error <= allowed else why)


def _spoiled(example: Mapping[str, Any], needed: Collection[str]) -> dict[str, Any]:
    """Inputs that need not be read again hold nothing that could help: NaN, or another example's integers."""

    def spoil(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.full_like(value, math.nan) if value.is_floating_point() else value.roll(1, 0)

    return {name: value if name in needed else tree_map(spoil, value) for name, value in example.items()}


def _gradients_differ(halves: Halves, frontier: Frontier, depth: int, example: Mapping[str, Any]) -> str:
    below = {name for layer in halves.anatomy.layers[:depth] for name in layer.members}
    named = {n: p for n, p in halves.module.named_parameters() if p.requires_grad and n not in below}
    if not named:
        return ""
    inputs = _spoiled(example, halves.anatomy.needs[depth - 1])
    with torch.enable_grad():
        live = _gradients(halves.module(**example), named)
        sawn = _gradients(halves.suffix(frontier, depth, inputs=inputs), named)
    known = [gradient for gradient in live.values() if gradient is not None]
    allowed = 10 * tolerance([torch.cat([gradient.flatten() for gradient in known])]) if known else 0.0
    for name, gradient in live.items():
        other = sawn[name]
        if gradient is None and other is None:
            continue
        if gradient is None or other is None or not float((gradient - other).abs().max()) <= allowed:
            return f"the proof failed: the gradient of {name!r} is not the whole network's"
    return ""


def _gradients(output: Any, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor | None]:
    """Of a sum of the results with weights that no symmetry cancels."""
    total: Any = 0.0
    for tensor in results_of(output).values():
        finite = torch.where(tensor.isfinite(), tensor, 0.0)
        total = total + (finite * torch.linspace(0.5, 1.5, tensor.numel(), device=tensor.device).view_as(tensor)).sum()
    if not total.requires_grad:
        return dict.fromkeys(named)
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))
