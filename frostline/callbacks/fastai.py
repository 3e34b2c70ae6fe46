"""A plan in fastai.

    learner = Learner(loaders, model, splitter=splitter(plan, "backbone"), cbs=PlanCallback(plan, "backbone"), ...)
    learner.fit(plan.recipe.epochs, lr=rates(plan, model, "backbone"))

Here `model.backbone` is the part whose parameters have the names in the plan.
"""

from __future__ import annotations

from collections.abc import Callable

from fastai.callback.core import Callback  # pyright: ignore[reportMissingImports]
from torch import nn

from frostline.callbacks.follow import Follow
from frostline.values import Plan


def splitter(plan: Plan, network: str = "") -> Callable[[nn.Module], list[list[nn.Parameter]]]:
    """The parameter groups of a model, from the stem up; `network` names the part that the plan is for."""

    def split(model: nn.Module) -> list[list[nn.Parameter]]:
        return [group["params"] for group in Follow(plan, model, model.get_submodule(network)).groups()]

    return split


def rates(plan: Plan, model: nn.Module, network: str = "") -> list[float]:
    """The peak learning rate of each group of `splitter`, for `Learner.fit`."""
    return [group["lr"] for group in Follow(plan, model, model.get_submodule(network)).groups()]


class PlanCallback(Callback):  # pyright: ignore[reportUntypedBaseClass]
    """Freezes, unfreezes and keeps still as a plan says. Weight decay is fastai's own: `Learner(wd=...)`."""

    def __init__(self, plan: Plan, network: str = "") -> None:
        super().__init__()
        self.plan, self.part = plan, network
        self.follow: Follow | None = None

    def before_fit(self) -> None:
        """Raises PlanError where layers thaw and the fit has other epochs."""
        model = getattr(self.learn.model, "module", self.learn.model)  # of what trains on several devices
        self.follow = Follow(self.plan, model, model.get_submodule(self.part))
        self.follow.fits(self.learn.n_epoch)

    def before_train(self) -> None:
        """fastai calls `train()` right before."""
        if self.follow is not None:
            self.follow.begin(self.learn.epoch)

    def before_batch(self) -> None:
        """Of each step of training."""
        if self.learn.training and self.follow is not None:
            self.follow.still()
