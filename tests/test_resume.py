"""Laws of ends: whatever ended a run, what was finished is kept, and it ends as it would have ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from test_workers import living
from world import Said, end, once, refused, small, start, tell, tree


def answer(folder: Path) -> tuple[Any, ...]:
    """What must not depend on how often a run was ended: the decision, and each arm's way through the race."""
    found = json.loads((folder / "summary.json").read_text())
    decision = {name: value for name, value in found["decision"].items() if name != "plan"}
    arms = [(arm["id"], arm["stage"], arm["score"], arm["learning_rate"]) for arm in found["arms"]]
    baselines = {name: [arm[key] for key in ("id", "score", "certified")] for name, arm in found["baselines"].items()}
    return decision, found["decision"]["plan"], arms, found["score"], baselines


def words_of(place: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("find", place / "data", *small(place), "--epochs", 1, "--effort", "quick", "--out", out, *more)


def interrupted(place: Path, out: Path, kind: int, finished: int) -> Said:
    """A run as a process of its own, ended by a signal when so many units were finished."""
    process = start(*words_of(place, out))
    patience = time.monotonic() + 240
    while len(list(out.glob("outcomes/*.npz"))) < finished:
        assert process.poll() is None, end(process)
        assert time.monotonic() < patience
        time.sleep(0.005)
    process.send_signal(kind)
    return end(process)


def begun_again(folder: Path, into: Path) -> Path:
    """The same run with the same calibration, and nothing else of what it found."""
    shutil.copytree(folder, into)
    for name in ("outcomes", "activations", "finalists", "model"):
        shutil.rmtree(into / name, ignore_errors=True)
    (into / "summary.json").unlink()
    return into


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, begun by --resume as nothing was there; the others remember its calibration."""

    def make(folder: Path) -> Path:
        said = tell(*words_of(place, folder / "run", "--resume"))
        assert said.code == 0, said.err
        return folder / "run"

    return once(tmp_path_factory, "whole", make)


@pytest.mark.parametrize(("kind", "finished"), [(signal.SIGINT, 4), (signal.SIGKILL, 11)])
def test_an_ended_run_goes_on_to_the_answer_of_an_uninterrupted_one(
    kind: int, finished: int, whole: Path, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = interrupted(place, out, kind, finished)
    if kind == signal.SIGINT:
        assert said.code == 130
        assert "--resume" in said.err
        assert "Traceback" not in said.err
    else:
        assert said.code == -signal.SIGKILL
    before = {file.name: file.read_bytes() for file in out.glob("outcomes/*.npz")}
    assert len(before) >= finished
    assert not (out / "summary.json").exists()
    refused(tell("predict", out, place / "data" / "bar" / "000.png"), "summary.json")
    refused(tell(*words_of(place, out)), "begun", "--resume")
    refused(tell(*words_of(place, out, "--resume", "--seed", 9)), "seed 0", "now it is 9")
    assert tell(*words_of(place, out, "--resume")).code == 0
    again = [name for name, content in before.items() if (out / "outcomes" / name).read_bytes() != content]
    assert len(again) <= 1  # no more than the unit that had its file and not yet its place in the study
    assert not [name for name in tree(out) if "partial" in name]
    assert answer(whole) == answer(out)


def test_a_damaged_outcome_is_run_again(whole: Path, place: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    first, second, *_ = sorted(out.glob("outcomes/*.npz"))
    contents = first.read_bytes(), second.read_bytes()
    first.unlink()
    second.write_bytes(contents[1][:-1] + b"x")
    (out / "summary.json").unlink()
    shutil.rmtree(out / "activations")
    assert tell(*words_of(place, out, "--resume")).code == 0
    assert answer(out) == answer(whole)
    assert first.exists()
    assert second.read_bytes() != contents[1][:-1] + b"x"


def test_workers_leave_with_an_interrupted_run_and_come_to_the_answer_of_a_single_process(
    whole: Path, place: Path, tmp_path: Path
) -> None:
    out = begun_again(whole, tmp_path / "run")
    process = start(*words_of(place, out, "--workers", 2, "--resume"), first=os.setsid)
    patience = time.monotonic() + 240
    while not [*out.glob("outcomes/*grad*.npz"), *out.glob("outcomes/*tune*.npz")]:  # what workers train
        assert process.poll() is None, end(process)
        assert time.monotonic() < patience
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the workers get it too
    said = end(process)
    assert said.code == 130
    assert "Traceback" not in said.err
    assert not living(process.pid)
    assert tell(*words_of(place, out, "--workers", 2, "--resume")).code == 0
    assert answer(whole) == answer(out)
