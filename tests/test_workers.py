"""Laws of workers: all work is done once, by processes that are prepared once, and no job after one that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from frostline.errors import RunFailed
from frostline.workers import crew


def tens(given: int) -> int:
    return 10 * given


def nothing(given: Path) -> None:
    """Leaves a mark for each process that it prepares; fails where its name says so."""
    if given.name == "fails":
        raise ValueError(f"{given.name} cannot be prepared")
    (given / str(os.getpid())).write_text("ready")


def dies_at_once(given: Path) -> None:
    (given / "dead").write_text("")
    os._exit(3)


def behind_a_gate(gate: Path) -> int:
    """Waits until it is opened, a minute at most."""
    for _ in range(600):
        if gate.exists():
            return 1
        time.sleep(0.1)
    raise TimeoutError


def squared(ten: int, number: int) -> tuple[int, int]:
    return ten + number * number, os.getpid()


def touched(prepared: None, path: Path) -> str:
    """Leaves a mark; fails where its name says so."""
    if path.name == "fails":
        raise ValueError(f"{path.name} is no number")
    time.sleep(0.2)
    path.write_text("done")
    return path.name


def patient(prepared: None, path: Path) -> str:
    """Leaves one more mark, and then waits until a gate beside it is opened."""
    with path.open("a") as file:
        file.write("x")
    behind_a_gate(path.with_name("gate"))
    return path.name


def dies(prepared: None, path: Path) -> str:
    os._exit(3)


LEADER = """
import sys
from pathlib import Path

from test_workers import nothing, patient

from frostline.workers import crew

if __name__ == "__main__":
    place = Path(sys.argv[1])
    with crew(2) as hands:
        hands.rouse(nothing, place)
        list(hands.run(patient, [place / "one", place / "two"]))
"""


def test_two_processes_do_every_job_once_with_what_they_were_prepared_with() -> None:
    jobs = list(range(6))
    with crew(2) as hands:
        assert hands is not None
        hands.rouse(tens, 1)
        hands.rouse(tens, 2)  # they are at work already
        found = list(hands.run(squared, jobs))
        again = list(hands.run(squared, [7]))
    assert {job: result[0] for job, result in found} == {n: 10 + n * n for n in jobs}
    assert len(found) == len(jobs)
    assert os.getpid() not in {result[1] for _, result in found}
    assert again[0][1][0] == 59


def test_nobody_waits_for_what_is_begun_beside_and_it_is_done_once(tmp_path: Path) -> None:
    with crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path)
        assert hands.free and not hands.engaged
        for _ in range(2):  # asked for twice
            hands.begin(patient, tmp_path / "beside")
        assert hands.engaged and not hands.free  # the other process is for what is waited for
        found = [job.name for job, _ in hands.run(touched, [tmp_path / f"job{n}" for n in range(3)])]
        assert sorted(found) == ["job0", "job1", "job2"]
        (tmp_path / "gate").write_text("open")
        assert list(hands.run(patient, [tmp_path / "beside"])) == [(tmp_path / "beside", "beside")]
        assert (tmp_path / "beside").read_text() == "x"
        assert hands.free and not hands.engaged
        hands.begin(patient, tmp_path / "second")
        slow = [tmp_path / f"job{n}" for n in range(3, 9)]
        assert (tmp_path / "second", "second") in list(hands.run(touched, slow))  # among the others


def test_what_fails_beside_comes_out_and_what_was_done_is_not_lost(tmp_path: Path) -> None:
    with crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path)
        hands.begin(touched, tmp_path / "early")
        for _ in range(600):
            if (tmp_path / "early").exists():
                break
            time.sleep(0.1)
        time.sleep(0.5)  # the result has come back
        assert list(hands.run(touched, [])) == [(tmp_path / "early", "early")]
        assert not list(hands.run(touched, []))
        hands.begin(touched, tmp_path / "fails")
        with pytest.raises(ValueError, match="fails is no number"):
            list(hands.run(touched, [tmp_path / f"job{n}" for n in range(20)]))


def test_one_worker_needs_no_other_process() -> None:
    with crew(1) as hands:
        assert hands is None


def test_processes_are_prepared_before_there_is_work_and_once_each(tmp_path: Path) -> None:
    with crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path)
        for _ in range(600):
            if list(tmp_path.iterdir()):
                break
            time.sleep(0.1)
        list(hands.run(touched, [tmp_path / f"job{n}" for n in range(8)]))
    ready = [path for path in tmp_path.iterdir() if path.read_text() == "ready"]
    assert 1 <= len(ready) <= 2


def test_a_process_that_dies_while_it_is_prepared_fails_the_run_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"a worker process died.*--resume"), crew(2) as hands:
        assert hands is not None
        hands.rouse(dies_at_once, tmp_path)
        for _ in range(600):
            if (tmp_path / "dead").exists():
                break
            time.sleep(0.1)
        time.sleep(1.0)  # the pool notices
        list(hands.run(touched, [tmp_path / "job"]))


def test_nobody_waits_for_processes_that_are_roused(tmp_path: Path) -> None:
    with crew(2) as hands:
        assert hands is not None
        hands.rouse(behind_a_gate, tmp_path / "gate")
        (tmp_path / "gate").write_text("open")  # one that waited would never come here
        assert next(hands.run(squared, [2]))[1][0] == 5


def test_what_fails_in_the_preparation_comes_out_of_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fails cannot be prepared"), crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path / "fails")
        list(hands.run(touched, [tmp_path / "job"]))


def test_a_process_that_dies_without_a_word_fails_the_run_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"a worker process died.*--resume"), crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path)
        list(hands.run(dies, [tmp_path / f"job{n}" for n in range(4)]))


def test_an_error_of_a_job_comes_out_and_what_waited_behind_it_is_not_begun(tmp_path: Path) -> None:
    jobs = [tmp_path / "fails", *(tmp_path / f"job{n}" for n in range(40))]
    with pytest.raises(ValueError, match="fails is no number"), crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path)
        list(hands.run(touched, jobs))
    done = len(list(tmp_path.glob("job*")))
    assert done < 20
    time.sleep(0.5)
    assert len(list(tmp_path.glob("job*"))) == done  # nothing works on


def test_nothing_works_on_for_one_who_stops_asking(tmp_path: Path) -> None:
    with crew(2) as hands:
        assert hands is not None
        hands.rouse(nothing, tmp_path)
        results = hands.run(touched, [tmp_path / f"job{n}" for n in range(40)])
        next(results)
        assert isinstance(results, Generator)
        results.close()
    done = len(list(tmp_path.glob("job*")))
    assert 1 <= done < 20
    time.sleep(0.5)
    assert len(list(tmp_path.glob("job*"))) == done


def test_processes_leave_in_the_middle_of_their_work_when_the_one_that_leads_is_killed(tmp_path: Path) -> None:
    (tmp_path / "leader.py").write_text(LEADER)
    line = [sys.executable, str(tmp_path / "leader.py"), str(tmp_path)]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    leader = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True)
    patience = time.monotonic() + 120
    while not ((tmp_path / "one").exists() and (tmp_path / "two").exists()):
        assert leader.poll() is None and time.monotonic() < patience
        time.sleep(0.02)
    leader.kill()
    assert leader.wait() == -signal.SIGKILL
    assert not living(leader.pid)


def living(group: int) -> bool:
    """Whether a process group still has a process, some seconds after its end."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
