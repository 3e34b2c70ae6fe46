"""RUN/mlflow.db, a database that MLflow reads: one run for the whole, and nested in it one for each training.

SQLite, since MLflow's folders of small files (mlruns/) are no longer kept up, and are refused unless an environment
variable says otherwise, when they are looked at too. Nothing here asks a server, git or the network.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from frostline.errors import OptionError, StoreError
from frostline.logs.entry import ANSWER, Entry

FILE = "mlflow.db"
EXPERIMENT = "frostline"
NAME = "frostline.entry"  # the tag with an entry's name
PARENT, TEXT = "mlflow.parentRunId", "mlflow.note.content"  # tags that MLflow's pages know
MOST_METRICS, MOST_RUNS = 1000, 50_000  # that MLflow takes, or finds, at once
SET = {  # in the environment, while MLflow is imported and opened
    "MLFLOW_DISABLE_TELEMETRY": "true",  # importing MLflow would ask its makers' server what to tell it
    "MLFLOW_DISABLE_AGENT_HINT": "true",  # a notice
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # no connection outlives its use, and so none a folder
}


class Database:
    """The database of a run: who opens it begins the run for the whole, or goes on with it."""

    def __init__(self, client: Any, folder: Path, whole: Entry) -> None:
        self.client, self.path = client, folder / FILE
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            place = (folder / "mlartifacts").resolve().as_uri()  # not made: there are none
            self.experiment = client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            self.experiment = found.experiment_id
        there = client.search_runs([self.experiment], max_results=MOST_RUNS)
        self._runs: dict[str, str] = {run.data.tags[NAME]: run.info.run_id for run in there if NAME in run.data.tags}
        self._whole = {run.data.tags[NAME] for run in there if run.info.status == "FINISHED"}
        if ANSWER not in self._runs:
            self._begin(whole, run_name=folder.resolve().name)
            self._fill(self._runs[ANSWER], whole)
        elif ANSWER not in self._whole:
            client.update_run(self._runs[ANSWER], status="RUNNING")

    def written(self) -> frozenset[str]:
        return frozenset(self._whole)

    def write(self, entry: Entry) -> None:
        with _stored(self.path):
            if entry.name != ANSWER:
                if entry.name in self._runs:  # told again, or cut off in the middle
                    self.client.delete_run(self._runs[entry.name])
                self._begin(entry, tags={PARENT: self._runs[ANSWER]}, run_name=entry.name)
            run = self._runs[entry.name]
            self._fill(run, entry)
            self.client.set_terminated(run, "FINISHED", end_time=_milliseconds(entry.ended))
            self._whole.add(entry.name)

    def leave(self) -> None:
        """Say that the run did not come to its end."""
        if ANSWER not in self._whole:
            self.client.set_terminated(self._runs[ANSWER], "KILLED")

    def _begin(self, entry: Entry, *, run_name: str, tags: Mapping[str, str] | None = None) -> None:
        run = self.client.create_run(
            self.experiment, _milliseconds(entry.began), tags={NAME: entry.name, **(tags or {})}, run_name=run_name
        )
        self._runs[entry.name] = run.info.run_id

    def _fill(self, run: str, entry: Entry) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, _milliseconds(entry.ended), 0) for name, value in entry.figures.items()]
        metrics += [
            Metric(name, at.value, _milliseconds(at.when), at.step)
            for name, points in entry.curves.items()
            for at in points
        ]
        params = [Param(name, str(value)) for name, value in entry.params.items()]
        tags = [RunTag(TEXT, entry.text)] if entry.text else []
        self.client.log_batch(run, metrics[:MOST_METRICS], params, tags)
        for at in range(MOST_METRICS, len(metrics), MOST_METRICS):
            self.client.log_batch(run, metrics[at : at + MOST_METRICS])


@contextmanager
def opened(folder: Path, whole: Entry) -> Generator[Database]:
    """The database in a run directory; a run that does not come to its end is marked as such.

    Raises OptionError where the library is not installed, StoreError where the database cannot be written.
    """
    path = folder.resolve() / FILE
    with _private():
        try:
            from mlflow import MlflowClient
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        except ImportError:
            raise OptionError(
                "log is 'mlflow', and that library is not installed; install it: pip install 'frostline[mlflow]', "
                "or leave it away"
            ) from None
        uri = f"sqlite:///{path}"
        with _stored(path):
            if not path.exists():  # a client remembers what was once at a place, and makes no tables there again
                SqlAlchemyStore(uri, path.parent.as_uri())
            database = Database(MlflowClient(uri), folder, whole)
    try:
        yield database
    except BaseException:
        with suppress(StoreError), _stored(path):  # on a full disk, what failed first is what matters
            database.leave()
        raise


@contextmanager
def _private() -> Generator[None]:
    """MLflow is imported and opened as `SET` says, without what it and its libraries warn each other of."""
    before = {name: os.environ.get(name) for name in SET}
    os.environ.update(SET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _stored(path: Path) -> Generator[None]:
    """Raises StoreError for what MLflow or the disk refuses; MLflow itself says nothing, of that or of its tables."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StoreError(
            f"{str(path)!r} cannot be written: {reason}; make room, or remove it where it is damaged, then continue "
            "with --resume: it is made anew from the study"
        ) from error
    finally:
        logger.setLevel(level)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
