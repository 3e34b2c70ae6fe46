"""The same work on this process or on local processes; results come in any order, which the race does not mind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from frostline.errors import RunFailed

Job = TypeVar("Job")
Result = TypeVar("Result")


def run(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 1) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they are finished.

    With more than one worker, `work` and the jobs must be picklable: a function at the top of a file, and nouns.
    An interrupt, or an error of a job, ends the others; what was yielded before it stands. Raises RunFailed where a
    process died without a word.
    """
    if workers == 1 or len(jobs) < 2:
        yield from ((job, work(job)) for job in jobs)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))  # fork and threads do not mix
    try:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], _result(future)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker process died, most likely because memory ran out; what was finished is kept: "
            "run again with --resume and fewer --workers"
        ) from error
