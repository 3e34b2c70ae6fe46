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
from frostline.backbones.keras_network import KerasNetwork, anew, every_layer, is_graph, own_classes
from frostline.formats.model import Model
from frostline.formats.whole import Refused
from frostline.tasks.heads import Mlp
from frostline.training.prepare import read_at
from frostline.values import Plan

HEAD = "frostline_head"  # the layers of the new head
EPSILON = 1e-5  # PyTorch's, in the normalisation of an MLP head


def keras_file(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """`model.keras`: from pictures (n, height, width, channels), preprocessed, to the probability of every class.

    Layers of the plan that never learn have `trainable` False. Raises Refused where Keras cannot hold the model.
    """
    if not isinstance(model.network, KerasNetwork):
        raise Refused(
            f"the network is a {type(model.network).__name__} of {of['spec']!r} and none of Keras; use --to "
            "safetensors, onnx or torch_export"
        )
    keras, network = library(), copy.deepcopy(model.network).cpu().eval()
    file = folder / "model.keras"
    own = own_classes(network.model)
    with quiet(), keras.device("cpu"):
        built, ends = _graph(model, network) if is_graph(network.model) else _class(model, network)
        built.save(file)
        with keras.saving.custom_object_scope(own):
            again = keras.models.load_model(file, compile=False)
    asked = KerasNetwork(again, reversed_channels=network.reversed_channels).eval()

    def ask(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            said = asked(pictures)
        return said if ends else torch.softmax(said, dim=1)

    return _use(model, network, own, ends), ask


def _use(model: Model, network: KerasNetwork, own: Mapping[str, Any], ends: bool) -> str:
    how = model.preprocessing
    lines = ["import keras", ""]
    if own:
        lines.append(f"# define or import {', '.join(sorted({kind.__name__ for kind in own.values()}))} first")
    lines += ['network = keras.models.load_model("model.keras")']
    if how is not None:
        lines.append(f"# pictures of {how.size[0]} x {how.size[1]} pixels, each pixel (0..255) / {how.scale:g}, less")
        lines.append(f"# {how.mean}, over {how.std}; {'BGR' if network.reversed_channels else 'RGB'}")
    lines.append(f"{'probabilities' if ends else 'logits'} = network.predict(pictures)")
    return "\n".join(lines)


def _mark(network: KerasNetwork, plan: Plan) -> None:
    """Set `trainable` as the plan has it: False for what never learns."""
    rates = plan.rates()
    frozen = {name for layer, rate in zip(plan.layers, rates, strict=True) if rate is None for name in layer.members}
    names = {id(tensor): name for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    for layer in every_layer(network.model):
        held = [names[id(variable._value)] for part in every_layer(layer) for variable in _variables(part)]
        if held and frozen.issuperset(held):
            layer.trainable = False


def _variables(layer: Any) -> Sequence[Any]:
    return (*layer._trainable_variables, *layer._non_trainable_variables)


# ------------------------------------------------------------------------------------------------ chains and graphs


def _graph(model: Model, network: KerasNetwork) -> tuple[Any, bool]:
    """The graph up to the cuts that the head reads, and the head on them; it ends in probabilities."""
    keras, plan, anatomy = library(), model.plan, model.anatomy
    inputs, tops = network.model.inputs, list[Any]()
    for depth in read_at(plan):
        port = anatomy.port(depth)
        if len(port.leaves) != 1 or port.axes != (0,):
            raise Refused(f"{len(port.leaves)} tensors cross depth {depth}, and one is needed; use --to onnx")
        tops.append(_pooled(_output(network.model, anatomy.calls[port.call].name), anatomy.pools[depth - 1][0]))
    features = tops[0] if len(tops) == 1 else keras.layers.Concatenate(name=f"{HEAD}_features")(tops)
    logits, fill = _headed(model.head, features)
    built = keras.Model(inputs, keras.layers.Softmax(name=f"{HEAD}_probabilities")(logits), name=network.model.name)
    for layer, weights in fill:
        layer.set_weights([tensor.detach().cpu().numpy() for tensor in weights])
    _mark(network, plan)
    return built, True


def _output(model: Any, name: str) -> Any:
    """The symbolic result of a layer, reached from the model's own inputs, through the models that stand in it."""
    first, _, rest = name.partition(".")
    layer = model._modules[first]
    graph = getattr(model, "_functional", None) or model  # a sequential model holds its graph
    runs = [node for nodes in graph._nodes_by_depth.values() for node in nodes if node.operation is layer]
    if len(runs) != 1 or len(runs[0].outputs) != 1:
        raise Refused(f"the layer {layer.name!r} runs {len(runs)} times, so its result is not one; use --to onnx")
    if not rest:
        return runs[0].outputs[0]
    if not is_graph(layer):
        raise Refused(
            f"the plan drops what follows {rest!r} inside of {layer.name!r}, a {type(layer).__name__}, which Keras "
            "cannot take apart; use --to onnx"
        )
    inner = library().Model(layer.inputs, _output(layer, rest), name=layer.name)
    return inner(runs[0].input_tensors[0])


def _pooled(tensor: Any, how: Pool) -> Any:
    """The features of a cut, as `backbones.pooling.pool` makes them."""
    keras, count = library(), len(tensor.shape)
    if count == 2:
        return tensor
    if how.take != "mean":
        return tensor[:, 0] if how.take == "first" else tensor[:, -1]
    if how.channel is None or count not in (3, 4):
        return keras.layers.Flatten()(tensor)
    form = "channels_first" if how.channel == 1 else "channels_last"
    kind = keras.layers.GlobalAveragePooling1D if count == 3 else keras.layers.GlobalAveragePooling2D
    return kind(data_format=form)(tensor)


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


def _class(model: Model, network: KerasNetwork) -> tuple[Any, bool]:
    """A model of the user's own class, built for as many classes as there are, with the head as its output layer.

    Its configuration must say the number of classes: that is the entry that holds the output layer's.
    """
    keras, head = library(), model.head
    behind = tuple(f"{name}." for name in model.anatomy.head)
    parts = dict(network.named_modules())
    found = [
        name for name, part in parts.items() if f"{name}.".startswith(behind) and isinstance(part, keras.layers.Dense)
    ]
    if model.plan.above == "drop" or not isinstance(head, nn.Linear) or len(found) != 1:
        raise Refused(
            f"the network is a {type(network.model).__name__}, a class of its own, which Keras cannot take apart, and "
            "the plan drops layers of it or the head is more than its output layer; use --to onnx"
        )
    (name,) = found
    old: Any = parts[name]
    config = network.model.get_config()
    entries = [key for key, value in config.items() if value == old.units and not isinstance(value, bool)]
    for entry in entries:
        again = KerasNetwork(anew(network.model, config={**config, entry: head.out_features}))
        state = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith(f"{name}.")}
        state |= {f"{name}.kernel": head.weight.detach().T, f"{name}.bias": head.bias.detach()}
        try:
            again.load_state_dict(state)
        except RuntimeError:  # another entry that holds the same number
            continue
        _mark(again, model.plan)
        return again.model, getattr(old.activation, "__name__", "") == "softmax"
    raise Refused(
        f"no entry of the configuration of {type(network.model).__name__} is the number of its classes, {old.units}; "
        "let get_config say it, or use --to onnx"
    )
