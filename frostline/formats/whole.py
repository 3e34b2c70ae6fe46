"""A trained model as one module of plain PyTorch, which other libraries can take."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frostline.backbones.graph import results_of
from frostline.backbones.keras_network import KerasNetwork
from frostline.errors import OptionError
from frostline.formats.model import Model
from frostline.tasks.heads import folded, units
from frostline.tasks.task import Task
from frostline.training.prepare import answering, predictor
from frostline.values import Tokens

CLOSE = 1e-4  # of a probability, or of what a number spreads by: between the run's own prediction and what was exported

LONGER = 5  # positions: a model that reads any length is asked about another one than it was traced with


PROBLEMS = {  # as transformers calls tasks
    "classification": "single_label_classification", "multilabel": "multi_label_classification",
    "regression": "regression",
}  # fmt: skip


class Refused(OptionError):
    """A model that a format cannot hold."""


class Serving(nn.Module):
    """From prepared inputs to probabilities, or numbers, whatever the plan drops."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.head = model.network, model.head
        self.names = model.anatomy.names
        self.answer = answering(model.network, model.head, model.anatomy, model.plan, model.task)
        self.readable = model.task.readable

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.readable(self.answer(dict(zip(self.names, inputs, strict=True))))


class Naming(nn.Module):
    """From prepared inputs to probabilities, or numbers, with a network that ends in its own, trained output layer.

    `names` are the arguments of the network's forward, in the order in which inputs are given.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], task: Task) -> None:
        super().__init__()
        self.network, self.names, self.task = network, tuple(names), task

    def forward(self, *inputs: Tensor) -> Tensor:
        return answers(self.task, logits_of(self.network, dict(zip(self.names, inputs, strict=True))))


def answers(task: Task, outputs: Tensor) -> Tensor:
    """What is told of a network's outputs: probabilities, or numbers."""
    return task.readable(task.predictions(outputs))


def said(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the run's own model tells of inputs."""
    return model.task.readable(predictor(model.network, model.head, model.anatomy, model.plan, model.task)(inputs))


def apart(model: Model, ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two answers, of numbers in units of what they spread by."""
    return float(((ours - theirs).abs() / units(model.head)[1]).max())


def whole(model: Model) -> nn.Module:
    """The network with the modules and names of its source, and the trained head in the place of its own output layer.

    Raises Refused where layers were dropped, where the head is more than a linear layer, where the network does not end
    in one of its size, or where what it then says is not what the run's own model says.
    """
    plan, head = model.plan, folded(model.head)
    if isinstance(model.network, KerasNetwork):
        raise Refused("the network is one of Keras, and no library of PyTorch has it; use --to keras or --to onnx")
    if plan.above == "drop":
        raise Refused(
            f"the plan drops the layers above {plan.keep} of {len(plan.layers)}, so no network of the source's own "
            "class can hold it; use --to onnx or --to torch_export"
        )
    if not isinstance(head, nn.Linear) or plan.head.cuts:
        raise Refused(
            f"the head is {type(head).__name__} on {1 + len(plan.head.cuts)} cuts, and the source's network ends in "
            "one linear layer; use --to onnx or --to torch_export"
        )
    network = copy.deepcopy(model.network).eval()
    name = _output_layer(model, network, head)
    new = nn.Linear(head.in_features, head.out_features)
    new.load_state_dict(head.state_dict())
    network.set_submodule(name, new)
    _renamed(network, model.classes, model.task)
    with torch.inference_mode():
        inputs = other_inputs(model, len(model.anatomy.example[model.anatomy.data]))
        theirs = Naming(network, model.anatomy.names, model.task)(*inputs.values())
    off = apart(model, said(model, inputs), theirs)
    if not off <= CLOSE:
        raise Refused(
            f"between its last layer and {name!r} the network does more than pooling, so with the trained head there "
            f"it says something else (by {off:.2g}); use --to onnx or --to torch_export"
        )
    return network.eval()


def other_inputs(model: Model, count: int) -> dict[str, Tensor]:
    """Inputs other than the example's, by name; where they may be of any length longer ones, and the last filled up."""
    anatomy, generator = model.anatomy, torch.Generator().manual_seed(7)
    found = {name: torch.as_tensor(anatomy.example[name]) for name in anatomy.names}
    found = {name: tensor[torch.arange(count) % len(tensor)] for name, tensor in found.items()}
    data = found[anatomy.data]
    if data.is_floating_point():
        return {**found, anatomy.data: torch.randn(data.shape, generator=generator)}
    turned = {name: torch.cat([tensor.flip(1), tensor[:, :LONGER]], dim=1) for name, tensor in found.items()}
    if isinstance(model.preprocessing, Tokens):
        for name, fill in model.preprocessing.padding.items():
            turned[name][-1, -LONGER:] = fill
    return turned


def logits_of(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the network's own output layer says (n, classes)."""
    results = results_of(network(**inputs))
    return results.get("logits", next(iter(results.values())))


def _output_layer(model: Model, network: nn.Module, head: nn.Linear) -> str:
    """The one linear layer behind the last cut that reads as many features as the trained head."""
    behind = tuple(f"{name}." for name in model.anatomy.head)
    found = [
        name
        for name, part in network.named_modules()
        if f"{name}.".startswith(behind) and isinstance(part, nn.Linear) and part.in_features == head.in_features
    ]
    if len(found) != 1:
        raise Refused(
            f"the network has {len(found)} linear layers of {head.in_features} features behind its last cut, and one "
            "is needed in whose place the trained head goes; use --to onnx or --to torch_export"
        )
    return found[0]


def _renamed(network: nn.Module, classes: tuple[str, ...], task: Task) -> None:
    """Tell the network how many classes there are, how they are called and what is asked, where it keeps that."""
    if isinstance(getattr(network, "num_classes", None), int):
        setattr(network, "num_classes", len(classes))  # noqa: B010  a module takes it for a part of itself else
    config: Any = getattr(network, "config", None)
    if isinstance(getattr(config, "id2label", None), Mapping):
        config.id2label = dict(enumerate(classes))  # also says how many labels there are
        config.label2id = {name: number for number, name in enumerate(classes)}
        config.problem_type = PROBLEMS[task.name]
