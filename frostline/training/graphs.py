"""Work of a GPU that is recorded once and replayed (CUDA graphs): one launch in the place of hundreds.

A step of a small network is over on a GPU before the processor has handed over its next kernel. A recording does the
very same kernels on the same memory, so that what goes in is copied to where the recording reads it.
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
    return graph.replay


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    reads: tuple[Tensor, ...]  # where the inputs and the targets are copied to
    told: Told
    grads: tuple[Tensor | None, ...]  # of the parameters: where a replay leaves their gradients


class Recorder:
    """Training steps, each as it is written until its like was recorded: by the state of the learners, and by shapes.

    What cannot be recorded (work that waits for the device) is done as it is written.
    """

    def __init__(self, take: Take, parameters: Sequence[nn.Parameter]) -> None:
        self._take = take
        self._parameters = parameters
        self._state: Hashable = None
        self._met = dict[Hashable, int]()  # steps taken as they are written
        self._made = dict[Hashable, _Recording]()
        self._pool: Any = None  # memory that all recordings share: one is replayed at a time
        self._last: _Recording | None = None
        self._refused = False

    def begin(self, state: Hashable) -> None:
        """What the steps to come depend on, besides their batches."""
        self._state = state

    def __call__(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Told:
        given = (*inputs, targets)
        mark = (self._state, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in given))
        made = self._made.get(mark)
        if made is None and self._met.setdefault(mark, 0) >= WARM and not self._refused:
            made = self._record(given)
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

    def _record(self, given: tuple[Tensor, ...]) -> _Recording | None:
        """A recording, which takes no step; None where there cannot be one."""
        reads, graph = tuple(tensor.clone() for tensor in given), torch.cuda.CUDAGraph()
        for parameter in self._parameters:
            parameter.grad = None  # a gradient of an earlier step would be added to where it lies
        try:
            with _recording(graph, self._pool):
                told = self._take(reads[:-1], reads[-1])
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._refused = True
            return None
        self._pool = graph.pool()
        return _Recording(graph, reads, told, tuple(parameter.grad for parameter in self._parameters))


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
