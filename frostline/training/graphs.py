"""Work of a GPU that is recorded once and replayed (CUDA graphs): one launch in the place of hundreds.

A step of a small network is over on a GPU before the processor has handed over its next kernel. A recording does the
very same kernels on the same memory, so that what goes in is copied to where the recording reads it, and whatever it
reads or writes must live as long as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from frostline.training.device import out_of_memory

WARM = 2  # times that work runs as it is written first: libraries choose their kernels, the optimiser makes its state

Told = Mapping[int, tuple[Tensor, Tensor]]  # by place: the loss, and the norm of the gradient
Take = Callable[[tuple[Tensor, ...], Tensor], Told]


def recorded(work: Callable[[], object]) -> Callable[[], None]:
    """The same work as one launch; it is done `WARM` times on the way. Raises RuntimeError where it cannot be recorded.

    What it reads must be changed in place, if at all, and it must not wait for the device.
    """
    for _ in range(WARM):
        work()
    graph = torch.cuda.CUDAGraph()
    with _recording(graph, None):
        work()
    return _Replay(graph, work)


@dataclass(frozen=True, slots=True)
class _Replay:
    """Holds on to the work: the memory that is recorded is that of its tensors."""

    graph: torch.cuda.CUDAGraph
    work: Callable[[], object]

    def __call__(self) -> None:
        self.graph.replay()


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    reads: tuple[Tensor, ...]  # where the inputs and the targets are copied to
    told: Told
    grads: tuple[Tensor | None, ...]  # of the parameters: where a replay leaves their gradients


class Recorder:
    """Training steps, each as it is written until its like was recorded: by the state of the learners, and by shapes.

    What cannot be recorded (work that waits for the device, or for which a second set of activations has no room) is
    done as it is written. To be closed after use, since a recording holds a training's memory.
    """

    def __init__(self, take: Take, parameters: Sequence[nn.Parameter]) -> None:
        self._take: Take | None = take
        self._parameters = parameters
        self._state: Hashable = None
        self._met = dict[Hashable, int]()  # steps taken as they are written
        self._made = dict[Hashable, _Recording]()
        self._pool: Any = None  # memory that all recordings share: one is replayed at a time
        self._last: _Recording | None = None
        self._refused = False

    def begin(self, state: Hashable) -> None:
        """What the steps to come depend on, besides their batches; recordings of another state are given up."""
        if state != self._state:
            self._forget()
            self._met.clear()
        self._state = state

    def close(self) -> None:
        """Give up all recordings, and the training whose steps they are."""
        self._forget()
        self._take, self._parameters = None, ()

    def __call__(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Told:
        assert self._take is not None, "no step is taken once it is closed"
        given = (*inputs, targets)
        mark = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in given)
        made = self._made.get(mark)
        if made is None and self._met.setdefault(mark, 0) >= WARM and not self._refused:
            made = self._record(self._take, given)
            if made is not None:
                self._made[mark] = made
        if made is None:
            self._met[mark] += 1
            self._last = None
            return self._take(inputs, targets)
        for kept, tensor in zip(made.reads, given, strict=True):
            kept.copy_(tensor)
        made.graph.replay()
        if made is not self._last:  # who asks for a gradient afterwards is to find that of this step
            self._last = made
            for parameter, grad in zip(self._parameters, made.grads, strict=True):
                parameter.grad = grad
        return {place: (loss.clone(), norm.clone()) for place, (loss, norm) in made.told.items()}

    def _record(self, take: Take, given: tuple[Tensor, ...]) -> _Recording | None:
        """A recording, which takes no step; None where there cannot be one, and then there is no other one either."""
        reads, graph = tuple(tensor.clone() for tensor in given), torch.cuda.CUDAGraph()
        for parameter in self._parameters:
            parameter.grad = None  # a gradient of an earlier step would be added to where it lies
        try:
            with _recording(graph, self._pool):
                told = take(reads[:-1], reads[-1])
            self._pool = graph.pool()
            return _Recording(graph, reads, told, tuple(parameter.grad for parameter in self._parameters))
        except RuntimeError as error:
            self._refused = True
            full = out_of_memory(error)
        # after the except clause, as the error holds on to what was made; and all of it, since what draws was moved on
        del graph
        self._forget()
        if full:
            torch.cuda.empty_cache()
        return None

    def _forget(self) -> None:
        for parameter in self._parameters if self._made else ():
            parameter.grad = None  # it lies in the memory of a recording
        self._made.clear()
        self._last, self._pool = None, None


@contextmanager
def _recording(graph: torch.cuda.CUDAGraph, pool: Any) -> Generator[None]:
    """As `torch.cuda.graph`, which gives all unused memory back to the system each time, and is slow for it.

    Other threads, which read ahead, may go on meanwhile.
    """
    torch.cuda.synchronize()
    shared = () if pool is None else (pool,)
    with torch.cuda.stream(_stream()):
        graph.capture_begin(*shared, capture_error_mode="thread_local")
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # what was refused has ended the recording
                graph.capture_end()
            _drawing_again()
            raise
        graph.capture_end()


def _drawing_again() -> None:
    """A recording that broke off may leave what draws waiting for its end: the same state in a new object does not."""
    drawn = torch.cuda.default_generators[torch.cuda.current_device()]
    drawn.graphsafe_set_state(drawn.clone_state())


@cache
def _stream() -> torch.cuda.Stream:
    """All recordings are made on one: memory that they share belongs to it."""
    return torch.cuda.Stream()
