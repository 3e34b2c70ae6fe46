"""Work shared by local processes; results come in any order, which the race does not mind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from itertools import islice
from threading import Thread
from typing import Any, TypeVar

from frostline.errors import RunFailed

Given = TypeVar("Given")
Job = TypeVar("Job")
Result = TypeVar("Result")


class Crew:
    """Local processes that share the work; they start when they are first needed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool: ProcessPoolExecutor | None = None
        self._aside: dict[Future[Any], Any] = {}  # what is done or under way beside, with its job

    def rouse(self, prepare: Callable[[Given], object], given: Given) -> None:
        """Start the processes, each of which makes of `given` what its work needs; nobody waits for them.

        They must be picklable: a function at the top of a file, and nouns. Those that work already stay as they are. A
        failure shows in the work.
        """
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")  # fork and threads do not mix
            self._pool = ProcessPoolExecutor(self.size, mp_context=spawn, initializer=_begin, initargs=(prepare, given))
            with suppress(BrokenProcessPool):
                for _ in range(self.size):
                    self._pool.submit(_prepared)

    @property
    def free(self) -> bool:
        """Whether one more job may begin beside: one process is always left for what is waited for."""
        return len(self._aside) < self.size - 1

    @property
    def engaged(self) -> bool:
        """Whether something was begun beside and has not come back yet."""
        return bool(self._aside)

    def begin(self, work: Callable[[Any, Job], Result], job: Job) -> None:
        """A job that nobody waits for: its result comes back among those of `run`, from whichever call is next."""
        if job not in self._aside.values():
            self._aside[self._submitted(work, job)] = job

    def run(self, work: Callable[[Any, Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Each job with its result, as they are finished: `work(prepared, job)`; and what was begun beside, meanwhile.

        `work` and the jobs must be picklable. A job that is under way beside is waited for, not begun again. No job is
        begun after one that failed, or for one who stops asking; what was yielded before stands. Raises RunFailed where
        a process died without a word.
        """
        for future in [future for future in self._aside if future.done()]:
            if (job := self._aside[future]) not in jobs:
                del self._aside[future]
                yield job, _result(future)
        owed = {future: job for future, job in self._aside.items() if job in jobs}
        self._aside = {future: job for future, job in self._aside.items() if future not in owed}
        waiting = iter([job for job in jobs if job not in owed.values()])

        def begun(count: int) -> dict[Future[Result], Job]:
            return {self._submitted(work, job): job for job in islice(waiting, count)}

        owed |= begun(self.size + 1)  # one more than there are: none of them waits, and nothing is called back
        while owed:
            done = wait({*owed, *self._aside}, return_when=FIRST_COMPLETED).done
            for future in sorted(done, key=lambda each: each.exception() is not None):  # what is there is not lost
                mine = future in owed
                yield (owed if mine else self._aside).pop(future), _result(future)
                owed |= begun(int(mine))

    def _submitted(self, work: Callable[[Any, Job], Result], job: Job) -> Future[Result]:
        assert self._pool is not None, "the processes are roused before they work"
        with _living():
            return self._pool.submit(_work, work, job)

    def leave(self) -> None:
        """The processes end when their work is done."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def stop(self) -> None:
        """The processes end now: what they were at work on is begun anew on --resume."""
        for child in multiprocessing.active_children():
            child.terminate()
        self.leave()


@contextmanager
def crew(workers: int) -> Generator[Crew | None]:
    """Processes, gone afterwards; None for a single worker."""
    if workers == 1:
        yield None
        return
    hands = Crew(workers)
    try:
        yield hands
        hands.leave()
    except BaseException:
        hands.stop()
        raise


_WAY: list[Callable[[], object]] = []  # in another process: how what its work needs is made


def _begin(prepare: Callable[[Given], object], given: Given) -> None:
    """In a new process: an interrupt is for the one that leads, and nobody works on when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leader = multiprocessing.parent_process()
    assert leader is not None, "a worker is started by another process"

    def watch() -> None:
        leader.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
    _WAY.append(partial(prepare, given))


@lru_cache(maxsize=1)
def _kept() -> object:
    return _WAY[0]()


def _prepared() -> None:
    _kept()


def _work(work: Callable[[Any, Job], Result], job: Job) -> Result:
    return work(_kept(), job)


def _result(future: Future[Result]) -> Result:
    with _living():
        return future.result()


@contextmanager
def _living() -> Generator[None]:
    """A process that died is told apart from work that failed. Raises RunFailed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker process died: memory ran out, or a script of yours calls this outside of "
            "`if __name__ == '__main__':`, and other processes read that script; what was finished is kept: run again "
            "with --resume and fewer --workers, or with that line"
        ) from error
