"""A plan as code that a reader can paste: plain PyTorch, or the words of the library that the network is of."""

from __future__ import annotations

import re
from collections.abc import Iterable

from frostline.values import Layer, Plan


def snippets(plan: Plan) -> tuple[tuple[str, str], ...]:
    """A plan for those who train elsewhere: for each place its title and the code."""
    if any(name.endswith(".kernel") for layer in plan.layers for name in layer.members):  # Keras' word for a weight
        return (("The same freezing in Keras", of_keras(plan)),)
    found = [("The same freezing in a training loop of your own", of_torch(plan))]
    if (numbers := _numbered(plan)) is not None:
        found.append(("The same freezing in Ultralytics", of_ultralytics(plan, numbers)))
    return tuple(found)


def of_torch(plan: Plan) -> str:
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


def of_keras(plan: Plan) -> str:
    """Keras' own freezing of the same layers, through the models that stand in the model."""
    rates = plan.rates()
    frozen = [layer for layer, rate in zip(plan.layers, rates, strict=True) if rate is None and layer.index < plan.keep]
    paths = shortest(_members(frozen), _members(layer for layer in plan.layers if layer not in frozen))
    lines = [
        "import keras",
        "",
        "FROZEN = (",
        *(f"    {path!r}," for path in dict.fromkeys(_layer(path, frozen) for path in paths)),
        ")",
        "",
        "",
        "def inside(layer, name):",
        "    for part in layer._layers:",
        '        if "".join(c if c.isalnum() else "_" for c in part.name) == name:',
        "            return part",
        '    attribute, _, number = name.rpartition("_")  # of a class of your own: "blocks_0" is blocks[0]',
        "    found = getattr(layer, name, None) or getattr(layer, '_' + name, None)",
        "    return found if found is not None else getattr(layer, attribute)[int(number)]",
        "",
        "",
        'network = keras.models.load_model("network.keras")',
        "network.trainable = True",
        "for path in FROZEN:",
        "    layer = network",
        '    for name in path.split("."):',
        "        layer = inside(layer, name)",
        "    layer.trainable = False",
    ]
    recipe = plan.recipe
    kind = f"SGD({recipe.lr:.3g}, momentum=0.9" if recipe.optimiser == "sgd" else f"AdamW({recipe.lr:.3g}"
    lines += [
        "# give it an output layer of your classes, then compile it: what is frozen later needs compiling again",
        f"optimiser = keras.optimizers.{kind}, weight_decay={recipe.weight_decay:.3g})",
        'network.compile(optimiser, "sparse_categorical_crossentropy", metrics=["accuracy"])',
    ]
    if len({rate for rate in rates if rate is not None}) > 1:
        lines.append("# the plan gives each layer a rate of its own, which an optimiser of Keras does not")
    if plan.statistics != "batch":
        lines.append("# the plan keeps the statistics of batch norms that learn: call those with training=False")
    if plan.thaw:
        lines.append("# the plan unfreezes layers over the epochs: set trainable and compile again for each step of it")
    return "\n".join(lines)


def _layer(path: str, layers: Iterable[Layer]) -> str:
    """The path of a layer: a weight's own name at its end is left away."""
    return path.rpartition(".")[0] if path in set(_members(layers)) else path


def of_ultralytics(plan: Plan, numbers: Iterable[int]) -> str:
    """The argument with which Ultralytics freezes the same modules, their batch norms too."""
    call = f'YOLO("network.pt").train(data="photos", epochs={plan.recipe.epochs}, freeze={list(numbers)})'
    return f"from ultralytics import YOLO\n\n{call}"


def _numbered(plan: Plan) -> tuple[int, ...] | None:
    """The numbers of the frozen modules where all of a network's are numbered as Ultralytics does, "model.3.conv"."""
    owners: dict[int, set[bool]] = {}
    for layer, rate in zip(plan.layers, plan.rates(), strict=True):
        for member in layer.members:
            found = re.match(r"model\.(\d+)\.", member)
            if found is None:
                return None
            owners.setdefault(int(found[1]), set()).add(rate is None and layer.index < plan.keep)
    whole = all(len(kinds) == 1 for kinds in owners.values())  # a module in two layers cannot be half frozen there
    return tuple(sorted(number for number, kinds in owners.items() if True in kinds)) if owners and whole else None


def shortest(wanted: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """The shortest dotted prefixes that cover every wanted name and no other: ("stem", "blocks.0")."""
    taken = {prefix for name in others for prefix in _prefixes(name)}
    return tuple(dict.fromkeys(next((p for p in _prefixes(name) if p not in taken), name) for name in wanted))


def _prefixes(name: str) -> tuple[str, ...]:
    parts = name.split(".")
    return tuple(".".join(parts[: i + 1]) for i in range(len(parts)))


def _members(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(member for layer in layers for member in (layer.members or (layer.name,)))
