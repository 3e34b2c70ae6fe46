"""A plan in the Hugging Face Trainer.

follow = PlanCallback(plan, model, model.vit)  # the part whose parameters have the names in the plan
optimiser = torch.optim.AdamW(follow.groups())
Trainer(model, arguments, callbacks=[follow], optimizers=(optimiser, None), ...).train()
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from frostline.callbacks.follow import Follow
from frostline.values import Plan


class PlanCallback(TrainerCallback):
    """Freezes, unfreezes and keeps still as a plan says. The learning rates are those of `groups()`.

    The Trainer calls `train()` at every step, so the model itself is watched: whatever wraps it calls it in the end.
    """

    def __init__(self, plan: Plan, model: nn.Module, network: nn.Module | None = None) -> None:
        self._follow = Follow(plan, model, network)
        self._hook: Any = None

    def groups(self) -> list[dict[str, Any]]:
        """Static groups for `torch.optim.AdamW`, with their peak learning rates."""
        return self._follow.groups()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also of a training that is resumed."""
        self._begin(state)
        self._hook = self._follow.model.register_forward_pre_hook(self._still)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Of each epoch, or the rest of one."""
        self._begin(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The model is nobody's any more."""
        self._hook.remove()

    def _begin(self, state: TrainerState) -> None:
        self._follow.begin(int((state.epoch or 0.0) + 1e-3))  # epochs are counted as fractions

    def _still(self, model: nn.Module, inputs: Any) -> None:
        if model.training:
            self._follow.still()
