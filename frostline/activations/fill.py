"""One pass over the data: pooled features at every cut, whole activations where the planner wants them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline.activations.chunks import DTYPES, Field
from frostline.activations.fingerprint import alike
from frostline.activations.store import Key, Kind, Store, Stored, Tier, Writing
from frostline.errors import FrozenMoved, StoreError

Frontier = tuple[Any, ...]  # the tensors or arrays that cross one cut, examples first

NOISE = 1e-5  # of the largest activation: some GPU kernels add in no fixed order; a dropout mask is far above it


@dataclass(frozen=True, slots=True)
class Tapped:
    """A network and how to look into it."""

    tap: Callable[[Any], Mapping[int, Frontier]]  # a batch -> what each depth holds of it
    pool: Callable[[int, Frontier], Any]  # a depth and what it holds -> (examples, features)
    module: nn.Module | None = None  # where given, it must be in eval mode, and must not move


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a fill shall leave in the store."""

    addresses: Mapping[int, str]  # of every depth below, by `store.address`
    rows: int
    pooled: tuple[int, ...]  # depths
    whole: Mapping[int, Tier] = field(default_factory=dict[int, Tier])
    batch: int = 32  # rows of each batch but the last
    dtype: str | None = "float32"  # of floating activations behind depth 0; None keeps the network's own
    learnable: int | None = None  # rows of whole activations: the first ones; None stores all
    # for each depth of `whole` how many of its tensors are kept, the first ones; None keeps all
    kept: Mapping[int, int] | None = None
    sizes: tuple[int, ...] | None = None  # positions of each row, where they differ
    ragged: Mapping[int, tuple[bool, ...]] = field(
        default_factory=dict[int, tuple[bool, ...]]
    )  # which tensors have so many

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 < self.count("whole") <= self.rows:
            raise StoreError(
                f"activations of {self.rows} rows, whole ones of {self.count('whole')}, cannot be stored; there must "
                "be at least one of each, and no more whole ones than rows"
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise StoreError(f"activations cannot be stored as {self.dtype}; allowed: {', '.join(DTYPES)}")

    def count(self, kind: Kind) -> int:
        """Rows of a set."""
        return self.rows if kind == "pooled" or self.learnable is None else self.learnable

    def sets(self) -> dict[Key, Tier | None]:
        """Every set, with the tier it shall lie in; pooled features take the disk where there is room."""
        sets: dict[Key, Tier | None] = {Key(self.addresses[depth], depth, "pooled"): None for depth in self.pooled}
        sets.update({Key(self.addresses[depth], depth, "whole"): tier for depth, tier in self.whole.items()})
        return sets


@dataclass(frozen=True, slots=True)
class Filled:
    """What the store holds after a fill."""

    pooled: Mapping[int, Stored]  # by depth: rows x features
    whole: Mapping[int, Stored]
    computed: int  # rows that went through the network; 0 where everything was there


def fill(
    network: Tapped,
    batches: Callable[[int], Iterable[Any]],
    store: Store,
    wanted: Wanted,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Filled:
    """Write what is wanted and not yet there; the network is not called at all where everything is.

    `batches(start)` yields the inputs of rows start, start + 1, ... up to `wanted.rows`, `wanted.batch` rows at a time.
    `progress(done, rows)` is told after each batch. An interrupted fill keeps its whole chunks, and the next one goes
    on from there to the same bytes. Runs without gradient.
    Raises FrozenMoved where the network is in training mode, where two passes over the first batch differ (dropout) or
    where a parameter or buffer changed (batch norm in training mode): then nothing of this fill is kept.
    Raises StoreError where the disk is full, a set does not fit, or the batches are not as many as announced.
    """
    sets = wanted.sets()
    missing: dict[Key, Tier | None] = {key: tier for key, tier in sets.items() if store.held(key) is None}
    computed = _compute(network, batches, store, wanted, missing, progress) if missing else 0
    found: dict[Kind, dict[int, Stored]] = {"pooled": {}, "whole": {}}
    for key in sets:
        stored = store.held(key)
        assert stored is not None, f"{key.name} was filled a moment ago"
        found[key.kind][key.depth] = stored
    return Filled(found["pooled"], found["whole"], computed)


def _compute(
    network: Tapped,
    batches: Callable[[int], Iterable[Any]],
    store: Store,
    wanted: Wanted,
    missing: Mapping[Key, Tier | None],
    progress: Callable[[int, int], None] | None,
) -> int:
    before = _settled(network.module)
    start, end = min(store.begun(key)[1] for key in missing), max(wanted.count(key.kind) for key in missing)
    row, writings = start, dict[Key, Writing]()
    try:
        for frontiers in _passes(network, batches(start)):
            arrays = {key: _arrays(network, key, frontiers, wanted) for key in missing}
            if row == start:
                _unchanged(network.module, before)
                writings = {key: _begin(store, key, missing[key], arrays[key], wanted) for key in missing}
                if any(writing.next < start for writing in writings.values()):
                    # what lay there has another layout and was removed: the pass begins at an earlier row
                    return _compute(network, batches, store, wanted, missing, progress)
            row += _append(writings, arrays, row)
            if progress is not None:
                progress(min(row, end), end)
            if end <= row < wanted.rows:  # what is left is there already
                break
        _unchanged(network.module, before)
    except FrozenMoved:
        for key in missing:  # also what an earlier, interrupted fill left: nobody proved that it had not moved either
            store.forget(key)
        raise
    except StoreError:
        for key in missing:  # a set that did not come to its first chunk only takes room in the budget
            if store.begun(key)[1] == 0:
                store.forget(key)
        raise
    if not end <= row <= wanted.rows:
        raise StoreError(f"the batches ended at row {row}; {end} rows were announced")
    return row - start


def _passes(network: Tapped, batches: Iterable[Any]) -> Iterator[Mapping[int, Frontier]]:
    """What crosses each cut, batch by batch; the first batch goes twice, to catch dropout that is still on."""
    for number, batch in enumerate(batches):
        # no_grad and not inference_mode: tables that a network keeps from its first pass are used again in training
        with torch.no_grad():
            frontiers = network.tap(batch)
            if number == 0:
                frontiers = {depth: tuple(map(_kept, frontier)) for depth, frontier in frontiers.items()}
                _same(frontiers, network.tap(batch))
        yield frontiers


def _append(writings: Mapping[Key, Writing], arrays: Mapping[Key, list[NDArray[Any]]], row: int) -> int:
    """Give each set the rows that it does not have yet; returns how many rows the batch has."""
    count = 0
    for key, writing in writings.items():
        count = len(arrays[key][0])
        skip = max(0, min(count, writing.next - row))  # a resumed set may be further than its neighbours
        last = count if key.kind == "pooled" else min(count, writing.stored.rows - row)
        if skip < last:
            writing.append([array[skip:last] for array in arrays[key]])
    return count


def _arrays(network: Tapped, key: Key, frontiers: Mapping[int, Frontier], wanted: Wanted) -> list[NDArray[Any]]:
    """What goes into one set for one batch."""
    frontier = frontiers[key.depth]
    if key.kind == "pooled":
        return [_numpy(network.pool(key.depth, frontier))]
    return [*map(_numpy, frontier[: None if wanted.kept is None else wanted.kept[key.depth]])]


def _begin(store: Store, key: Key, tier: Tier | None, arrays: list[NDArray[Any]], wanted: Wanted) -> Writing:
    dtype = wanted.dtype if key.kind == "whole" and key.depth else "float32"  # what is probed or read is not rounded
    rows, whole = wanted.count(key.kind), key.kind == "whole"
    long = wanted.ragged.get(key.depth, ()) if whole else ()
    fields = tuple(
        Field(array.shape[1 + one :], _dtype(array, dtype), one)
        for array, one in zip(arrays, long or (False,) * len(arrays), strict=True)
    )
    sizes = wanted.sizes[:rows] if wanted.sizes is not None and any(long) else None
    if tier is None:
        stored, _ = store.begun(key)
        weight = sum(item.bytes for item in fields) * rows
        tier = stored.tier if stored is not None else "disk" if weight <= store.free("disk") else "memory"
    return store.begin(key, fields, rows, tier=tier, batch=wanted.batch, sizes=sizes)


def _dtype(array: NDArray[Any], wanted: str | None) -> str:
    """The dtype in the store: integers and flags stay what they are."""
    if wanted is not None and (array.dtype == np.uint16 or np.issubdtype(array.dtype, np.floating)):
        return wanted
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name


def _numpy(tensor: Any) -> NDArray[Any]:
    """An array with the same numbers; bfloat16 as its bits in uint16."""
    if not isinstance(tensor, torch.Tensor):
        return np.asarray(tensor)
    if tensor.requires_grad:
        raise FrozenMoved("activations carry a gradient; the prefix must run under torch.no_grad() while it is stored")
    kept = tensor.detach().cpu().contiguous()
    return kept.view(torch.uint16).numpy() if kept.dtype == torch.bfloat16 else kept.numpy()


def _kept(tensor: Any) -> Any:
    """A copy: a tap may hand out a buffer that its next call writes again."""
    return tensor.clone() if isinstance(tensor, torch.Tensor) else np.array(tensor)


def _same(first: Mapping[int, Frontier], second: Mapping[int, Frontier]) -> None:
    for depth in sorted(first):
        for one, other in zip(first[depth], second[depth], strict=True):
            a, b = torch.as_tensor(one).float(), torch.as_tensor(other).float()
            largest = float(a.abs().nan_to_num(0.0, 0.0).max()) if a.numel() else 0.0
            if not torch.allclose(a, b, rtol=0.0, atol=NOISE * largest, equal_nan=True):
                raise FrozenMoved(
                    f"two passes over the same batch differ at depth {depth}: something random is on in the frozen "
                    "layers (dropout, stochastic depth); call `eval()` on the network, and look for functional dropout "
                    "that ignores it"
                )


def _settled(module: nn.Module | None) -> nn.Module | None:
    """A copy of a module that is in eval mode throughout."""
    if module is None:
        return None
    training = [name or "the network itself" for name, part in module.named_modules() if part.training]
    if training:
        raise FrozenMoved(
            f"{', '.join(training[:3])} is in training mode while activations are stored, which would bake dropout in "
            "and move batch norms; call `eval()` on the network first"
        )
    return copy.deepcopy(module)


def _unchanged(module: nn.Module | None, before: nn.Module | None) -> None:
    if module is not None and before is not None and not alike(module, before):
        raise FrozenMoved(
            "a parameter or buffer of the network changed while its activations were stored (a batch norm that ignores "
            "`eval()` does that); they are not kept: make its forward pass leave the network as it is"
        )
