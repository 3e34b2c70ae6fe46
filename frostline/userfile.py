"""A function of the user's own, in a Python file that they named: read because they ask for it, and never else."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from frostline.errors import InputError


def function(file: Path, name: str, refused: type[InputError]) -> Callable[..., Any]:
    """What stands in the file under that name.

    Raises `refused` where there is no such file, where it cannot be imported (with the line that failed), and where it
    has no such function (with those that it has).
    """
    if not file.is_file():
        beside = ", ".join(sorted(entry.name for entry in file.parent.glob("*.py"))) if file.parent.is_dir() else ""
        raise refused(f"{file} does not exist; Python files beside it are: {beside or 'none'}")
    module = _imported(file, refused)
    found: Any = getattr(module, name, None)
    if not callable(found):
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and value.__module__ == module.__name__
        ]
        raise refused(f"{file} has no function {name!r}; it has {', '.join(own) or 'none'}")
    return found


def failed(error: Exception, file: Path, what: str, refused: type[InputError]) -> InputError:
    """What the user's own code raised, with the line of their file that it came from."""
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else None
    return refused(f"{file}{f', line {line}' if line else ''} {what}: {type(error).__name__}: {error}; mend it there")


def _imported(file: Path, refused: type[InputError]) -> ModuleType:
    """The user's file as a module; what it imports from its own folder is found."""
    name = f"frostline_user_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    sys.path.insert(0, str(file.parent))
    cached, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left behind in the user's folder
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        del sys.modules[name]
        raise failed(error, file, "cannot be imported", refused) from error
    finally:
        sys.path.remove(str(file.parent))
        sys.dont_write_bytecode = cached
    return module
