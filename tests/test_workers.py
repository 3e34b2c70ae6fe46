"""Laws of workers: the same work whoever does it, and no job after one that failed."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from frostline.errors import RunFailed
from frostline.workers import crew, rouse, run


def squared(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def touched(path: Path) -> str:
    """Leaves a mark; fails where its name says so."""
    if path.name == "fails":
        raise ValueError(f"{path.name} is no number")
    time.sleep(0.2)
    path.write_text("done")
    return path.name


def dies(path: Path) -> str:
    os._exit(3)


def test_two_processes_find_what_one_finds() -> None:
    jobs = list(range(6))
    alone = {job: result[0] for job, result in run(squared, jobs)}
    with crew(2) as hands:
        found = list(run(squared, jobs, hands))
    assert {job: result[0] for job, result in found} == alone == {n: n * n for n in jobs}
    assert len(found) == len(jobs)
    assert os.getpid() not in {result[1] for _, result in found}


def test_processes_that_were_roused_are_ready_and_a_failure_in_it_is_left_to_the_work(tmp_path: Path) -> None:
    with crew(2) as hands:
        started = time.perf_counter()
        rouse(touched, (tmp_path / "ready",), hands)
        rouse(touched, (tmp_path / "fails",), hands)
        assert time.perf_counter() - started < 1 or not (tmp_path / "ready").exists()  # nobody waited for them
        assert {job: result[0] for job, result in run(squared, [1, 2], hands)} == {1: 1, 2: 4}
        assert (tmp_path / "ready").read_text() == "done"


def test_one_worker_works_here_and_only_as_far_as_it_is_asked() -> None:
    results = run(squared, [1, 2, 3])
    assert next(results) == (1, (1, os.getpid()))


def test_a_process_that_dies_without_a_word_fails_the_run_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"a worker process died.*--resume"), crew(2) as hands:
        list(run(dies, [tmp_path / f"job{n}" for n in range(4)], hands))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_comes_out_and_what_waited_behind_it_is_not_begun(tmp_path: Path, workers: int) -> None:
    jobs = [tmp_path / "fails", *(tmp_path / f"job{n}" for n in range(40))]
    with pytest.raises(ValueError, match="fails is no number"), crew(workers) as hands:
        list(run(touched, jobs, hands))
    done = len(list(tmp_path.glob("job*")))
    assert done < 20
    time.sleep(0.5)
    assert len(list(tmp_path.glob("job*"))) == done  # nothing works on


def test_nothing_works_on_for_one_who_stops_asking(tmp_path: Path) -> None:
    with crew(2) as hands:
        results = run(touched, [tmp_path / f"job{n}" for n in range(40)], hands)
        next(results)
        assert isinstance(results, Generator)
        results.close()
    done = len(list(tmp_path.glob("job*")))
    assert 1 <= done < 20
    time.sleep(0.5)
    assert len(list(tmp_path.glob("job*"))) == done
