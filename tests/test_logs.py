"""Laws of the logs for other libraries: read back by these, they say what the study holds, once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from world import Said, once, refused, small, tell, tree

from frostline import study
from frostline.errors import StoreError
from frostline.logs import log as logs
from frostline.logs.entry import ANSWER, Entry
from frostline.run import logged
from frostline.settings import LOGS, UNREAD, settings, unread

BOTH = ("--log", "tensorboard", "--log", "mlflow")
TIMES = ("seconds", "peak_bytes")  # what two runs need not agree on


@pytest.fixture(scope="module", autouse=True)
def reading_without_tensorflow() -> Iterator[None]:
    """As TensorBoard reads where TensorFlow is not installed: loading it takes longer than all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
        yield


ALONE = """
import os, socket, sys, warnings
import frostline
assert not {"tensorboard", "mlflow"} & set(sys.modules)
import frostline.journey
warnings.simplefilter("error")

asked = []

def refuse(*where):
    asked.append(where)
    raise OSError("there is no network")

def leave(event):
    if (event.stage, event.done) == ("train", 1):
        raise KeyboardInterrupt

socket.socket.connect = socket.getaddrinfo = refuse
data, network, out = sys.argv[1:]
options = {"weights": "none", "epochs": 2, "refit_all": True, "threads": 1, "precision": "fp32", "log": ["mlflow"]}
try:
    frostline.train(data, network, "full_finetune", out=out, show=leave, **options)
except KeyboardInterrupt:
    pass
left = [name for name in os.environ if "MLFLOW" in name]
assert not left, left
assert not {"tensorflow", "git"} & set(sys.modules)
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
assert not asked, asked
"""


def words_of(place: Path, out: Path, *more: object) -> tuple[object, ...]:
    """Two trainings in full, the second one on all examples."""
    config = out.parent / "refit.toml"
    config.write_text('refit_all = true\nthreads = 1\nprecision = "fp32"\n')
    words = ("train", place / "parted", *small(place)[:4], "--config", config, "--strategy", "full_finetune")
    return (*words, "--epochs", 2, "--out", out, *more)


@pytest.fixture(scope="module")
def cut_off(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is logged for MLflow, in a process of its own, and interrupted after its first training.

    It may not reach the network, says nothing, and leaves its environment and its working directory as they were.
    """
    return once(tmp_path_factory, "cut_off", lambda folder: _cut_off(place, folder))


def _cut_off(place: Path, folder: Path) -> Path:
    out, cwd = folder / "run", folder / "cwd"
    cwd.mkdir()
    tests = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS")  # where MLflow itself asks nobody
    env = {name: value for name, value in os.environ.items() if name not in tests and "MLFLOW" not in name}
    line = [sys.executable, "-c", ALONE, str(place / "parted"), small(place)[1], str(out)]
    said = subprocess.run(line, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", ""), said.stderr
    assert not list(cwd.iterdir())
    return out


@pytest.fixture(scope="module")
def ended(cut_off: Path, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run at its end, logged for both since it goes on."""

    def make(folder: Path) -> Path:
        out = shutil.copytree(cut_off, folder / "run")
        said = tell(*words_of(place, out, "--resume", *BOTH))
        assert said.code == 0, said.err
        return out

    return once(tmp_path_factory, "ended", make)


def units(folder: Path) -> dict[str, Entry]:
    """What there is to log of the trainings, by the names of their files."""
    opened = study.open_study(folder, resume=True)
    try:
        return {entry.name: entry for entry in map(logged.of_unit, study.kept(opened))}
    finally:
        study.close_study(opened)


def of_tensorboard(folder: Path) -> dict[str, EventAccumulator]:
    """Every folder of event files, read."""
    found = {file.parent.name: EventAccumulator(str(file.parent)) for file in folder.glob("tensorboard/*/*")}
    for events in found.values():
        events.Reload()
    return found


def of_mlflow(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A client, and the runs in its database by their names; that of the whole is called the answer here too."""
    from mlflow import MlflowClient  # not above: there it would ask its makers' server

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    named = {run.data.tags["frostline.entry"]: run for run in found}
    assert len(named) == len(found)
    return client, named


def hparams(events: EventAccumulator) -> dict[str, Any]:
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def scalars(events: EventAccumulator) -> dict[str, list[float]]:
    return {tag: [at.value for at in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def values(entry: Entry) -> dict[str, list[float]]:
    curves = {name: [at.value for at in points] for name, points in entry.curves.items()}
    return curves | {name: [value] for name, value in entry.figures.items()}


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def answered(folder: Path) -> dict[str, float]:
    """The figures of the answer, from the summary."""
    score, cost = summary_of(folder)["score"], summary_of(folder)["cost"]
    at = {"answer/score": score["value"], "answer/low": score["low"], "answer/high": score["high"]}
    return at | {f"cost/{name}": value for name, value in cost.items() if value is not None}


# ------------------------------------------------------------------------------------------------ what is written


def say_what_is_held(folder: Path) -> dict[str, EventAccumulator]:
    """Assert that event files tell of every unit in the study and of the answer, and of nothing else."""
    found, held = of_tensorboard(folder), units(folder)
    assert set(found) == {*held, ANSWER}
    for name, entry in held.items():
        events = found[name]
        assert scalars(events) == {tag: pytest.approx(kept, rel=1e-6) for tag, kept in values(entry).items()}
        for tag, points in entry.curves.items():
            assert [at.step for at in events.Scalars(tag)] == [at.step for at in points]
        assert hparams(events) == entry.params
    assert scalars(found[ANSWER]) == {tag: [pytest.approx(at, rel=1e-6)] for tag, at in answered(folder).items()}
    return found


def test_event_files_of_a_search_say_what_its_study_holds_and_its_answer(held_out: tuple[Path, Said]) -> None:
    folder, said = held_out
    assert said.code == 0, said.err
    found, summary = say_what_is_held(folder), summary_of(folder)
    assert hparams(found[ANSWER])["arm"] == summary["decision"]["arm"]
    assert hparams(found[ANSWER])["certified"] == summary["decision"]["certified"]
    (text,) = found[ANSWER].Tensors(ANSWER)
    assert summary["decision"]["reason"] in text.tensor_proto.string_val[0].decode()
    assert found[ANSWER].SummaryMetadata(ANSWER).plugin_data.plugin_name == "text"


def test_a_unit_has_its_depths_its_score_and_the_moments_of_its_epochs(held_out: tuple[Path, Said]) -> None:
    held, summary = units(held_out[0]).values(), summary_of(held_out[0])
    assert all({"arm", "epochs", "freeze", "keep"} <= set(entry.params) for entry in held)
    trained = [entry for entry in held if entry.curves]
    assert trained and all("lr" not in entry.params for entry in held if not entry.curves)  # fitted in closed form
    for entry in trained:
        moments = [at.when for at in entry.curves["epoch/loss"]]
        assert moments == sorted(moments) and moments[-1] == entry.ended > entry.began
        assert entry.params["lr"] > 0
    last = [arm for arm in summary["arms"] if arm["stage"] == "finalist"]
    for arm in last:
        raced = [entry for entry in held if (entry.params["arm"], entry.params["round"]) == (arm["id"], 2)]
        assert arm["score"]["mean"] == pytest.approx(sum(entry.figures["score"] for entry in raced) / len(raced))


def test_the_database_has_a_run_with_the_settings_and_the_answer_and_in_it_one_for_every_unit(ended: Path) -> None:
    client, found = of_mlflow(ended)
    held, whole, summary = units(ended), found.pop(ANSWER), summary_of(ended)
    assert set(found) == set(held) and len(held) == 2
    for name, entry in held.items():
        mine = found[name]
        assert mine.data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert mine.data.params == {key: str(value) for key, value in entry.params.items()}
        told = {key: client.get_metric_history(mine.info.run_id, key) for key in mine.data.metrics}
        assert {key: [at.value for at in points] for key, points in told.items()} == values(entry)
        assert [at.step for at in told["epoch/loss"]] == [0, 1]
    assert {each.info.status for each in (whole, *found.values())} == {"FINISHED"}
    assert whole.info.run_name == "run"
    assert (whole.data.params["epochs"], whole.data.params["refit_all"]) == ("2", "True")
    assert whole.data.params["arm"] == summary["arms"][0]["id"]
    assert whole.data.metrics == pytest.approx(answered(ended))
    assert f"on {summary['score']['n']} examples" in whole.data.tags["mlflow.note.content"]


# ------------------------------------------------------------------------------------------------ once


def test_an_interrupted_run_keeps_its_logs_and_going_on_writes_nothing_twice(cut_off: Path, ended: Path) -> None:
    before, after = of_mlflow(cut_off)[1], of_mlflow(ended)[1]
    assert before[ANSWER].info.status == "KILLED" and not before[ANSWER].data.metrics
    first, second = sorted(units(ended))[::-1]  # the training on all examples has the fold -1
    assert set(before) == {ANSWER, first} and set(after) == {ANSWER, first, second}
    assert after[ANSWER].info.run_id == before[ANSWER].info.run_id
    assert after[first].to_dictionary() == before[first].to_dictionary()
    assert not (cut_off / "tensorboard").exists()
    say_what_is_held(ended)  # though the first training was before they were asked for


def test_a_finished_run_that_is_asked_for_again_is_logged_where_it_was_not_and_is_left_where_it_was(
    ended: Path, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    lost, kept = sorted(units(ended))
    files = {name: out / "tensorboard" / name / "events.out.tfevents.frostline" for name in (lost, kept, ANSWER)}
    before = {name: file.read_bytes() for name, file in files.items()}
    times = {name: file.stat().st_mtime_ns for name, file in files.items()}
    files[lost].unlink()  # as of a process that died between the study and the log
    rows = {name: run.to_dictionary() for name, run in of_mlflow(out)[1].items()}
    assert tell(*words_of(place, out, "--resume", *BOTH)).code == 0
    assert {name: file.read_bytes() for name, file in files.items()} == before
    assert [name for name, file in files.items() if file.stat().st_mtime_ns != times[name]] == [lost]
    assert {name: run.to_dictionary() for name, run in of_mlflow(out)[1].items()} == rows


def test_an_entry_that_is_told_again_takes_the_place_of_the_earlier_and_one_cut_off_is_not_there(
    ended: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "run", Entry(ANSWER, 0.0, 0.0, {})
    shutil.copytree(ended, out)
    first, second = Entry("x", 1.0, 2.0, {"lr": 0.5}, figures={"a": 0.25}), Entry("x", 3.0, 4.0, {}, figures={"b": 1.0})
    with logs.opened(LOGS, out, whole) as found:
        for log in found:
            log.write(first)
            assert "x" in log.written()
            log.write(second)
    assert scalars(of_tensorboard(out)["x"]) == {"b": [1.0]}
    client, runs = of_mlflow(out)
    assert runs["x"].data.metrics == {"b": 1.0}
    client.update_run(runs["x"].info.run_id, status="RUNNING")
    (out / "tensorboard" / "x" / "events.out.tfevents.frostline").rename(out / "tensorboard" / "x" / ".partial")
    with logs.opened(LOGS, out, whole) as found:
        assert [log for log in found if ANSWER in log.written() and "x" not in log.written()] == list(found)


def test_nothing_is_logged_unless_it_is_asked_for(tmp_path: Path) -> None:
    given = settings({"data": "x", "backbone": "y"})
    assert given.log == ()
    with logs.opened(given.log, tmp_path, Entry(ANSWER, 0.0, 0.0, {})) as found:
        assert found == ()
    assert not tree(tmp_path)


# ------------------------------------------------------------------------------------------------ what is refused


def test_a_library_that_nobody_knows_is_refused_with_those_that_are(tmp_path: Path) -> None:
    words = ("find", tmp_path / "absent", *small(tmp_path), "--out", tmp_path / "run")
    refused(tell(*words, "--log", "tensorbord"), "'tensorbord'", "tensorboard, mlflow", "did you mean 'tensorboard'")
    refused(tell(*words, "--log", "mlflow", "--log", "mlflow"), "'mlflow'", "once")
    assert sorted(LOGS) == sorted(logs.LOGS)


@pytest.mark.parametrize("name", LOGS)
def test_a_library_that_is_not_installed_is_told_before_the_data_are_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in {name, *(each for each in sys.modules if each.startswith(f"{name}."))}:
        monkeypatch.setitem(sys.modules, module, None)
    said = tell("find", tmp_path / "absent", *small(tmp_path), "--out", tmp_path / "run", "--log", name)
    refused(said, f"log is '{name}'", f"pip install 'frostline[{name}]'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "place"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow.db")])
def test_a_log_that_cannot_be_written_is_named_with_the_way_on(name: str, place: str, tmp_path: Path) -> None:
    (tmp_path / place).write_bytes(b"something else" * 1000)
    entry = Entry(ANSWER, 0.0, 0.0, {})
    with pytest.raises(StoreError, match=rf"{place}.* cannot be written: .*--resume"):  # noqa: SIM117
        with logs.opened([name], tmp_path, entry) as found:
            found[0].write(entry)


def test_a_verb_that_trains_nothing_has_no_use_for_a_log() -> None:
    given = settings({"data": "x", "backbone": "y", "log": ["mlflow"]})
    assert given.log == ("mlflow",)
    assert [verb for verb in UNREAD if "log" in unread(verb, given)] == ["probe"]
