"""What every callback does: keep a network as its plan has it, epoch by epoch, whoever calls `train()` on it."""

from __future__ import annotations

from typing import Any

from torch import nn

from frostline.errors import PlanError
from frostline.values import Plan


class Follow:
    """Keeps the layers of `network`, a part of `model` or the whole of it, as a plan says; from now on as at epoch 0.

    Whoever owns the loop says when an epoch begins, and before each step puts back in inference mode what was woken.
    Of the recipe, the rates and the weight decay are in `groups`; loss, schedule, clipping and batches are the loop's.
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
        self._quiet: tuple[str, ...] = ()
        self.begin(0)  # what wraps the model before it trains looks at what learns

    @property
    def network(self) -> nn.Module:
        """The part that the plan is for."""
        return self.model.get_submodule(self.name)

    def fits(self, epochs: int | None, *, processes: int = 1) -> None:
        """Raise PlanError where layers thaw by a schedule that the loop does not have, or in several processes.

        `epochs` is None where the loop counts steps alone. What joins processes looks once at what learns.
        """
        if not self.plan.thaw:
            return
        if epochs != self.plan.recipe.epochs:
            raise PlanError(
                f"the plan unfreezes layers over {self.plan.recipe.epochs} epochs, and the loop has {epochs or 'no'} "
                "epochs; give it as many, or stretch the plan: frostline.plan.with_epochs(plan, epochs)"
            )
        if processes > 1:
            raise PlanError(
                f"the plan unfreezes layers, and {processes} processes train together, which agree on what learns once "
                "and for all; train in one process, or choose a plan that does not unfreeze"
            )

    def begin(self, epoch: int) -> int:
        """Freeze and unfreeze for an epoch, counted from 0; returns how many numbers of the network learn in it."""
        learning = self.plan.apply(self.network.train(), epoch)
        for parameter in self.network.parameters():
            if not parameter.requires_grad:
                parameter.grad = None  # an optimiser that finds one, if only zeros, steps and decays
        self._quiet = tuple(name for name, part in self.network.named_modules() if not part.training)
        return learning

    def still(self, model: nn.Module | None = None) -> None:
        """Put back in inference mode what stands still in this epoch; in a copy of the model where one is given."""
        network = self.network if model is None else model.get_submodule(self.name)
        parts = dict(network.named_modules())
        for name in self._quiet:
            parts[name].training = False

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
    """Raise PlanError for what changes the network or the loss: that is not a callback's to bring into a loop."""
    if plan.above != "tune":
        raise PlanError(
            f"the plan would {plan.above} the layers above {plan.keep}, which a callback does not; take the run's own "
            "model, or do it first and make a plan for the network that is left"
        )
    if plan.statistics == "reestimate":
        raise PlanError(
            "the plan measures batch norms anew before training, which a callback does not; train it with `frostline "
            "train`, or choose a plan whose statistics are 'eval' or 'batch'"
        )
    beyond = {
        "adapter": (plan.adapter, None),
        "blend": (plan.blend, 1.0),
        "anchor": (plan.recipe.anchor, 0.0),
        "balance": (plan.recipe.balance, False),
        "head.kind": (plan.head.kind, "linear"),
        "head.cuts": (plan.head.cuts, ()),
    }
    for name, (asked, plain) in beyond.items():
        if asked != plain:
            raise PlanError(
                f"the plan's {name} is {asked!r}, which a callback cannot bring into another library's loop; train it "
                f"with `frostline train`, or choose a plan where it is {plain!r}"
            )
