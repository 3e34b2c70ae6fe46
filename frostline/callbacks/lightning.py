"""A plan in Lightning (the package `lightning`).

    class Tuned(LightningModule):
        def configure_optimizers(self):
            return torch.optim.AdamW(groups(plan, self, self.backbone))

    follow = PlanCallback(plan, lambda module: module.backbone)
    Trainer(callbacks=[follow], ...).fit(Tuned(), loader)

Here `backbone` is the part whose parameters have the names in the plan.
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything wraps the module. Raises PlanError where layers thaw and the Trainer has other epochs."""
        if stage == "fit":
            self._follow = Follow(self._plan, pl_module, self._network(pl_module))
            self._follow.fits(trainer.max_epochs, processes=trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Also where a training goes on in the middle of an epoch, which does not start then."""
        self._following().begin(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of each epoch."""
        self._following().begin(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A validation puts modules back as they were, or all of them in training mode."""
        self._following().still()

    def _following(self) -> Follow:
        assert self._follow is not None, "a fit is set up first"
        return self._follow
