"""The tasks that Frostline learns, by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from frostline.tasks import classification, multilabel, regression
from frostline.tasks.task import Task

TASKS: Mapping[str, Task] = {
    "classification": Task(
        "classification", classification.loss, classification.log_probabilities, torch.exp, classification.drawn
    ),
    "multilabel": Task("multilabel", multilabel.loss, multilabel.predictions, multilabel.readable, multilabel.drawn),
    "regression": Task("regression", regression.loss, regression.predictions, lambda found: found, regression.drawn),
}
