"""A plan as the schedule of finetuning-scheduler, and back.

    text = write(plan, module, module.backbone)  # keys 0, 1, ..: parameters that thaw, until when, and their rate
    FinetuningScheduler(ft_schedule="schedule.yaml", epoch_transitions_only=True, restore_best=False)

It says nothing of batch norms and dropout: `callbacks.lightning` keeps those still as the plan has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from torch import nn

from frostline.callbacks.follow import Follow
from frostline.errors import PlanError
from frostline.plan import plan
from frostline.values import Layer, Plan, Recipe


def write(of: Plan, model: nn.Module, network: nn.Module | None = None) -> str:
    """The schedule as YAML, with the names of the parameters in `model`; `network` is the part that the plan is for.

    What is new learns from phase 0 on. Raises PlanError where layers freeze again, or layers of different rates thaw at
    once: a schedule has one rate a phase, and never takes back.
    """
    follow, names = Follow(of, model, network), {id(p): name for name, p in model.named_parameters()}
    network = follow.network
    owners = {id(p): layer.index for layer in of.layers for n, p in network.named_parameters() if n in layer.members}
    begins = dict[int, list[tuple[float, str]]]()
    for group in follow.groups():
        for parameter in group["params"]:
            index = owners.get(id(parameter))
            begin = 0 if index is None else _begin(of, index)
            begins.setdefault(begin, []).append((group["lr"], names[id(parameter)]))
    epochs = sorted({0, *begins})
    schedule = dict[int, dict[str, Any]]()
    for phase, epoch in enumerate(epochs):
        members = begins.get(epoch, [])
        rates = {rate for rate, _ in members}
        if phase and len(rates) > 1:
            raise PlanError(
                f"layers thaw at epoch {epoch} with the rates {sorted(rates)}, and "
                "a phase of finetuning-scheduler has one; thaw them one after the other, or use callbacks.lightning"
            )
        until = epochs[phase + 1] if phase + 1 < len(epochs) else of.recipe.epochs
        schedule[phase] = {"params": sorted(name for _, name in members), "max_transition_epoch": until}
        if phase:
            schedule[phase]["lr"] = rates.pop()
    return yaml.safe_dump(schedule, sort_keys=False)


def read(text: str, layers: Sequence[Layer], recipe: Recipe, *, prefix: str = "") -> Plan:
    """The plan that a schedule means for a network, whose parameters have `prefix` in front of their names there.

    Names may be patterns, as finetuning-scheduler has them; one that matches nothing of the network belongs to what is
    beside it. A layer learns from the phase in which its first parameter thaws. Every phase but the last says its
    `max_transition_epoch`. Rates are those of the recipe, whatever a phase's `lr`. Raises PlanError.
    """
    schedule = _parsed(text)
    names = {f"{prefix}{name}": layer.index for layer in layers for name in layer.members}
    flags, epoch, steps = [False] * len(layers), 0, list[tuple[int, tuple[bool, ...]]]()
    for phase in range(len(schedule)):
        for pattern in map(_pattern, schedule[phase].get("params", [])):
            for name, index in names.items():
                flags[index] |= pattern.match(name) is not None
        steps.append((epoch, tuple(flags)))
        if phase + 1 < len(schedule):
            epoch = _until(schedule[phase], phase, epoch)
    if not any(flags) and names:
        raise PlanError(
            f"no pattern of the schedule matches a parameter of the network, such as {next(iter(names))!r}; say what "
            f"stands in front of their names there: prefix is {prefix!r}"
        )
    (_, first), *later = steps
    frozen = flags.index(True) if True in flags else len(layers)
    thaw = [(at, then) for at, then in later if at < recipe.epochs]
    return plan(layers, recipe, freeze=frozen, train=first, thaw=thaw)


def _pattern(text: Any) -> re.Pattern[str]:
    try:
        return re.compile(str(text))
    except re.error as error:
        raise PlanError(f"the pattern {text!r} is no regular expression: {error}; a star of a shell is `.*`") from None


def _begin(of: Plan, index: int) -> int:
    """The epoch from which on a layer learns to the end."""
    epochs = (0, *(epoch for epoch, _ in of.thaw))
    flags = [of.learning(epoch)[index] for epoch in epochs]
    begin = flags.index(True)
    if not all(flags[begin:]):
        raise PlanError(
            f"layer {of.layers[index].name!r} freezes again at epoch {epochs[flags.index(False, begin)]}, which a "
            "schedule of finetuning-scheduler cannot say; use callbacks.lightning"
        )
    return epochs[begin]


def _parsed(text: str) -> Mapping[int, Mapping[str, Any]]:
    try:
        found: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"the schedule is no YAML: {error}; give what finetuning-scheduler reads") from None
    keys: list[Any] = list(found) if isinstance(found, dict) else []
    if not keys or set(keys) != set(range(len(keys))):
        raise PlanError(
            f"the schedule has the phases {keys or found!r:.80}; they are numbered 0, 1, 2, .. without a gap"
        )
    for number, phase in found.items():
        if not isinstance(phase, dict) or not isinstance(phase.get("params", []), list):
            raise PlanError(f"phase {number} is {phase!r:.80}; it holds `params`, a list, and `max_transition_epoch`")
    return found


def _until(phase: Mapping[str, Any], number: int, begun: int) -> int:
    until = phase.get("max_transition_epoch", -1)
    if not isinstance(until, int) or until < begun:
        raise PlanError(
            f"phase {number} has the max_transition_epoch {until}; a plan thaws at epochs, so every phase but the last "
            f"needs one, at least {begun} here: a metric cannot decide it"
        )
    return until
