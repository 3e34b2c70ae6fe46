"""The run directory: begun once, resumed on request, never overwritten silently; its files appear whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from frostline.errors import RunError, StoreError
from frostline.settings import Settings

ODD = "backslashreplace"  # for file names that are no UTF-8: JSON reads such an escape back as the same name
# may differ between a run and its resumption
ALWAYS_NEW = ("recalibrate", "resume", "workers", "threads", "out", "log", "gallery")


@contextmanager
def begun(settings: Settings) -> Generator[Path]:
    """The run's directory: `begin`, and undone where the run is refused or fails, however, before a unit was finished.

    A refused run must not stay behind as a directory that asks for --resume with the settings that were wrong, and a
    full disk is not left full of what nobody can use. What an interrupt leaves is kept, and so is every run that was
    there before.
    """
    folder = place(settings)
    new = not (folder / "config.json").exists()
    absent = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield begin(settings)
    except Exception:
        kept = (*folder.glob("outcomes/*.npz"), *folder.glob("**/underway/*.safetensors"))
        if new and (folder / "config.json").exists() and not kept:
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        _leave(absent)
        raise


def _leave(folders: list[Path]) -> None:
    """Remove folders that are empty again, innermost first; another run may have come into the outer ones."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def place(settings: Settings) -> Path:
    """Where a run lies."""
    return default_name(settings) if settings.out is None else Path(settings.out)


def begin(settings: Settings) -> Path:
    """Make the run's directory and write config.json, or go on in one that was interrupted.

    Raises RunError where the directory holds a run already and `resume` is not given, where it holds something else,
    or where a resumed run was begun with other settings.
    """
    folder = place(settings)
    config = folder / "config.json"
    document = settings.document()
    if config.exists():
        state = "finished" if (folder / "summary.json").exists() else "begun"
        if not settings.resume:
            hint = "to see its answer again" if state == "finished" else "to go on with it"
            raise RunError(
                f"{str(folder)!r} holds a run that was {state}; give --resume {hint}, another --out, "
                "or delete the folder"
            )
        # a run that was begun before a setting was invented has its default
        begun = {**Settings(settings.data, settings.backbone).document(), **read_json(config)}
        before, now = (_compared(json.loads(json.dumps(known))) for known in (begun, document))
        other = [name for name in now if before.get(name) != now[name]]
        if other:
            raise RunError(
                f"the run in {str(folder)!r} was begun with {other[0]} {before.get(other[0])!r}, and now it is "
                f"{now[other[0]]!r}; resume with the same settings, or give another --out"
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{str(folder)!r} exists and is no run of Frostline; give another --out")
    write_json(config, document)
    return folder


def resolve(folder: Path, found: Mapping[str, Any]) -> None:
    """Add to config.json, as "resolved", what was left open in the settings and is known by now."""
    given = read_json(folder / "config.json")
    write_json(folder / "config.json", {**given, "resolved": dict(found)})


def _compared(document: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same in a resumed run; one place may be spelt in several ways."""
    kept = {name: value for name, value in document.items() if name not in ALWAYS_NEW}
    named = ("data", "weights", "shifted", "source")
    paths: dict[str, Any] = {name: os.path.realpath(kept[name]) for name in named if _lies(kept.get(name))}
    rivals = [os.path.realpath(file) if _lies(file) else file for file in kept.get("rival_weights") or ()]
    return {**kept, **paths, "rival_weights": rivals}


def _lies(name: Any) -> bool:
    return isinstance(name, str) and Path(name).exists()


def default_name(settings: Settings) -> Path:
    """runs/DATA-BACKBONE, for a run that was not given a name; a comparison has one beside that of the search."""
    verb = ("compare",) if settings.strategies == "known" else ()
    several = (settings.backbone, *settings.rivals)
    parts = (Path(settings.data).name, *(name.replace("/hf", "").rstrip("/").split("/")[-1] for name in several), *verb)
    return Path("runs") / "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises StoreError where the disk is full or the place is closed."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors=ODD) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path} cannot be written: {error.strerror}; free some space or give another --out"
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run. Raises RunError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        begun = (path.parent / "config.json").exists()
        remedy = (
            "the run there was begun and not finished: go on with --resume"
            if begun
            else "give the directory of a finished run"
        )
        raise RunError(f"{str(path)!r} cannot be read: {error.strerror}; {remedy}") from None
    except ValueError as error:
        raise RunError(f"{str(path)!r} is damaged: {error}; finish the run with --resume") from None
    if not isinstance(found, dict):
        raise RunError(
            f"{str(path)!r} holds a {type(found).__name__}, where a JSON object belongs; give the directory of a run "
            "that Frostline finished"
        )
    return found


def log(folder: Path, kind: str, **fields: Any) -> None:
    """Append one line to log.jsonl: what happened when (seconds since the epoch). Raises StoreError."""
    line = json.dumps({"time": round(time.time(), 3), "kind": kind, **fields}, ensure_ascii=False) + "\n"
    path = folder / "log.jsonl"
    try:
        with path.open("a", encoding="utf-8", errors=ODD) as file:
            file.write(line)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror}; make room, then continue with --resume"
        ) from error
