"""The same work on this process or on local processes; results come in any order, which the race does not mind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from typing import TypeVar

from frostline.errors import RunFailed

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Crew:
    """Local processes that share the work."""

    pool: Executor
    size: int


@contextmanager
def crew(workers: int) -> Generator[Crew | None]:
    """Processes for `run`, started when they are first needed and gone afterwards; None for a single worker."""
    if workers == 1:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")  # fork and threads do not mix
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin)
    try:
        yield Crew(pool, workers)
        pool.shutdown(wait=True)
    except BaseException:
        for child in multiprocessing.active_children():  # what it was at work on is begun anew on --resume
            child.terminate()
        pool.shutdown(wait=True)
        raise


def run(work: Callable[[Job], Result], jobs: Sequence[Job], hands: Crew | None = None) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they are finished, by a `crew` or, without one, here and now.

    For a crew, `work` and the jobs must be picklable: a function at the top of a file, and nouns. No job is begun after
    one that failed, or for one who stops asking; what was yielded before stands. Raises RunFailed where a process died
    without a word.
    """
    if hands is None:
        yield from ((job, work(job)) for job in jobs)
        return
    waiting = iter(jobs)
    # one more than there are processes: none of them waits, and nothing has to be called back
    futures = {hands.pool.submit(work, job): job for job in islice(waiting, hands.size + 1)}
    while futures:
        for future in wait(futures, return_when=FIRST_COMPLETED).done:
            yield futures.pop(future), _result(future)
            futures.update((hands.pool.submit(work, job), job) for job in islice(waiting, 1))


def rouse(prepare: Callable[..., object], arguments: tuple[object, ...], hands: Crew) -> None:
    """Start the processes, each with a call that prepares it. Nobody waits for them: a failure shows in the work."""
    for _ in range(hands.size):
        hands.pool.submit(prepare, *arguments)


def _begin() -> None:
    """In a new process: an interrupt is for the one that leads, and nobody works on when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leader = multiprocessing.parent_process()
    assert leader is not None, "a worker is started by another process"

    def watch() -> None:
        leader.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker process died, most likely because memory ran out; what was finished is kept: "
            "run again with --resume and fewer --workers"
        ) from error
