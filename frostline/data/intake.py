"""What a network reads of examples, whatever they are: one contract, and a reader for each kind of inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data import batches
from frostline.data.found import marked
from frostline.data.recordings import milliseconds, opened
from frostline.errors import BackboneError
from frostline.values import Augment, Backbone, Examples, Kind, Preprocessing, Tokens, Waves

Rows = NDArray[np.int64]
Raw = Mapping[str, NDArray[np.generic]]  # argument of the forward -> as it is kept on the host, examples first
STEP = 8  # positions: inputs of unequal length are padded to a multiple, so that there are few shapes


@dataclass(frozen=True, slots=True)
class Varied:
    """How examples vary in one pass over them: a pure function of this and of the example."""

    kind: Augment
    seed: int
    epoch: int


class Intake(Protocol):
    """What a network reads of some examples; rows are numbers of these."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments of the network's forward, the data's first."""
        ...

    @property
    def sizes(self) -> NDArray[np.int64] | None:
        """Positions of each example, where they differ; None where all are alike."""
        ...

    @property
    def bytes(self) -> int:
        """Of all inputs of one example, as the network reads them; of an average one."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's data; 0 where examples differ."""
        ...

    @property
    def at_hand(self) -> bool:
        """Whether the inputs lie in memory: what is there already is stored nowhere else."""
        ...

    @property
    def remedy(self) -> str:
        """What makes inputs smaller, as the command line has it."""
        ...

    def ids(self) -> list[str]:
        """A digest of what each example holds."""
        ...

    def raw(self, rows: Rows, varied: Varied | None = None) -> Raw:
        """These examples, padded to one length, in the form that takes the least time to hand to a device."""
        ...

    def ready(self, raw: Raw, where: torch.device) -> dict[str, Tensor]:
        """The arguments of the forward, on a device."""
        ...


def intake(backbone: Backbone, examples: Examples, *, workers: int = 0) -> Intake:
    """What a backbone reads of examples; `workers` threads open them. Raises BackboneError where it does not say."""
    refuse_unprepared(backbone)
    return READERS[type(backbone.preprocessing)](backbone, examples, workers)


def refuse_unprepared(backbone: Backbone) -> None:
    """Raise BackboneError where a backbone does not say how its inputs are made."""
    if type(backbone.preprocessing) not in READERS:
        raise BackboneError(
            f"{backbone.name!r} does not say how its inputs are to be prepared; give --image-size, --mean and --std"
        )


def kind_of(backbone: Backbone) -> Kind:
    """What a backbone reads."""
    kinds: Mapping[type, Kind] = {Tokens: "texts", Waves: "recordings"}
    return kinds.get(type(backbone.preprocessing), "pictures")


def longest(backbone: Backbone, examples: Examples) -> float | None:
    """Seconds that nearly all of these recordings last, where a backbone hears any number; None elsewhere.

    One in a hundred may be longer, and is cut: a single long one would make every other one as dear.
    """
    how = backbone.preprocessing
    if not isinstance(how, Waves) or how.fixed:
        return None
    spans = sorted(milliseconds(item)[0] for item in examples.inputs if isinstance(item, Path | bytes))
    return max(0.05, round(spans[int(0.99 * (len(spans) - 1))] / 1000, 2))


def inputs_of(found: Intake, rows: Rows, where: torch.device) -> dict[str, Tensor]:
    """The arguments of the forward for these examples as they are, on a device."""
    return found.ready(found.raw(rows), where)


def arrays_of(found: Intake, rows: Rows, varied: Varied | None = None) -> tuple[NDArray[np.generic], ...]:
    """The same as arrays, in the order of the names."""
    ready = found.ready(found.raw(rows, varied), torch.device("cpu"))
    return tuple(ready[name].numpy() for name in found.names)


def padded(length: int, most: int) -> int:
    """The length to which a batch is padded whose longest example has `length` positions."""
    return min(most, -(-length // STEP) * STEP)


@final
@dataclass(frozen=True)
class Pictures:
    """Pictures, opened whenever they are asked for; bytes until a device normalises them."""

    examples: Examples
    how: Preprocessing
    data: str
    workers: int

    sizes = None
    at_hand = False
    remedy = "--image-size"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.data,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.how.mean), *self.how.size)

    @property
    def bytes(self) -> int:
        return 4 * int(np.prod(self.shape))

    def ids(self) -> list[str]:
        return [mark.hex() for mark in marked(self.examples.inputs)]

    def raw(self, rows: Rows, varied: Varied | None = None) -> Raw:
        draw = varied or Varied("none", 0, 0)
        made = batches.frames(
            self.examples, rows, self.how, augment=draw.kind, seed=draw.seed, epoch=draw.epoch, workers=self.workers
        )
        return {self.data: made}

    def ready(self, raw: Raw, where: torch.device) -> dict[str, Tensor]:
        """Normalised on the device: the very numbers of `pictures.normalised`."""
        values = torch.from_numpy(raw[self.data]).to(where).float()
        how = self.how
        # a divisor on the device: by a number of the host, a GPU multiplies with its rounded reciprocal
        scale, mean, std = (torch.tensor(v, device=where).reshape(-1, 1, 1) for v in ([how.scale], how.mean, how.std))
        return {self.data: values.div_(scale).sub_(mean).div_(std)}


@final
@dataclass(frozen=True)
class Texts:
    """Texts, tokenised once: they stay in memory, each at its own length."""

    examples: Examples
    how: Tokens
    encode: Callable[..., Mapping[str, NDArray[np.generic]]]

    at_hand = True
    remedy = "--max-length"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.how.padding)

    @property
    def sizes(self) -> NDArray[np.int64] | None:
        return self._sizes

    @property
    def shape(self) -> tuple[int, ...]:
        return (0,)

    @property
    def bytes(self) -> int:
        return 8 * len(self.names) * round(float(self._sizes.mean()))

    def ids(self) -> list[str]:
        return [mark.hex() for mark in marked(self.examples.inputs)]

    def raw(self, rows: Rows, varied: Varied | None = None) -> Raw:
        starts, sizes = self._starts[rows], self._sizes[rows]
        length = padded(int(sizes.max(initial=1)), self.how.length)
        found = {name: np.full((len(rows), length), fill, np.int64) for name, fill in self.how.padding.items()}
        for name, table in found.items():
            flat = self._flat[name]
            for place, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
                table[place, :size] = flat[start : start + size]
        return found

    def ready(self, raw: Raw, where: torch.device) -> dict[str, Tensor]:
        return {name: torch.from_numpy(table).to(where) for name, table in raw.items()}

    @cached_property
    def _encoded(self) -> tuple[Rows, dict[str, Rows]]:
        """Where each text begins, and the numbers of all of them, one behind the other."""
        found = self.encode(self.examples.inputs)
        sizes = np.asarray([len(text) for text in found[self.names[0]]])
        flat = {name: np.concatenate([np.asarray(text, np.int64) for text in found[name]]) for name in self.names}
        return np.concatenate([[0], sizes.cumsum()]), flat

    @property
    def _starts(self) -> Rows:
        return self._encoded[0]

    @cached_property
    def _sizes(self) -> Rows:
        return np.diff(self._starts)

    @property
    def _flat(self) -> dict[str, Rows]:
        return self._encoded[1]


@final
@dataclass(frozen=True)
class Recordings:
    """Recordings, opened whenever they are asked for, all of one length."""

    examples: Examples
    how: Waves
    encode: Callable[..., Mapping[str, NDArray[np.generic]]]
    workers: int

    sizes = None
    at_hand = False
    remedy = "--seconds"

    @property
    def names(self) -> tuple[str, ...]:
        return self.how.names

    @property
    def shape(self) -> tuple[int, ...]:
        return self._first[self.names[0]].shape[1:]

    @property
    def bytes(self) -> int:
        return sum(table.nbytes for table in self._first.values())

    @cached_property
    def _first(self) -> Raw:
        return self.raw(np.zeros(1, np.int64))

    def ids(self) -> list[str]:
        return [mark.hex() for mark in marked(self.examples.inputs)]

    def raw(self, rows: Rows, varied: Varied | None = None) -> Raw:
        return self.encode(opened([self.examples.inputs[row] for row in rows], self.how, workers=self.workers))

    def ready(self, raw: Raw, where: torch.device) -> dict[str, Tensor]:
        return {name: torch.from_numpy(table).to(where) for name, table in raw.items()}


def _pictures(backbone: Backbone, examples: Examples, workers: int) -> Intake:
    assert isinstance(backbone.preprocessing, Preprocessing)
    return Pictures(examples, backbone.preprocessing, backbone.data, workers)


def _texts(backbone: Backbone, examples: Examples, workers: int) -> Intake:
    assert isinstance(backbone.preprocessing, Tokens) and backbone.encode is not None
    return Texts(examples, backbone.preprocessing, backbone.encode)


def _recordings(backbone: Backbone, examples: Examples, workers: int) -> Intake:
    assert isinstance(backbone.preprocessing, Waves) and backbone.encode is not None
    return Recordings(examples, backbone.preprocessing, backbone.encode, workers)


READERS: Mapping[type, Callable[[Backbone, Examples, int], Intake]] = {
    Preprocessing: _pictures,
    Tokens: _texts,
    Waves: _recordings,
}
