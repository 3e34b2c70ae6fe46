"""A plan in Lightning (`lightning` or `pytorch_lightning`, whichever the module comes from).

class Tuned(LightningModule):
    def configure_optimizers(self):
        return torch.optim.AdamW(groups(plan, self, self.backbone))

Trainer(callbacks=[PlanCallback(plan, lambda module: module.backbone)], ...).fit(Tuned(), loader)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from frostline.callbacks.follow import Follow
from frostline.values import Plan


def groups(plan: Plan, module: nn.Module, network: nn.Module | None = None) -> list[dict[str, Any]]:
    """Static groups for `configure_optimizers`, with their peak learning rates."""
    return Follow(plan, module, network).groups()


class PlanCallback(Callback):
    """Freezes, unfreezes and keeps still as a plan says; `network` finds the part that it is for in the module."""

    def __init__(self, plan: Plan, network: Callable[[Any], nn.Module] = lambda module: module) -> None:
        self._plan, self._network = plan, network
        self._follow: Follow | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of each epoch, also the first one after a resume."""
        if self._follow is None or self._follow.model is not pl_module:
            self._follow = Follow(self._plan, pl_module, self._network(pl_module))
        self._follow.begin(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A validation puts modules back as they were, or all of them in training mode."""
        assert self._follow is not None, "an epoch starts before its batches"
        self._follow.still()
