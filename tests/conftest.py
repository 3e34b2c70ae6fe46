"""Whole runs that several files look at, each made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from world import Said, draw, known, once, small, tell

# the same examples in every run: what is red here is red everywhere; `--hypothesis-profile=search` draws others
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def remembering_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine remembers stays out of the tests, and theirs out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(once(tmp_path_factory, "cache", lambda folder: folder)))
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures in `data`, 40 a class without parts, and in `parted`, with a test folder.

    Beside them lie the networks of `small` and `known`. Nobody writes there.
    """

    def make(folder: Path) -> Path:
        draw(folder / "data", 40)
        draw(folder / "parted" / "train", 30, seed=1)
        draw(folder / "parted" / "test", 12, seed=2)
        small(folder)
        known(folder)
        return folder

    return once(tmp_path_factory, "world", make)


@pytest.fixture(scope="session")
def finished(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A run without a test part, from a network whose weights are known; what it said with --json."""

    def make(folder: Path) -> tuple[Path, Said]:
        out = folder / "run"
        return out, tell("find", place / "data", *known(place), "--epochs", 2, "--out", out, "--json")

    return once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def held_out(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A run with a test part and with every option that is not the default's; what it said without --json."""
    options = ("--metric", "macro_f1", "--prefer", "inference", "--augment", "flip", "--storage", 0, "--image-size", 12)
    more = ("--effort", "quick", "--batch-size", 8, "--epsilon", 0.05, "--confidence", 0.9, "--seed", 3)

    def make(folder: Path) -> tuple[Path, Said]:
        out = folder / "run"
        given = (*small(place), *options, *more, "--log", "tensorboard", "--epochs", 2, "--out", out)
        return out, tell("find", place / "parted", *given)

    return once(tmp_path_factory, "held_out", make)
