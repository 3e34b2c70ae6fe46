"""What is known of a network once it has been dissected. No module is held, so one anatomy serves every copy of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from frostline.errors import CutError
from frostline.values import Cut, Layer


@dataclass(frozen=True, slots=True)
class Call:
    """One run of one module's forward. Times are ticks of the trace's own clock: events, not seconds."""

    index: int
    name: str  # of the module, "" for the whole network
    parent: int  # index of the call it runs in, -1 for the whole network's own
    start: int
    end: int
    gives: Literal["activations", "plain", "mixed", "opaque"]  # what its result is made of
    leaves: tuple[int | None, ...] = ()  # graph nodes of its result's tensors, None for what is no tensor


@dataclass(frozen=True, slots=True)
class Port:
    """The call whose result is the frontier of a cut."""

    call: int
    leaves: tuple[tuple[int, ...], ...]  # places in the (flattened) result of each tensor that crosses the cut
    shapes: tuple[tuple[int, ...], ...]  # of those, for the example batch
    axes: tuple[int, ...]  # the dimension of each that grows with the batch
    overwritten: bool  # an in-place operation above writes into it
    ragged: tuple[bool, ...] = ()  # whether the next dimension of each is as long as the data; () where none can be


@dataclass(frozen=True, slots=True)
class Pool:
    """How one tensor of a frontier becomes a feature vector."""

    channel: int | None  # the dimension that is kept, batch dimension moved to the front; None for a plain number
    take: Literal["mean", "first", "last"]  # of the positions
    mask: str | None = None  # the input that says which positions count, where there is one


@dataclass(frozen=True)
class Anatomy:
    """Layers and cuts of one architecture, and what it takes to saw there.

    Depth d is the cut after layers[:d]; depth 0 is the raw data. Tuples over depths hold depth 1 at place 0.
    """

    name: str
    layers: tuple[Layer, ...]  # without the head
    data: str  # the argument that carries the data
    example: Mapping[str, Any] = field(repr=False, compare=False)  # keyword arguments for a small batch
    calls: tuple[Call, ...] = field(repr=False)
    ports: tuple[Port | None, ...] = field(repr=False)  # None where the network cannot be sawn
    needs: tuple[tuple[str, ...], ...] = ()  # raw inputs that the suffix reads again
    pools: tuple[tuple[Pool, ...], ...] = ()
    head: tuple[str, ...] = ()  # topmost modules that run after the last layer and hold parameters
    levels: tuple[int, ...] = ()  # depths that a new head reads besides the one it sits on, rising
    notes: tuple[str, ...] = ()

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Every cut that Frostline considers, raw input first."""
        return (Cut(0, "input"), *(Cut(layer.index + 1, layer.name) for layer in self.layers if layer.cut))

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments of the forward that the network is given, the data's first."""
        return (self.data, *(name for name in self.example if name != self.data))

    def beside(self, depth: int) -> tuple[str, ...]:
        """What a suffix is given besides what crosses the cut: raw inputs that it, or pooling, reads again.

        All of them at the bottom; and where inputs differ in length, since their shapes are then those of the batch.
        """
        if depth == 0 or any(self.port(depth).ragged):
            return self.names
        masks = {pool.mask for pools in self.pools for pool in pools} - {None}
        again = {*self.needs[depth - 1], *masks}
        return tuple(name for name in self.names if name in again)

    def crossing(self, depth: int) -> int:
        """How many tensors cross a cut; at the bottom there are raw inputs alone."""
        return len(self.port(depth).leaves) if depth else 0

    def below(self, depth: int) -> tuple[int, ...]:
        """The levels below a cut, which a head above it reads as well."""
        return tuple(level for level in self.levels if level < depth)

    def gathered(self, taps: Mapping[int, Sequence[Any]], depth: int) -> tuple[Any, ...]:
        """The tensors of a cut and, behind them, of the levels below it; `taps` are frontiers by depth."""
        mine = taps[depth][: self.crossing(depth)]
        return (*mine, *(tensor for level in self.below(depth) for tensor in taps[level]))

    def parted(self, depth: int, cargo: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What crosses a cut, and the raw inputs of `beside` by name, of all that a suffix is given in this order."""
        count = self.crossing(depth)
        beyond = count + sum(self.crossing(level) for level in self.below(depth))
        given = dict(zip(self.beside(depth), cargo[beyond:], strict=True))
        return (tuple(cargo[:count]) if depth else (given[self.data],)), given

    def lower(self, depth: int, cargo: Sequence[Any]) -> dict[int, tuple[Any, ...]]:
        """What crosses the levels below a cut, of all that a suffix is given."""
        found, at = dict[int, tuple[Any, ...]](), self.crossing(depth)
        for level in self.below(depth):
            found[level] = tuple(cargo[at : at + self.crossing(level)])
            at += self.crossing(level)
        return found

    def port(self, depth: int) -> Port:
        """Where the cut at this depth is; CutError where there is none."""
        if not 1 <= depth <= len(self.layers):
            raise CutError(f"cut depth {depth} is outside 0..{len(self.layers)} for {self.name!r}")
        port = self.ports[depth - 1]
        if port is None:
            allowed = ", ".join(str(n + 1) for n, port in enumerate(self.ports) if port is not None)
            raise CutError(
                f"{self.name!r} cannot be sawn at depth {depth}, after {self.layers[depth - 1].name!r}: "
                f"{self.layers[depth - 1].why}; depths that work: 0, {allowed}"
            )
        return port
