"""The bench: everything that a unit of the search needs, laid out once a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frostline.activations.afford import Forecast
from frostline.activations.features import Rows
from frostline.activations.store import Store, Stored
from frostline.backbones.anatomy import Anatomy
from frostline.data.intake import Intake, Varied, arrays_of
from frostline.evidence.probes import Linear
from frostline.search.scores import Metric
from frostline.settings import Settings
from frostline.tasks.table import TASKS
from frostline.tasks.task import Task
from frostline.training.device import Device
from frostline.values import Backbone, Calibration, Examples, Plan, Profile, Split


@dataclass(frozen=True, slots=True)
class Source:
    """What was given as an object instead of a name; None where a name in the settings says it all."""

    data: Any = None  # arrays, a Hugging Face data set
    module: Any = None  # a torch.nn.Module


@dataclass(frozen=True, slots=True)
class Bench:
    """What was read, loaded, cut and stored."""

    folder: Path | None  # of the run; None where nothing may be written
    settings: Settings
    examples: Examples
    origin: Examples | None  # of what the backbone was trained on, with classes of their own
    metric: Metric
    profile: Profile
    split: Split
    backbone: Backbone
    anatomy: Anatomy
    intake: Intake  # what the backbone reads of the examples
    store: Store
    pooled: Mapping[int, Rows]  # depth -> features of all examples
    features: Mapping[int, Stored]  # the sets that they lie in, by place
    whole: Mapping[int, Stored]  # depth -> what crosses the cut, of what may be learned; 0 is the preprocessed input
    varied: tuple[Mapping[int, Stored], ...]  # the same of further views, at the same depths
    views: int  # of each example, that short trainings take in turn, stored or not
    places: NDArray[np.int64]  # of every example in the sets; beyond the rows of the whole ones for a test part
    calibration: Calibration
    forecast: Forecast  # what storing buys
    device: Device
    workers: int  # processes that train at the same time, on one bench each
    seconds: dict[str, float]  # what laying it out took, by stage
    tag: str = ""  # its short name in a race of several backbones
    rivals: dict[str, Bench] = field(default_factory=dict[str, "Bench"], repr=False)  # all of them by tag; one dict
    # memo: depth -> what is stored of it, in a GPU's memory
    resident: dict[int, tuple[Tensor, ...]] = field(default_factory=dict[int, tuple[Tensor, ...]], repr=False)
    # memo: fold, depths, whether classes weigh alike
    heads: dict[tuple[int, tuple[int, ...], bool], Linear] = field(
        default_factory=dict[tuple[int, tuple[int, ...], bool], Linear]
    )

    @property
    def every(self) -> tuple[Bench, ...]:
        """The benches of all backbones that race."""
        return tuple(self.rivals.values()) or (self,)

    def of(self, arm: str) -> Bench:
        """The bench of the backbone that an arm, named TAG.ARM where there are several, is of."""
        return self.rivals.get(arm.rpartition(".")[0], self)

    def fitting(self, plan: Plan) -> Bench:
        """A bench whose network has the layers of a plan: costs are those of its layers, whatever its weights."""
        return next((bench for bench in self.rivals.values() if bench.anatomy.layers == plan.layers), self)

    @property
    def sets(self) -> tuple[Stored, ...]:
        """All that is stored of what crosses the cuts."""
        return tuple(found for view in (self.whole, *self.varied) for found in view.values())

    @property
    def task(self) -> Task:
        """What is asked."""
        return TASKS[self.settings.task]

    def stores(self, depth: int, rows: NDArray[np.int64]) -> bool:
        """Whether what crosses a cut is there for all of these examples."""
        return depth in self.whole and bool((self.places[rows] < self.whole[depth].rows).all())

    def stored(self, depth: int, rows: NDArray[np.int64], *, view: int = 0) -> tuple[NDArray[np.generic], ...]:
        """What a suffix from a cut is given, for one view of these examples: what crosses, and the inputs beside it."""
        found = (self.varied[view - 1] if view else self.whole)[depth]
        if not self.intake.at_hand:
            return self.store.read(found, self.places[rows])
        beside = self.intake.raw(rows)  # the very numbers that the network reads
        length = next(iter(beside.values())).shape[1]
        crossing = self.store.read(found, self.places[rows], length=length)
        return (*crossing, *(beside[name] for name in self.anatomy.beside(depth)))

    def read(self, rows: NDArray[np.int64], varied: Varied | None = None) -> tuple[NDArray[np.generic], ...]:
        """What the whole network is given of these examples."""
        return arrays_of(self.intake, rows, varied)
