"""Lay the bench: read, profile, load, cut, calibrate, fill, split."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from frostline.activations.features import Features
from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.backbones.load import load
from frostline.bench import remembered, storing
from frostline.bench.bench import Bench, Source
from frostline.bench.levels import head_on, squashed, with_levels
from frostline.bench.measure import Share, brief_disk, measure, trial
from frostline.bench.passing import Network
from frostline.bench.stacking import stacking
from frostline.bench.topping import topping
from frostline.data import intake as intakes
from frostline.data.found import existing
from frostline.data.intake import kind_of, longest
from frostline.data.kinds import KINDS
from frostline.data.near import MOST, near_duplicates
from frostline.data.profile import duplicates, participation_ratio, profile, with_features
from frostline.data.read import read
from frostline.data.split import split, strata
from frostline.errors import BackboneError, DataError, OptionError
from frostline.search import own
from frostline.search.scores import Metric
from frostline.settings import Settings, is_own
from frostline.tasks.table import TASKS
from frostline.training.device import accelerator, arranged, precisions
from frostline.values import (
    Backbone,
    Calibration,
    Event,
    Examples,
    Kind,
    Layer,
    Preprocessing,
    Profile,
    Question,
    Show,
    Split,
    asked,
    silent,
)

T = TypeVar("T")
Demands = Callable[[Sequence[Layer]], Mapping[int, float]]
FOLDS = 5
LEAST_SOURCE, MOST_SOURCE = 20, 2000  # examples of the source


def lay(
    settings: Settings,
    source: Source,
    *,
    folder: Path | None = None,
    calibration: Calibration | None = None,
    dry: bool = False,
    demands: Demands | None = None,
    tag: str = "",
    beside: Bench | None = None,
    show: Show = silent,
) -> Bench:
    """Everything that units need. `folder` None keeps all in memory; `calibration` is that of a run that is resumed.

    Activations are stored for the epochs by freeze depth that `demands` makes of the layers; None is a search's.

    `beside` is the bench of another backbone on the same data: examples and split are then those.
    A `dry` bench is laid for a forecast: planned like that of a run with a folder, but it keeps pooled features alone,
    and its `whole` names what such a run would store.
    """
    shared = dry or folder is not None
    seconds = dict[str, float]()
    device = accelerator(settings.device, settings.precision)  # what a typing error ends comes before what takes long
    storing.refuse_rounding(settings, device)
    if is_own(settings.metric):
        own.read(settings.metric)
    for place in (settings.data if source.data is None else None, settings.shifted, settings.source):
        if place is not None:
            existing(place)
    backbone = _timed(seconds, "load", lambda: backbone_of(settings, source))
    examples, origin, metric = _timed(
        seconds,
        "read",
        lambda: _data(settings, source, backbone, show) if beside is None else _shared(beside, backbone),
    )
    settings = _sized(settings, backbone, examples)
    refuse_to_vary(settings, examples.kind)
    backbone, anatomy = _timed(seconds, "cut", lambda: _dissected(settings, source, backbone, show))
    trained = len(split(examples, seed=settings.seed, folds=FOLDS).folds[0].train)
    known = None if demands is None else demands(anatomy.layers)
    network = Network(backbone, anatomy, examples, device, settings, trained, known)
    measured = _timed(
        seconds, "calibrate", lambda: calibration or _measured(network, source, folder, dry=dry, show=show)
    )
    torch.set_num_threads(measured.way.threads)
    device = accelerator(settings.device, measured.way.precision)
    backbone = replace(backbone, module=arranged(backbone.module, measured.way.layout))
    network = replace(network, backbone=backbone, device=device)
    workers = settings.workers or measured.way.at_once
    show(Event("calibrate", text=_fastest(measured, workers)))
    # beside rivals, whoever trains may be another process, whatever was fastest for this network
    alone = settings.workers == 1 if tag else workers == 1
    room = storing.room(settings, 1 if alone else max(2, workers), shared=shared)
    store = storing.opened(network, folder, room)
    choice = storing.chosen(network, measured, room, show=show)
    filled, varied = _timed(seconds, "fill", lambda: storing.filled(network, store, choice, dry=dry, show=show))
    pooled = {depth: Features(store, stored, network.places) for depth, stored in filled.pooled.items()}
    if beside is None:
        described, parted = _parted(settings, examples, pooled, show)
    else:
        described, parted = _described(beside.profile, examples, pooled), beside.split
    return Bench(
        folder, settings, examples, origin, metric, described, parted, network.backbone, anatomy, network.intake,
        store, pooled,
        filled.pooled, filled.whole, varied, network.views, network.places, measured, choice.forecast, network.device,
        workers, seconds, tag=tag, rivals={} if beside is None else beside.rivals,
    )  # fmt: skip


def _described(known: Profile, examples: Examples, pooled: Mapping[int, Features]) -> Profile:
    """What is known of the data, with the directions that this network's features of it use."""
    own = np.flatnonzero(np.asarray(examples.parts) != "shifted")
    return replace(known, effective_dimension=participation_ratio(pooled[max(pooled)][own]))


def _parted(
    settings: Settings, examples: Examples, pooled: Mapping[int, Features], show: Show
) -> tuple[Profile, Split]:
    """What the data is like, and who may see what of it: near duplicates among the features stand on one side."""
    ours = examples.at(np.flatnonzero(np.asarray(examples.parts) != "shifted"))  # they come first
    last = pooled[max(pooled)][np.arange(len(ours))]
    alike = ours.targets if asked(ours.targets) == "classification" else strata(ours.targets)
    near = near_duplicates(last, alike)
    if len(ours) > MOST:
        text = (
            f"Examples that are nearly the same are not looked for among more than {MOST:,}; where there are some, "
            "name a column of groups (--group)"
        )
        show(Event("split", text=text))
    parted = split(examples, seed=settings.seed, folds=FOLDS, duplicates=duplicates(ours) + (near or ()))
    show(Event("split", text=parted.how))
    return with_features(profile(ours), last, near), parted


def _measured(network: Network, source: Source, folder: Path | None, *, dry: bool, show: Show) -> Calibration:
    """As this machine remembers it for this network and this data; else measured, and remembered."""
    shared = dry or folder is not None
    settings, where, batch = network.settings, network.device.device, network.recipe.batch
    kinds = precisions(where, settings.precision)
    shares = _shares(network, source, shared=shared)
    head = head_on(settings, network.backbone, network.anatomy)
    mark = remembered.mark(
        network.anatomy.layers, where, folder, preprocessing=network.backbone.preprocessing,
        data=network.ids[: network.own], batch=batch, precisions=kinds, shares=shares,
        head=(settings.task, head.kind, *network.anatomy.levels, len(network.examples.classes)),
    )  # fmt: skip
    known = None if settings.recalibrate else remembered.recall(mark)
    if known is not None:
        return known
    show(Event("calibrate", text="Measuring this machine with this network (once, then it is remembered)"))
    with brief_disk() if dry else nullcontext(folder) as place:
        tried = trial(network.backbone, network.anatomy, network.examples, where, batch)
        found = measure(tried, network.examples, precisions=kinds, shares=shares, folder=place)
        task, device = TASKS[settings.task], accelerator(settings.device, found.way.precision)
        own = topping(tried, network.examples, task, head, network.recipe, found.way, device)
        stacked = stacking(tried, found.way, device) if own is None else None  # one with a loss of its own is alone
        found = replace(found, way=replace(found.way, stacked=stacked), topping=own)
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
    graphs = "; steps are recorded and replayed (CUDA graphs)" if way.graphs else ""
    best = f"fastest on {threads} a training{at_once}{layout}{precision}{graphs}"
    return f"Measured on this machine ({measured.device}): {best}"


def _read(settings: Settings, source: Source, backbone: Backbone, show: Show) -> Examples:
    given, kind, how = settings.data if source.data is None else source.data, kind_of(backbone), backbone.preprocessing
    examples = read(
        given,
        kind,
        data_format=settings.data_format,
        label=settings.label,
        path=settings.path,
        group=settings.group,
        values=settings.values,
        shifted=settings.shifted,
        question=question_of(settings),
        size=how.size if isinstance(how, Preprocessing) else None,
        progress=lambda done, all: show(Event("read", done, all)),
    )
    show(Event("read", text=examples.detected))
    for warning in examples.warnings:
        show(Event("read", text=f"Warning: {warning}"))
    if examples.skipped:
        first = "; ".join(f"{name}: {reason}" for name, reason in examples.skipped[:3])
        show(Event("read", text=f"Skipped {len(examples.skipped)} {kind} that cannot be read ({first})"))
    return examples


def question_of(settings: Settings) -> Question:
    """What the labels answer."""
    found: Any = settings.task
    return found


def _data(
    settings: Settings, source: Source, backbone: Backbone, show: Show
) -> tuple[Examples, Examples | None, Metric]:
    """The examples, some of the source's where they were given, and the metric."""
    examples = _read(settings, source, backbone, show)
    return (
        examples,
        None if settings.source is None else _origin(settings, examples.kind, show),
        own.metric_of(settings.metric, examples),
    )


def _origin(settings: Settings, kind: Kind, show: Show) -> Examples:
    """Some of what the backbone was trained on: as many as say what there is to say. Raises DataError for too few."""
    found = read(settings.source, kind, progress=lambda done, all: show(Event("source", done, all)))
    if len(found) < LEAST_SOURCE:
        raise DataError(
            f"{settings.source} holds {len(found)} examples of the source; at least {LEAST_SOURCE} are needed to say "
            "what is forgotten of it: give more of them, or leave --source away"
        )
    some = np.sort(np.random.default_rng(settings.seed).permutation(len(found))[:MOST_SOURCE])
    rest = f", of which {len(some):,} are looked at" if len(some) < len(found) else ""
    show(Event("read", text=f"The source: {found.detected}{rest}"))
    return found.at(some)


def backbone_of(settings: Settings, source: Source) -> Backbone:
    """The network that the settings name, or the one that was given. Raises BackboneError."""
    backbone = load(
        settings.backbone if source.module is None else source.module,
        weights=settings.weights,
        image_size=settings.image_size,
        max_length=settings.max_length,
        seconds=settings.seconds,
        mean=settings.mean,
        std=settings.std,
        interpolation=settings.interpolation,
        model_kwargs=settings.model_kwargs,
    )
    if not any(parameter.requires_grad for parameter in backbone.module.parameters()):
        raise BackboneError(
            f"every parameter of {backbone.name!r} is frozen (requires_grad is False), and what a user froze is never "
            "thawed, so nothing could learn; call requires_grad_() on the network, or on the parts that may learn"
        )
    intakes.refuse_unprepared(backbone)
    return backbone


def _shared(beside: Bench, backbone: Backbone) -> tuple[Examples, Examples | None, Metric]:
    """The data of a bench, for a rival of its backbone. Raises OptionError where this reads something else."""
    if kind_of(backbone) != beside.examples.kind:
        raise OptionError(
            f"{backbone.name!r} reads {kind_of(backbone)}, and {beside.backbone.name!r} {beside.examples.kind}; "
            "backbones that race read the same"
        )
    return beside.examples, beside.origin, beside.metric


def _sized(settings: Settings, backbone: Backbone, examples: Examples) -> Settings:
    """The settings with the size of inputs that the data decides, where neither user nor backbone does."""
    found = longest(backbone, examples) if settings.seconds is None else None
    return settings if found is None else replace(settings, seconds=found)


def refuse_to_vary(settings: Settings, kind: Kind) -> None:
    """Raise OptionError where examples would have to vary that nothing varies yet, or whose targets would move."""
    if settings.augment not in (None, "none") and (not KINDS[kind].varies or TASKS[settings.task].levels is not None):
        raise OptionError(
            f"augment is {settings.augment!r}, and {kind} do not vary yet with the task {settings.task}; leave it away"
        )


def _dissected(settings: Settings, source: Source, backbone: Backbone, show: Show) -> tuple[Backbone, Anatomy]:
    if settings.seconds is not None:
        backbone = backbone_of(settings, source)
    maps = TASKS[settings.task].levels
    if maps is not None:
        backbone = squashed(backbone, settings.task)
    anatomy = dissect(backbone)
    if maps is not None and not backbone.queries:
        anatomy = with_levels(anatomy, backbone, maps)
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
