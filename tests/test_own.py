"""Contracts of metrics of the user's own: what they get, and what is said where they cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import CLASSES, Said, refused, small, tell

from frostline.errors import OptionError
from frostline.search.decide import Aim, decide
from frostline.search.own import Own, metric_of
from frostline.search.scores import resamples, score, weighted
from frostline.search.standing import estimate
from frostline.values import Examples, Outcome, Unit
from tests.planted import World, arms, ended

BUSINESS = """
import numpy as np


def hit_rate(targets, predictions):
    return np.mean(predictions.argmax(axis=1) == targets)


def weighted_hits(targets, predictions, weights):
    return np.average(predictions.argmax(axis=1) == targets, weights=weights)


def takings(targets, predictions, weights, values):
    right = predictions.argmax(axis=1) == targets
    return np.average(np.where(right, values, -1.0), weights=weights)


def takings_by_rows(targets, predictions, values):
    return np.mean(np.where(predictions.argmax(axis=1) == targets, values, -1.0))


def nothing(targets, predictions):
    return float("nan")


def failing(targets, predictions):
    return unknown


def one_class_alone(targets, predictions, weights):
    return np.average(predictions[targets == 1, 1], weights=weights[targets == 1])


def by_default(targets, predictions, values=None):
    return float(len(targets))


def confident(targets, predictions):
    assert np.isfinite(predictions).all()
    return predictions.max(axis=1).mean()
"""
N = 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "business.py"
    written.write_text(BUSINESS)
    return written


def examples(values: bool = False) -> Examples:
    targets = np.arange(N) % 3
    return Examples(
        ids=tuple(f"row-{row}" for row in range(N)),
        inputs=np.zeros((N, 8, 8), np.uint8),
        targets=targets,
        classes=CLASSES,
        parts=("",) * N,
        groups=None,
        values=np.random.default_rng(0).uniform(0, 9, N) if values else None,
    )


def outcome(rows: np.ndarray) -> Outcome:
    logits = np.random.default_rng(1).normal(size=(len(rows), 3))
    table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Outcome(Unit("a", 1e-3, 1, 0, 0, 1), rows, table.astype(np.float32), 1.0, 0)


def test_an_own_metric_with_and_without_weights_is_the_known_one_and_so_are_its_intervals(file: Path) -> None:
    here, counts = examples(), resamples(np.random.default_rng(2), 40, 20)
    said = outcome(np.arange(40))
    found: list[tuple[float, float, float]] = []
    for name in ("accuracy", f"{file}:hit_rate", f"{file}:weighted_hits"):
        metric = metric_of(name, here)
        values = weighted(metric, said.log_probabilities, here.targets[:40], counts, said.rows)
        assert values == pytest.approx(weighted("accuracy", said.log_probabilities, here.targets[:40], counts))
        twice = [said, replace(said, unit=replace(said.unit, seed=1))]  # Wilson's interval is for a single training
        at = estimate(twice, here.targets, Aim(metric=metric))
        found.append((at.mean, at.low, at.high))
    assert found[1] == pytest.approx(found[2])
    known, own = found[0], found[1]  # the known one's is never narrower than Wilson's
    assert known[0] == pytest.approx(own[0]) and known == pytest.approx(own, abs=0.01)
    assert known[1] <= own[1] + 1e-9 and known[2] >= own[2] - 1e-9


def test_what_the_data_say_of_an_example_reaches_the_metric_with_that_example(file: Path) -> None:
    here = examples(values=True)
    rows = np.array([7, 3, 50, 21])
    said = outcome(rows)
    assert here.values is not None
    right = said.log_probabilities.argmax(axis=1) == here.targets[rows]
    expected = np.where(right, here.values[rows], -1.0)
    for name in ("takings", "takings_by_rows"):
        metric = metric_of(f"{file}:{name}", here)
        found = score(metric, said.log_probabilities, here.targets[rows], rows)
        assert found == pytest.approx(expected.mean())
        counts = np.array([[2.0, 0.0, 1.0, 1.0]])
        found = weighted(metric, said.log_probabilities, here.targets[rows], counts, rows)[0]
        assert found == pytest.approx(expected[[0, 0, 2, 3]].mean())


@pytest.mark.parametrize(
    ("name", "values", "parts"),
    [
        ("absent", False, ("no function 'absent'", "hit_rate", "takings")),
        ("takings", False, ("--values",)),
        ("hit_rate", True, ("no parameter of that name",)),
        ("nothing", False, ("nan", "finite")),
        ("failing", False, ("line 27", "failing", "NameError", "mend it there")),
        ("one_class_alone", False, ("one_class_alone", "of 1 classes", "ZeroDivisionError", "nan")),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_before_anything_is_trained(
    name: str, values: bool, parts: tuple[str, ...], file: Path
) -> None:
    with pytest.raises(OptionError) as refusal:
        metric_of(f"{file}:{name}", examples(values))
    for part in parts:
        assert part in str(refusal.value)


def test_a_metric_in_a_file_that_is_not_there_names_those_beside_it(file: Path) -> None:
    with pytest.raises(OptionError, match=r"does not exist.*business\.py"):
        metric_of(f"{file.with_name('busines.py')}:hit_rate", examples())


def test_a_training_that_diverged_is_judged_as_one_that_knows_nothing(file: Path) -> None:
    said, here = outcome(np.arange(40)), examples()
    broken = replace(said, log_probabilities=np.full((40, 3), np.nan, np.float32))
    metric = metric_of(f"{file}:confident", here)
    assert score(metric, broken.log_probabilities, here.targets[:40], broken.rows) == pytest.approx(1 / 3)


def test_values_that_have_a_default_need_not_be_there(file: Path) -> None:
    for values in (False, True):
        metric = metric_of(f"{file}:by_default", examples(values))
        assert score(metric, outcome(np.arange(40)).log_probabilities, np.zeros(40, int), np.arange(40)) == 40


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_unit_of_a_metric_changes_nothing_but_its_numbers(scale: float, tmp_path: Path) -> None:
    file = tmp_path / "scaled.py"
    file.write_text(f"def hits(t, p):\n    return {scale!r} * (p.argmax(axis=1) == t).mean()\n")
    two = arms(2, rates=1)
    here = World({"freeze@0": 0.83, "freeze@1": 0.8}, 1500, 0)
    data = replace(examples(), targets=here.targets(), ids=("",) * 1500, inputs=np.zeros((1500, 1, 1), np.uint8))
    found = {}
    for name, by in (("accuracy", 1.0), (f"{file}:hits", scale)):
        aim = Aim(metric=metric_of(name, data), epsilon=0.02 * by)
        decision = decide(ended(here, two), here.targets(), aim)
        assert decision.certifiable is not None
        found[name] = decision.arm, decision.plausible, decision.proven, decision.certifiable / by
    (plain, own) = found.values()
    assert own[:3] == plain[:3]
    assert own[3] == pytest.approx(plain[3], rel=0.05)


def test_known_metrics_stay_names() -> None:
    assert metric_of("macro_f1", examples()) == "macro_f1"
    assert not isinstance(metric_of("accuracy", examples()), Own)


def takings_of(arm: str, out: Path, data: Path) -> float:
    """What the function says of an arm's last predictions, from the files of the run and of the data alone."""
    worth = [float(line.split(",")[2]) for line in data.read_text().splitlines()[1:]]
    labels = [CLASSES.index(line.split(",")[1]) for line in data.read_text().splitlines()[1:]]
    kept = [load(file) for file in sorted(out.glob(f"outcomes/{arm}-*.npz"))]
    last = max(facts["unit"]["rung"] for facts, _, _ in kept)
    scores: list[float] = []
    for facts, rows, table in kept:
        if facts["unit"]["rung"] == last:
            right = table.argmax(axis=1) == np.array(labels)[rows]
            scores.append(float(np.where(right, np.array(worth)[rows], -1.0).mean()))
    return float(np.mean(scores))


def load(file: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    with np.load(file) as found:
        return json.loads(found["facts"].tobytes()), found["rows"], found["log_probabilities"]


def table(place: Path, file: Path) -> Path:
    """The world's pictures as a table: what each is worth stands beside it."""
    rng = np.random.default_rng(0)
    lines = ["path,label,worth"]
    for label in CLASSES:
        pictures = sorted((place / "data" / label).iterdir())
        lines += [f"{picture},{label},{rng.uniform(1, 9):.2f}" for picture in pictures]
    file.write_text("\n".join(lines))
    return file


def test_a_search_with_pictures_that_vary_reports_what_an_own_metric_says_of_its_predictions(
    place: Path, file: Path, tmp_path: Path
) -> None:
    data, out = table(place, tmp_path / "data.csv"), tmp_path / "run"
    words = ("find", data, *small(place), "--epochs", 1, "--effort", "quick", "--augment", "flip")
    metric = ("--metric", f"{file}:takings", "--values", "worth", "--epsilon", 2)
    said: Said = tell(*words, *metric, "--out", out, "--json")
    assert said.code == 0, said.err
    found = said.document
    at = found["score"]
    assert at["metric"] == f"{file}:takings" == found["metric"]
    assert at["low"] <= at["value"] <= at["high"]
    probe = next(arm for arm in found["arms"] if arm["id"].startswith("linear_probe"))
    assert probe["score"]["mean"] == pytest.approx(takings_of(probe["id"], out, data), rel=1e-4)
    assert set(found["metrics"]) >= {"accuracy", "roc_auc", "ece"}
    page = (out / "report.html").read_text()
    assert "takings" in page
    assert json.loads((out / "summary.json").read_text()) == found
    alone = ("--metric", f"{file}:takings", "--epsilon", 2, "--out", tmp_path / "other")
    refused(tell(*words, *alone), "--values", "takings")
    unsized = ("--metric", f"{file}:takings", "--values", "worth", "--out", tmp_path / "other")
    refused(tell(*words, *unsized), "--epsilon", "its own units")
    refused(tell("find", place / "data", *small(place), "--values", "worth"), "values is 'worth'", "--metric FILE.py")
