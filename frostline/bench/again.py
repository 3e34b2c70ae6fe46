"""The same bench in another process, without reading the examples or taking the network apart once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from frostline.activations.afford import Forecast
from frostline.activations.features import Features, Rows
from frostline.activations.store import Store, Stored
from frostline.backbones.anatomy import Anatomy
from frostline.bench.bench import Bench, Source
from frostline.bench.lay import backbone_of
from frostline.bench.unit import perform_together
from frostline.data.intake import intake
from frostline.settings import Settings
from frostline.training.device import accelerator, arranged
from frostline.values import Arm, Calibration, Examples, Outcome, Profile, Split, Unit


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What is known of a bench, without its network: that, and what is stored, each process reads itself."""

    folder: Path
    settings: Settings
    examples: Examples
    profile: Profile
    split: Split
    anatomy: Anatomy
    features: Mapping[int, Stored | NDArray[np.float32]]  # arrays where they lie in another process's memory
    whole: Mapping[int, Stored]
    varied: tuple[Mapping[int, Stored], ...]
    views: int
    places: NDArray[np.int64]
    calibration: Calibration
    forecast: Forecast
    workers: int
    tag: str


@dataclass(frozen=True, slots=True)
class Job:
    """A unit with its arm, to be trained here or by another process; several units where they are trained together."""

    arm: Arm
    unit: Unit
    keep: bool  # whether its weights stay in the run
    others: tuple[Unit, ...] = ()  # that differ from `unit` in their learning rates alone


def blueprints(bench: Bench) -> tuple[Blueprint, ...]:
    """Of the benches of all backbones that race."""
    return tuple(map(blueprint, bench.every))


def blueprint(bench: Bench) -> Blueprint:
    """Of a bench whose data and backbone have names, in a run with a folder."""
    assert bench.folder is not None, "other processes share a folder"
    everything = np.arange(len(bench.examples))
    features = {
        depth: stored if stored.tier == "disk" else bench.pooled[depth][everything]
        for depth, stored in bench.features.items()
    }
    return Blueprint(
        bench.folder, bench.settings, bench.examples, bench.profile, bench.split, bench.anatomy, features,
        bench.whole, bench.varied, bench.views, bench.places, bench.calibration, bench.forecast, bench.workers,
        bench.tag,
    )  # fmt: skip


def laid(plans: Sequence[Blueprint]) -> Bench:
    """The bench of the first backbone, with those of its rivals. Raises BackboneError and StoreError."""
    rivals = dict[str, Bench]()
    benches = [_laid(plan, rivals) for plan in plans]
    rivals.update({bench.tag: bench for bench in benches if bench.tag})
    return benches[0]


def _laid(plan: Blueprint, rivals: dict[str, Bench]) -> Bench:
    """The bench, as another process has it."""
    way = plan.calibration.way
    device = accelerator(plan.settings.device, way.precision)
    torch.set_num_threads(way.threads)
    threadpool_limits(1, user_api="blas")  # as in the process that leads
    backbone = backbone_of(plan.settings, Source())
    backbone = replace(backbone, module=arranged(backbone.module, way.layout))
    store = Store(plan.folder / "activations")
    pooled: Mapping[int, Rows] = {
        depth: Features(store, found, plan.places) if isinstance(found, Stored) else found
        for depth, found in plan.features.items()
    }
    handles = {depth: found for depth, found in plan.features.items() if isinstance(found, Stored)}
    return Bench(
        plan.folder, plan.settings, plan.examples, None, plan.settings.metric,  # by its name: nothing is judged here
        plan.profile, plan.split, backbone, plan.anatomy,
        intake(backbone, plan.examples, workers=plan.settings.threads), store, pooled, handles, plan.whole, plan.varied,
        plan.views,
        plan.places, plan.calibration, plan.forecast, device, plan.workers, {}, tag=plan.tag, rivals=rivals,
    )  # fmt: skip


def done(bench: Bench, job: Job) -> tuple[Outcome, ...]:
    """The units, trained on that process's own bench."""
    return perform_together(bench, job.arm, (job.unit, *job.others), keep=job.keep)
