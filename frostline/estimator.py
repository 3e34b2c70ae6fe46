"""Frostline as a scikit-learn classifier, for cross-validation and pipelines."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from frostline import journey
from frostline.data.cells import text_of
from frostline.data.pictures import pixels_of
from frostline.errors import OptionError
from frostline.formats import model as models


class FrostlineClassifier(ClassifierMixin, BaseEstimator):
    """`fit` is a whole `frostline.find` on pictures and labels; what it hands back predicts, on the CPU.

    `backbone` is a name or a torch.nn.Module; `options` are those of `settings.Settings`: {"effort": "quick"}.
    Pictures are an array (n, height, width) or (n, height, width, channels) of 0..255, or fractions of 0..1; labels
    are all numbers or all texts. With `out` every fit leaves its run, report included, in a new folder `out/0`,
    `out/1`, ..; without, the model alone is kept, in memory.

    Fitted, it has `classes_`, `plan_` (what became of every layer), `summary_` (what summary.json holds) and `model_`.
    """

    def __init__(
        self,
        backbone: Any = "timm/mobilenetv3_small_100",
        *,
        options: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.options = options
        self.out = out

    def fit(self, X: ArrayLike, y: ArrayLike) -> FrostlineClassifier:
        """Search, and keep the trained model. Raises the errors of errors.py."""
        self._refuse()
        pictures, labels = pixels_of(np.asarray(X)), np.asarray(y)
        self.classes_ = np.unique(labels)
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            place = Path(folder) / "run" if self.out is None else _next(Path(self.out))
            given: dict[str, Any] = {**(self.options or {}), "out": str(place)}
            result = journey.find((pictures, labels), self.backbone, **given)
            self.summary_ = result.summary
            self.plan_ = result.plan
            module = None if isinstance(self.backbone, str) else self.backbone
            self.model_ = models.open_model(place, module)
        return self

    def _refuse(self) -> None:
        """Raise OptionError for what a fit decides itself: another fit's run is never gone on with."""
        if isinstance(self.backbone, list | tuple):
            raise OptionError(
                f"backbone is {self.backbone!r}; a classifier has one: let several race with frostline.find"
            )
        for name in ("out", "resume"):
            if name in (self.options or {}):
                raise OptionError(
                    f"options have {name!r}, which each fit decides for itself; leave it away (the folder for all runs "
                    "is the argument `out`)"
                )

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n, classes), in the order of `classes_`."""
        check_is_fitted(self)
        found = np.concatenate([*models.probabilities(self.model_, list(pixels_of(np.asarray(X))))]).astype(np.float64)
        order = [self.model_.classes.index(text_of(label)) for label in self.classes_.tolist()]
        return found[:, order] / found.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest label of each picture."""
        found = self.predict_proba(X)
        return self.classes_[found.argmax(axis=1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.classifier_tags.poor_score = True  # on tables of noise, as its checks draw them
        return tags


def _next(folder: Path) -> Path:
    """The first of folder/0, folder/1, .. that is not there."""
    return next(place for number in count() if not (place := folder / str(number)).exists())
