"""A plan in the Hugging Face Trainer.

    follow = PlanCallback(plan, model, model.vit)
    optimiser = torch.optim.AdamW(follow.groups())
    Trainer(model, arguments, callbacks=[follow], optimizers=(optimiser, None), ...).train()

Here `model.vit` is the part whose parameters have the names in the plan.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from frostline.callbacks.follow import Follow
from frostline.values import Plan

ROUNDING = 1e-9  # of an epoch: the Trainer counts them in fractions


class PlanCallback(TrainerCallback):
    """Freezes, unfreezes and keeps still as a plan says. The learning rates are those of `groups()`.

    The Trainer calls `train()` at every step, so the model itself is watched: whatever wraps or copies it calls it.
    """

    def __init__(self, plan: Plan, model: nn.Module, network: nn.Module | None = None) -> None:
        self._follow = Follow(plan, model, network)
        self._hook: Any = None

    def groups(self) -> list[dict[str, Any]]:
        """Static groups for `torch.optim.AdamW`, with their peak learning rates."""
        return self._follow.groups()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also of a training that is resumed. Raises PlanError where layers thaw and the Trainer has other epochs."""
        counted = args.max_steps <= 0 and float(args.num_train_epochs).is_integer()
        self._follow.fits(int(args.num_train_epochs) if counted else None, processes=args.world_size)
        self._begin(state)
        self._unhook()  # of a training that was interrupted
        self._hook = self._follow.model.register_forward_pre_hook(self._still)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Of each epoch, or the rest of one."""
        self._begin(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The model is nobody's any more."""
        self._unhook()

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _begin(self, state: TrainerState) -> None:
        self._follow.begin(int((state.epoch or 0.0) + ROUNDING))

    def _still(self, model: nn.Module, inputs: Any) -> None:
        if model.training:
            self._follow.still(model)
