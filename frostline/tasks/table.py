"""The tasks that Frostline learns, by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from frostline.tasks import classification, detection, multilabel, regression, segmentation
from frostline.tasks.task import Task

TASKS: Mapping[str, Task] = {
    "classification": Task(
        "classification", classification.loss, classification.log_probabilities, torch.exp, classification.drawn
    ),
    "multilabel": Task("multilabel", multilabel.loss, multilabel.predictions, multilabel.readable, multilabel.drawn),
    "detection": detection.DETECTION,
    "segmentation": segmentation.SEGMENTATION,
    "regression": Task("regression", regression.loss, regression.predictions, lambda found: found, regression.drawn),
}
