"""Frostline as a scikit-learn classifier, for cross-validation and pipelines."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from frostline import journey
from frostline.data.read import pixels_of
from frostline.formats import model as models


class FrostlineClassifier(ClassifierMixin, BaseEstimator):
    """`fit` is a whole `frostline.find` on pictures and labels; what it hands back predicts.

    `backbone` is a name or a torch.nn.Module; `options` are those of `settings.Settings`: {"effort": "quick"}.
    Pictures are an array (n, height, width) or (n, height, width, channels) of 0..255, or fractions of 0..1; labels may
    be of any kind. With `out` the run, its report included, is kept in that folder; without, the model alone is kept,
    in memory.

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
        pictures, labels = pixels_of(np.asarray(X)), np.asarray(y)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            place = Path(folder) / "run" if self.out is None else Path(self.out)
            given: dict[str, Any] = {**(self.options or {}), "out": str(place)}
            result = journey.find((pictures, codes), self.backbone, **given)
            self.summary_ = result.summary
            self.plan_ = result.plan
            module = None if isinstance(self.backbone, str) else self.backbone
            self.model_ = models.open_model(place, module)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n, classes), in the order of `classes_`."""
        check_is_fitted(self)
        found = np.concatenate([*models.probabilities(self.model_, list(pixels_of(np.asarray(X))))]).astype(np.float64)
        order = np.argsort([int(name) for name in self.model_.classes])  # they are called by the codes of their labels
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
