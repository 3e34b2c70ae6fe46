"""A whole small world for whole small runs: drawn pictures of three classes, a small network, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import stage
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

import frostline
from frostline import cli

T = TypeVar("T")
HOME = Path(frostline.__file__).parent / "demo"
LETTERS = ("--backbone", f"{HOME / 'network.py'}:glyphs", "--weights", str(HOME / "letters.safetensors"))
ONE = ("--config", str(Path(__file__).with_name("one_thread.toml")))  # the tests themselves run side by side
CLASSES = ("bar", "cross", "ring")
SIZE = 16

NETWORK = '''
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU())


class Small(nn.Module):
    """Reads grey pictures of 8 x 8."""

    def __init__(self, width=4):
        super().__init__()
        self.default_cfg = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0,
                            "interpolation": "bilinear", "num_classes": 5, "classifier": "head"}
        self.stem = block(1, width)
        self.top = block(width, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.top(self.stem(x)).mean((2, 3)))
'''


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make` returns, and leaves in a folder of that name: made by the first of all test processes to ask.

    They share it, so whoever would change it takes a copy.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    told = root / f"{name}.pickle"
    with FileLock(root / f"{name}.lock"):
        if not told.exists():
            (root / name).mkdir()
            told.write_bytes(pickle.dumps(make(root / name)))
    return pickle.loads(told.read_bytes())


def draw(folder: Path, count: int, *, seed: int = 0) -> Path:
    """A folder a class with `count` noisy pictures of a bar, a cross or a ring."""
    rng = np.random.default_rng(seed)
    for label in CLASSES:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(picture(label, rng)).save(folder / label / f"{number:03d}.png")
    return folder


def picture(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One picture, dark on average, with its shape somewhere."""
    grey = rng.normal(60, 30, (SIZE, SIZE))
    y, x = rng.integers(4, SIZE - 4, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    shapes = {
        "bar": columns == x,
        "cross": (columns == x) | (rows == y),
        "ring": np.abs(np.hypot(rows - y, columns - x) - 3) < 0.8,
    }
    return (grey + 130 * shapes[label]).clip(0, 255).astype(np.uint8)


def small(folder: Path) -> tuple[str, ...]:
    """The flags of a network of two layers with random weights: what is tested is the house, not its answer."""
    file = folder / "small.py"
    if not file.exists():  # another process may be reading it
        file.write_text(NETWORK)
    return ("--backbone", f"{file}:Small", "--weights", "none", *ONE)


def known(folder: Path) -> tuple[str, ...]:
    """The flags of a network of four layers with weights in a file: quicker than that of letters, and as good here."""
    file = folder / "known.safetensors"
    if not file.exists():
        save_file(stage.network(seed=1).module.state_dict(), file)
    return ("--backbone", f"{stage.__file__}:small", "--weights", str(file), *ONE)


def tell(*words: object) -> Said:
    """The command line in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["frostline", *map(str, words)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Said(code, out.getvalue(), err.getvalue())


def start(*words: object, first: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """The command line as a process of its own; `first` runs in it before Python does."""

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
        if first is not None:
            first()

    pipe = subprocess.PIPE
    line = [sys.executable, "-m", "frostline", *map(str, words)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, preexec_fn=begin, env=env)


def end(process: subprocess.Popen[str]) -> Said:
    """Wait for a process."""
    out, err = process.communicate(timeout=300)
    return Said(process.returncode, out, err)


def refused(said: Said, *parts: str) -> None:
    """Exit code 2 and a message with all these parts, no traceback, and nothing on standard output."""
    assert said.code == 2, said
    assert "Traceback" not in said.err, said.err
    assert said.out == ""
    flat = " ".join(said.err.split())
    for part in parts:
        assert part in flat, f"{part!r} is not in {flat!r}"


def tree(folder: Path) -> Sequence[str]:
    """Every file and folder, for comparisons."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
