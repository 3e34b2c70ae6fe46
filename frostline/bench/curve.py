"""What is known of every cut before any training: its linear probe, the controls, the distance from the source."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from frostline.activations.features import Features, Rows
from frostline.activations.store import Store
from frostline.bench.bench import Bench
from frostline.bench.passing import CHUNK, Network, once_through
from frostline.bench.recipe import weighs_alike
from frostline.bench.shift import shifts
from frostline.data import batches
from frostline.data.intake import inputs_of
from frostline.evidence import growth, similarity
from frostline.evidence.depths import probe_curve
from frostline.plan import cut_at
from frostline.search.scores import balanced
from frostline.training.device import arranged
from frostline.values import Backbone, Event, Evidence, Examples, Growth, Show, asked, silent

SHIFTED = 256  # examples that tell how far the data lies from the source


def probe_cuts(bench: Bench, *, show: Show = silent) -> tuple[Evidence, ...]:
    """The linear probes at every cut, beside those of a randomly initialised network and of permuted labels.

    With them goes how far the data lies from what the network was trained on, as its batch norms remember it.
    """
    started = time.perf_counter()
    with _control(bench, show) as random, _origin(bench, show) as origin:
        depths = [cut_at(bench.anatomy.layers, depth) for depth in sorted(bench.pooled)]
        found = probe_curve(
            depths, bench.pooled, bench.examples.targets, bench.split.folds[0],
            seed=bench.settings.seed, random=random, shifts=_shifts(bench),
            shifted=bench.split.shifted, confidence=bench.settings.confidence,
            balance=balanced if weighs_alike(bench.settings) else None, workers=max(1, bench.settings.threads),
        )  # fmt: skip
        found = tuple(_placed(bench, evidence, random, origin) for evidence in found)
    bench.seconds["probe"] = time.perf_counter() - started
    return found


def _placed(
    bench: Bench, evidence: Evidence, random: Mapping[int, Rows] | None, origin: Mapping[int, Rows] | None
) -> Evidence:
    """With how much of a cut's features training made, and how far the data lies from the source's there."""
    depth, train = evidence.cut.depth, bench.split.folds[0].train
    # in random order: rows come class by class
    places = np.random.default_rng(bench.settings.seed).permutation(len(train))[: similarity.MOST]
    ours = bench.pooled[depth][train[places]]
    untaught = None if random is None else similarity.cka(ours, random[depth][places])
    away = None
    if bench.origin is not None and origin is not None:
        theirs = origin[depth][np.arange(len(bench.origin))]
        away = similarity.proxy_distance(theirs, ours, seed=bench.settings.seed)
    told = untaught is not None and math.isfinite(untaught)
    return replace(evidence, untaught=untaught if told else None, distance=away)


def grown_cuts(bench: Bench, depths: Iterable[int]) -> tuple[Growth, ...]:
    """How the probes at some cuts grow with the examples; empty where these are too few to tell, or no classes."""
    if asked(bench.examples.targets) != "classification":
        return ()
    return growth.grown(
        {depth: bench.pooled[depth] for depth in sorted(set(depths)) if depth in bench.pooled},
        bench.examples.targets,
        bench.split.folds[0],
        seed=bench.settings.seed,
        balance=balanced if weighs_alike(bench.settings) else None,
        confidence=bench.settings.confidence,
    )


@contextmanager
def _control(bench: Bench, show: Show) -> Generator[Mapping[int, Rows] | None]:
    """Features of the training rows from a randomly initialised network, while this is open; None where none is made.

    They lie where the run's own features do, and are gone afterwards.
    """
    if bench.backbone.fresh is None:
        yield None
        return
    module = arranged(bench.backbone.fresh(bench.settings.seed), bench.calibration.way.layout)
    learned = bench.examples.at(bench.split.folds[0].train)  # nothing else is looked at
    with _passed(bench, replace(bench.backbone, module=module.eval()), learned, "control", show) as found:
        yield found


@contextmanager
def _origin(bench: Bench, show: Show) -> Generator[Mapping[int, Rows] | None]:
    """Features of the source's examples, while this is open; None where none were given."""
    if bench.origin is None:
        yield None
        return
    with _passed(bench, bench.backbone, bench.origin, "source", show) as found:
        yield found


@contextmanager
def _passed(
    bench: Bench, backbone: Backbone, examples: Examples, stage: str, show: Show
) -> Generator[Mapping[int, Rows]]:
    """Features of some examples by some network, at every cut, in a folder of their own that is gone afterwards."""
    network = Network(backbone, bench.anatomy, examples, bench.device, bench.settings, len(examples))
    folder = None if bench.folder is None else bench.folder / "activations" / stage
    size = _pooled_bytes(bench.pooled, len(examples))
    store = Store(folder, disk=size, memory=0 if folder else size)
    try:
        passed = once_through(network, store, {}, lambda done, all: show(Event(stage, done, all))).pooled
        yield {depth: Features(store, stored, network.places) for depth, stored in passed.items()}
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _shifts(bench: Bench) -> Mapping[int, float]:
    """On a sample of the training examples: nothing here is seen of what certifies."""
    where = bench.device.device
    rows = np.sort(np.random.default_rng(bench.settings.seed).permutation(bench.split.folds[0].train)[:SHIFTED])
    inputs = (inputs_of(bench.intake, some, where) for some in batches.batches(rows, CHUNK))
    module = bench.backbone.module.to(where)
    try:
        return shifts(module, bench.anatomy, inputs, sorted(bench.pooled))
    finally:
        module.cpu()


def _pooled_bytes(pooled: Mapping[int, Rows], rows: int) -> int:
    """Of so many rows, with room for the padding of chunks."""
    return 2 * 4 * rows * sum(math.prod(features.shape[1:]) for features in pooled.values()) + 2**20
