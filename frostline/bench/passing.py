"""One pass of all examples through a network: what each cut holds of them, by an address of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline.activations.fill import Filled, Tapped, Wanted, fill
from frostline.activations.fingerprint import fingerprint
from frostline.activations.store import Store, Stored, Tier, address
from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench.recipe import recipe
from frostline.data import batches
from frostline.data.ahead import ahead
from frostline.data.found import marked
from frostline.data.pictures import Augment
from frostline.errors import RunFailed
from frostline.plan import legal_depths
from frostline.search.schedule import short_epochs
from frostline.settings import Settings
from frostline.training.device import Device, out_of_memory, total_bytes
from frostline.values import Backbone, Examples, Preprocessing, Recipe

CHUNK, CHUNKS = 32, 256  # pictures of one forward pass: on a CPU, and at most on a GPU
PASSING = 0.05  # of a GPU's memory that what crosses all cuts of them may take
VIEWS = 4  # of each picture, where pictures vary


@dataclass(frozen=True)
class Network:
    """A backbone on its device, taken apart, with the examples that it shall see."""

    backbone: Backbone
    anatomy: Anatomy
    examples: Examples
    device: Device
    settings: Settings
    trained: int  # examples of one training, but for near duplicates that the features will show
    demands: Mapping[int, float] | None = None  # epochs by freeze depth of what will be trained; None: a search's arms

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The examples in the order in which they are stored: what nobody learns from last, shifted ones behind."""
        return np.argsort(self._apart, kind="stable")

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where each example stands in that order."""
        return np.argsort(self.order)

    @cached_property
    def learnable(self) -> int:
        """How many may be learned from."""
        return int((self._apart == 0).sum())

    @cached_property
    def own(self) -> int:
        """How many are of the data itself and not shifted."""
        return int((self._apart < 2).sum())

    @cached_property
    def ids(self) -> list[str]:
        """What each picture holds, as digests, in the order in which they are stored."""
        marks = marked(self.examples.inputs)
        return [marks[row].hex() for row in self.order]

    @cached_property
    def _apart(self) -> NDArray[np.int64]:
        """0 what may be learned from, 1 a test part, 2 what is shifted.

        A test part is learned from where the choice is trained once more on everything, and there alone.
        """
        parts = np.asarray(self.examples.parts)
        test = np.zeros(len(parts), bool) if self.settings.refit_all else parts == "test"
        return np.where(parts == "shifted", 2, test.astype(np.int64))

    def below(self, depth: int) -> str:
        """The fingerprint of the layers below a depth; each weight is read once, whatever is asked."""
        while len(self._prints) <= depth:
            layer = self.anatomy.layers[len(self._prints) - 1]
            self._prints.append(fingerprint(self.backbone.module, layer.members, below=self._prints[-1]))
        return self._prints[depth]

    @cached_property
    def _prints(self) -> list[str]:
        return [""]

    @property
    def augment(self) -> Augment:
        """How pictures vary in training."""
        return self.settings.augment or "none"

    @property
    def views(self) -> int:
        """Of each picture, that short trainings learn from, one an epoch; the first is the picture as it is."""
        return 1 if self.augment == "none" else min(self.settings.views or VIEWS, short_epochs(self.recipe.epochs))

    @cached_property
    def chunk(self) -> int:
        """Pictures of one forward pass; as many at every run on one device: a fill that goes on does it alike."""
        weight, chunk = sum(layer.bytes for layer in self.anatomy.layers), CHUNK
        while 2 * chunk <= CHUNKS and 2 * chunk * weight <= PASSING * total_bytes(self.device.device):
            chunk *= 2
        return chunk

    @property
    def mixed(self) -> bool:
        """Whether it computes in half precision, as autocast does."""
        return self.device.mixed_precision != "no"

    @property
    def recipe(self) -> Recipe:
        """What a training of so many is."""
        return recipe(self.settings, self.trained)


def once_through(
    network: Network,
    store: Store,
    whole: Mapping[int, Tier],
    progress: Callable[[int, int], None],
    *,
    dtype: str = "float32",
) -> Filled:
    """Pooled features at every cut, of all examples, and what crosses the cuts of `whole`, of what may be learned.

    `dtype` is that of floating activations in the store; what autocast made is kept to the bit instead.
    """
    pooled = tuple(depth for depth in legal_depths(network.anatomy.layers) if depth)
    return _filled(network, store, pooled, whole, progress, dtype)


def viewed(
    network: Network,
    store: Store,
    whole: Mapping[int, Tier],
    progress: Callable[[int, int], None],
    *,
    view: int,
    dtype: str = "float32",
) -> Mapping[int, Stored]:
    """What crosses the cuts of `whole`, of a further view of what may be learned."""
    return _filled(network, store, (), whole, progress, dtype, view=view).whole


def _filled(
    network: Network,
    store: Store,
    pooled: tuple[int, ...],
    whole: Mapping[int, Tier],
    progress: Callable[[int, int], None],
    dtype: str,
    *,
    view: int = 0,
) -> Filled:
    anatomy, depths = network.anatomy, sorted({*pooled, *whole})

    def tap(batch: NDArray[np.uint8]) -> Mapping[int, tuple[torch.Tensor, ...]]:
        assert network.backbone.preprocessing is not None, "`_loaded` refuses a backbone without preprocessing"
        inputs = {anatomy.data: as_read(batch, network.backbone.preprocessing, network.device.device)}
        with network.device.autocast():  # as the prefix would run live
            return Halves(network.backbone.module, anatomy).taps(inputs, depths)

    rows = network.learnable if view else len(network.examples)
    wanted = Wanted(
        addresses(network, depths, view=view), rows, pooled, whole,
        batch=network.chunk, dtype=None if network.mixed else dtype, learnable=network.learnable,
    )  # fmt: skip
    with passed_through(network) as module:
        tapped = Tapped(tap, lambda depth, frontier: pool(anatomy, depth, frontier), module)
        rows = network.order[:rows]
        return fill(tapped, lambda start: _pictures(network, rows[start:], view), store, wanted, progress=progress)


def crossing(network: Network, depths: Sequence[int]) -> Mapping[int, tuple[torch.Tensor, ...]]:
    """What crosses these cuts of one picture, computed as a pass computes it."""
    with passed_through(network) as module, torch.no_grad(), network.device.autocast():
        inputs = {network.anatomy.data: torch.from_numpy(some_pictures(network, 1)).to(network.device.device)}
        return Halves(module, network.anatomy).taps(inputs, depths) if depths else {}


def kind(tensor: torch.Tensor) -> str:
    """Its dtype, as the store calls it."""
    return str(tensor.dtype).removeprefix("torch.")


@contextmanager
def passed_through(network: Network) -> Generator[nn.Module]:
    """The module on its device, for forward passes. Raises RunFailed where memory runs out."""
    try:
        yield network.backbone.module.to(network.device.device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise RunFailed(
            f"memory ran out while {network.chunk} pictures of {network.backbone.preprocessing} passed through the "
            "network; give a smaller --image-size or a smaller backbone"
        ) from error
    finally:
        network.backbone.module.cpu()


def some_pictures(network: Network, count: int) -> NDArray[np.float32]:
    """Pictures as the network reads them, taken evenly from those that may be learned: folders come class by class."""
    how = network.backbone.preprocessing
    assert how is not None, "`_loaded` refuses a backbone without preprocessing"
    places = np.unique(np.linspace(0, network.learnable - 1, count).astype(np.int64))
    return batches.decode(network.examples, network.order[places], how, workers=network.settings.threads)


def as_read(frames: NDArray[np.uint8], how: Preprocessing, where: torch.device) -> torch.Tensor:
    """Pictures as the network reads them, normalised on the device: the very numbers of `pictures.normalised`."""
    values = torch.from_numpy(frames).to(where).float()
    # a divisor on the device: by a number of the host, a GPU multiplies with its rounded reciprocal
    scale, mean, std = (torch.tensor(v, device=where).reshape(-1, 1, 1) for v in ([how.scale], how.mean, how.std))
    return values.div_(scale).sub_(mean).div_(std)


def _pictures(network: Network, rows: NDArray[np.int64], view: int) -> Iterator[NDArray[np.uint8]]:
    how, given = network.backbone.preprocessing, network.settings
    kind: Augment = network.augment if view else "none"
    assert how is not None, "`_loaded` refuses a backbone without preprocessing"
    found = (
        batches.frames(network.examples, part, how, augment=kind, seed=given.seed, epoch=view, workers=given.threads)
        for part in batches.batches(rows, network.chunk)
    )
    # on a CPU the network has the very cores that decode: a pass of a small network took 1.27 times as long
    return found if network.device.device.type == "cpu" else ahead(found)


def addresses(network: Network, depths: Sequence[int], *, view: int = 0) -> Mapping[int, str]:
    """What the activations of each depth are computed from: weights below it, preprocessing, a view of the pictures."""
    backbone = network.backbone
    ids, shape, found = network.ids, input_shape(backbone), dict[int, str]()
    kind = str(network.device.mixed_precision)
    varied = f"{network.augment} {network.settings.seed} {view}" if view else ""
    for depth in depths:
        weights = f"{backbone.name} {depth} {network.below(depth)}"
        found[depth] = address(weights, ids, preprocessing=backbone.preprocessing, size=shape, dtype=kind, view=varied)
    return found


def input_bytes(network: Network) -> int:
    """Of one preprocessed picture in the store."""
    return 4 * int(np.prod(input_shape(network.backbone)))


def input_shape(backbone: Backbone) -> tuple[int, ...]:
    """Channels, height, width of one preprocessed picture."""
    how = backbone.preprocessing
    assert how is not None, "`_loaded` refuses a backbone without preprocessing"
    return (len(how.mean), *how.size)
