"""Lay the bench: read, profile, load, cut, calibrate, fill, split."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from frostline.activations.afford import Forecast, Room, afford
from frostline.activations.chunks import Field, rows_per_chunk
from frostline.activations.fill import Filled
from frostline.activations.store import Key, Store, Stored, Tier
from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.backbones.load import load
from frostline.bench import remembered
from frostline.bench.bench import Bench, Source
from frostline.bench.measure import Share, brief_disk, measure
from frostline.bench.passing import CHUNK, Network, addresses, input_bytes, once_through
from frostline.bench.rounding import TOLERANCE, change
from frostline.data.near import near_duplicates
from frostline.data.profile import duplicates, profile, with_features
from frostline.data.read import existing, read
from frostline.data.split import split
from frostline.errors import BackboneError, OptionError
from frostline.search.arms import exact, propose
from frostline.settings import Settings
from frostline.training.device import Device, accelerator, arranged, precisions
from frostline.values import Backbone, Calibration, Cut, Estimate, Event, Evidence, Examples, Show, silent

T = TypeVar("T")
FOLDS = 5
MEMORY = 2 * 2**30  # bytes of activations that may lie in memory; the rest goes to disk
HALVES: Mapping[str, str] = {"fp16": "float16", "bf16": "bfloat16"}  # the more exact one first
WORTH_ROUNDING = 1.05  # times as fast as with float32: then half precision is stored unasked


def lay(
    settings: Settings,
    source: Source,
    *,
    folder: Path | None = None,
    calibration: Calibration | None = None,
    dry: bool = False,
    show: Show = silent,
) -> Bench:
    """Everything that units need. `folder` None keeps all in memory; `calibration` is that of a run that is resumed.

    A `dry` bench is laid for a forecast: planned like that of a run with a folder, but it keeps pooled features alone,
    and its `whole` names what such a run would store.
    """
    shared = dry or folder is not None
    seconds = dict[str, float]()
    device = accelerator(settings.device, settings.precision)  # what a typing error ends comes before what takes long
    _refuse_rounding(settings, device)
    if source.data is None:
        existing(settings.data)
    backbone, anatomy = _timed(seconds, "load", lambda: _loaded(settings, source, show))
    examples = _timed(seconds, "read", lambda: _read(settings, source, show))
    trained = len(split(examples, seed=settings.seed, folds=FOLDS).folds[0].train)
    network = Network(backbone, anatomy, examples, device, settings, trained)
    measured = _timed(
        seconds, "calibrate", lambda: calibration or _measured(network, source, folder, dry=dry, show=show)
    )
    torch.set_num_threads(measured.way.threads)
    if measured.way.precision != settings.precision:
        device = accelerator(settings.device, measured.way.precision)
    backbone = replace(backbone, module=arranged(backbone.module, measured.way.layout))
    network = replace(network, backbone=backbone, device=device)
    workers = settings.workers or measured.way.at_once
    show(Event("calibrate", text=_fastest(measured, workers)))
    room = _room(settings, workers, shared=shared)
    store = _store(network, folder, room)
    forecast, dtype = _planned(network, measured, room, show)
    show(Event("plan", text=forecast.sentence))
    whole = _whole(network, forecast, room)
    filled = _timed(seconds, "fill", lambda: _filled(network, store, whole, dtype, show, dry=dry))
    last = filled.pooled[max(filled.pooled)]
    near = near_duplicates(last, examples.targets)
    parted = split(examples, seed=settings.seed, folds=FOLDS, duplicates=duplicates(examples) + (near or ()))
    show(Event("split", text=parted.how))
    known = with_features(profile(examples), last, near)
    return Bench(
        folder, settings, examples, known, parted, network.backbone, anatomy, store, filled.pooled,
        filled.features, filled.whole, np.argsort(network.order), measured, forecast, network.device, workers, seconds,
    )  # fmt: skip


def _measured(network: Network, source: Source, folder: Path | None, *, dry: bool, show: Show) -> Calibration:
    """As this machine remembers it for this network and this data; else measured, and remembered."""
    shared = dry or folder is not None
    settings, where, batch = network.settings, network.device.device, network.recipe.batch
    kinds = precisions(where, settings.precision)
    shares = _shares(network, source, shared=shared)
    mark = remembered.mark(
        network.anatomy.layers, where, folder, preprocessing=network.backbone.preprocessing,
        data=network.ids, batch=batch, precisions=kinds, shares=shares,
    )  # fmt: skip
    known = None if settings.recalibrate else remembered.recall(mark)
    if known is not None:
        return known
    show(Event("calibrate", text="Measuring this machine with this network (once, then it is remembered)"))
    with brief_disk() if dry else nullcontext(folder) as place:
        found = measure(
            network.backbone, network.anatomy, network.examples, where,
            batch=batch, precisions=kinds, shares=shares, folder=place,
        )  # fmt: skip
    remembered.keep(mark, found)
    return found


def _shares(network: Network, source: Source, *, shared: bool) -> tuple[Share, ...]:
    """How threads might be shared: a training on one or on all, or one on each thread, where there is a choice.

    What was given as an object cannot be reached from another process, and without a folder there is nothing to share.
    How trainings side by side get on is measured with forks, which Linux alone does safely.
    """
    threads, asked = max(1, network.settings.threads), network.settings.workers
    if network.device.device.type != "cpu":
        return ((threads, 1),)  # a fork of a process that uses a GPU cannot use it
    if asked is not None and sys.platform == "linux":
        return tuple(dict.fromkeys([(1, asked), (threads, asked)]))
    alone = tuple(dict.fromkeys([(1, 1), (threads, 1)]))
    together = shared and source == Source() and threads > 1 and sys.platform == "linux"
    return (*alone, (1, threads)) if together else alone


def _fastest(measured: Calibration, workers: int) -> str:
    way = measured.way
    threads = f"{way.threads} thread{'s' if way.threads > 1 else ''}"
    at_once = f", {workers} trainings at a time" if workers > 1 else ""
    layout = "; convolutions are faster in channels-last memory" if way.layout == "channels_last" else ""
    precision = "" if way.precision == "fp32" else f"; computing in {way.precision} (weights stay in fp32)"
    return f"Measured on this machine ({measured.device}): fastest on {threads} a training{at_once}{layout}{precision}"


def _planned(network: Network, calibration: Calibration, room: Room, show: Show) -> tuple[Forecast, str]:
    """What to store, and as what: in half precision where that was asked for, or where the bytes are too few.

    Raises OptionError where what was asked for would change the features too much, or has no meaning.
    """
    _refuse_rounding(network.settings, network.device)
    asked, full = network.settings.storage_precision, planned(network, calibration, room)
    if network.mixed or asked == "fp32":
        return full, "float32"
    half, limit = planned(network, calibration, room, share=0.5), room.memory + room.disk
    short = 2 * sum(half.bytes.values()) > (limit if room.total is None else min(limit, room.total))
    pays = short and half.seconds * WORTH_ROUNDING <= full.seconds
    depths = [depth for depth, _ in half.stored]
    for name, dtype in HALVES.items():
        if not depths or (asked != name and not (asked == "auto" and pays)):
            continue
        moved = change(network, depths, dtype)
        if moved <= TOLERANCE:
            show(
                Event(
                    "plan", text=f"Activations are stored in {name}: {_moved(name, moved)}, {TOLERANCE:.0%} is allowed"
                )
            )
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
    return f"they move the features behind the last cut by {by:.2%} at most on the pictures looked at"


def _refuse_rounding(settings: Settings, device: Device) -> None:
    if device.mixed_precision != "no" and settings.storage_precision in HALVES:
        raise OptionError(
            f"storage_precision is {settings.storage_precision!r}, and computing in {device.mixed_precision} keeps "
            "activations as they were computed; leave it away, or add --precision fp32"
        )


def planned(network: Network, calibration: Calibration, room: Room, *, share: float = 1.0) -> Forecast:
    """Which activations to store, for the freeze depths of the arms that would be proposed without any evidence.

    Each takes `share` of its bytes in float32. What an interrupted run stored already is planned anew and found there:
    it takes no room from itself.
    """
    layers = [replace(layer, bytes=round(share * layer.bytes)) for layer in network.anatomy.layers]
    return afford(layers, calibration, _demands(network), room, examples=network.learnable, trained=network.trained)


def _demands(network: Network) -> Mapping[int, float]:
    """Epochs a freeze depth: each arm's first rung, and its part of what the later rungs spend."""
    layers, base = network.anatomy.layers, network.recipe
    last = Evidence(Cut(len(layers), layers[-1].name), Estimate(1.0, 1.0, 1.0), 0.0, 1)
    arms = propose(layers, [last], recipe=base, classes=2, examples=0)
    trained = [arm for arm in arms if not exact(arm)]
    finals = 0 if network.settings.augment not in (None, "none") else 2 * 2  # varied pictures are read, not stored
    share = base.epochs * (4 / 6 + (4 * 2 / 3 + finals) / len(trained))
    demands = dict[int, float]()
    for arm in trained:
        demands[arm.plan.freeze] = demands.get(arm.plan.freeze, 0.0) + share
    return demands


def _whole(network: Network, forecast: Forecast, room: Room) -> Mapping[int, Tier]:
    """What is to be stored: what pays, and the inputs themselves where there is room left."""
    whole: dict[int, Tier] = dict(forecast.stored)
    size = network.learnable * input_bytes(network)
    tier: Tier = "memory" if size + forecast.bytes["memory"] <= room.memory else "disk"
    fits = size + forecast.bytes[tier] <= {"memory": room.memory, "disk": room.disk}[tier]
    if fits and size + sum(forecast.bytes.values()) <= network.settings.storage:
        whole[0] = tier
    return whole


def _filled(network: Network, store: Store, whole: Mapping[int, Tier], dtype: str, show: Show, *, dry: bool) -> Filled:
    """One pass over the data; a dry one leaves no whole activations, and says which there would be."""
    if not dry:
        _cleared(network, store, whole, dtype)
    passing = {} if dry else whole
    found = once_through(network, store, passing, lambda done, all: show(Event("fill", done, all)), dtype=dtype)
    return replace(found, whole=_imagined(network, whole, dtype)) if dry else found


def _cleared(network: Network, store: Store, whole: Mapping[int, Tier], dtype: str) -> None:
    """Forget what an earlier session stored by another plan: a run that is resumed may have other workers."""
    named = addresses(network, sorted(whole))
    for stored in store.sets():
        key = stored.key
        stale = (named.get(key.depth), network.learnable) != (key.address, stored.rows)
        formats = {field.dtype for field in stored.fields} & {"float32", *HALVES.values()}
        other = not network.mixed and not formats <= {dtype if key.depth else "float32"}
        if key.kind == "whole" and (stale or other):
            store.forget(key)


def _imagined(network: Network, whole: Mapping[int, Tier], dtype: str) -> Mapping[int, Stored]:
    """Handles to sets that are not there, as large as they would be."""
    named, rows, found = addresses(network, sorted(whole)), network.learnable, dict[int, Stored]()
    for depth, tier in whole.items():
        size = network.anatomy.layers[depth - 1].bytes if depth else input_bytes(network)
        fields = (Field((size // 4,), dtype if depth else "float32"),)
        chunk = rows_per_chunk(fields, rows, CHUNK)
        found[depth] = Stored(Key(named[depth], depth), fields, rows, chunk, tier)
    return found


def _room(settings: Settings, workers: int, *, shared: bool) -> Room:
    """Bytes in memory and on disk. Memory belongs to one process, so several workers share the disk alone."""
    if not shared:
        return Room(memory=settings.storage, disk=0, total=settings.storage)
    memory = 0 if workers > 1 else min(MEMORY, settings.storage)
    return Room(memory=memory, disk=settings.storage, total=settings.storage)


def _store(network: Network, folder: Path | None, room: Room) -> Store:
    """Pooled features are small and always needed: they come on top of the bytes that may be stored."""
    pooled = sum(max(layer.shape, default=1) for layer in network.anatomy.layers)  # most that pooling leaves of each
    more = 4 * 4 * len(network.examples) * pooled + 2**20  # float32, and room for frontiers of several tensors
    if folder is None:
        return Store(None, memory=room.memory + more)
    return Store(folder / "activations", disk=room.disk + more, memory=room.memory)


def _read(settings: Settings, source: Source, show: Show) -> Examples:
    given = settings.data if source.data is None else source.data
    examples = read(
        given,
        data_format=settings.data_format,
        label=settings.label,
        path=settings.path,
        group=settings.group,
        progress=lambda done, all: show(Event("read", done, all)),
    )
    show(Event("read", text=examples.detected))
    for warning in examples.warnings:
        show(Event("read", text=f"Warning: {warning}"))
    if examples.skipped:
        first = "; ".join(f"{name}: {reason}" for name, reason in examples.skipped[:3])
        show(Event("read", text=f"Skipped {len(examples.skipped)} files that cannot be read ({first})"))
    return examples


def backbone_of(settings: Settings, source: Source) -> Backbone:
    """The network that the settings name, or the one that was given. Raises BackboneError."""
    backbone = load(
        settings.backbone if source.module is None else source.module,
        weights=settings.weights,
        image_size=settings.image_size,
        mean=settings.mean,
        std=settings.std,
        interpolation=settings.interpolation,
        model_kwargs=settings.model_kwargs,
    )
    if backbone.preprocessing is None:
        raise BackboneError(
            f"{backbone.name!r} does not say how pictures are to be prepared; give --image-size, --mean and --std"
        )
    return backbone


def _loaded(settings: Settings, source: Source, show: Show) -> tuple[Backbone, Anatomy]:
    backbone = backbone_of(settings, source)
    anatomy = dissect(backbone)
    cuts = sum(layer.cut for layer in anatomy.layers)
    show(Event("load", text=f"{backbone.name}: {len(anatomy.layers)} layers, {cuts} cuts, weights: {backbone.weights}"))
    for note in (*backbone.notes, *anatomy.notes):
        show(Event("load", text=note))
    return backbone, anatomy


def _timed(seconds: dict[str, float], stage: str, work: Callable[[], T]) -> T:
    started = time.perf_counter()
    found = work()
    seconds[stage] = time.perf_counter() - started
    return found
