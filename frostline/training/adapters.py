"""Low-rank matrices beside kept, frozen layers (LoRA: Hu et al., ICLR 2022, arXiv:2106.09685), by the PEFT library.

A weight W becomes W + B A while it is trained, with W frozen; afterwards the product is added to W, so the model that
is handed back has the modules and names of the source.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from frostline.errors import OptionError, PlanError
from frostline.values import Layer, Plan

NAME = "adapter"  # of the optimiser's group
PADDED = ("Conv2dSame", "NonDynamicallyQuantizableLinear")  # they compute as their parents do
HELD = "the user froze it"
ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def refuse(plan: Plan) -> None:
    """Raise PlanError where an adapter stands beside layers that learn themselves."""
    if plan.adapter is None:
        return
    if any(plan.train) or plan.thaw or plan.above == "reinit":
        raise PlanError(
            "the plan has an adapter, and layers that learn themselves; an adapter stands beside frozen layers: "
            "let `train` be False for all kept layers, without `thaw`, and `above` be 'tune' or 'drop'"
        )
    if plan.blend != 1 or plan.recipe.anchor:
        raise PlanError(
            f"the plan has an adapter, blend {plan.blend} and anchor {plan.recipe.anchor}; both pull tuned weights "
            "back, and here none is tuned: let them be 1 and 0"
        )
    if plan.freeze == plan.keep:
        raise PlanError(
            f"the plan has an adapter and freezes all {plan.keep} layers that it keeps; freeze fewer: an adapter "
            "stands beside kept layers above the frozen ones"
        )
    if plan.adapter.rank < 1:
        raise PlanError(f"the adapter's rank is {plan.adapter.rank}; it must be at least 1")


def possible(network: nn.Module, layers: Sequence[Layer]) -> bool:
    """Whether the library is there and some module of these layers can have an adapter."""
    modules = dict(network.named_modules())
    names = [name for layer in layers for name in layer.modules if isinstance(modules.get(name), ADAPTED)]
    return find_spec("peft") is not None and not all(_unfit(modules, name) for name in names)


def targets(network: nn.Module, plan: Plan) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The modules that get an adapter, and those that were asked for or could have been and get none, with the reason.

    Linear layers and convolutions of the kept layers above the frozen prefix, or those of them that the plan names.
    Raises PlanError where a name matches nothing, or where no module is left.
    """
    assert plan.adapter is not None, "called for plans with an adapter alone"
    modules = dict(network.named_modules())
    reach = [name for layer in plan.layers[plan.freeze : plan.keep] for name in layer.modules]
    asked = plan.adapter.targets or tuple(name for name in reach if isinstance(modules.get(name), ADAPTED))
    strange = [name for name in asked if name not in reach]
    if strange:
        raise PlanError(
            f"the adapter names {strange[0]!r}, which is no module of the kept layers above the frozen ones; these "
            f"are {', '.join(reach[:8])} and so on"
        )
    held = {name.rpartition(".")[0] for layer in plan.layers for name in layer.held}
    left = {name: HELD if name in held else why for name in asked if (why := _unfit(modules, name)) or name in held}
    chosen = tuple(name for name in asked if name not in left)
    if not chosen:
        first = next(iter(left.items()), ("", "there is no linear layer or convolution"))
        raise PlanError(
            f"no module between depth {plan.freeze} and depth {plan.keep} can have an adapter"
            f"{f' ({first[0]}: {first[1]})' if first[0] else f': {first[1]}'}; freeze fewer layers"
        )
    return chosen, left


def _unfit(modules: Mapping[str, nn.Module], name: str) -> str:
    """Why a module gets no adapter; "" where it gets one."""
    module = modules[name]
    if not isinstance(module, ADAPTED):
        return f"a {type(module).__name__} is neither linear nor a convolution"
    if getattr(module, "groups", 1) > 1:
        return "a grouped or depthwise convolution: its product cannot be added to the weights"
    if type(module) not in ADAPTED and type(module).__name__ not in PADDED:
        return f"a {type(module).__name__} computes with other weights than it holds"
    if set(getattr(module, "dilation", ())) - {1} or getattr(module, "padding_mode", "zeros") != "zeros":
        return "a dilated convolution, or one with borders of its own, which the library does not repeat"
    outer = modules.get(name.rpartition(".")[0])
    if isinstance(outer, nn.MultiheadAttention):
        return "its attention reads the weights themselves"
    return ""


def inject(network: nn.Module, plan: Plan, *, seed: int) -> list[dict[str, Any]]:
    """Put adapters into the network, in place, and return the optimiser's group of what they learn.

    Everything else in the network is frozen. The product is zero at first, so the network computes what it did.
    Raises OptionError where the library is not installed.
    """
    assert plan.adapter is not None, "called for plans with an adapter alone"
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise OptionError(
            "the plan has an adapter, which needs the library peft; install it: pip install 'frostline[peft]'"
        ) from None
    chosen, _ = targets(network, plan)
    rank = plan.adapter.rank
    exactly = "|".join(re.escape(name) for name in chosen)  # a list would match by endings
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=f"({exactly})", lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of models that the library knows: this one need be none
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    for module in _adapted(network).values():
        own = module.get_base_layer()
        for fact in own.__constants__:  # a network may ask its convolution for the stride, to pad by it
            if not hasattr(module, fact):
                setattr(module, fact, getattr(own, fact))
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate = plan.recipe.lr
    return [{"name": NAME, "params": learned, "lr": rate, "peak": rate, "weight_decay": 0.0}]


def merge(network: nn.Module) -> None:
    """Add every product to its weights; the adapters stay where they are and do nothing more."""
    for module in _adapted(network).values():
        module.merge()


def remove(network: nn.Module) -> None:
    """Give back the network's own modules, in place."""
    for name, module in _adapted(network).items():
        network.set_submodule(name, module.get_base_layer())


def _adapted(network: nn.Module) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}
