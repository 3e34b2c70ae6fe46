"""How recordings are kept, with a graph that is none: what it records is done again when it is replayed.

What a GPU makes of it stands in `test_gpu.py`.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frostline.training import graphs
from frostline.training.graphs import WARM, Recorder, Told, recorded

made: list[Graph] = []


class Graph:
    """Holds a function in the place of kernels."""

    def __init__(self) -> None:
        self.kernels: Callable[[], None] | None = None
        self.replays = 0
        made.append(self)

    def replay(self) -> None:
        assert self.kernels is not None
        self.replays += 1
        self.kernels()

    def pool(self) -> str:
        return "pool"


class Work:
    """A step of one weight: its loss is the weighted sum of the inputs, and it learns 0.1 at a time."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.ones(()))
        self.recording: Graph | None = None
        self.fails: RuntimeError | None = None
        self.written = 0

    def __call__(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Told:
        told, grad = (torch.zeros(()), torch.zeros(())), torch.zeros(())

        def kernels() -> None:
            with torch.no_grad():
                told[0].copy_(self.weight * inputs[0].sum())
                grad.copy_(inputs[0].sum())
                self.weight.sub_(0.1)

        self.weight.grad = grad
        if self.recording is None:
            self.written += 1
            kernels()
        else:
            if self.fails is not None:
                raise self.fails
            self.recording.kernels = kernels
        return {0: told}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    step = Work()
    made.clear()

    @contextmanager
    def recording(graph: Graph, pool: Any) -> Generator[None]:
        step.recording = graph
        try:
            yield
        finally:
            step.recording = None

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(graphs, "_recording", recording)
    return step


def steps(recorder: Recorder, sizes: list[int]) -> list[float]:
    """A step each on so many ones; its loss."""
    return [float(recorder((torch.ones(size),), torch.zeros(size))[0][0]) for size in sizes]


def test_a_step_of_each_shape_is_written_first_then_recorded_and_replayed_on_its_own_batch(work: Work) -> None:
    recorder = Recorder(work, [work.weight])
    recorder.begin("a")
    sizes = [3, 3, 3, 2, 3, 2, 2, 3]
    losses = steps(recorder, sizes)
    assert losses == pytest.approx([size * (1 - 0.1 * number) for number, size in enumerate(sizes)])
    assert work.written == 2 * WARM
    assert [graph.replays for graph in made] == [3, 1]
    assert work.weight.grad is not None
    assert float(work.weight.grad) == 3  # of the step that was taken last, whichever recording it was of
    steps(recorder, [2])
    assert float(work.weight.grad) == 2


def test_another_state_is_recorded_anew_and_nothing_of_the_one_before_is_kept(work: Work) -> None:
    recorder = Recorder(work, [work.weight])
    recorder.begin("a")
    steps(recorder, [3] * (WARM + 1))
    seen = weakref.ref(made.pop())
    recorder.begin("a")
    steps(recorder, [3])
    assert seen() is not None
    recorder.begin("b")
    gc.collect()
    assert seen() is None
    assert work.weight.grad is None  # it lay there
    before = work.written
    steps(recorder, [3] * (WARM + 1))
    assert work.written == before + WARM


@pytest.mark.parametrize(
    "error", [RuntimeError("not permitted when stream is capturing"), torch.OutOfMemoryError("full")]
)
def test_what_cannot_be_recorded_is_done_as_it_is_written_and_tried_once(work: Work, error: RuntimeError) -> None:
    recorder = Recorder(work, [work.weight])
    recorder.begin("a")
    steps(recorder, [3] * (WARM + 1))
    work.fails = error
    losses = steps(recorder, [2] * (WARM + 2) + [3])
    assert losses == pytest.approx([size * (1 - 0.1 * (WARM + 1 + n)) for n, size in enumerate([2] * (WARM + 2) + [3])])
    assert len(made) == 2
    assert made[0].replays == 1  # what was recorded before is given up too


def test_a_closed_recorder_holds_nothing_of_its_training(work: Work) -> None:
    class Owner:
        def __init__(self) -> None:
            self.recorder = Recorder(self.take, [work.weight])

        def take(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Told:
            return work(inputs, targets)

    owner = Owner()
    steps(owner.recorder, [3] * (WARM + 1))
    seen = weakref.ref(owner)
    owner.recorder.close()
    gc.disable()
    try:
        del owner
        assert seen() is None  # without a look for circles
    finally:
        gc.enable()


def test_recorded_work_lives_as_long_as_its_recording(work: Work) -> None:
    class Held:
        pass

    held = Held()

    def job(keeps: Any = held) -> None:
        work((torch.ones(1),), torch.zeros(1))

    seen = weakref.ref(held)
    run = recorded(job)
    del job, held
    gc.collect()
    assert seen() is not None
    run()
    assert made[0].replays == 1
    del run
    made.clear()
    gc.collect()
    assert seen() is None
