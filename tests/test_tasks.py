"""Labels, numbers, boxes, masks: what is learned, judged and told of them is what others and closed forms say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import stage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from sklearn import metrics
from sklearn.linear_model import Ridge
from world import ONE, once, refused, tell

import frostline
from frostline.bench.lay import refuse_to_vary
from frostline.data.intake import inputs_of, intake
from frostline.data.read import read
from frostline.data.split import split
from frostline.errors import DataError, LabelError, OptionError
from frostline.evidence import probes
from frostline.evidence.depths import probe_curve
from frostline.formats.model import open_model, unlabelled
from frostline.search import scores
from frostline.settings import settings as resolved
from frostline.tasks import heads
from frostline.tasks.table import TASKS
from frostline.values import Fold, Head, asked

STAGE = Path(__file__).with_name("stage.py")
COLOURS = ("blue", "green", "red")


def yes_or_no(rng: np.random.Generator, rows: int, labels: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return rng.normal(size=(rows, labels)).astype(np.float32), (rng.random((rows, labels)) < 0.4).astype(np.int64)


# ------------------------------------------------------------------------------------------------ metrics


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(8, 40), labels=st.integers(2, 5))
def test_metrics_of_labels_are_those_of_scikit_learn(seed: int, rows: int, labels: int) -> None:
    logits, truth = yes_or_no(np.random.default_rng(seed), rows, labels)
    truth[0], truth[1] = 1, 0  # every label is there and is not
    said, p = (logits > 0).astype(int), 1 / (1 + np.exp(-logits.astype(float)))
    expected = {
        "average_precision": metrics.average_precision_score(truth, p, average="macro"),
        "macro_f1": metrics.f1_score(truth, said, average="macro", zero_division=0),
        "micro_f1": metrics.f1_score(truth, said, average="micro", zero_division=0),
        "exact_match": metrics.accuracy_score(truth, said),
        "log_loss": np.mean([metrics.log_loss(truth[:, n], p[:, n], labels=[0, 1]) for n in range(labels)]),
    }
    for name, value in expected.items():
        assert scores.score(name, logits, truth) == pytest.approx(value, abs=1e-5), name


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(5, 40), columns=st.integers(1, 3))
def test_metrics_of_numbers_are_those_of_scikit_learn(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(50, 10, (rows, columns))
    said = (truth + rng.normal(0, 5, truth.shape)).astype(np.float32)
    wide = said.astype(np.float64)
    expected = {
        "r2": metrics.r2_score(truth, wide),
        "mae": metrics.mean_absolute_error(truth, wide),
        "rmse": metrics.root_mean_squared_error(truth, wide),
        "pearson": np.mean([np.corrcoef(truth[:, n], wide[:, n])[0, 1] for n in range(columns)]),
    }
    for name, value in expected.items():
        assert scores.score(name, said, truth) == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("question", ["multilabel", "regression", "detection", "segmentation"])
def test_an_example_that_counts_twice_counts_as_if_it_stood_twice(question: str) -> None:
    rng = np.random.default_rng(3)
    found, truth = predictions_of(question, rng, 12)
    counts = rng.integers(1, 4, 12)
    twice = np.repeat(np.arange(12), counts)
    for name in scores.METRICS[asked(truth)]:
        weighted = scores.weighted(name, found, truth, counts[None].astype(float))[0]
        assert weighted == pytest.approx(scores.score(name, found[twice], truth[twice]), abs=1e-6), name


def predictions_of(question: str, rng: np.random.Generator, rows: int) -> tuple[NDArray[Any], Any]:
    if question == "multilabel":
        return yes_or_no(rng, rows, 3)
    if question == "segmentation":
        truth = rng.integers(0, 4, (rows, 5, 6)).astype(np.uint8)
        return np.where(rng.random(truth.shape) < 0.7, truth, 1).astype(np.int16), truth
    if question == "regression":
        truth = rng.normal(size=(rows, 2))
        return (truth + rng.normal(size=truth.shape)).astype(np.float32), truth
    low = rng.random((rows, 4, 2)).astype(np.float32) * 0.5
    truth = np.concatenate([low, low + 0.3, rng.integers(0, 2, (rows, 4, 1))], axis=2).astype(np.float32)
    found = np.full((rows, 100, 6), np.nan, np.float32)
    found[:, :4, :4] = truth[..., :4] + rng.normal(0, 0.04, (rows, 4, 4))
    found[:, :4, 4], found[:, :4, 5] = rng.random((rows, 4)), truth[..., 4]
    return found, truth


@pytest.mark.parametrize("question", ["multilabel", "regression", "detection"])
def test_better_predictions_have_lower_losses_and_what_is_no_number_the_highest(question: str) -> None:
    rng = np.random.default_rng(0)
    found, truth = predictions_of(question, rng, 30)
    perfect = {
        "multilabel": lambda: np.where(truth > 0, 9.0, -9.0).astype(np.float32),
        "regression": lambda: truth.astype(np.float32),
        "detection": lambda: np.concatenate(
            [truth[..., :4], np.ones((30, 4, 1)), truth[..., 4:]], axis=2, dtype=np.float32
        ),
    }[question]()
    broken = np.full_like(found, np.nan)
    best, middle, worst = (scores.losses(each, truth).mean() for each in (perfect, found, broken))
    assert best < middle < worst or (question == "multilabel" and best < middle)
    assert np.isfinite(worst)


# ------------------------------------------------------------------------------------------------ probes and heads


def test_left_out_scores_of_numbers_are_those_of_fits_without_the_row() -> None:
    rng = np.random.default_rng(1)
    features, truth = rng.normal(size=(25, 6)), rng.normal(size=(25, 2))
    truth[:, 0] += 2 * features[:, 0]
    basis = probes.basis_of(features)
    found = probes.least_squares(basis, truth, lambdas=(0.1,))
    x = (features - features.mean(0)) / features.std(0)
    for row in (0, 7, 24):
        rest = np.delete(np.arange(25), row)
        fit = Ridge(alpha=2.5).fit(x[rest], truth[rest])
        # shifted to the mean of all rows: what the row's own number does to it is no news
        shift = (truth[row] - truth.mean(0)) / 24
        np.testing.assert_allclose(found.scores[row], fit.predict(x[[row]])[0] + shift, atol=1e-8)
    whole = Ridge(alpha=2.5).fit(x, truth).predict(x)
    np.testing.assert_allclose(probes.outputs(found.linear, features), whole, atol=1e-8)


def test_a_head_of_numbers_learns_alike_in_any_units() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 5), torch.randn(40, 1)
    ends = list[torch.Tensor]()
    for unit in (1.0, 1000.0):
        centre, spread = (unit * y).mean(0), (unit * y).std(0)
        head = heads.Scaled(heads.made(Head(), 5, 1, seed=0), centre, spread)
        learner = torch.optim.AdamW(head.parameters(), lr=1e-2)
        for _ in range(20):
            learner.zero_grad()
            TASKS["regression"].loss(head(x), unit * y, weights=1 / spread).backward()
            learner.step()
        ends.append(head(x).detach() / unit)
        again = heads.rebuilt(head.state_dict())
        torch.testing.assert_close(again(x), head(x))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


def test_labels_that_are_always_or_never_there_get_their_odds() -> None:
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(30, 4)), np.zeros((30, 3), np.int64)
    truth[:, 0], truth[:, 1] = 1, features[:, 0] > 0
    linear = probes.first_head(features, truth, 3)
    said = probes.outputs(linear, features)
    assert (said[:, 0] > 2).all()
    assert (said[:, 2] < -2).all()
    assert np.mean((said[:, 1] > 0) == truth[:, 1]) > 0.9


def test_the_loss_of_labels_is_torchs_and_smoothing_moves_towards_a_half() -> None:
    outputs, truth = torch.randn(6, 4), torch.randint(0, 2, (6, 4))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(outputs, truth.float())
    torch.testing.assert_close(TASKS["multilabel"].loss(outputs, truth), plain)
    smooth = torch.nn.functional.binary_cross_entropy_with_logits(outputs, truth * 0.8 + 0.1)
    torch.testing.assert_close(TASKS["multilabel"].loss(outputs, truth, smoothing=0.2), smooth)


# ------------------------------------------------------------------------------------------------ data


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def coloured(folder: Path, count: int = 60) -> Path:
    """Pictures of 8 x 8 with some colours in them, and how red they are."""
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    for number in range(count):
        on = rng.random(3) < 0.5
        pixels = rng.integers(0, 100, (8, 8, 3))
        pixels[:, :, on[::-1]] += 60  # blue is the last channel
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        flags = {name: int(there) for name, there in zip(COLOURS, on, strict=True)}
        said = "|".join(name for name, there in flags.items() if there)
        rows.append({"path": f"{number}.png", "label": said, "redness": 1000 + float(pixels[:, :, 0].mean()), **flags})
    return table(folder, rows)


def test_labels_are_read_from_lists_from_names_and_from_columns(tmp_path: Path) -> None:
    file = coloured(tmp_path, 20)
    named = read(file, question="multilabel", label="label")
    columns = read(file, question="multilabel", label="blue,green,red")
    assert named.classes == columns.classes == COLOURS
    np.testing.assert_array_equal(named.targets, columns.targets)
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    frame["label"] = frame["label"].map(lambda cell: cell.split("|") if cell else [])
    frame["path"] = frame["path"].map(lambda name: str(tmp_path / name))
    np.testing.assert_array_equal(read(frame, question="multilabel", label="label").targets, named.targets)
    pixels = np.zeros((20, 4, 4), np.uint8)
    given = read((pixels, named.targets), question="multilabel")
    np.testing.assert_array_equal(given.targets, named.targets)


def test_numbers_are_read_from_one_column_or_several(tmp_path: Path) -> None:
    file = coloured(tmp_path, 20)
    found = read(file, question="regression", label="redness,red")
    assert found.classes == ("redness", "red")
    assert asked(found.targets) == "regression"
    assert found.targets.shape == (20, 2)


@pytest.mark.parametrize(
    ("rows", "question", "label", "error", "parts"),
    [
        ([{"path": "0.png", "label": "a"}] * 12, "multilabel", "label", LabelError, "1 different labels"),
        ([{"path": "0.png", "label": "much"}] * 12, "regression", "label", DataError, "no finite numbers"),
        ([{"path": "0.png", "label": "3"}] * 12, "regression", "label", LabelError, "the same number everywhere"),
        ([{"path": "0.png", "a": "1", "b": "7"}] * 12, "multilabel", "a,b", LabelError, "more than 0 and 1"),
        (
            [{"path": "0.png", "label": "1"}, {"path": "0.png", "label": "2"}],
            "regression",
            "label",
            LabelError,
            "at least",
        ),
        ([{"path": "0.png", "label": "1"}] * 12, "regression", "label,other", DataError, "no column 'other'"),
    ],
)
def test_what_cannot_be_learned_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], question: Any, label: str, error: type[Exception], parts: str
) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(error, match=parts):
        read(table(tmp_path, rows), question=question, label=label)


def test_folders_of_classes_hold_no_labels_or_numbers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="folder of classes, and the task is regression"):
        read(tmp_path, question="regression")


def test_splits_deal_out_labels_and_numbers_evenly(tmp_path: Path) -> None:
    file = coloured(tmp_path, 60)
    labels, numbers = (read(file, question=q, label=c) for q, c in (("multilabel", "label"), ("regression", "redness")))
    for fold in split(labels, seed=0, folds=3, least=10**6).folds:
        share = labels.targets[fold.validation].mean(0)
        assert np.abs(share - labels.targets.mean(0)).max() < 0.15
    for fold in split(numbers, seed=0, folds=3, least=10**6).folds:
        assert abs(numbers.targets[fold.validation].mean() - numbers.targets.mean()) < 0.3 * numbers.targets.std()


# ------------------------------------------------------------------------------------------------ settings


def test_each_task_has_metrics_of_its_own() -> None:
    assert resolved({"data": "d", "backbone": "b"}).metric == "accuracy"
    assert resolved({"data": "d", "backbone": "b", "task": "regression"}).metric == "r2"
    with pytest.raises(OptionError, match="metric is 'accuracy'; allowed are r2, rmse, mae, pearson"):
        resolved({"data": "d", "backbone": "b", "task": "regression", "metric": "accuracy"})
    with pytest.raises(OptionError, match="epsilon is not given with the metric mae"):
        resolved({"data": "d", "backbone": "b", "task": "regression", "metric": "mae"})
    assert (
        resolved({"data": "d", "backbone": "b", "task": "regression", "metric": "mae", "epsilon": 2.5}).epsilon == 2.5
    )
    with pytest.raises(OptionError, match="judges class ids"):
        resolved({"data": "d", "backbone": "b", "task": "multilabel", "metric": "my.py:f", "epsilon": 0.1})


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick search for labels and one for numbers."""

    def make(folder: Path) -> Path:
        file = coloured(folder, 80)
        for task, label in (("multilabel", "label"), ("regression", "redness")):
            words = (
                "find",
                file,
                "--backbone",
                f"{STAGE}:small",
                "--weights",
                "none",
                "--task",
                task,
                "--label",
                label,
            )
            said = tell(*words, "--effort", "quick", "--epochs", 1, "--out", folder / task, "--workers", 1, *ONE)
            assert said.code == 0, said.err
        return folder

    return once(tmp_path_factory, "tasks", make)


@pytest.mark.parametrize(("task", "metric"), [("multilabel", "average_precision"), ("regression", "r2")])
def test_a_search_for_labels_or_numbers_answers_in_their_metric(runs: Path, task: str, metric: str) -> None:
    result = frostline.load(runs / task)
    assert result.summary["task"] == task
    assert result.summary["score"]["metric"] == metric
    assert result.summary["checks"]["cached_vs_live"] < 1e-4
    assert {"linear_probe", "full_finetune", "scratch"} <= result.summary["baselines"].keys()
    assert all(point["metric"] == metric for point in result.summary["curve"])
    page = (runs / task / "report.html").read_text()
    assert {"average_precision": "average precision", "r2": "R²"}[metric] in page
    assert "Confusion matrix" not in page


def test_a_saved_run_predicts_labels_and_numbers_as_its_outcomes_say(runs: Path) -> None:
    files = [runs / f"{number}.png" for number in range(6)]
    for row in frostline.load(runs / "multilabel").predict(files):
        assert row["labels"] == [name for name, p in row["scores"].items() if p > 0.5]
        assert set(row["scores"]) == set(COLOURS)
    said = tell("predict", runs / "regression", *files)
    assert said.code == 0, said.err
    numbers = [float(line.split()[-1]) for line in said.out.splitlines()]
    told = [row["values"]["redness"] for row in frostline.load(runs / "regression").predict(files)]
    assert numbers == pytest.approx(told, rel=1e-3)
    assert all(1000 < value < 1200 for value in told)  # in the units of the data


@pytest.fixture(scope="module")
def tuned(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for each of the two, whole."""

    def make(folder: Path) -> Path:
        options = {"weights": "none", "device": "cpu", "epochs": 1, "threads": 1, "precision": "fp32"}
        for task, label in (("multilabel", "label"), ("regression", "redness")):
            told = {**options, "task": task, "label": label, "out": str(folder / task)}
            frostline.train(str(runs / "data.csv"), f"{STAGE}:small", "full_finetune", **told)
        return folder

    return once(tmp_path_factory, "tuned", make)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
@pytest.mark.parametrize("to", ["onnx", "torch_export", "safetensors"])
def test_labels_and_numbers_leave_as_what_they_are(tuned: Path, runs: Path, task: str, to: str, tmp_path: Path) -> None:
    found = frostline.export(tuned / task, to, out=tmp_path / "there")
    assert found.off < 1e-4
    model, files = open_model(tuned / task), [runs / f"{number}.png" for number in range(4)]
    pixels = inputs_of(intake(model.backbone, unlabelled(files)), np.arange(4), torch.device("cpu"))[model.anatomy.data]
    ours = [list(row[{"multilabel": "scores", "regression": "values"}[task]].values()) for row in
            frostline.load(tuned / task).predict(files)]  # fmt: skip
    if to == "onnx":
        session = onnxruntime.InferenceSession(str(found.folder / "model.onnx"))
        assert [output.name for output in session.get_outputs()] == [
            {"multilabel": "probabilities", "regression": "values"}[task]
        ]
        said = session.run(None, {"pixels": pixels.numpy()})[0]
    elif to == "torch_export":
        said = torch.export.load(found.folder / "model.pt2").module()(pixels).detach().numpy()
    else:
        network = stage.Small().eval()
        network.head = torch.nn.Linear(stage.WIDTH, len(model.classes))
        network.load_state_dict(load_file(found.folder / "model.safetensors"))
        with torch.inference_mode():
            said = network(pixels).numpy()
        said = 1 / (1 + np.exp(-said)) if task == "multilabel" else said  # in the units of the data
    np.testing.assert_allclose(said, ours, rtol=1e-4, atol=1e-4)
    told = (found.folder / "README.md").read_text()
    assert {"multilabel": "tuned to 3 labels", "regression": "tuned to 1 number\n"}[task] in told


def test_a_scaled_linear_head_is_folded_to_the_layer_that_says_the_same() -> None:
    inner, spread = torch.nn.Linear(5, 2), torch.tensor([3.0, 0.1])
    scaled, rows = heads.Scaled(inner, torch.tensor([10.0, -4.0]), spread), torch.randn(7, 5)
    torch.testing.assert_close(heads.folded(scaled)(rows), scaled(rows))
    assert heads.folded(inner) is inner
    hidden = heads.Scaled(heads.made(Head("mlp"), 5, 2, seed=0), torch.zeros(2), spread)
    assert heads.folded(hidden) is hidden


def test_no_boxes_are_drawn_of_numbers(runs: Path) -> None:
    refused(tell("predict", runs / "regression", runs / "0.png", "--draw", runs / "x"), "finds no boxes")


def test_probes_see_the_training_rows_alone() -> None:
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(40, 1))
    fold = Fold(np.arange(30), np.arange(30, 40))
    cut = [frostline.values.Cut(1, "a")]
    (first,) = probe_curve(cut, {1: features}, truth, fold, seed=0)
    changed, other = features.copy(), truth.copy()
    changed[35:], other[35:] = 9, 9
    (second,) = probe_curve(cut, {1: changed}, other, fold, seed=0)
    assert first.score == second.score
    assert first.metric == "r2"
    assert first.permuted is not None and first.permuted < 0.2


@pytest.mark.parametrize(
    ("task", "kind"), [("classification", "texts"), ("detection", "pictures"), ("segmentation", "pictures")]
)
def test_examples_that_cannot_vary_are_not_told_to(task: str, kind: Any) -> None:
    wanted = resolved({"data": "d", "backbone": "b", "augment": "flip", "task": task})
    with pytest.raises(OptionError, match=f"augment is 'flip', and {kind} do not vary yet with the task {task}"):
        refuse_to_vary(wanted, kind)
    refuse_to_vary(resolved({"data": "d", "backbone": "b", "augment": "flip"}), "pictures")
