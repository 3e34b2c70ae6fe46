"""Laws of what is kept: whole or not at all, and found again after any end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from frostline.errors import RunError, StoreError
from frostline.search.scores import score
from frostline.study import Study, close_study, kept, note, noted, open_study, outcomes, record
from frostline.values import Epoch, Outcome, Unit

ROOT = Path(__file__).parent.parent
TARGETS = np.arange(40) % 3


def outcome(seed: int = 0, arm: str = "freeze@3") -> Outcome:
    rng = np.random.default_rng(seed)
    table = np.log(rng.dirichlet(np.ones(3), size=20)).astype(np.float32)
    epochs = (Epoch(0, 1.5, None, 0.25), Epoch(1, float("nan"), 0.5, 0.25, diverged=True, gradient=2.0, learning=7))
    return Outcome(Unit(arm, 1e-3 / 3, 1, 0, seed, 2), rng.permutation(40)[:20], table, 0.5, 1234, epochs, False, 16)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = open_study(tmp_path / "run", resume=False)
    yield opened
    close_study(opened)


def same(a: Outcome, b: Outcome) -> bool:
    arrays = np.array_equal(a.rows, b.rows) and np.array_equal(a.log_probabilities, b.log_probabilities)
    bare = [replace(o, rows=np.empty(0), log_probabilities=np.empty(0)) for o in (a, b)]
    return arrays and a.log_probabilities.dtype == b.log_probabilities.dtype and repr(bare[0]) == repr(bare[1])


def again(study: Study) -> tuple[Outcome, ...]:
    """What a later process finds."""
    opened = open_study(study.folder, resume=True)
    try:
        return outcomes(opened)
    finally:
        close_study(opened)


def test_what_is_recorded_comes_back_bit_for_bit_in_the_order_of_units(study: Study) -> None:
    told = [outcome(seed) for seed in (2, 0, 1)]
    for o in told:
        record(study, o, TARGETS)
    assert [o.unit.seed for o in again(study)] == [0, 1, 2]
    assert all(same(a, b) for a, b in zip(again(study), sorted(told, key=lambda o: o.unit), strict=True))


def test_a_trial_tells_its_unit_and_its_mean_log_loss(study: Study) -> None:
    o = outcome()
    record(study, o, TARGETS)
    (trial,) = study.trials.trials
    assert trial.value == pytest.approx(score("log_loss", o.log_probabilities, TARGETS[o.rows]))
    assert (trial.user_attrs["arm"], trial.user_attrs["rate"], trial.user_attrs["key"]) == (
        "freeze@3",
        1e-3 / 3,
        o.unit.key,
    )
    assert trial.params == {}


def test_optuna_itself_opens_the_database_of_a_run_as_its_dashboard_does(study: Study) -> None:
    told = [outcome(seed) for seed in (0, 1)]
    for o in told:
        record(study, o, TARGETS, {"keep": 5, "freeze": 3, "score": 0.5})
    storage = f"sqlite:///{study.folder / 'study.db'}"
    (name,) = optuna.get_all_study_names(storage)
    found = optuna.load_study(study_name=name, storage=storage)
    assert found.best_value == min(score("log_loss", o.log_probabilities, TARGETS[o.rows]) for o in told)
    table = found.trials_dataframe(("number", "value", "state", "user_attrs"))
    assert set(table["state"]) == {"COMPLETE"}
    assert list(table["user_attrs_key"]) == [o.unit.key for o in told]
    assert {"arm", "rate", "seconds", "keep", "freeze", "score"} <= {n.removeprefix("user_attrs_") for n in table}


def test_a_study_that_is_there_is_refused_without_resume(study: Study) -> None:
    record(study, outcome(), TARGETS)
    with pytest.raises(RunError, match="--resume"):
        open_study(study.folder, resume=False)
    assert len(again(study)) == 1


def test_resuming_what_does_not_exist_begins_it(tmp_path: Path) -> None:
    opened = open_study(tmp_path / "deep" / "run", resume=True)
    assert outcomes(opened) == ()
    close_study(opened)


@pytest.mark.parametrize("damage", ["missing", "truncated", "another", "empty"])
def test_a_unit_whose_file_is_damaged_runs_again(study: Study, damage: str) -> None:
    for seed in (0, 1):
        record(study, outcome(seed), TARGETS)
    path = study.folder / "outcomes" / f"{outcome(0).unit.key}.npz"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = (study.folder / "outcomes" / f"{outcome(1).unit.key}.npz").read_bytes()
        path.write_bytes({"truncated": content[:-9], "another": other, "empty": b""}[damage])
    assert [o.unit.seed for o in again(study)] == [1]
    record(study, outcome(0), TARGETS)
    assert [o.unit.seed for o in again(study)] == [0, 1]


def test_a_file_without_a_trial_is_a_unit_that_was_not_finished(study: Study, tmp_path: Path) -> None:
    other = open_study(tmp_path / "other", resume=False)
    record(other, outcome(), TARGETS)
    close_study(other)
    (path,) = (tmp_path / "other" / "outcomes").iterdir()
    (study.folder / "outcomes" / path.name).write_bytes(path.read_bytes())
    assert again(study) == ()


def test_what_is_told_of_a_unit_is_kept_beside_it(study: Study) -> None:
    told = record(study, outcome(), TARGETS, {"score": 0.5, "arm": "another"})
    (found,) = kept(study)
    assert same(found.outcome, told.outcome)
    assert (found.loss, found.when, found.attributes) == (told.loss, told.when, told.attributes)
    assert (found.attributes["score"], found.attributes["arm"]) == (0.5, "freeze@3")  # a unit's own stay


def test_recording_again_takes_the_place_of_the_earlier(study: Study) -> None:
    record(study, outcome(), TARGETS)
    later = replace(outcome(), seconds=9.0)
    record(study, later, TARGETS)
    (found,) = again(study)
    assert same(found, later)


def test_names_with_odd_characters_stay_in_the_folder_and_apart(study: Study) -> None:
    for arm in ("../../evil", "..\\..\\evil", "frost/line", "frost_line", "Ünïcode", "x" * 400):
        record(study, outcome(arm=arm), TARGETS)
    assert len(again(study)) == 6
    assert len(list((study.folder / "outcomes").iterdir())) == 6
    assert {p.name for p in study.folder.parent.iterdir()} == {"run"}


def test_notes_are_kept_and_the_later_one_holds(study: Study) -> None:
    assert noted(study, "split") is None
    note(study, "split", {"folds": [[1, 2], [3]], "how": "stratified é"})
    note(study, "calibration", [1.5, 2.5])
    note(study, "split", {"folds": [[1], [2, 3]], "how": "stratified é", "many": list(range(50_000))})
    opened = open_study(study.folder, resume=True)
    assert noted(opened, "split")["folds"] == [[1], [2, 3]]
    assert len(noted(opened, "split")["many"]) == 50_000
    assert noted(opened, "calibration") == [1.5, 2.5]
    close_study(opened)


def test_what_is_no_study_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(RunError, match=r"study\.db"):
        open_study(tmp_path, resume=True)


def test_where_nothing_can_be_written_the_file_is_named_and_nothing_half_written_stays(study: Study) -> None:
    """A limit on the size of files stands in for the full disk: the write fails halfway in the same place."""
    record(study, outcome(0), TARGETS)
    big = replace(outcome(1), rows=np.arange(40_000), log_probabilities=np.random.default_rng(0).random((40_000, 3)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"outcomes.*--resume"):
            record(study, big, np.zeros(40_000, np.int64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(list((study.folder / "outcomes").iterdir())) == 1
    assert [o.unit.seed for o in again(study)] == [0]


LOOP = """
import sys
from pathlib import Path
from frostline.study import open_study, outcomes, record
from tests.test_study import TARGETS, outcome
study = open_study(Path(sys.argv[1]), resume=True)
done = {o.unit.seed for o in outcomes(study)}
for seed in range(10_000):
    if seed not in done:
        record(study, outcome(seed), TARGETS)
        print(seed, flush=True)
"""


def test_a_kill_at_any_moment_loses_at_most_the_unit_that_was_running(tmp_path: Path) -> None:
    finished: list[int] = []
    for turn in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        finished += [int(child.stdout.readline()) for _ in range(3)]
        time.sleep(0.003 * turn)  # somewhere else in the loop each time; the law holds wherever it strikes
        child.kill()
        finished += [int(line) for line in child.stdout.read().splitlines()]
        child.stdout.close()
        child.wait()
        opened = open_study(tmp_path, resume=True)
        found = [o.unit.seed for o in outcomes(opened)]
        close_study(opened)
        assert set(finished) <= set(found)
        assert len(found) - len(finished) <= turn + 1  # recorded, and killed before it could say so
        assert len(finished) == len(set(finished))
        for path in (tmp_path / "outcomes").glob("*.npz"):
            with np.load(path, allow_pickle=False) as file:
                assert file["log_probabilities"].shape == (20, 3)


def test_the_study_and_the_search_load_no_torch() -> None:
    code = (
        "import sys, frostline.study, frostline.search.race, frostline.search.standing; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
