"""A trained Keras network as a `.keras` file, which Keras opens on every backend."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.backbones.anatomy import Pool
from frostline.backbones.keras_library import library, quiet
from frostline.backbones.keras_models import every_layer, is_graph, nodes_of, own_classes, rebuilt, variables_of
from frostline.backbones.keras_network import KerasNetwork, plain
from frostline.errors import BackboneError
from frostline.formats.model import Model
from frostline.formats.whole import Refused, answers, apart, other_inputs, said
from frostline.tasks.heads import Mlp, folded
from frostline.training.prepare import read_at
from frostline.values import Plan

HEAD = "frostline_head"  # the layers of the new head
ACTIVATIONS = {"classification": "softmax", "multilabel": "sigmoid", "regression": "linear"}
EPSILON = 1e-5  # PyTorch's, in the normalisation of an MLP head


def write_keras(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """`model.keras`: from pictures (n, height, width, channels), preprocessed, to probabilities, or numbers.

    Layers of the plan that never learn have `trainable` False; where a class of the user's own forgets that, the code
    that is handed back says it again. Raises Refused where Keras cannot hold the model.
    """
    if not isinstance(model.network, KerasNetwork):
        raise Refused(
            f"the network is a {type(model.network).__name__} of {of['spec']!r} and none of Keras; use --to "
            "safetensors, onnx or torch_export"
        )
    keras, network = library(), copy.deepcopy(model.network).cpu().eval()
    file, own = folder / "model.keras", own_classes(network.model)
    with quiet(), keras.device("cpu"):
        built = _graph(model, network) if is_graph(network.model) else _class(model, network)
        built.save(file)
        with keras.saving.custom_object_scope(own):
            again = keras.models.load_model(file, compile=False)
    flags = [layer.trainable for layer in every_layer(again)]
    asked = KerasNetwork(again, reversed_channels=network.reversed_channels).eval()
    wanted = _frozen(asked, model.plan)
    forgotten = [n for n, flag in enumerate(flags) if n in wanted and flag]
    ends = _ends(asked, model)

    def ask(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            found = asked(pictures)
        return found if ends else answers(model.task, found)

    return _use(model, network, own, ends, forgotten), ask


def _ends(asked: KerasNetwork, model: Model) -> bool:
    """Whether it ends in what is told, probabilities or numbers, or in logits as its class has them."""
    (data,) = other_inputs(model, 2).values()
    with torch.inference_mode():
        found = asked(data)
    ours = said(model, {model.anatomy.data: data})
    return apart(model, ours, found) <= apart(model, ours, answers(model.task, found))


def _use(model: Model, network: KerasNetwork, own: Mapping[str, Any], ends: bool, forgotten: Sequence[int]) -> str:
    how = model.pictures
    lines = ["import keras", ""]
    if own:
        lines.append(f"# define or import {', '.join(sorted({kind.__name__ for kind in own.values()}))} first")
    lines.append('network = keras.models.load_model("model.keras")')
    if forgotten:
        lines += [
            "layers = list(network._flatten_layers())  # classes of your own do not keep what is frozen in them",
            f"for number in {list(forgotten)}:",
            "    layers[number].trainable = False",
        ]
    if how is not None:
        lines.append(f"# pictures of {how.size[0]} x {how.size[1]} pixels, each pixel (0..255) / {how.scale:g}, less")
        lines.append(f"# {how.mean}, over {how.std}; {'BGR' if network.reversed_channels else 'RGB'}")
    told = "the numbers" if model.task.name == "regression" else "probabilities" if ends else "logits"
    lines.append(f"# {told} of {', '.join(model.classes)} are network.predict(pictures)")
    return "\n".join(lines)


def _frozen(network: KerasNetwork, plan: Plan) -> set[int]:
    """The places, among all layers of a model, of those with weights of which none ever learns."""
    rates = plan.rates()
    still = {name for layer, rate in zip(plan.layers, rates, strict=True) if rate is None for name in layer.members}
    names: dict[int, str] = {}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        names[id(tensor)] = name
    found = set[int]()
    for number, layer in enumerate(every_layer(network.model)):
        own = [names[id(variable._value)] for part in every_layer(layer) for variable in variables_of(part)]
        if own and still.issuperset(own):
            found.add(number)
    return found


# ------------------------------------------------------------------------------------------------ chains and graphs


def _graph(model: Model, network: KerasNetwork) -> Any:
    """The graph up to the cuts that the head reads, and the head on them; it ends in what is told."""
    keras, plan, anatomy, tops = library(), model.plan, model.anatomy, list[Any]()
    free, counterpart = plain(network)
    for number in sorted(_frozen(network, plan)):
        list(every_layer(free))[number].trainable = False
    for depth in read_at(plan):
        port = anatomy.port(depth)
        if len(port.leaves) != 1 or port.axes != (0,):
            raise Refused(f"{len(port.leaves)} tensors cross depth {depth}, and one is needed; use --to onnx")
        tensor = _output(network.model, free, anatomy.calls[port.call].name, counterpart)
        tops.append(_pooled(tensor, anatomy.pools[depth - 1][0], f"{HEAD}_pooled_{depth}"))
    features = tops[0] if len(tops) == 1 else keras.layers.Concatenate(name=f"{HEAD}_features")(tops)
    logits, weights = _headed(folded(model.head), features)
    last = keras.layers.Activation(ACTIVATIONS[model.task.name], name=f"{HEAD}_answers")
    built = keras.Model(free.inputs, last(logits), name=free.name)
    for layer, tensors in weights:
        layer.set_weights([tensor.detach().cpu().numpy() for tensor in tensors])
    return built


def _output(held: Any, free: Any, name: str, counterpart: Mapping[int, Any]) -> Any:
    """The symbolic result of a step, reached from the inputs of `free`, a twin of `held` that nobody took over.

    Where the step stands in a model inside, a new model up to it is made, with the same layers.
    """
    first, _, rest = name.partition(".")
    step = held._modules[first]
    numbers = [number for number, node in enumerate(nodes_of(held)) if node.operation is step]
    node = nodes_of(free)[numbers[0]] if len(numbers) == 1 else None
    if node is None or len(node.outputs) != 1:
        raise Refused(f"the layer {first!r} runs {len(numbers)} times, so its result is not one; use --to onnx")
    if not rest:
        return node.outputs[0]
    if not is_graph(step):
        raise Refused(
            f"the plan drops what follows {rest!r} inside of {first!r}, a {type(step).__name__}, which Keras cannot "
            "take apart; use --to onnx"
        )
    inside = counterpart[id(step)]
    inner = library().Model(inside.inputs, _output(step, inside, rest, counterpart), name=inside.name)
    baked = {key: value for key, value in node.arguments.kwargs.items() if key == "training" and value is not None}
    return inner(node.input_tensors[0], **baked)


def _pooled(tensor: Any, how: Pool, name: str) -> Any:
    """The features of a cut, as `backbones.pooling.pool` makes them, by one step of this name.

    A name of Keras' own choice may be one that a layer of the network has: Keras counts in each process anew.
    """
    keras, count = library(), len(tensor.shape)
    if count == 2:
        return tensor
    if how.take != "mean":
        rows = keras.Input(tensor.shape[1:])
        return keras.Model(rows, rows[:, 0] if how.take == "first" else rows[:, -1], name=name)(tensor)
    if how.channel is None or count not in (3, 4):
        return keras.layers.Flatten(name=name)(tensor)
    form = "channels_first" if how.channel == 1 else "channels_last"
    kind = keras.layers.GlobalAveragePooling1D if count == 3 else keras.layers.GlobalAveragePooling2D
    return kind(data_format=form, name=name)(tensor)


def _headed(head: nn.Module, features: Any) -> tuple[Any, list[tuple[Any, tuple[Tensor, ...]]]]:
    """The symbolic logits of a head, and the weights that its layers get once they are built."""
    dense = library().layers.Dense
    if isinstance(head, nn.Linear):
        layer = dense(head.out_features, name=HEAD)
        return layer(features), [(layer, (head.weight.T, head.bias))]
    if not isinstance(head, Mlp):
        raise Refused(f"the head is of the kind {type(head).__name__}, which has no layers in Keras; use --to onnx")
    linear, hidden, output = (
        dense(part.out_features, name=f"{HEAD}_{name}")
        for name, part in (("linear", head.linear), ("hidden", head.hidden), ("output", head.output))
    )
    norm = library().layers.LayerNormalization(center=False, scale=False, epsilon=EPSILON, name=f"{HEAD}_norm")
    gelu = library().layers.Activation("gelu", name=f"{HEAD}_gelu")
    logits = library().layers.Add(name=f"{HEAD}_logits")([linear(features), output(gelu(hidden(norm(features))))])
    pairs = ((linear, head.linear), (hidden, head.hidden), (output, head.output))
    return logits, [(layer, (part.weight.T, part.bias)) for layer, part in pairs]


# ------------------------------------------------------------------------------------------------ classes


def _class(model: Model, network: KerasNetwork) -> Any:
    """A model of the user's own class, built for as many classes as there are, with the head as its output layer.

    Its configuration must say the number of classes: that is the entry that holds the output layer's.
    """
    keras, head = library(), folded(model.head)
    behind = tuple(f"{name}." for name in model.anatomy.head)
    parts = dict(network.named_modules())
    dense = [name for name, part in parts.items() if isinstance(part, keras.layers.Dense)]
    found = [name for name in dense if f"{name}.".startswith(behind)]
    if model.plan.above == "drop" or not isinstance(head, nn.Linear) or len(found) != 1:
        raise Refused(
            f"the network is a {type(network.model).__name__}, a class of its own, which Keras cannot take apart, and "
            "the plan drops layers of it or the head is more than its output layer; use --to onnx"
        )
    (name,) = found
    old: Any = parts[name]
    config = network.model.get_config()
    entries = [key for key, value in config.items() if value == old.units and not isinstance(value, bool)]
    state = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith(f"{name}.")}
    state |= {f"{name}.kernel": head.weight.detach().T, f"{name}.bias": head.bias.detach()}
    for entry in entries:
        try:
            again = KerasNetwork(rebuilt(network.model, config={**config, entry: head.out_features}))
            again.load_state_dict(state)
        except (BackboneError, RuntimeError):  # another entry that holds the same number
            continue
        frozen = _frozen(again, model.plan)
        for number, layer in enumerate(every_layer(again.model)):
            if number in frozen:
                layer.trainable = False
        return again.model
    raise Refused(
        f"no entry of the configuration of {type(network.model).__name__} is the number of its classes, {old.units}; "
        "let get_config say it, or use --to onnx"
    )
