"""What every callback does: keep a network as its plan has it, epoch by epoch, whoever calls `train()` on it."""

from __future__ import annotations

from typing import Any

from torch import nn

from frostline.errors import PlanError
from frostline.values import Plan


class Follow:
    """Keeps the layers of `network`, a part of `model` or the whole of it, as a plan says.

    Whoever owns the loop says when an epoch begins, and before each step puts back in inference mode what was woken.
    Raises PlanError where the network is no part of the model, or the plan asks for what a callback cannot do.
    """

    def __init__(self, plan: Plan, model: nn.Module, network: nn.Module | None = None) -> None:
        _refuse(plan)
        found = [name for name, part in model.named_modules() if part is (model if network is None else network)]
        if not found:
            raise PlanError(
                "the network that the plan is for is no part of the model; give the module whose parameters have the "
                "names in the plan, model.backbone for one"
            )
        self.plan, self.model, self.name = plan, model, found[0]
        self._quiet: tuple[nn.Module, ...] = ()

    @property
    def network(self) -> nn.Module:
        """The part that the plan is for."""
        return self.model.get_submodule(self.name)

    def begin(self, epoch: int) -> int:
        """Freeze and unfreeze for an epoch, counted from 0; returns how many numbers of the network learn in it."""
        learning = self.plan.apply(self.network.train(), epoch)
        for parameter in self.network.parameters():
            if not parameter.requires_grad:
                parameter.grad = None  # an optimiser that finds one, if only zeros, steps and decays
        self._quiet = tuple(part for part in self.network.modules() if not part.training)
        return learning

    def still(self) -> None:
        """Put back in inference mode what stands still in this epoch: cheap enough for every step."""
        for part in self._quiet:
            part.training = False

    def groups(self) -> list[dict[str, Any]]:
        """Static groups for an optimiser: those of the plan, and beside the network what is new, at its rate."""
        groups = self.plan.parameter_groups(self.network)
        inside = {id(parameter) for parameter in self.network.parameters()}
        beside = [p for p in self.model.parameters() if id(p) not in inside and p.requires_grad]
        for vectors in (False, True):
            members = [parameter for parameter in beside if (parameter.ndim < 2) == vectors]
            if members:
                name, decay = ("new/no_decay", 0.0) if vectors else ("new", self.plan.recipe.weight_decay)
                groups.append({"name": name, "params": members, "lr": self.plan.recipe.lr, "weight_decay": decay})
        return groups


def _refuse(plan: Plan) -> None:
    """Raise PlanError for what changes the network itself: that is to be done before it comes into a loop."""
    if plan.above != "tune":
        raise PlanError(
            f"the plan would {plan.above} the layers above {plan.keep}, which a callback does not; take the run's own "
            "model, or do it first and make a plan for the network that is left"
        )
    beyond = {"adapter": plan.adapter is not None, "anchor": plan.recipe.anchor > 0, "blend": plan.blend != 1}
    for name in (name for name, asked in beyond.items() if asked):
        raise PlanError(
            f"the plan's {name} is {getattr(plan.recipe if name == 'anchor' else plan, name)}, which a callback cannot "
            "bring into another library's loop; train it with `frostline train`, or choose a plan without"
        )
    if plan.statistics == "reestimate":
        raise PlanError(
            "the plan measures batch norms anew before training, which a callback does not; train it with `frostline "
            "train`, or choose a plan whose statistics are 'eval' or 'batch'"
        )
