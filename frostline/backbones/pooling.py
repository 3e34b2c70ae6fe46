"""How the tensors that cross a cut become one feature vector: measured on the network, not read from names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from frostline.backbones.anatomy import Anatomy, Call, Pool
from frostline.backbones.graph import results_of
from frostline.backbones.halves import Frontier, Halves
from frostline.backbones.patch import calmed, patched, without_cache
from frostline.backbones.steps import Step, numbered
from frostline.errors import PlanError

GROWTH = 32  # pixels, or samples: a multiple of every usual stride


def pool(anatomy: Anatomy, depth: int, frontier: Frontier, inputs: Mapping[str, Any] | None = None) -> Tensor:
    """One row of features an example: each tensor of the frontier pooled as its cut says, side by side.

    `inputs` are asked for the mask of what counts, where the cut names one; without it every position counts.
    At depth 0 the features are the raw data itself.
    """
    if depth == 0:
        return torch.cat([_float(tensor.flatten(1)) for tensor in frontier], dim=1)
    return torch.cat([_pooled(rows, how, inputs or {}) for rows, how in _rows(anatomy, depth, frontier)], dim=1)


def positions_at(
    anatomy: Anatomy, depth: int, frontier: Frontier, inputs: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor | None]:
    """What `pool` pools of: (n, positions, features), and which positions count, where a mask says so.

    Raises PlanError where several tensors cross the cut, whose positions are not the same.
    """
    found = list(_rows(anatomy, depth, frontier)) if depth else []
    if len(found) != 1:
        raise PlanError(
            f"{len(found)} tensors cross depth {depth} of {anatomy.name!r}; a head that pools by attention reads the "
            "positions of one: give another depth, or a head of kind 'linear' or 'mlp'"
        )
    (rows, how), *_ = found
    mask = (inputs or {}).get(how.mask) if how.mask is not None else None
    return rows, None if mask is None else _stretched(mask, rows.shape[1])


def _rows(anatomy: Anatomy, depth: int, frontier: Frontier) -> Iterator[tuple[Tensor, Pool]]:
    """Each tensor that crosses a cut as (n, positions, features), and how it is pooled."""
    port = anatomy.port(depth)
    batch = int(anatomy.example[anatomy.data].shape[0])
    for tensor, how, axis, shape in zip(frontier, anatomy.pools[depth - 1], port.axes, port.shapes, strict=True):
        folds = shape[axis] // batch
        tensor = _float(tensor.movedim(axis, 0))
        count = tensor.shape[0] // folds
        if how.channel is None:
            yield tensor.reshape(count, 1, -1), how
            continue
        rows = tensor.movedim(how.channel, -1)
        # windows folded into the batch are positions of their example
        yield rows.reshape(count, -1, rows.shape[-1]), how


def _float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _pooled(rows: Tensor, how: Pool, inputs: Mapping[str, Any]) -> Tensor:
    mask = inputs.get(how.mask) if how.mask is not None else None
    counts = None if mask is None or how.take == "first" else _stretched(mask, rows.shape[1]).to(rows)
    if how.take == "first":
        return rows[:, 0]
    if how.take == "last":
        if counts is None:
            return rows[:, -1]
        places = (counts * torch.arange(1, rows.shape[1] + 1, device=rows.device)).argmax(dim=1)
        return rows[torch.arange(len(rows), device=rows.device), places]
    if counts is None:
        return rows.mean(dim=1)
    return (rows * counts[..., None]).sum(dim=1) / counts.sum(dim=1, keepdim=True).clamp(min=1)


def _stretched(mask: Tensor, length: int) -> Tensor:
    """The mask at another rate: strided layers turn many samples into one position."""
    if mask.shape[1] == length:
        return mask
    places = ((torch.arange(length, device=mask.device) + 0.5) * mask.shape[1] / length).long()
    return mask[:, places]


def pools(
    module: nn.Module, anatomy: Anatomy, sequence: Call | None, channels_first: tuple[bool, ...]
) -> tuple[tuple[Pool, ...], ...]:
    """The pooling of every depth.

    `sequence` is the last call that hands on a sequence on the main path; `channels_first` says of every depth whether
    the next weights take the second dimension for channels, for networks that read one size of input alone.
    """
    grown = _grown(module, anatomy)
    take = "mean" if sequence is None else positions(module, anatomy, sequence)
    mask = mask_of(anatomy)
    found: list[tuple[Pool, ...]] = []
    for depth, port in enumerate(anatomy.ports, start=1):
        row: list[Pool] = []
        for place, shape in enumerate(port.shapes if port is not None else ()):
            assert port is not None
            old = _front(shape, port.axes[place])
            new = _front(tuple(grown[depth][place].shape), port.axes[place]) if grown else old
            channel = channel_of(old, new, channels_first[depth - 1])
            tokens = len(old) == 3
            row.append(Pool(channel, take if tokens and channel == 2 else "mean", mask if tokens else None))
        found.append(tuple(row))
    return tuple(found)


def _front(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (shape[axis], *shape[:axis], *shape[axis + 1 :])


def channel_of(old: tuple[int, ...], new: tuple[int, ...], first: bool) -> int | None:
    """The dimension of the channels: the one that does not grow with the input, else the one that weights read.

    >>> channel_of((2, 14, 14, 96), (2, 16, 16, 96), True)
    3
    >>> channel_of((2, 96, 1, 1), (2, 96, 1, 1), False)
    1
    """
    if len(old) < 2:
        return None
    if len(old) == 2:
        return 1
    same = [place for place in range(1, len(old)) if old[place] == new[place]]
    if len(same) == 1:
        return same[0]
    wide = [place for place in same if old[place] > 1]
    if len(wide) == 1:
        return wide[0]
    if len(old) == 4 and (old[1] == old[2]) != (old[2] == old[3]):
        return 3 if old[1] == old[2] else 1
    return 1 if first else len(old) - 1


def _grown(module: nn.Module, anatomy: Anatomy) -> dict[int, Frontier]:
    """The frontiers of a larger input; empty where the network reads one size alone, or integers."""
    halves = Halves(module, anatomy)
    batch = int(anatomy.example[anatomy.data].shape[0])
    example = halves.examples(batch)
    data = example[anatomy.data]
    depths = [depth for depth, port in enumerate(anatomy.ports, start=1) if port is not None]
    if not depths or not data.is_floating_point() or data.ndim not in (2, 3, 4):
        return {}
    space = tuple(data.shape[2:] if data.ndim > 2 else data.shape[1:])
    growth = GROWTH if len(space) > 1 else max(GROWTH, int(data.shape[-1]) // 2)

    def grow(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim < len(space) or tuple(value.shape[-len(space) :]) != space:
            return value
        for dimension in range(value.ndim - len(space), value.ndim):
            places = torch.arange(value.shape[dimension] + growth, device=value.device) % value.shape[dimension]
            value = value.index_select(dimension, places)
        return value

    try:
        return halves.taps({name: grow(value) for name, value in example.items()}, depths)
    except Exception:  # each network refuses another size in its own way; then the weights tell the channels
        return {}


def mask_of(anatomy: Anatomy) -> str | None:
    """The input that says which positions of the data count: zeros and ones, one for each, and some ones."""
    data = anatomy.example[anatomy.data]
    for name, value in anatomy.example.items():
        if name == anatomy.data or not isinstance(value, Tensor) or value.ndim != 2 or value.shape != data.shape[:2]:
            continue
        binary = bool(((value == 0) | (value == 1)).all())
        if binary and bool((value != 0).any(dim=1).all()) and not value.is_floating_point():
            return name
    return None


def positions(module: nn.Module, anatomy: Anatomy, call: Call) -> Literal["mean", "first", "last"]:
    """Which positions of a sequence the result reads: "first", "last" or, for any other choice, "mean".

    Measured: the positions that the gradient of the result reaches.
    """
    (name, runs), *_ = numbered(anatomy, {call.index: Step("tap", call.index)}).items()
    part = module.get_submodule(name)
    forward, wanted, count = part.forward, next(iter(runs)), 0
    leaf: list[Tensor] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        result = forward(*args, **kwargs)
        if count - 1 != wanted:
            return result
        leaves, form = tree_flatten(result)
        leaf[:] = [next(t for t in leaves if isinstance(t, Tensor)).detach().requires_grad_()]
        return tree_unflatten([leaf[0].clone() if isinstance(t, Tensor) else t for t in leaves], form)

    example = Halves(module, anatomy).examples(int(anatomy.example[anatomy.data].shape[0]))
    with patched([(part, watched)]), calmed(module.modules()), without_cache(module), torch.enable_grad():
        found = [t for t in tree_leaves(results_of(module(**example))) if t.requires_grad]
        total = sum((t * torch.linspace(0.5, 1.5, t.numel(), device=t.device).view_as(t)).sum() for t in found)
        if not found or not isinstance(total, Tensor):
            return "mean"
        slopes = torch.autograd.grad(total, leaf, materialize_grads=True)
    slope = slopes[0]
    if slope.shape[1] < 2:
        return "mean"
    read = slope.abs().sum(dim=2) > 0
    if not bool((read.sum(dim=1) == 1).all()):
        return "mean"
    return "first" if bool(read[:, 0].all()) else "last"
