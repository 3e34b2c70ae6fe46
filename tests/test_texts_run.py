"""A search on texts comes to one answer: with two workers as with one, and however it was ended."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import networks_of
import pytest
from test_resume import answer, begun_again
from world import ONE, end, once, start, tell

Ran = tuple[Path, tuple[Any, ...]]  # the run, and the words that began it


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """An uninterrupted search; the others have its calibration."""
    network = networks_of.saved(tmp_path_factory, "flat")

    def make(folder: Path) -> Ran:
        texts, labels = networks_of.texts(40)
        data = networks_of.table(folder / "data.csv", {"text": texts, "label": labels})
        few = ("--epochs", 1, "--effort", "quick", "--device", "cpu", "--precision", "fp32", *ONE)
        words = ("find", data, "--backbone", f"hf/{network}", *few)
        said = tell(*words, "--out", folder / "run")
        assert said.code == 0, said.err
        return folder / "run", words

    return once(tmp_path_factory, "whole-texts", make)


def test_two_workers_come_to_the_answer_of_one(whole: Ran, tmp_path: Path) -> None:
    run, words = whole
    out = begun_again(run, tmp_path / "run")
    said = tell(*words, "--workers", 2, "--resume", "--out", out)
    assert said.code == 0, said.err
    assert answer(out) == answer(run)


def test_a_run_that_was_killed_goes_on_to_the_answer_of_an_uninterrupted_one(whole: Ran, tmp_path: Path) -> None:
    run, words = whole
    out = begun_again(run, tmp_path / "run")
    process = start(*words, "--resume", "--out", out)
    patience = time.monotonic() + 240
    while len(list(out.glob("outcomes/*.npz"))) < 6:
        assert process.poll() is None, end(process)
        assert time.monotonic() < patience
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert end(process).code == -signal.SIGKILL
    before = {file.name: file.read_bytes() for file in out.glob("outcomes/*.npz")}
    said = tell(*words, "--resume", "--out", out)
    assert said.code == 0, said.err
    again = [name for name, content in before.items() if (out / "outcomes" / name).read_bytes() != content]
    assert len(again) <= 1  # the unit that had its file and not yet its place in the study
    assert answer(out) == answer(run)
