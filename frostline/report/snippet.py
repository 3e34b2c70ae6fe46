"""A plan as plain PyTorch that a reader can paste."""

from __future__ import annotations

from collections.abc import Iterable

from frostline.values import Layer, Plan


def snippet(plan: Plan) -> str:
    """Plain PyTorch that freezes the same layers and gives the others the same rates, by name."""
    rates = plan.rates()
    pairs = list(zip(plan.layers, rates, strict=True))[: plan.keep]
    still = [layer for layer, rate in pairs if rate is None]
    prefixes = shortest(_members(still), _members(layer for layer in plan.layers if layer not in still))
    # fresh batch norms have no statistics worth keeping, so a plan with fresh layers does not keep theirs
    stored = plan.statistics != "batch" and plan.above != "reinit"
    norms = " or isinstance(module, torch.nn.modules.batchnorm._BatchNorm)" if stored else ""
    lines = ["import torch", "", "FROZEN = ("]
    lines += [f"    {prefix + '.'!r}," for prefix in prefixes]
    lines += [")", "RATES = {"]
    for layer, rate in pairs:
        if rate is not None:
            others = [other for other in plan.layers if other is not layer]
            lines += [f"    {p + '.'!r}: {rate:.3g}," for p in shortest(_members([layer]), _members(others))]
    lines += [
        f"}}  # everything else, the new head first of all, learns at {plan.recipe.lr:.3g}",
        "",
        "groups = {}",
        "for name, parameter in model.named_parameters():",
        '    if (name + ".").startswith(FROZEN):',
        "        parameter.requires_grad_(False)",
        "    if parameter.requires_grad:",
        f'        rate = next((r for p, r in RATES.items() if (name + ".").startswith(p)), {plan.recipe.lr:.3g})',
        "        groups.setdefault(rate, []).append(parameter)",
        'optimiser = torch.optim.AdamW([{"params": p, "lr": rate} for rate, p in groups.items()],',
        f"                              weight_decay={plan.recipe.weight_decay:.3g})",
        "",
        "# before every epoch: frozen dropout is off, and stored batch-norm statistics stay as the plan has them",
        "model.train()",
        "for name, module in model.named_modules():",
        f'    if (name + ".").startswith(FROZEN){norms}:',
        "        module.eval()",
    ]
    if plan.thaw:
        lines.append("# the plan unfreezes layers over the epochs, which this does not: Plan.apply(model, epoch) does")
    if plan.adapter:
        lines.append("# the plan also puts low-rank matrices beside kept layers, which this does not")
    if plan.recipe.balance:
        lines.append("# the plan's loss weighs classes alike: each example by n / (classes * examples of its class)")
    if plan.recipe.optimiser == "sgd":
        lines = [line.replace("torch.optim.AdamW(", "torch.optim.SGD(") for line in lines]
    return "\n".join(lines)


def shortest(wanted: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """The shortest dotted prefixes that cover every wanted name and no other: ("stem", "blocks.0")."""
    taken = {prefix for name in others for prefix in _prefixes(name)}
    return tuple(dict.fromkeys(next((p for p in _prefixes(name) if p not in taken), name) for name in wanted))


def _prefixes(name: str) -> tuple[str, ...]:
    parts = name.split(".")
    return tuple(".".join(parts[: i + 1]) for i in range(len(parts)))


def _members(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(member for layer in layers for member in (layer.members or (layer.name,)))
