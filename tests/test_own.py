"""Contracts of metrics of the user's own: what they get, and what is said where they cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from world import CLASSES, Said, refused, small, tell

from frostline.errors import OptionError
from frostline.search.decide import Aim
from frostline.search.own import Own, metric_of
from frostline.search.scores import resamples, score, weighted
from frostline.search.standing import estimate
from frostline.values import Examples, Outcome, Unit

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
    assert found[1] == pytest.approx(found[0])
    assert found[2] == pytest.approx(found[0])


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


def test_known_metrics_stay_names() -> None:
    assert metric_of("macro_f1", examples()) == "macro_f1"
    assert not isinstance(metric_of("accuracy", examples()), Own)


def table(place: Path, file: Path) -> Path:
    """The world's pictures as a table: what each is worth stands beside it."""
    rng = np.random.default_rng(0)
    lines = ["path,label,worth"]
    for label in CLASSES:
        pictures = sorted((place / "data" / label).iterdir())
        lines += [f"{picture},{label},{rng.uniform(1, 9):.2f}" for picture in pictures]
    file.write_text("\n".join(lines))
    return file


def test_a_search_by_an_own_metric_reports_what_that_function_says_of_its_predictions(
    place: Path, file: Path, tmp_path: Path
) -> None:
    data, out = table(place, tmp_path / "data.csv"), tmp_path / "run"
    words = ("find", data, *small(place), "--epochs", 1, "--effort", "quick", "--metric", f"{file}:takings")
    said: Said = tell(*words, "--values", "worth", "--epsilon", 2, "--out", out, "--json")
    assert said.code == 0, said.err
    found = said.document
    at = found["score"]
    assert at["metric"] == f"{file}:takings" == found["metric"]
    assert -1 <= at["low"] <= at["value"] <= at["high"] <= 9
    assert set(found["metrics"]) >= {"accuracy", "roc_auc", "ece"}
    page = (out / "report.html").read_text()
    assert "takings" in page
    assert json.loads((out / "summary.json").read_text()) == found
    refused(tell(*words, "--out", tmp_path / "other"), "--values", "takings")
    refused(tell("find", place / "data", *small(place), "--values", "worth"), "values is 'worth'", "--metric FILE.py")
