"""Contracts of whole runs: the summary, the model that is handed back, and the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
from safetensors import safe_open
from sklearn.metrics import f1_score
from world import CLASSES, Said, picture, small

import frostline
from frostline import journey, workers
from frostline import study as studies
from frostline.bench import again
from frostline.bench.again import Job
from frostline.bench.bench import Bench, Source
from frostline.bench.curve import probe_cuts
from frostline.bench.lay import lay
from frostline.data.read import read
from frostline.errors import OptionError, RunError
from frostline.plan import with_epochs
from frostline.run import comparisons, course, entrants, terms
from frostline.search.race import Race, training_of_the_choice
from frostline.settings import settings
from frostline.values import Outcome, Recipe, Unit

Run = tuple[Path, Said]
NUMBER = (int, float)
PLAN = {
    "keep": int, "freeze": int, "above": str, "train": list, "thaw": list, "head": dict, "statistics": str,
    "recipe": dict, "blend": NUMBER, "adapter": (dict, type(None)),
}  # fmt: skip
INTERVAL = {"mean": NUMBER, "low": NUMBER, "high": NUMBER}
ARM = {"id": str, "plan": PLAN, "stage": str, "score": INTERVAL, "seconds": NUMBER, "peak_bytes": int}
# summary.json, field by field
CONTRACT = {
    "format": str,
    "task": str,
    "metric": str,
    "backbone": str,
    "data": {"train": int, "validation": int, "certification": int, "classes": list, "skipped": list},
    "decision": {
        "plan": {**PLAN, "layers": list}, "arm": str, "epsilon": NUMBER, "confidence": NUMBER, "certified": bool,
        "plausible": list, "proven": list, "better": list, "expected_regret": NUMBER, "reason": str,
    },
    "score": {"metric": str, "value": NUMBER, "low": NUMBER, "high": NUMBER, "n": int, "kind": str},
    "arms": list,
    "baselines": dict,
    "cost": dict.fromkeys(
        ("total_seconds", "fill_seconds", "probe_seconds", "race_seconds", "final_seconds", "baseline_seconds",
         "peak_bytes", "exhaustive_seconds", "full_finetune_seconds"),
        NUMBER,
    ),
    "checks": {
        "cached_vs_live": (*NUMBER, type(None)), "frozen_unchanged": bool, "augmentation_gap": (*NUMBER, type(None)),
        "forecast_error": (*NUMBER, type(None)),
    },
    "verdicts": list,
}  # fmt: skip


@pytest.fixture(params=["finished", "held_out"])
def run(request: pytest.FixtureRequest) -> Path:
    """Each of the session's runs."""
    return request.getfixturevalue(request.param)[0]


def holds(found: Any, contract: Any, path: str = "summary") -> None:
    """Every field is there with its type; more fields are welcome."""
    if isinstance(contract, dict):
        assert isinstance(found, dict), path
        for name, inner in contract.items():
            assert name in found, f"{path}.{name} is missing"
            holds(found[name], inner, f"{path}.{name}")
        return
    assert isinstance(found, contract), f"{path} is {found!r}"
    assert contract is bool or not isinstance(found, bool), f"{path} is {found!r}"


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_summary_has_every_field_of_the_contract(run: Path) -> None:
    summary = summary_of(run)
    holds(summary, CONTRACT)
    assert summary["format"] == "frostline.summary/1"
    assert summary["score"]["kind"] in ("held_out", "cross_validated")
    for arm in summary["arms"]:
        holds(arm, ARM, arm["id"])
        assert arm["stage"] in ("dropped@1", "dropped@2", "finalist", "probe")
    for name, arm in summary["baselines"].items():
        holds(arm, {**ARM, "certified": INTERVAL}, name)
    for verdict in summary["verdicts"]:
        holds(verdict, {"kind": str, "holds": bool, "evidence": str, "advice": str})
    assert summary["baselines"].keys() >= {"scratch", "linear_probe", "full_finetune"}
    assert {"train", "layers"} <= summary["decision"]["plan"].keys()


def test_every_number_of_the_summary_is_one_that_json_knows(run: Path) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads((run / "summary.json").read_text(), parse_constant=no_constant)


def test_counts_of_the_data_add_up(finished: Run, held_out: Run) -> None:
    counts = summary_of(finished[0])["data"]
    assert counts["train"] + counts["validation"] == 120
    assert counts["certification"] == 0
    parted = summary_of(held_out[0])["data"]
    assert parted["train"] + parted["validation"] == 90
    assert parted["certification"] == 36
    assert counts["classes"] == parted["classes"] == list(CLASSES)


def test_score_is_called_what_it_is(finished: Run, held_out: Run) -> None:
    assert summary_of(finished[0])["score"]["kind"] == "cross_validated"
    score = summary_of(held_out[0])["score"]
    assert (score["kind"], score["n"], score["metric"]) == ("held_out", 36, "macro_f1")


def test_the_decision_names_arms_that_raced_and_intervals_hold_their_means(run: Path) -> None:
    summary = summary_of(run)
    decision, arms = summary["decision"], {arm["id"]: arm for arm in summary["arms"]}
    assert {decision["arm"], *decision["plausible"], *decision["proven"]} <= arms.keys()
    assert arms[decision["arm"]]["stage"] == "finalist"
    assert decision["certified"] == (decision["arm"] in decision["proven"])
    for arm in (*arms.values(), *summary["baselines"].values()):
        assert arm["score"]["low"] <= arm["score"]["mean"] <= arm["score"]["high"], arm["id"]
    assert summary["score"]["low"] <= summary["score"]["value"] <= summary["score"]["high"]


def test_the_parts_of_the_cost_are_within_the_whole(run: Path) -> None:
    cost = summary_of(run)["cost"]
    parts = [cost[f"{part}_seconds"] for part in ("fill", "probe", "race", "final", "baseline")]
    assert all(part >= 0 for part in parts)
    assert sum(parts) <= cost["total_seconds"]
    assert cost["exhaustive_seconds"] > 0


def test_checks_say_that_cached_training_is_live_training(finished: Run, held_out: Run) -> None:
    first, second = (summary_of(folder)["checks"] for folder, _ in (finished, held_out))
    assert first["frozen_unchanged"] is second["frozen_unchanged"] is True
    assert 0 <= first["cached_vs_live"] < 1e-4
    assert second["cached_vs_live"] is None  # nothing was stored


def test_a_forecast_is_held_against_what_the_trainings_took(run: Path) -> None:
    assert summary_of(run)["checks"]["forecast_error"] >= 0


def test_a_gap_is_told_where_a_trained_choice_was_augmented(held_out: Run) -> None:
    summary = summary_of(held_out[0])
    exact = summary["decision"]["arm"].startswith("linear_probe")
    assert (summary["checks"]["augmentation_gap"] is None) == exact


def test_the_model_is_safetensors_with_its_plan_and_preprocessing(run: Path) -> None:
    summary, plan = summary_of(run), json.loads((run / "model" / "plan.json").read_text())
    assert plan == summary["decision"]["plan"]
    card = json.loads((run / "model" / "model.json").read_text())
    assert card["classes"] == summary["data"]["classes"]
    assert card["preprocessing"]["size"] == ([12, 12] if run.parent.name == "held_out" else [8, 8])
    kept = plan["layers"][: plan["keep"]] if plan["above"] == "drop" else plan["layers"]
    with safe_open(run / "model" / "model.safetensors", framework="np") as file:
        body = {name for name in file.keys() if not name.startswith("frostline_head.")}  # noqa: SIM118
    assert body == {member for layer in kept for member in layer["members"]}


def test_nothing_is_left_of_the_models_that_were_not_chosen(run: Path) -> None:
    assert not (run / "finalists").exists()
    assert len(list(run.rglob("*.safetensors"))) == 1


def predictions(run: Path, files: list[Path]) -> np.ndarray:
    """Probabilities, files x classes."""
    rows = list(journey.load(run).predict(files))
    assert [row["input"] for row in rows] == [str(file) for file in files]
    return np.asarray([[row["scores"][name] for name in CLASSES] for row in rows])


def test_the_model_predicts_what_the_validation_saw(finished: Run, place: Path) -> None:
    run, summary = finished[0], summary_of(finished[0])
    examples = read(str(place / "data"))
    ours = predictions(run, [place / "data" / name for name in examples.ids])
    kept: list[bool] = []
    for file in (run / "outcomes").glob(f"{summary['decision']['arm']}-*-f0-*.npz"):
        with np.load(file) as outcome:
            theirs = np.exp(outcome["log_probabilities"])
            kept.append(bool(np.allclose(ours[outcome["rows"]], theirs, atol=2e-5)))
    assert any(kept)


def test_the_held_out_score_is_that_of_the_very_model_that_is_handed_back(held_out: Run, place: Path) -> None:
    run = held_out[0]
    files = sorted((place / "parted" / "test").rglob("*.png"))
    guessed = predictions(run, files).argmax(axis=1)
    truth = [CLASSES.index(file.parent.name) for file in files]
    assert f1_score(truth, guessed, average="macro") == pytest.approx(summary_of(run)["score"]["value"], abs=1e-9)


def test_report_writes_the_page_anew_and_the_page_asks_nobody(finished: Run, tmp_path: Path) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    page = run / "report.html"
    before = page.read_text()
    page.unlink()
    frostline.journey.report(run)
    assert page.read_text() == before
    assert 'src="http' not in before
    assert 'href="http' not in before


def test_config_holds_everything_resolved(held_out: Run) -> None:
    config = json.loads((held_out[0] / "config.json").read_text())
    wanted = {"metric": "macro_f1", "prefer": "inference", "augment": "flip", "storage": 0, "image_size": 12, "seed": 3}
    assert {name: config[name] for name in wanted} == wanted


def test_config_says_what_was_left_open(finished: Run) -> None:
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["image_size"] is None
    found = config["resolved"]
    assert found["preprocessing"]["size"] == [8, 8]
    assert (found["epochs"], found["batch_size"], found["device"]) == (2, 16, "cpu")
    assert (found["precision"], found["threads"], found["workers"]) == ("fp32", 1, 1)
    assert str(found["weights"]).endswith("known.safetensors")


def test_nothing_is_stored_where_no_bytes_are_allowed(held_out: Run) -> None:
    assert not list((held_out[0] / "activations").rglob("*whole*"))


def arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return np.stack([picture(CLASSES[label], rng) for label in labels]), labels


def test_units_come_out_the_same_whatever_the_workers(finished: Run) -> None:
    """Of the rungs of a finished run, with two processes that find the store warm."""
    config = json.loads((finished[0] / "config.json").read_text())
    del config["resolved"]
    resolved = settings({**config, "resume": True, "workers": 2})
    with course.begun(resolved) as run:
        kept = {outcome.unit: outcome for outcome in studies.outcomes(run.study)}
        bench = lay(resolved, Source(), folder=run.folder, calibration=course.recalled(run.study, "calibration"))
        recipe = entrants.base_recipe(bench)
        chosen = [(arm, unit) for arm in entrants.proposed(bench, probe_cuts(bench))
                  for unit in kept if unit.arm == arm.id and unit.rung == 1][::9]  # fmt: skip
        full = [(replace(arm, plan=with_epochs(arm.plan, recipe.epochs)), unit) for arm, unit in chosen]
        jobs = [again.Job(arm, unit, keep=False) for arm, unit in full]
        assert len(jobs) >= 3 and run.hands is not None
        run.hands.rouse(again.laid, again.blueprints(bench))
        for job, (outcome,) in run.hands.run(again.done, jobs):
            unit = job.unit
            assert (outcome.rows == kept[unit].rows).all()
            assert np.allclose(outcome.log_probabilities, kept[unit].log_probabilities, atol=1e-5)


def test_arrays_and_a_module_are_searched_like_files_and_refit_on_everything(tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(compile(Path(small(tmp_path)[1].partition(":")[0]).read_text(), "small", "exec"), scope)
    module = scope["Small"]()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    options: Mapping[str, Any] = {"effort": "quick", "epochs": 1, "threads": 1, "precision": "fp32", "refit_all": True}
    found = frostline.find(arrays(60), module, out=str(tmp_path / "run"), **options)
    holds(found.summary, {**CONTRACT, "baselines": {"linear_probe": ARM, "full_finetune": ARM}})
    assert all((tensor == before[name]).all() for name, tensor in module.state_dict().items())
    assert not module.stem[0]._forward_hooks
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert card["trained_on"] == "all examples"
    assert found.plan == journey.load(tmp_path / "run").plan
    with pytest.raises(RunError, match="give the same one"):
        list(found.predict([tmp_path / "x.png"]))
    with pytest.raises(OptionError, match="workers"):
        frostline.find(arrays(60), module, out=str(tmp_path / "other"), workers=2)


def test_what_is_over_before_other_processes_have_started_is_not_shared_unless_asked(tmp_path: Path) -> None:
    bench = replace(stage.bench(tmp_path, epochs=6), workers=2)
    asked = replace(bench, settings=replace(bench.settings, workers=2))
    for seconds in (0.9 * terms.PAYS, 1.1 * terms.PAYS):
        assert terms.wall_seconds(asked, seconds) == pytest.approx(seconds / 2)
        assert terms.wall_seconds(replace(bench, workers=1), seconds) == seconds
    assert terms.wall_seconds(bench, 0.9 * terms.PAYS) == 0.9 * terms.PAYS
    assert terms.wall_seconds(bench, 1.1 * terms.PAYS) == pytest.approx(0.55 * terms.PAYS)
    assert terms.worth_sharing(bench, 1.1 * terms.PAYS) and not terms.worth_sharing(bench, 0.9 * terms.PAYS)
    way = replace(bench.calibration.way, slower=1.5)
    crowded = replace(bench, calibration=replace(bench.calibration, way=way))
    assert terms.wall_seconds(crowded, 1.1 * terms.PAYS) == pytest.approx(1.5 * 0.55 * terms.PAYS)


def test_a_budget_is_kept_and_used_whatever_is_shared(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, epochs=6)
    layers = {"forward": (1e-4,) * 4, "backward": (2e-4,) * 4, "carry": (1e-4,) * 4, "decode": 0.0}
    bench = replace(bench, calibration=replace(bench.calibration, **layers))
    arms = entrants.proposed(bench, probe_cuts(bench))
    plain = terms.serial_seconds(bench, arms, terms.planned(bench))
    assert plain < terms.PAYS  # so that a large budget crosses the line from which work is shared
    for count, budget in product((1, 2, 8), (8.0, 20.0, 300.0, 3000.0)):
        given = replace(bench, workers=count, settings=replace(bench.settings, budget=budget, epochs=None))
        takes = terms.forecast_seconds(given, arms, terms.afforded(given, arms))
        assert takes <= budget
        assert takes > 0.5 * budget or budget < plain


class Hands(workers.Crew):
    """Processes that are asked and do nothing."""

    asked: tuple[str, ...] = ()

    def rouse(self, prepare: Any, given: Any) -> None:
        self.asked += ("rouse",)

    def run(self, work: Any, jobs: Any) -> Any:
        self.asked += ("run",)
        return iter(())


def test_other_processes_start_early_where_much_is_ahead_and_not_for_what_is_soon_over(tmp_path: Path) -> None:
    bench = replace(stage.bench(tmp_path, epochs=6), workers=2)
    layers = {"forward": (1e-6,) * 4, "backward": (1e-6,) * 4, "carry": (1e-6,) * 4, "decode": 0.0}
    bench = replace(bench, calibration=replace(bench.calibration, **layers))
    arm = stage.arm(bench, "freeze@2", recipe=Recipe(2, 1e-3, batch=8), freeze=2)
    jobs = [Job(arm, Unit(arm.id, 1e-3, 1, fold, 0, 2), keep=False) for fold in (0, 1)]
    study = studies.open_study(tmp_path, resume=False)
    run = course.Run(tmp_path, bench.settings, study, 0.0, Hands(2))
    assert len(list(course.trained(bench, jobs, run))) == 2
    assert isinstance(run.hands, Hands) and run.hands.asked == ()
    assert not list(course.trained(bench, jobs, replace(run, ahead=2 * terms.PAYS)))
    assert run.hands.asked == ("rouse", "run")
    much = replace(bench, forecast=replace(bench.forecast, seconds=2 * terms.PAYS))
    course.roused(much, run)  # something is there already: it is resumed
    assert run.hands.asked == ("rouse", "run")
    (tmp_path / "new").mkdir()
    new = replace(run, study=studies.open_study(tmp_path / "new", resume=False), hands=Hands(2))
    course.roused(replace(bench, forecast=replace(bench.forecast, seconds=0.5 * terms.PAYS)), new)
    assert isinstance(new.hands, Hands) and new.hands.asked == ()
    course.roused(much, new)
    assert new.hands.asked == ("rouse",)


class Beside(workers.Crew):
    """Two processes that are this one: what is begun beside comes back before the next job that is waited for."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(2)
        self.bench = bench
        self.begun: list[Job] = []
        self.done: list[Unit] = []

    @property
    def free(self) -> bool:
        return not self.begun

    @property
    def engaged(self) -> bool:
        return bool(self.begun)

    def rouse(self, prepare: Any, given: Any) -> None:
        pass

    def begin(self, work: Any, job: Any) -> None:
        self.begun.append(job)

    def run(self, work: Any, jobs: Any) -> Any:
        self.begun = [job for job in self.begun if job not in jobs]
        for job in jobs:
            aside, self.begun = self.begun, []
            for each in (*aside, job):
                self.done.append(each.unit)
                yield each, work(self.bench, each)


def test_what_is_compared_with_is_trained_beside_the_race_and_comes_out_as_after_it(tmp_path: Path) -> None:
    def raced(folder: Path, beside: bool) -> tuple[dict[Unit, Outcome], course.Run, Race, Bench]:
        folder.mkdir()
        bench = replace(stage.bench(folder, effort="quick"), workers=2 if beside else 1)
        study = studies.open_study(folder, resume=False)
        hands = Beside(bench) if beside else None
        run = course.Run(folder, bench.settings, study, 0.0, hands, ahead=2 * terms.PAYS)
        with course.single_blas():
            start = course.entered(bench, {"": probe_cuts(bench)}, run)
            few = [arm for arm in start.arms if arm.protected or arm.baseline == "linear_probe"]
            race = course.race(bench, replace(start, arms=tuple(few)), run, beside=partial(comparisons.wanted, bench))
        return course.told(run), run, race, bench

    told, run, race, bench = raced(tmp_path / "beside", beside=True)
    assert isinstance(run.hands, Beside)
    longest = max(unit.epochs for unit in told)
    scratch = [unit for unit in told if unit.arm == "scratch"]
    assert longest == 3 * race.schedule.epochs
    assert sum(unit.epochs == longest for unit in scratch) == len(terms.judged_folds(bench, race.schedule))
    assert len(scratch) > 3  # with the short ones that chose its rate
    left = comparisons.wanted(bench, race, told)
    assert not [job for job in left if job.arm.baseline == "scratch"]
    again = [unit for unit in (*told, *(job.unit for job in left)) if unit.arm == "scratch_equal"]
    assert {unit.epochs for unit in again} == {race.schedule.epochs}
    later, after, _, other = raced(tmp_path / "after", beside=False)
    assert not [unit for unit in later if unit.arm == "scratch"]
    while jobs := comparisons.wanted(other, race, later):
        later = dict(later) | {outcome.unit: outcome for outcome in course.trained(other, jobs, after)}
    told |= {outcome.unit: outcome for outcome in course.trained(bench, left, run)}
    assert len(set(run.hands.done)) == len(run.hands.done)
    assert told.keys() == later.keys()
    for unit, outcome in told.items():
        assert np.array_equal(outcome.log_probabilities, later[unit].log_probabilities), unit.key


def test_a_choice_that_people_know_is_its_own_baseline_and_is_trained_once(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, effort="quick", augment="flip", epochs=6)
    run = course.Run(tmp_path, bench.settings, studies.open_study(tmp_path, resume=False), 0.0, None)
    with course.single_blas():
        start = course.entered(bench, {"": probe_cuts(bench)}, run)
        few = [arm for arm in start.arms if arm.protected or arm.baseline == "linear_probe"]
        race = course.race(bench, replace(start, arms=tuple(few)), run)
        finalists = course.certified(bench, race, run)
        picked = next(finalist for finalist in finalists if finalist.arm.id == "full_finetune")
        (unit,) = training_of_the_choice(race, "full_finetune")
        chosen = course.trained_in_full(bench, race, picked, unit, run)
        known = {each.name: each for each in comparisons.baselines(bench, race, finalists, chosen, run)}
        assert known["full_finetune"].validation == chosen.validation
        assert not known["full_finetune"].apart
        assert {"scratch", "linear_probe"} <= known.keys()
        full = [told for told in course.told(run) if told.arm == "full_finetune" and told.epochs == unit.epochs]
        assert sum(told.rung in (0, unit.rung) for told in full) == 1
        checks = comparisons.checks(bench, race, chosen.arm, (unit, unit), run)
    aside = next(told for told in course.told(run) if told == replace(unit, rung=0))
    assert checks["augmentation_gap"] == pytest.approx(
        accuracy(bench, chosen.validation[0]) - accuracy(bench, course.told(run)[aside])
    )


def accuracy(bench: Bench, outcome: Outcome) -> float:
    return float((outcome.log_probabilities.argmax(axis=1) == bench.examples.targets[outcome.rows]).mean())


def test_no_number_of_workers_makes_trainings_faster_that_wait_for_each_other(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, epochs=60)
    arms, of = entrants.proposed(bench, probe_cuts(bench)), terms.planned(bench)
    scratch = terms.cost_of(bench, entrants.scratch_of(bench, of.epochs).plan).training
    few, many = (terms.forecast_seconds(replace(bench, workers=count), arms, of) for count in (2, 1000))
    assert terms.serial_seconds(bench, arms, of) / 2 == pytest.approx(few)
    assert scratch < many < few


def test_a_forecast_grows_with_the_epochs_and_with_augmentation_and_is_shared_by_workers(tmp_path: Path) -> None:
    def seconds(bench: Bench) -> float:
        return terms.forecast_seconds(bench, entrants.proposed(bench, probe_cuts(bench)), terms.planned(bench))

    few, many = (stage.bench(tmp_path / str(epochs), epochs=epochs) for epochs in (6, 60))
    assert 8 * seconds(few) < seconds(many) < 12 * seconds(few)
    assert seconds(few) > terms.PAYS
    assert seconds(replace(few, workers=2)) == pytest.approx(seconds(few) / 2)
    assert seconds(replace(few, settings=replace(few.settings, augment="flip"))) > seconds(few)
