"""What to store of the activations, where and as what: chosen by its forecast, and filled in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.activations.afford import Forecast, Room, afford
from frostline.activations.chunks import Field, rows_per_chunk
from frostline.activations.fill import Filled
from frostline.activations.store import Key, Store, Stored, Tier
from frostline.bench.levels import head_on, on_crossing
from frostline.bench.passing import Network, addresses, crossing, kind, once_through, ragged, sizes_of, viewed
from frostline.bench.rounding import TOLERANCE, change
from frostline.errors import OptionError
from frostline.search.arms import exact, propose
from frostline.search.schedule import comparison
from frostline.search.strategies import compared
from frostline.settings import Settings
from frostline.training.device import Device
from frostline.values import Calibration, Cut, Estimate, Event, Evidence, Layer, Show, silent

MEMORY = 2 * 2**30  # bytes of activations that may lie in memory; the rest goes to disk
HALVES: Mapping[str, str] = {"fp16": "float16", "bf16": "bfloat16"}  # the more exact one first
WORTH_ROUNDING = 1.05  # times as fast as with float32: then half precision is stored unasked


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be stored."""

    forecast: Forecast
    whole: Mapping[int, Tier]  # by depth; 0 is the preprocessed input
    dtype: str  # of floating activations behind depth 0


def room(settings: Settings, workers: int, *, shared: bool) -> Room:
    """Bytes in memory and on disk. Memory belongs to one process, so several workers share the disk alone."""
    if not shared:
        return Room(memory=settings.storage, disk=0, total=settings.storage)
    memory = 0 if workers > 1 else min(MEMORY, settings.storage)
    return Room(memory=memory, disk=settings.storage, total=settings.storage)


def opened(network: Network, folder: Path | None, room: Room) -> Store:
    """The store of a run; without a folder, in memory.

    Pooled features are small and always needed: they come on top of the bytes that may be stored.
    """
    pooled = sum(max(layer.shape, default=1) for layer in network.anatomy.layers)  # most that pooling leaves of each
    more = 4 * 4 * len(network.examples) * pooled + 2**20  # float32, and room for frontiers of several tensors
    if folder is None:
        return Store(None, memory=room.memory + more)
    return Store(folder / "activations", disk=room.disk + more, memory=room.memory)


def chosen(network: Network, calibration: Calibration, room: Room, *, show: Show = silent) -> Choice:
    """What pays to be stored, and the inputs themselves where there is room left.

    Raises OptionError where the number format that was asked for would change the features too much, or has no meaning.
    """
    forecast, dtype = _formatted(network, calibration, room, show)
    unread = "No activations are stored: what is trained does not read any."
    show(Event("plan", text=forecast.sentence if _demands(network) else unread))
    return Choice(forecast, _whole(network, forecast, room), dtype)


def _formatted(network: Network, calibration: Calibration, room: Room, show: Show) -> tuple[Forecast, str]:
    """In half precision where that was asked for, or where the bytes are too few."""
    refuse_rounding(network.settings, network.device)
    asked, full = network.settings.storage_precision, _planned(network, calibration, room)
    if network.mixed or asked == "fp32":
        return full, "float32"
    half, limit = _planned(network, calibration, room, share=0.5), room.memory + room.disk
    short = 2 * sum(half.bytes.values()) > (limit if room.total is None else min(limit, room.total))
    pays = short and half.seconds * WORTH_ROUNDING <= full.seconds
    depths = [depth for depth, _ in half.stored]
    for name, dtype in HALVES.items():
        if not depths or (asked != name and not (asked == "auto" and pays)):
            continue
        moved = change(network, depths, dtype)
        if moved <= TOLERANCE:
            told = f"Activations are stored in {name}: {_moved(name, moved)}, {TOLERANCE:.0%} is allowed"
            show(Event("plan", text=told))
            return half, dtype
        if asked == name:
            others = [other for other in ("fp32", *HALVES) if other != name]
            raise OptionError(
                f"storage_precision is {name!r}: {_moved(name, moved)}, and {TOLERANCE:.0%} is allowed; "
                f"use {' or '.join(others)}"
            )
    return full, "float32"


def _moved(name: str, by: float) -> str:
    if math.isinf(by):
        return f"an activation comes near to the largest number of {name}"
    return f"they move the features behind the last cut by {by:.2%} at most on the examples looked at"


def refuse_rounding(settings: Settings, device: Device) -> None:
    """Raise OptionError where half precision was asked for in the store of what is computed in it anyway."""
    if device.mixed_precision != "no" and settings.storage_precision in HALVES:
        raise OptionError(
            f"storage_precision is {settings.storage_precision!r}, and computing in {device.mixed_precision} keeps "
            "activations as they were computed; leave it away, or add --precision fp32"
        )


def _planned(network: Network, calibration: Calibration, room: Room, *, share: float = 1.0) -> Forecast:
    """Which activations to store; for a search, for the freeze depths of the arms proposed without any evidence.

    Each takes `share` of its bytes in float32, with those of the levels below it that a head reads. What an interrupted
    run stored already is planned anew and found there: it takes no room from itself.
    """
    anatomy, factor = network.anatomy, share * network.scale
    sizes = [
        sum(anatomy.layers[depth - 1].bytes for depth in (layer.index + 1, *anatomy.below(layer.index + 1)))
        for layer in anatomy.layers
    ]
    layers = [replace(layer, bytes=round(factor * size)) for layer, size in zip(anatomy.layers, sizes, strict=True)]
    return afford(
        layers, calibration, _demands(network), room,
        examples=network.learnable, views=network.views, trained=network.trained,
    )  # fmt: skip


def _demands(network: Network) -> Mapping[int, float]:
    """Epochs a freeze depth: those that are known, or each arm's first rung and its part of what later rungs spend."""
    if network.demands is not None:
        return network.demands
    layers, base = network.anatomy.layers, network.recipe
    last = unseen(layers)
    all_known = network.settings.strategies == "known"
    arms = (compared if all_known else propose)(layers, [last], recipe=base, classes=2, examples=0)
    head = head_on(network.settings, network.backbone, network.anatomy)
    if not head.pools:
        arms = on_crossing(arms, head)
    trained = [arm for arm in arms if not exact(arm)]
    still = network.settings.augment in (None, "none")  # varied examples are read, not stored
    ends = len(comparison(network.settings.effort, base.epochs).rungs[-1].pairs)
    later = still * ends if all_known else (4 * 2 / 3 + still * 2 * 2) / len(trained)
    share = base.epochs * (4 / 6 + later)
    demands = dict[int, float]()
    for arm in trained:
        demands[arm.plan.freeze] = demands.get(arm.plan.freeze, 0.0) + share
    return demands


def unseen(layers: Sequence[Layer]) -> Evidence:
    """What stands for the probes where none was fitted yet: the last cut is the best one."""
    features = max(layers[-1].shape, default=1)
    return Evidence(Cut(len(layers), layers[-1].name), Estimate(1.0, 1.0, 1.0), 0.0, features)


def _whole(network: Network, forecast: Forecast, room: Room) -> Mapping[int, Tier]:
    whole: dict[int, Tier] = dict(forecast.stored)
    if network.intake.at_hand:
        return whole
    size = network.views * network.learnable * network.intake.bytes
    tier: Tier = "memory" if size + forecast.bytes["memory"] <= room.memory else "disk"
    fits = size + forecast.bytes[tier] <= {"memory": room.memory, "disk": room.disk}[tier]
    read = min(_demands(network), default=len(network.anatomy.layers)) < min(whole, default=len(network.anatomy.layers))
    if read and fits and size + sum(forecast.bytes.values()) <= network.settings.storage:
        whole[0] = tier
    return whole


def filled(
    network: Network, store: Store, choice: Choice, *, dry: bool, show: Show = silent
) -> tuple[Filled, tuple[Mapping[int, Stored], ...]]:
    """One pass over the data for each view; a dry one leaves no whole activations, and says which there would be.

    With the further views of what crosses the cuts, beside the first one in `Filled`.
    """
    if not dry:
        _cleared(network, store, choice)
    passing, further = {} if dry else choice.whole, range(1, network.views if choice.whole else 1)
    rows, more = len(network.examples), network.learnable
    told = rows + (0 if dry else len(further) * more)
    first = once_through(network, store, passing, lambda done, _: show(Event("fill", done, told)), dtype=choice.dtype)
    if dry:
        return replace(first, whole=_imagined(network, choice)), tuple(_imagined(network, choice, v) for v in further)

    def progress(view: int) -> Callable[[int, int], None]:
        return lambda done, _: show(Event("fill", rows + (view - 1) * more + done, told))

    views = (viewed(network, store, passing, progress(v), view=v, dtype=choice.dtype) for v in further)
    return first, tuple(views)


def _cleared(network: Network, store: Store, choice: Choice) -> None:
    """Forget what an earlier session stored by another plan: a run that is resumed may have other workers."""
    named = [addresses(network, sorted(choice.whole), view=view) for view in range(network.views)]
    for stored in store.sets():
        key = stored.key
        stale = stored.rows != network.learnable or key.address not in {view.get(key.depth) for view in named}
        formats = {field.dtype for field in stored.fields} & {"float32", *HALVES.values()}
        other = not network.mixed and not formats <= {choice.dtype if key.depth else "float32"}
        if key.kind == "whole" and (stale or other):
            store.forget(key)


def _imagined(network: Network, choice: Choice, view: int = 0) -> Mapping[int, Stored]:
    """Handles to sets that are not there, as large as they would be: what crosses each cut is seen on one example."""
    named, rows = addresses(network, sorted(choice.whole), view=view), network.learnable
    found = dict[int, Stored]()
    for depth, frontier in crossing(network, sorted(choice.whole)).items():
        rounded = choice.dtype if depth and not network.mixed else None
        long = ragged(network, depth) or (False,) * len(frontier)
        fields = tuple(
            Field(
                tuple(tensor.shape[1 + one :]), rounded if rounded and tensor.is_floating_point() else kind(tensor), one
            )
            for tensor, one in zip(frontier, long, strict=True)
        )
        sizes = sizes_of(network, network.order[:rows]) if any(long) else None
        chunk = rows_per_chunk(fields, rows, network.chunk, length=network.length)
        found[depth] = Stored(Key(named[depth], depth), fields, rows, chunk, choice.whole[depth], sizes)
    return found
