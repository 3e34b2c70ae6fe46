"""Every outcome of a run, kept so that the run can be taken up again after any end, SIGKILL included.

In the run directory `outcomes/KEY.npz` holds what one unit came to, and `study.db` (SQLite, through Optuna's storage,
so that its dashboard can show it) one finished trial a unit. The file is written first, whole or not at all; the
trial enters after it, with the file's checksum. So what is in the study has its file, and what a run was doing when it
died is run again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from frostline.errors import RunError, StoreError
from frostline.search.scores import losses
from frostline.values import Epoch, Flow, Outcome, Unit

NAME = "frostline"
NOTE = "frostline."  # begins the names of notes among the study's attributes


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """An open study; `folder` is the run directory."""

    folder: Path
    trials: optuna.Study
    storage: optuna.storages.RDBStorage


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """One finished unit in the study."""

    outcome: Outcome
    loss: float  # mean log-loss in nats
    when: float  # it was recorded, in seconds since 1970
    attributes: Mapping[str, Any]  # of its trial: the unit's own, the name of its file, and what else was said of it


def open_study(folder: Path, *, resume: bool) -> Study:
    """The study of a run directory: a new one, or with `resume` the one that is there (begun where there is none).

    Raises RunError where one is there and `resume` is not set, or where it cannot be read; StoreError where nothing
    can be written.
    """
    path = folder / "study.db"
    if path.exists() and not resume:
        raise RunError(f"{str(folder)!r} holds a study already; continue it with --resume, or give another --out")
    new = not path.exists()
    try:
        (folder / "outcomes").mkdir(parents=True, exist_ok=True)
        for left in (folder / "outcomes").glob("*.partial"):
            left.unlink()  # of a run that died while writing
    except OSError as error:
        raise _unwritten(folder, error.strerror or str(error)) from error
    with _quiet():
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
            trials = optuna.create_study(storage=storage, study_name=NAME, direction="minimize", load_if_exists=True)
        except (OptunaError, SQLAlchemyError) as error:
            if new or _no_room(error):
                raise _unwritten(path, _first_line(error)) from error
            raise RunError(
                f"{str(path)!r} cannot be read as a study ({_first_line(error)}); give another --out, "
                "or remove the file to begin again"
            ) from error
    return Study(folder, trials, storage)


def close_study(study: Study) -> None:
    """Let go of the database file."""
    study.storage.remove_session()
    study.storage.engine.dispose()


def record(study: Study, outcome: Outcome, targets: NDArray[np.int64], about: Mapping[str, Any] | None = None) -> Kept:
    """Keep one finished unit: its file, then its trial, whose value is the mean log-loss in nats.

    `targets` are those of all examples; `about` are further attributes of the trial, as JSON. A unit that is recorded
    again takes the place of the earlier one. Raises StoreError naming the file where the disk is full or cannot be
    written; nothing half-written stays.
    """
    unit, path = outcome.unit, _file(study.folder, outcome.unit)
    content = _packed(outcome)
    _write(path, content)
    attributes = {
        **(about or {}),
        **asdict(unit),
        "key": unit.key,
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "seconds": outcome.seconds,
        "diverged": outcome.diverged,
    }
    value = float(losses(outcome.log_probabilities, targets[outcome.rows]).mean())
    trial = optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes)
    with _database(study):
        study.trials.add_trial(trial)
    return _kept(outcome, trial)


def outcomes(study: Study) -> tuple[Outcome, ...]:
    """Every unit that is finished and whole, in the order of units."""
    return tuple(each.outcome for each in kept(study))


def kept(study: Study) -> tuple[Kept, ...]:
    """As `outcomes`, with what was kept beside them.

    A unit whose file is missing or is not the one that was recorded is left out: it simply runs again.
    """
    with _database(study):
        trials = study.trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    latest = {_unit(trial): trial for trial in sorted(trials, key=lambda t: t.number)}
    found: list[Kept] = []
    for unit in sorted(latest):
        outcome = _unpacked(study.folder / "outcomes" / latest[unit].user_attrs["file"], latest[unit])
        if outcome is not None:
            found.append(_kept(outcome, latest[unit]))
    return tuple(found)


def note(study: Study, name: str, value: Any) -> None:
    """Keep a JSON value under a name: the calibration, the split. A later note of that name takes its place."""
    with _database(study):
        study.trials.set_user_attr(NOTE + name, json.loads(json.dumps(value)))


def noted(study: Study, name: str) -> Any:
    """The value of a note, None where there is none."""
    with _database(study):
        return study.trials.user_attrs.get(NOTE + name)


def _kept(outcome: Outcome, trial: FrozenTrial) -> Kept:
    assert trial.value is not None and trial.datetime_complete is not None, "units are entered when they are finished"
    return Kept(outcome, trial.value, trial.datetime_complete.timestamp(), trial.user_attrs)


def _file(folder: Path, unit: Unit) -> Path:
    plain = re.sub(r"[^\w@.+-]", "_", unit.key, flags=re.ASCII)
    if plain != unit.key or len(plain) > 150:  # two names may become one
        plain = f"{plain[:150]}-{hashlib.sha256(unit.key.encode()).hexdigest()[:8]}"
    return folder / "outcomes" / f"{plain}.npz"


def _packed(outcome: Outcome) -> bytes:
    facts = {
        "unit": asdict(outcome.unit),
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "epochs": [{**asdict(epoch), "flows": [astuple(flow) for flow in epoch.flows]} for epoch in outcome.epochs],
        "diverged": outcome.diverged,
        "batch": outcome.batch,
        "together": outcome.together,
    }
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    more: dict[str, Any] = {} if outcome.shifted is None else {"shifted": outcome.shifted}
    np.savez_compressed(buffer, rows=outcome.rows, log_probabilities=outcome.log_probabilities, facts=text, **more)
    return buffer.getvalue()


def _unpacked(path: Path, trial: FrozenTrial) -> Outcome | None:
    """The outcome in a file, None where it is not byte for byte the one that the trial was entered with."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != trial.user_attrs["sha256"]:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        facts = json.loads(file["facts"].tobytes())
        return Outcome(
            unit=Unit(**facts["unit"]),
            rows=file["rows"],
            log_probabilities=file["log_probabilities"],
            seconds=facts["seconds"],
            peak_bytes=facts["peak_bytes"],
            epochs=tuple(map(_epoch, facts["epochs"])),
            diverged=facts["diverged"],
            batch=facts["batch"],
            together=facts.get("together", 1),
            shifted=file.get("shifted"),
        )


def _epoch(facts: Mapping[str, Any]) -> Epoch:
    flows = tuple(Flow(*flow) for flow in facts.get("flows", ()))
    return Epoch(**{name: value for name, value in facts.items() if name != "flows"}, flows=flows)


def _unit(trial: FrozenTrial) -> Unit:
    return Unit(**{field.name: trial.user_attrs[field.name] for field in fields(Unit)})


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the new name itself could be lost with the power
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise _unwritten(path, error.strerror or str(error)) from error


@contextmanager
def _database(study: Study) -> Generator[None]:
    path = study.folder / "study.db"
    with _quiet():
        try:
            yield
        except (OptunaError, SQLAlchemyError) as error:
            reason = "the disk is full" if _no_room(error) else _first_line(error)
            raise _unwritten(path, reason) from error


@contextmanager
def _quiet() -> Generator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _no_room(error: Exception) -> bool:
    return "disk is full" in f"{error} {error.__cause__}"


def _first_line(error: Exception) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]


def _unwritten(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{str(path)!r} cannot be written: {reason}; make room or give another --out, then continue with --resume"
    )
