"""What a recipe is where the user says nothing: from the size of the data."""

from __future__ import annotations

import math

from frostline.search.scores import BALANCED
from frostline.settings import Settings
from frostline.tasks.table import TASKS
from frostline.values import Recipe

RATE = 1e-3  # the middle of the grids of AdamW for new layers
FULL = 18  # epochs of the full schedule at 500 training examples or fewer
FEWEST = 6


def recipe(settings: Settings, examples: int, head: str = "linear") -> Recipe:
    """The recipe for so many training examples: more data, fewer epochs and larger batches.

    A task may have its own for a kind of head, with a least number of steps. Where classes count alike in the metric
    that is asked for, they do in what is learned.
    """
    epochs = settings.epochs or max(FEWEST, round(FULL * min(1.0, (500 / examples) ** 0.5)))
    batch = settings.batch_size or (16 if examples <= 500 else 32 if examples <= 4000 else 64)
    task = TASKS[settings.task]
    own = task.recipes.get(head)
    if own is not None:
        batch = min(settings.batch_size or own[1], examples)
        least = math.ceil(task.steps / math.ceil(examples / own[1]))
        return Recipe(epochs=settings.epochs or max(own[0], least), lr=own[2], batch=batch)
    return Recipe(epochs=epochs, lr=RATE, batch=min(batch, examples), balance=weighs_alike(settings))


def weighs_alike(settings: Settings) -> bool:
    """Whether classes count alike in what is judged by: then they weigh alike in the loss and in probes."""
    return settings.task == "classification" and settings.metric in BALANCED
