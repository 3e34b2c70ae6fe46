"""The same work on this process or on local processes; results come in any order, which the race does not mind."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from frostline.errors import RunFailed

Job = TypeVar("Job")
Result = TypeVar("Result")
IGNORED = (signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that leads


@contextmanager
def crew(workers: int) -> Generator[Executor | None]:
    """Processes for `run`, started when they are first needed and gone afterwards; None for a single worker."""
    if workers == 1:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")  # fork and threads do not mix
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=signal.signal, initargs=IGNORED)
    try:
        yield pool
        pool.shutdown(wait=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():  # what it was at work on is begun anew on --resume
            child.terminate()
        raise


def run(
    work: Callable[[Job], Result], jobs: Sequence[Job], hands: Executor | None = None
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they are finished, by a `crew` or, without one, here and now.

    For a crew, `work` and the jobs must be picklable: a function at the top of a file, and nouns. An error of a job
    ends the others; what was yielded before it stands. Raises RunFailed where a process died without a word.
    """
    if hands is None:
        yield from ((job, work(job)) for job in jobs)
        return
    futures = {hands.submit(work, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            yield futures[future], _result(future)
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker process died, most likely because memory ran out; what was finished is kept: "
            "run again with --resume and fewer --workers"
        ) from error
