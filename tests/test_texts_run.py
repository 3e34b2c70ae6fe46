"""A search on texts comes to one answer: with two workers as with one, and however it was ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks_of
import pytest
from test_resume import answer, begun_again
from world import ONE, once, tell

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
