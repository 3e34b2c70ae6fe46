"""Small, lopsided, crowded and mislabelled data: an answer with honest width, or a refusal that says why."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline.data.read import read
from frostline.data.split import split
from tests.world import CLASSES, Said, draw, picture, refused, small, tell


def searched(folder: Path, data: Path, *more: object) -> Said:
    return tell(
        "find", data, *small(folder), "--epochs", "2", "--effort", "quick", "--out", folder / "run", "--json", *more
    )


def found(said: Said) -> Any:
    assert said.code == 0, said.err
    return said.document


def test_five_pictures_a_class_certify_nothing_and_say_so(tmp_path: Path) -> None:
    summary = found(searched(tmp_path, draw(tmp_path / "data", 5)))
    assert summary["data"]["certification"] == 0
    assert (summary["score"]["kind"], summary["score"]["n"]) == ("cross_validated", 15)
    assert summary["score"]["high"] - summary["score"]["low"] > 0.25
    assert not summary["decision"]["certified"]
    assert "Not certified" in summary["decision"]["reason"]
    assert "negative_transfer" not in {verdict["kind"] for verdict in summary["verdicts"] if verdict["holds"]}


def test_three_of_a_class_beside_a_hundred_stand_on_both_sides_and_weigh_as_much(tmp_path: Path) -> None:
    data, rng = draw(tmp_path / "data", 50), np.random.default_rng(7)
    shutil.rmtree(data / "ring")
    (data / "ring").mkdir()
    for number in range(3):
        Image.fromarray(picture("ring", rng)).save(data / "ring" / f"{number}.png")
    parted = split(read(data), seed=0, folds=5)
    rare = set(np.flatnonzero(read(data).targets == list(CLASSES).index("ring")).tolist())
    assert len(parted.folds) > 1
    for fold in parted.folds:
        assert rare & set(fold.train.tolist()) and rare & set(fold.validation.tolist())
    summary = found(searched(tmp_path, data, "--metric", "balanced_accuracy"))
    assert summary["data"]["classes"] == list(CLASSES)
    assert summary["decision"]["plan"]["recipe"]["balance"]
    # three examples say little: were all of them right, the third of the score that they are could still be half of it
    assert summary["score"]["high"] - summary["score"]["low"] > 0.15


def test_more_than_a_hundred_classes_are_searched(tmp_path: Path) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "data"
    for label in range(110):
        pattern = rng.integers(0, 255, (4, 4)).repeat(4, axis=0).repeat(4, axis=1)
        (data / f"{label:03d}").mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(pattern + rng.normal(0, 20, (16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(data / f"{label:03d}" / f"{number}.png")
    summary = found(searched(tmp_path, data))
    assert len(summary["data"]["classes"]) == 110
    assert summary["score"]["low"] > 0.05  # chance is 0.009
    assert "roc_auc" not in summary["metrics"]  # of so many classes it would take minutes


def test_labels_that_mean_nothing_are_seen_through(tmp_path: Path) -> None:
    data, rng = draw(tmp_path / "data", 40), np.random.default_rng(0)
    files = sorted(data.rglob("*.png"))
    contents = [file.read_bytes() for file in files]
    for file, at in zip(files, rng.permutation(len(files)), strict=True):
        file.write_bytes(contents[at])
    summary = found(searched(tmp_path, data))
    assert summary["score"]["low"] < 0.4 < summary["score"]["high"] + 0.1
    assert "irrelevant_source" in {verdict["kind"] for verdict in summary["verdicts"] if verdict["holds"]}


def test_a_class_of_one_picture_is_refused_with_the_remedy(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 5)
    for file in sorted((data / "ring").glob("*.png"))[1:]:
        file.unlink()
    refused(searched(tmp_path, data), "'ring' has 1", "at least two", "add pictures or remove the class")
