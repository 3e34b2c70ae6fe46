"""Which activations are worth their bytes: an exact search under a budget, with the forecast in plain numbers.

The model (seconds, N examples): training that freezes f layers for E epochs costs E*N*(decode + F(0..f) + T(f..)) from
the examples, and E*N*max(bytes(c)/read, F(c..f) + T(f..)) from what is stored at a cut c <= f, reading overlapped with
computing; F is forward, T forward and backward. Storing c costs N*V*bytes(c)/write once, V views of each example. The
forward pass that makes the activations of one view is spent anyway, on the pooled features at every cut; each further
view costs N*(decode + F(0..d)), d the deepest cut that is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline.errors import OptionError
from frostline.values import Calibration, Layer

Tier = Literal["memory", "disk"]


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that activations may take."""

    memory: int
    disk: int
    total: int | None = None  # of both together; None is the sum of the two

    def __post_init__(self) -> None:
        for name in ("memory", "disk"):
            if getattr(self, name) < 0:
                raise OptionError(f"{getattr(self, name)} bytes of {name} for activations; 0 or more is allowed")
        if self.total is not None and self.total < 0:
            raise OptionError(f"a storage budget of {self.total} bytes; 0 (store nothing) or more is allowed")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What storing buys; seconds of training the demands, without their heads."""

    stored: tuple[tuple[int, Tier], ...]  # depth and tier, shallow first
    seconds: float  # with what is stored, writing it included
    without: float  # from the examples at every epoch
    writing: float
    bytes: Mapping[Tier, int]
    bound: float  # no store, however large and fast, makes these demands faster than so many times
    reason: str
    views: int = 1  # of each example

    @property
    def sentence(self) -> str:
        """The forecast, to be printed before anything is spent."""
        if not self.stored:
            return (
                f"Storing activations would not pay here: {self.reason}. Training forecast: {_seconds(self.without)}."
            )
        places = ", ".join(f"{depth} ({tier})" for depth, tier in self.stored)
        megabytes = sum(self.bytes.values()) / 1e6
        size = f"{megabytes:.0f}" if megabytes >= 9.5 else f"{megabytes:.2g}"
        # a store that makes heads alone free has no bound worth saying
        most = "" if math.isinf(self.bound) else f"; {self.bound:.2f} times is the most that any store could reach"
        varied = f" ({self.views} views of each example)" if self.views > 1 else ""
        return (
            f"Storing {size} MB of activations at depth {places}{varied} brings the trainings, one after the other, "
            f"from {_seconds(self.without)} to {_seconds(self.seconds)}, "
            f"{_ratio(self.without, self.seconds):.2f} times as fast{most}."
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Option:
    """One cut in one tier."""

    depth: int
    tier: Tier
    bytes: int
    write: float  # seconds
    saved: NDArray[np.float64]  # seconds, demand by demand, were this the only one


def afford(
    layers: Sequence[Layer],
    calibration: Calibration,
    demands: Mapping[int, float],
    room: Room,
    *,
    examples: int,
    views: int = 1,
    trained: int | None = None,
) -> Forecast:
    """The cuts whose whole activations to store, and where: of all choices that fit, one that takes the fewest seconds.

    `demands` maps freeze depths to epochs, summed over all trainings to come; each epoch reads `trained` of the
    `examples` that are stored, all where it is None. Leave out what runs on pooled features, which are stored anyway.
    The result is exact for the model above, so more room never forecasts more seconds.
    """
    depths = sorted(demands)
    live, perfect = _live(calibration, depths), _perfect(calibration, depths)
    epochs = np.array([demands[depth] for depth in depths], dtype=np.float64) * (
        examples if trained is None else trained
    )
    without = float(epochs @ live)
    options = _options(layers, calibration, depths, epochs, examples * views)
    limits = {"memory": room.memory, "disk": room.disk, "total": room.memory + room.disk}
    if room.total is not None:
        limits["total"] = min(limits["total"], room.total)
    paying = [option for option in options if option.saved.sum() > option.write]
    fitting = [option for option in paying if option.bytes <= min(limits[option.tier], limits["total"])]
    passing = [examples * (views - 1) * seconds for seconds in _passing(calibration)]
    chosen = _chosen(fitting, limits, passing)
    writing = sum(option.write for option in chosen) + passing[max((option.depth for option in chosen), default=0)]
    saved = np.max([option.saved for option in chosen], axis=0) if chosen else np.zeros(len(depths))
    sizes: dict[Tier, int] = {"memory": 0, "disk": 0}
    for option in chosen:
        sizes[option.tier] += option.bytes
    return Forecast(
        tuple((option.depth, option.tier) for option in chosen),
        without - float(saved.sum()) + writing,
        without,
        writing,
        sizes,
        _ratio(without, float(epochs @ perfect)),
        _reason(options, paying, fitting, chosen),
        views,
    )


def _live(calibration: Calibration, depths: Sequence[int]) -> NDArray[np.float64]:
    """Seconds an example and epoch from the examples, for each freeze depth."""
    whole = calibration.decode + sum(calibration.forward)
    return np.array([whole + sum(calibration.backward[depth:]) for depth in depths], dtype=np.float64)


def _perfect(calibration: Calibration, depths: Sequence[int]) -> NDArray[np.float64]:
    return np.array(
        [sum(calibration.forward[depth:]) + sum(calibration.backward[depth:]) for depth in depths], dtype=np.float64
    )


def _options(
    layers: Sequence[Layer],
    calibration: Calibration,
    depths: Sequence[int],
    epochs: NDArray[np.float64],
    copies: int,
) -> list[_Option]:
    """Every cut that some demand could read from, in both tiers."""
    live, perfect = _live(calibration, depths), _perfect(calibration, depths)
    options: list[_Option] = []
    for depth in range(1, max(depths, default=0) + 1):
        size = layers[depth - 1].bytes
        if not layers[depth - 1].cut:
            continue
        between = np.array([sum(calibration.forward[depth:f]) for f in depths], dtype=np.float64)
        for tier in ("memory", "disk"):
            cost = np.maximum(size / calibration.read[tier], between + perfect)
            reachable = np.array(depths) >= depth
            saved = np.where(reachable, np.maximum(0.0, live - cost), 0.0) * epochs
            options.append(_Option(depth, tier, size * copies, size * copies / calibration.write[tier], saved))
    return options


def _passing(calibration: Calibration) -> list[float]:
    """Seconds of an example's pass through the first layers, for each number of them; none is no pass at all."""
    return [0.0, *(calibration.decode + float(seconds) for seconds in np.cumsum(calibration.forward))]


def _chosen(options: Sequence[_Option], limits: Mapping[str, int], passing: Sequence[float]) -> tuple[_Option, ...]:
    """The subset of greatest value where its deepest member costs passes beside; exact.

    The best subset has a deepest member. Among those that are at most so deep, `_best` finds one that saves as much.
    """

    def value(chosen: tuple[_Option, ...]) -> float:
        saved = float(np.max([option.saved for option in chosen], axis=0).sum()) if chosen else 0.0
        spent = sum(option.write for option in chosen)
        return saved - spent - passing[max((option.depth for option in chosen), default=0)]

    deepest = sorted({option.depth for option in options}) if any(passing) else [len(passing)]
    return max(((), *(_best([o for o in options if o.depth <= depth], limits) for depth in deepest)), key=value)


class _Branch(NamedTuple):
    """What was decided for the first cuts."""

    at: int  # the first cut that is still open
    saved: NDArray[np.float64]  # seconds, demand by demand
    spent: float  # seconds of writing
    left: Mapping[str, int]  # bytes
    chosen: tuple[_Option, ...]


def _best(options: Sequence[_Option], limits: Mapping[str, int]) -> tuple[_Option, ...]:
    """The subset of greatest value by branch and bound; exact.

    What a set saves is, demand by demand, the most that one of its members saves: a monotone submodular function, so
    that what further members add is at most the sum of what each adds alone. Their fractional knapsack bounds a branch.
    """
    groups = [[o for o in options if o.depth == depth] for depth in sorted({o.depth for o in options})]
    groups.sort(key=lambda group: min(o.write - o.saved.sum() for o in group))  # a good choice early prunes the rest
    best, found = 0.0, tuple[_Option, ...]()
    stack = [_Branch(0, np.zeros(len(options[0].saved) if options else 0), 0.0, dict(limits), ())]
    while stack:
        branch = stack.pop()
        value = float(branch.saved.sum()) - branch.spent
        if value > best:
            best, found = value, branch.chosen
        if branch.at == len(groups) or value + _bound(branch, groups[branch.at :]) <= best:
            continue
        stack.append(branch._replace(at=branch.at + 1))
        fitting = (o for o in groups[branch.at] if o.bytes <= min(branch.left[o.tier], branch.left["total"]))
        stack.extend(_taken(branch, option) for option in fitting)
    return tuple(sorted(found, key=lambda option: option.depth))


def _taken(branch: _Branch, option: _Option) -> _Branch:
    left = dict(branch.left)
    left[option.tier] -= option.bytes
    left["total"] -= option.bytes
    saved = np.maximum(branch.saved, option.saved)
    return _Branch(branch.at + 1, saved, branch.spent + option.write, left, (*branch.chosen, option))


def _bound(branch: _Branch, groups: Sequence[Sequence[_Option]]) -> float:
    """At most so many seconds more are saved by what is still open."""
    left = branch.left
    rest = [o for group in groups for o in group if o.bytes <= min(left[o.tier], left["total"])]
    if not rest:
        return 0.0
    more = np.maximum(0.0, np.array([o.saved for o in rest]) - branch.saved)
    gains = dict[int, float]()
    sizes = dict[int, float]()
    for option, gain in zip(rest, more.sum(axis=1), strict=True):  # a cut is stored in one tier: the better one counts
        gains[option.depth] = max(gains.get(option.depth, 0.0), float(gain) - option.write)
        sizes[option.depth] = max(1.0, option.bytes)
    room, total = float(left["total"]), 0.0
    for depth in sorted(gains, key=lambda depth: -gains[depth] / sizes[depth]):
        total += gains[depth] * min(1.0, room / sizes[depth])
        room = max(0.0, room - sizes[depth])
    return min(float(more.max(axis=0).sum()), total)


def _reason(
    options: Sequence[_Option], paying: Sequence[_Option], fitting: Sequence[_Option], chosen: Sequence[_Option]
) -> str:
    if chosen:
        return "reading is cheaper than computing"
    if not options:
        return "no training freezes up to a cut"
    if not paying:
        return "writing and reading the activations would take longer than computing them again"
    if not fitting:
        smallest = min(option.bytes for option in paying)
        return f"the smallest set that would pay has {smallest} bytes, more than the storage budget leaves"
    return "passing every view of the examples through the network would take longer than it saves"


def _seconds(value: float) -> str:
    """A time span to two figures or more: two forecasts that differ are to look different."""
    if value >= 120:
        return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"
    return f"{value:.0f} s" if value >= 9.95 else f"{value:.1f} s" if value >= 0.95 else f"{value:.2g} s"


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.inf if numerator > 0 else 1.0
