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
from frostline.bench.levels import head_kind
from frostline.bench.recipe import recipe
from frostline.data import batches
from frostline.data.ahead import ahead
from frostline.data.intake import Intake, Raw, Varied, inputs_of, intake
from frostline.errors import RunFailed
from frostline.plan import legal_depths
from frostline.search.schedule import short_epochs
from frostline.settings import Settings
from frostline.training.device import Device, out_of_memory, total_bytes
from frostline.values import Augment, Backbone, Examples, Recipe

CHUNK, CHUNKS = 32, 256  # examples of one forward pass: on a CPU, and at most on a GPU
PASSING = 0.05  # of a GPU's memory that what crosses all cuts of them may take
VIEWS = 4  # of each example, where examples vary


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
    def intake(self) -> Intake:
        """What the network reads of the examples."""
        return intake(self.backbone, self.examples, workers=self.settings.threads)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The examples in the order in which they are stored: what nobody learns from last, shifted ones behind.

        Among those that may be learned from the short ones come first: what passes together is nearly of one length.
        """
        sizes = self.intake.sizes
        return np.lexsort((np.zeros(len(self._apart)) if sizes is None else sizes, self._apart))

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
        """What each example holds, as digests, in the order in which they are stored."""
        marks = self.intake.ids()
        return [marks[row] for row in self.order]

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
        """How examples vary in training."""
        return self.settings.augment or "none"

    @property
    def views(self) -> int:
        """Of each example, that short trainings learn from, one an epoch; the first is the example as it is."""
        return 1 if self.augment == "none" else min(self.settings.views or VIEWS, short_epochs(self.recipe.epochs))

    @cached_property
    def chunk(self) -> int:
        """Examples of one forward pass; as many at every run on one device: a fill that goes on does it alike."""
        weight, chunk = self.scale * sum(layer.bytes for layer in self.anatomy.layers), CHUNK
        while 2 * chunk <= CHUNKS and 2 * chunk * weight <= PASSING * total_bytes(self.device.device):
            chunk *= 2
        return chunk

    @cached_property
    def length(self) -> float:
        """Positions of an average example; 1 where all are alike."""
        sizes = self.intake.sizes
        return 1.0 if sizes is None else float(sizes.mean())

    @cached_property
    def scale(self) -> float:
        """How many times as long as the backbone's own example an average one of these is."""
        alike = self.intake.sizes is None
        return 1.0 if alike else self.length / self.anatomy.example[self.anatomy.data].shape[1]

    @property
    def mixed(self) -> bool:
        """Whether it computes in half precision, as autocast does."""
        return self.device.mixed_precision != "no"

    @property
    def recipe(self) -> Recipe:
        """What a training of so many is."""
        return recipe(self.settings, self.trained, head_kind(self.settings, self.backbone))


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

    def tap(batch: Raw) -> Mapping[int, tuple[torch.Tensor, ...]]:
        inputs = network.intake.ready(batch, network.device.device)
        with network.device.autocast():  # as the prefix would run live
            found = Halves(network.backbone.module, anatomy).taps(inputs, sorted({*depths, *anatomy.levels}))
        # beside what crosses go the inputs that are read again, behind it: pooling may need them, too
        return {
            depth: (*anatomy.gathered(found, depth), *(inputs[name] for name in anatomy.beside(depth)))
            for depth in depths
        }

    rows = network.learnable if view else len(network.examples)
    wanted = Wanted(
        addresses(network, depths, view=view), rows, pooled, whole,
        batch=network.chunk, dtype=None if network.mixed else dtype, learnable=network.learnable,
        sizes=sizes_of(network, network.order[:rows]), ragged={depth: ragged(network, depth) for depth in whole},
        kept={depth: kept_tensors(network, depth) for depth in whole},
    )  # fmt: skip
    with passed_through(network) as module:
        tapped = Tapped(tap, lambda depth, cargo: pool(anatomy, depth, *anatomy.parted(depth, cargo)), module)
        rows = network.order[:rows]
        return fill(tapped, lambda start: _inputs(network, rows[start:], view), store, wanted, progress=progress)


def sizes_of(network: Network, rows: NDArray[np.int64]) -> tuple[int, ...] | None:
    """Positions of each of these examples; None where all are alike."""
    sizes = network.intake.sizes
    return None if sizes is None else tuple(sizes[rows].tolist())


def ragged(network: Network, depth: int) -> tuple[bool, ...]:
    """Which tensors of what is stored at a depth are as long as their example."""
    if network.intake.sizes is None:
        return ()
    long = (each for level in (depth, *network.anatomy.below(depth)) for each in network.anatomy.port(level).ragged)
    return (*long, *(True for _ in kept_beside(network.intake, network.anatomy, depth)))


def kept_tensors(network: Network, depth: int) -> int:
    """How many tensors are stored at a depth."""
    levels = (depth, *network.anatomy.below(depth))
    return sum(map(network.anatomy.crossing, levels)) + len(kept_beside(network.intake, network.anatomy, depth))


def kept_beside(found: Intake, anatomy: Anatomy, depth: int) -> tuple[str, ...]:
    """The raw inputs that are stored with what crosses a cut: none where they lie in memory anyway."""
    return () if found.at_hand else anatomy.beside(depth)


def crossing(network: Network, depths: Sequence[int]) -> Mapping[int, tuple[torch.Tensor, ...]]:
    """What is stored at these cuts of one example, computed as a pass computes it."""
    anatomy = network.anatomy
    with passed_through(network) as module, torch.no_grad(), network.device.autocast():
        inputs = inputs_of(network.intake, some(network, 1), network.device.device)
        taps = Halves(module, anatomy).taps(inputs, sorted({*depths, *anatomy.levels})) if depths else {}
        return {
            depth: (
                *anatomy.gathered(taps, depth),
                *(inputs[name] for name in kept_beside(network.intake, anatomy, depth)),
            )
            for depth in depths
        }


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
            f"memory ran out while {network.chunk} examples of {network.backbone.preprocessing} passed through the "
            f"network; give a smaller {network.intake.remedy} or a smaller backbone"
        ) from error
    finally:
        network.backbone.module.cpu()


def some(network: Network, count: int) -> NDArray[np.int64]:
    """Rows taken evenly from those that may be learned: folders come class by class."""
    return network.order[np.unique(np.linspace(0, network.learnable - 1, count).astype(np.int64))]


def _inputs(network: Network, rows: NDArray[np.int64], view: int) -> Iterator[Raw]:
    varied = Varied(network.augment, network.settings.seed, view) if view else None
    found = (network.intake.raw(part, varied) for part in batches.batches(rows, network.chunk))
    # on a CPU the network has the very cores that open them: a pass of a small network took 1.27 times as long
    return found if network.device.device.type == "cpu" else ahead(found)


def addresses(network: Network, depths: Sequence[int], *, view: int = 0) -> Mapping[int, str]:
    """What the activations of each depth are computed from: weights below it, preprocessing, a view of the examples."""
    backbone = network.backbone
    ids, shape, found = network.ids, network.intake.shape, dict[int, str]()
    kind = str(network.device.mixed_precision)
    varied = f"{network.augment} {network.settings.seed} {view}" if view else ""
    for depth in depths:
        weights = f"{backbone.name} {depth} {network.below(depth)}"
        found[depth] = address(weights, ids, preprocessing=backbone.preprocessing, size=shape, dtype=kind, view=varied)
    return found
