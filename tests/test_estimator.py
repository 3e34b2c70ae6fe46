"""The contract of scikit-learn: parameters, clones, cross-validation, pipelines, and what is not fitted yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from world import once

import frostline
from frostline.errors import DataError, OptionError

OPTIONS = {"weights": "none", "effort": "quick", "epochs": 1, "batch_size": 16}
OPTIONS |= {"device": "cpu", "threads": 1, "precision": "fp32"}
BACKBONE = f"{stage.__file__}:small"


def classifier(**given: Any) -> frostline.FrostlineClassifier:
    return frostline.FrostlineClassifier(BACKBONE, options=OPTIONS, **given)


def data(count: int) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Pictures whose labels are texts that do not sort as they first come."""
    pixels, targets = stage.pictures(count)
    brighter = pixels.copy()
    brighter[np.arange(count), :, :, targets] += 60
    return brighter, np.array(["rose", "aster", "lily"])[targets]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> frostline.FrostlineClassifier:
    return once(tmp_path_factory, "estimator", lambda folder: classifier(out=folder / "run").fit(*data(90)))


def test_it_predicts_labels_as_they_were_given_with_the_probabilities_of_the_run(
    fitted: frostline.FrostlineClassifier,
) -> None:
    pictures, labels = data(30)
    assert fitted.classes_.tolist() == ["aster", "lily", "rose"]
    found = fitted.predict_proba(pictures)
    assert found.shape == (30, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (fitted.predict(pictures) == fitted.classes_[found.argmax(axis=1)]).all()
    assert fitted.score(pictures, labels) > 0.9
    result = frostline.load(Path(str(fitted.out)) / "0")
    rows = list(result.predict([_saved(Path(str(fitted.out)).parent, pictures[0])]))
    assert [rows[0]["scores"][name] for name in fitted.classes_] == pytest.approx(found[0].tolist(), abs=1e-5)
    assert fitted.plan_ == result.plan
    assert fitted.summary_["decision"]["arm"]


def _saved(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    from PIL import Image

    Image.fromarray(pixels).save(folder / "one.png")
    return folder / "one.png"


def test_parameters_are_told_set_and_cloned_and_fitting_changes_none(fitted: frostline.FrostlineClassifier) -> None:
    assert set(fitted.get_params()) == {"backbone", "options", "out"}
    other = clone(fitted).set_params(backbone="timm/resnet18", out=None)
    assert (other.backbone, other.options, other.out) == ("timm/resnet18", OPTIONS, None)
    assert fitted.backbone == BACKBONE
    with pytest.raises(NotFittedError):
        other.predict(data(3)[0])


def test_it_drops_into_a_pipeline_and_into_cross_validation_each_fit_a_run_of_its_own(
    fitted: frostline.FrostlineClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pixels, targets = stage.pictures(60)
    brighter = pixels.copy()
    brighter[np.arange(60), :, :, targets] += 60
    steps = make_pipeline(FunctionTransformer(np.ascontiguousarray), clone(fitted))
    one = list(StratifiedKFold(2).split(brighter, targets))[:1]
    scores = cross_val_score(steps, brighter, targets * 5, cv=one, error_score="raise")
    assert scores.shape == (1,)
    assert (scores > 0.6).all()  # numbers come back as numbers
    assert sorted(place.name for place in Path(str(fitted.out)).iterdir()) == ["0", "1"]
    assert list(tmp_path.glob("frostline-*")) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"options": {"resume": True}}, "options have 'resume', which each fit decides"),
        ({"options": {"out": "x"}}, "options have 'out'"),
        ({"backbone": ["timm/resnet18", "timm/resnet34"]}, "a classifier has one"),
    ],
)
def test_what_a_fit_decides_itself_is_refused(given: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        frostline.FrostlineClassifier(**{"backbone": BACKBONE, **given}).fit(*data(6))


def test_what_is_no_picture_is_refused_with_its_shape() -> None:
    with pytest.raises(DataError, match=r"pictures have the shape \(4, 7\)"):
        classifier().fit(np.zeros((4, 7)), [0, 1, 0, 1])
