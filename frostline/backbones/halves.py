"""The two halves of a sawn network, run inside its own forward.

Below the cut, calls hand back stand-ins of the right shape; the cut's call hands back a copy of the stored activation;
above it everything runs as ever. So any signature works, and no network is rewritten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.patch import calmed, patched, without_cache
from frostline.backbones.steps import Standin, Step, numbered, skipping, still
from frostline.errors import CutError

Frontier = tuple[Tensor, ...]

REMEMBERED = 32  # input shapes whose stand-ins are kept; texts of many lengths would fill the memory


class Reached(BaseException):
    """The forward pass has come as far as it was asked to; never leaves this file.

    No Exception: networks and libraries catch those, and Keras raises them anew with words of its own.
    """


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a suffix needs for inputs of one shape."""

    inputs: Mapping[str, Any]
    standins: Mapping[int, Standin]  # by call


@final
class Halves:
    """A module with its anatomy, and the stand-ins for the shapes that were met so far.

    Holds nothing of the module but a reference: between two calls it is as it was.
    """

    def __init__(self, module: nn.Module, anatomy: Anatomy) -> None:
        self.module = module
        self.anatomy = anatomy
        self.fill = 0.0  # what floating-point stand-ins are made of; the proof takes NaN
        self.parts = dict(module.named_modules())
        self._scenes: dict[Any, Scene] = {}

    def taps(self, inputs: Mapping[str, Any], depths: Iterable[int]) -> dict[int, Frontier]:
        """The frontiers at these depths, from one pass that stops after the deepest.

        Runs in eval mode and without gradients; depth 0 is the data itself.
        """
        wanted = sorted(set(depths))
        found: dict[int, Frontier] = {0: (inputs[self.anatomy.data],)} if 0 in wanted else {}
        wanted = [depth for depth in wanted if depth]
        if not wanted:
            return found
        steps = {self.anatomy.port(depth).call: Step("tap", self.anatomy.port(depth).call, depth) for depth in wanted}

        def act(step: Step, forward: Callable[[], Any]) -> Any:
            port = self.anatomy.port(step.depth)
            result = forward()
            last = len(found) + 1 == len(set(wanted) | found.keys())
            found[step.depth] = self.crossing(result, step.depth, copied=port.overwritten and not last)
            if last:
                raise Reached
            return result

        with self._patched(numbered(self.anatomy, steps), act), calmed(self.parts.values()), torch.no_grad():
            try:
                self.module(**inputs)
            except Reached:
                return found
        raise CutError(f"{self.anatomy.name!r} did not come to depth {wanted[-1]} with these inputs")

    def prefix(self, inputs: Mapping[str, Any], depth: int) -> Frontier:
        """What crosses the cut at one depth."""
        return self.taps(inputs, (depth,))[depth]

    def suffix(
        self, frontier: Frontier, depth: int, *, inputs: Mapping[str, Any] | None = None, until: int | None = None
    ) -> Any:
        """The network's own result from the cut at `depth` on, or the frontier at depth `until`."""
        with self.sawn(depth, until=until) as run:
            return run(frontier, inputs)

    @contextmanager
    def sawn(self, depth: int, *, until: int | None = None, levels: Sequence[int] = ()) -> Generator[Run]:
        """While open, `run(frontier, inputs)` is the suffix; entering once serves a whole training loop.

        `inputs` are the raw inputs that are read again above the cut (`anatomy.needs`); None where there are none.
        With the data argument among them they are the whole batch, as texts of any length need it; without it the
        example stands in for what is missing. `run.seen` holds what crossed the `levels` above the cut at its last run.
        Modules that ran below the cut or enclose it are in eval mode at every run, whatever `train()` did.
        """
        cut, anatomy = depth, self.anatomy
        if until is not None and not cut < until:
            raise CutError(f"until is {until}; a suffix from depth {cut} can stop at {cut + 1}..{len(anatomy.layers)}")
        steps = skipping(anatomy, cut) if cut else {}
        if until is not None:
            call = anatomy.port(until).call
            steps[call] = Step("stop", call, until)
        for level in levels:
            if cut < level and level != until:
                steps[anatomy.port(level).call] = Step("tap", anatomy.port(level).call, level)
        state = Run(self, cut)
        with ExitStack() as stack:
            stack.enter_context(calmed([self.parts[name] for name in still(anatomy, cut)]))
            stack.enter_context(self._patched(numbered(anatomy, steps), state.act))
            yield state

    def examples(self, count: int) -> dict[str, Any]:
        """The example batch, repeated to `count` examples, in the module's own precision and on its device."""
        anatomy = self.anatomy
        batch = int(anatomy.example[anatomy.data].shape[0])
        like = next((p for p in self.module.parameters() if p.is_floating_point()), None)

        def fit(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.ndim and value.shape[0] == batch:
                value = value[torch.arange(count, device=value.device) % batch]
            if like is None:
                return value
            return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)

        return {name: tree_map(fit, value) for name, value in anatomy.example.items()}

    def crossing(self, result: Any, depth: int, *, copied: bool = False) -> Frontier:
        leaves = tree_leaves(result)
        found = tuple(leaves[places[0]] for places in self.anatomy.port(depth).leaves)
        return tuple(tensor.clone() for tensor in found) if copied else found

    @contextmanager
    def _patched(
        self, steps: Mapping[str, Mapping[int, Step]], act: Callable[[Step, Callable[[], Any]], Any]
    ) -> Generator[None]:
        """Every module that has a step runs it; the count of runs begins anew with the whole network's forward."""
        counts: dict[str, int] = {}

        def watched(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(forward)
            def run(*args: Any, **kwargs: Any) -> Any:
                number = counts.get(name, 0)
                counts[name] = number + 1
                step = steps[name].get(number)
                return forward(*args, **kwargs) if step is None else act(step, lambda: forward(*args, **kwargs))

            return run

        whole = self.module.forward

        @functools.wraps(whole)
        def begin(*args: Any, **kwargs: Any) -> Any:
            counts.clear()
            return whole(*args, **kwargs)

        swaps = [(self.parts[name], watched(name, self.parts[name].forward)) for name in steps]
        with patched([(self.module, begin), *swaps]), without_cache(self.module):
            yield

    def scene(self, state: Run, frontier: Frontier, inputs: Mapping[str, Any] | None) -> Scene:
        given = dict(inputs or {})
        if state.depth == 0:
            given[self.anatomy.data] = frontier[0]
            if inputs is None and len(self.anatomy.example) > 1:  # masks and the like, where the network has any
                given = {**self._beside(frontier[0]), **given}
            return Scene(given, {})
        key = (
            state.depth,
            tuple((name, tuple(v.shape), v.dtype) for name, v in given.items() if isinstance(v, Tensor)),
            tuple((tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in frontier),
            torch.is_autocast_enabled(frontier[0].device.type),
        )
        scene = self._scenes.get(key)
        if scene is None:
            full = (
                given if self.anatomy.data in given else {**self.examples(self._count(frontier, state.depth)), **given}
            )
            scene = Scene(full, state.record(full, frontier))
            self._remember(key, scene)
        return Scene({**scene.inputs, **given}, scene.standins) if given else scene

    def _beside(self, data: Tensor) -> Mapping[str, Any]:
        """The example's other inputs for a batch: made once, since they come from another device."""
        key = (0, len(data), data.dtype, data.device)
        if key not in self._scenes:
            self._remember(key, Scene(self.examples(len(data)), {}))
        return self._scenes[key].inputs

    def _remember(self, key: Any, scene: Scene) -> None:
        if len(self._scenes) >= REMEMBERED:
            self._scenes.pop(next(iter(self._scenes)))
        self._scenes[key] = scene

    def _count(self, frontier: Frontier, depth: int) -> int:
        port = self.anatomy.port(depth)
        batch = int(self.anatomy.example[self.anatomy.data].shape[0])
        axis = port.axes[0]
        return frontier[0].shape[axis] * batch // port.shapes[0][axis]


@final
class Run:
    """One sawn network while it is open: either recording shapes, or running the suffix."""

    def __init__(self, halves: Halves, depth: int) -> None:
        self.depth = depth
        self._halves = halves
        self._still = [halves.parts[name] for name in still(halves.anatomy, depth)]
        self.seen: dict[int, Frontier] = {}
        self._recorded: dict[int, Standin] | None = None
        self._scene: Scene | None = None
        self._frontier: Frontier = ()
        self._buffers: dict[Any, Tensor] = {}

    def __call__(self, frontier: Frontier, inputs: Mapping[str, Any] | None = None) -> Any:
        halves = self._halves
        for part in self._still:
            if part.training:  # setting what is set already costs more than asking
                part.training = False
        self._scene = halves.scene(self, frontier, inputs)
        self._frontier = frontier
        try:
            return halves.module(**self._scene.inputs)
        except Reached as end:
            return end.args[0]
        finally:
            self._scene, self._frontier = None, ()

    def act(self, step: Step, forward: Callable[[], Any]) -> Any:
        if self._recorded is not None:
            return self._note(step, forward, self._recorded)
        assert self._scene is not None
        if step.action == "tap":
            result = forward()
            copied = self._halves.anatomy.port(step.depth).overwritten
            self.seen[step.depth] = self._halves.crossing(result, step.depth, copied=copied)
            return result
        if step.action == "stop":
            raise Reached(self._halves.crossing(forward(), step.depth))
        standin = self._scene.standins[step.call]
        if step.action == "skip":
            return standin.result({})
        places = self._halves.anatomy.port(self.depth).leaves
        # a copy, for an in-place operation above must not reach the store
        copies = [tensor.clone() for tensor in self._frontier]
        return standin.result({place: copy for copy, group in zip(copies, places, strict=True) for place in group})

    def record(self, inputs: Mapping[str, Any], frontier: Frontier) -> dict[int, Standin]:
        """One real pass up to the cut, to see what each call below it hands back."""
        self._recorded, self._buffers = {}, {}
        halves = self._halves
        try:
            with calmed(halves.parts.values()), torch.no_grad():
                halves.module(**inputs)
        except Reached as end:
            shapes = [tuple(tensor.shape) for tensor in end.args[0]]
            if shapes != [tuple(tensor.shape) for tensor in frontier]:
                raise CutError(
                    f"the frontier at depth {self.depth} has shapes {[tuple(t.shape) for t in frontier]}, and inputs "
                    f"of these shapes give {shapes}; give `inputs` of the batch that the frontier was made from"
                ) from None
            return self._recorded
        finally:
            self._recorded, self._buffers = None, {}
        raise CutError(f"{halves.anatomy.name!r} did not come to depth {self.depth} with these inputs")

    def _note(self, step: Step, forward: Callable[[], Any], noted: dict[int, Standin]) -> Any:
        result = forward()
        if step.action in ("skip", "cut"):
            leaves, form = tree_flatten(result)
            ports = self._halves.anatomy.port(self.depth).leaves if step.action == "cut" else ()
            crossing = {place for group in ports for place in group}
            kept = [None if place in crossing else self._buffer(leaf) for place, leaf in enumerate(leaves)]
            noted[step.call] = Standin(tuple(kept), form)
        if step.action == "cut":
            raise Reached(self._halves.crossing(result, self.depth))
        return result

    def _buffer(self, leaf: Any) -> Any:
        """Memory of a tensor's own shape and strides, shared by all that look alike: nobody reads what is in it."""
        if not isinstance(leaf, Tensor):
            return leaf
        spread = any(stride == 0 and size > 1 for size, stride in zip(leaf.shape, leaf.stride(), strict=True))
        key = (tuple(leaf.shape), None if spread else leaf.stride(), leaf.dtype, leaf.device)
        if key not in self._buffers:
            made = torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device)
            if not spread:
                made = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
            inexact = leaf.is_floating_point() or leaf.is_complex()
            self._buffers[key] = made.fill_(self._halves.fill if inexact else 0)
        return self._buffers[key]
