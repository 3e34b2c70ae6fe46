"""Examples from elsewhere: every strategy is scored on them, and nothing is decided by them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from frostline.data.read import read
from frostline.data.split import split
from frostline.errors import DataError, LabelError, OptionError
from frostline.report.facts import front
from tests.world import draw, once, refused, small, tell

DECIDING = ("decision", "score", "metrics", "verdicts", "notes")


def inverted(source: Path, target: Path) -> Path:
    """The pictures of a folder, dark where they were bright."""
    for file in source.rglob("*.png"):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(file)).save(place)
    return target


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A search with shifted examples, and the same one without."""
    return once(tmp_path_factory, "shifted", _searched)


def _searched(folder: Path) -> tuple[Path, Any, Any]:
    data, there = draw(folder / "data", 30), inverted(draw(folder / "other", 8, seed=5), folder / "there")
    for number in range(20):  # lopsided, and the other place the other way round: weights of classes are the data's own
        (data / "ring" / f"{number:03d}.png").unlink()
    for number in range(6):
        (there / "bar" / f"{number:03d}.png").unlink()
    words = ("find", data, *small(folder), "--epochs", 2, "--effort", "quick", "--metric", "balanced_accuracy")
    with_them = tell(*words, "--json", "--out", folder / "with", "--shifted", there)
    without = tell(*words, "--json", "--out", folder / "without")
    assert (with_them.code, without.code) == (0, 0), with_them.err + without.err
    return folder, with_them.document, without.document


def same(one: Any, other: Any) -> bool:
    """Equal but for the rounding of numbers: batches of other sizes are summed in another order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == pytest.approx(other, rel=1e-4, abs=1e-6)) if isinstance(one, float) else one == other


def test_what_is_decided_is_the_same_with_and_without_shifted_examples(run: tuple[Path, Any, Any]) -> None:
    _, there, plain = run
    for name in DECIDING:
        assert same(there[name], plain[name]), name
    for name in ("id", "stage", "score", "learning_rate"):
        assert same([arm[name] for arm in there["arms"]], [arm[name] for arm in plain["arms"]]), name


def test_every_strategy_and_every_cut_is_scored_on_them(run: tuple[Path, Any, Any]) -> None:
    _, there, plain = run
    assert (there["data"]["shifted"], plain["data"]["shifted"]) == (18, 0)
    assert there["data"]["train"] == plain["data"]["train"]
    for arm in (*there["arms"], *there["baselines"].values()):
        assert 0 <= arm["shifted"]["low"] <= arm["shifted"]["mean"] <= arm["shifted"]["high"] <= 1
    assert all(arm["shifted"] is None for arm in plain["arms"])
    assert all(point["shifted"] is not None and point["unshifted"] is not None for point in there["curve"])


def test_the_report_tells_of_them(run: tuple[Path, Any, Any]) -> None:
    folder, there, _ = run
    page = (folder / "with" / "report.html").read_text()
    assert "On the shifted examples" in page
    assert "On the 18 shifted examples, which decided nothing" in page
    assert "On the shifted examples" not in (folder / "without" / "report.html").read_text()
    assert "shifted" in tell("report", folder / "with").out
    assert there["decision"]["arm"] in page


def test_the_score_there_is_that_of_the_models_predictions(run: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, there = run[0], run[0] / "there"
    words = ("train", folder / "data", *small(folder), "--plan", folder / "with" / "model" / "plan.json")
    again = tell(*words, "--shifted", there, "--out", tmp_path / "again", "--json")
    assert again.code == 0, again.err
    files = sorted(there.rglob("*.png"))
    said = tell("predict", tmp_path / "again", *files, "--json")
    labels = [line.split('"label": "')[1].split('"')[0] for line in said.out.splitlines()]
    right = np.mean([label == file.parent.name for label, file in zip(labels, files, strict=True)])
    assert again.document["arms"][0]["shifted"]["mean"] == pytest.approx(right)


def test_no_shifted_row_is_learned_from_or_decides(tmp_path: Path) -> None:
    data, there = draw(tmp_path / "data", 60), draw(tmp_path / "there", 5, seed=1)
    examples = read(data, shifted=str(there))
    parted = split(examples, seed=0, least=10)
    assert [examples.ids[row].split("/")[0] for row in parted.shifted] == ["shifted"] * 15
    seen = {int(row) for fold in parted.folds for part in (fold.train, fold.validation) for row in part}
    assert not (seen | set(parted.certification.tolist())) & set(parted.shifted.tolist())
    alone = split(read(data), seed=0, least=10)
    assert np.array_equal(alone.certification, parted.certification)
    assert all(np.array_equal(one.train, other.train) for one, other in zip(alone.folds, parted.folds, strict=True))


def test_a_class_that_the_data_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    data, there = draw(tmp_path / "data", 5), draw(tmp_path / "there", 5)
    (there / "bar").rename(there / "wheel")
    with pytest.raises(LabelError, match=r"'wheel', which is no class of .*'bar', 'cross', 'ring'"):
        read(data, shifted=str(there))


def test_a_place_of_one_class_alone_is_looked_at_and_its_broken_files_are_its_own(tmp_path: Path) -> None:
    data, there = draw(tmp_path / "data", 5), draw(tmp_path / "there", 10)
    shutil.rmtree(there / "bar")
    shutil.rmtree(there / "cross")
    (there / "ring" / "000.png").write_bytes(b"broken")
    examples = read(data, shifted=str(there))
    assert [name for name, _ in examples.skipped] == ["shifted/ring/000.png"]
    assert (len(examples), examples.parts.count("shifted")) == (24, 9)
    for file in sorted((there / "ring").glob("*.png"))[1:5]:
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"5 of 10 pictures of .*there cannot be read"):
        read(data, shifted=str(there))


def test_columns_may_be_those_of_either_place(tmp_path: Path) -> None:
    data, there = draw(tmp_path / "data", 5), draw(tmp_path / "there", 3)
    rows = [{"file": str(file), "kind": file.parent.name} for file in sorted(there.rglob("*.png"))]
    table = tmp_path / "there.csv"
    table.write_text("file,kind\n" + "".join(f"{row['file']},{row['kind']}\n" for row in rows))
    examples = read(data, label="kind", path="file", shifted=str(table))
    assert examples.parts.count("shifted") == 9
    with pytest.raises(OptionError, match=r"'kind', but .* has no columns"):
        read(data, label="kind", shifted=str(there))


def test_arrays_and_a_place_that_is_not_there_are_refused(tmp_path: Path) -> None:
    there = draw(tmp_path / "there", 5)
    pictures, labels = np.zeros((6, 8, 8), np.uint8), np.array([0, 1, 2] * 2)
    with pytest.raises(DataError, match="cannot stand beside pictures in arrays"):
        read((pictures, labels), shifted=str(there))
    nowhere = tmp_path / "nowhere"
    refused(tell("find", draw(tmp_path / "data", 5), *small(tmp_path), "--shifted", nowhere), str(nowhere), "not exist")


def test_the_front_holds_what_no_other_betters_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (4.0, 0.9)]
    assert front(points, "accuracy") == ((1.0, 0.5), (2.0, 0.7), (3.0, 0.9))
    assert front(points, "log_loss") == ((1.0, 0.5), (2.0, 0.4))
