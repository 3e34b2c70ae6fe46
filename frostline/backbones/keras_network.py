"""A network of Keras 3 as a module of PyTorch: its layers are modules with names, its weights are theirs.

On its torch backend a Keras layer is an `nn.Module`, but its weights lie in a table of their own and not in the layer,
layers of a functional model are no children of it, statistics count as parameters, and whether it trains is an argument
of every call. Here each layer holds its weights itself, as parameters and buffers under the names that Keras gives
them, and each follows its own `training` flag. Then all that works on modules works on these: cuts, frozen layers,
checkpoints, other devices and precisions. Why, and on what it rests: docs/decisions/0018.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from frostline.backbones.keras_models import (
    channels_last,
    copy_weights,
    every_layer,
    is_graph,
    nodes_of,
    rebuilt,
    variables_of,
)

# stored statistics are told by these names everywhere else
STATISTICS: Mapping[str, str] = {"moving_mean": "running_mean", "moving_variance": "running_var"}
OWN = ("model", "channels_last", "reversed_channels", "takes_training")  # names that the network itself bears
FLOATS = ("float16", "bfloat16", "float64")


@final
class KerasNetwork(nn.Module):
    """A Keras model that takes pictures (n, channels, height, width), as every other network here does.

    It takes the model over: nobody else may use it from then on. `reversed_channels` hands it blue before red.
    """

    model: Any

    def __init__(self, model: Any, *, reversed_channels: bool = False) -> None:
        super().__init__()
        model.trainable = True  # whatever was frozen when it was saved
        for layer in every_layer(model):
            _adopt_parts(layer)
            _adopt_weights(layer)
            _adopt_ways(layer)
        # its layers and weights are this module's own; the model itself is no part of it, and its name is in none
        self.__dict__ |= {"model": model, "_modules": model._modules}
        self.__dict__ |= {"_parameters": model._parameters, "_buffers": model._buffers}
        self.channels_last = channels_last(model)
        self.reversed_channels = reversed_channels
        self.takes_training = _takes_training(model)

    def forward(self, pixels: Tensor) -> Any:
        from keras import device

        if self.reversed_channels:
            pixels = pixels.flip(1)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        # `call` and not the model itself: that would insist on the size of picture that it was built for
        with device(str(pixels.device)):
            return self.model.call(pixels, training=self.training) if self.takes_training else self.model.call(pixels)

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasNetwork:
        again = KerasNetwork(rebuilt(self.model), reversed_channels=self.reversed_channels)
        memo[id(self)] = again
        tensors = dict(self.named_parameters())
        for name, parameter in again.named_parameters():
            parameter.data = tensors[name].detach().clone()
            parameter.requires_grad_(tensors[name].requires_grad)
        for mine, theirs in zip(self.modules(), again.modules(), strict=True):
            theirs.training = mine.training
            for name, buffer in mine._buffers.items():
                theirs._buffers[name] = None if buffer is None else buffer.detach().clone()
        return again

    def __reduce__(self) -> Any:
        raise TypeError(
            "a network of Keras is not pickled: save network.model with Keras, or give its file or factory by name"
        )


class GraphOperation(nn.Module):
    """A step of a graph that is no layer, such as `a + b`, as a module: where it ends the network may be cut."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation
        self.name = operation.name

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.operation(*inputs, **named)


def plain(network: KerasNetwork) -> tuple[Any, dict[int, Any]]:
    """A Keras model with the same weights that nobody took over, and its layer for each one of the network's, by id."""
    model = rebuilt(network.model)
    copy_weights(model, network.model)
    pairs = zip(every_layer(network.model), every_layer(model), strict=True)
    return model, {id(mine): theirs for mine, theirs in pairs}


# ------------------------------------------------------------------------------------------------ parts


def _adopt_parts(layer: Any) -> None:
    """Let a layer have its parts as children, and the steps of its graph that are no layers."""
    parts = _parts(layer)
    # Keras finds parts that were set as attributes in the module's own table, which is made anew here
    layer.__dict__.update({name: part for name, part in layer._modules.items() if part is not None})
    layer._modules.clear()
    layer._modules.update(parts)
    for node in nodes_of(layer) if is_graph(layer) else ():
        if not isinstance(node.operation, nn.Module):
            node.operation = GraphOperation(node.operation)
            layer._modules[_free(node.operation.name, layer._modules, layer)] = node.operation


def _parts(layer: Any) -> dict[str, nn.Module]:
    """Its parts by the names they have in the network: their own in a chain or graph, else those of attributes.

    Where a class of the user's own makes its parts, Keras numbers them on, and the second network would have others.
    """
    attributes = {} if is_graph(layer) else {id(part): name for name, part in _attributes(layer)}
    found: dict[str, nn.Module] = {}
    part: Any
    for part in layer._layers:
        if isinstance(part, nn.Module) and type(part).__name__ != "InputLayer":
            found[attributes.get(id(part)) or _free(str(part.name), found, layer)] = part
    return found


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    for name, value in (*vars(layer).items(), *layer._modules.items()):
        if name in ("_layers", "_functional", "_modules"):
            continue
        if isinstance(value, nn.Module):
            yield name.strip("_"), value
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name.strip('_')}_{n}", v) for n, v in enumerate(value) if isinstance(v, nn.Module))
        elif isinstance(value, Mapping):
            yield from ((f"{name.strip('_')}_{key}", v) for key, v in value.items() if isinstance(v, nn.Module))


def _free(wanted: str, taken: Mapping[str, Any], layer: Any) -> str:
    """A name for a part of a layer, as near to the wanted one as can be: what is an attribute already stays one."""
    wanted = re.sub(r"\W", "_", wanted)
    names = (wanted if n == 1 else f"{wanted}_{n}" for n in itertools.count(1))
    return next(name for name in names if name not in taken and name not in OWN and getattr(layer, name, None) is None)


# ------------------------------------------------------------------------------------------------ weights


def _adopt_weights(layer: Any) -> None:
    """Let a layer hold its weights: as parameters where they learn, else as buffers."""
    layer.__dict__["_torch_params"] = {}  # Keras' own table of weights; made again where it is missing
    layer._parameters.clear()
    layer._buffers.clear()
    for variable in variables_of(layer):
        name = re.sub(r"\W", "_", STATISTICS.get(variable.name, variable.name))
        taken = {*layer._parameters, *layer._buffers, *layer._modules}
        while name in taken or layer.__dict__.get(name, variable) is not variable:  # which setting it would overwrite
            name += "_"
        shared = variable.__dict__.get("_home")  # with a layer that holds it already
        value = variable.__dict__.pop("_value") if shared is None else shared[0][shared[1]]
        learns = bool(variable.trainable) and value.is_floating_point()
        if shared is None:
            value = nn.Parameter(value.detach()) if learns else value.detach()
        table = layer._parameters if learns else layer._buffers
        table[name] = value
        if shared is None:
            variable.__dict__["_home"] = (table, name)
            variable.__class__ = _housed()


@functools.cache
def _housed() -> type:
    """Keras' variable, whose value is what its layer holds: whoever swaps that swaps the variable's."""
    import keras

    class Housed(keras.Variable):
        @property
        def _value(self) -> Any:
            table, name = self.__dict__["_home"]
            return table[name]

    return Housed


# ------------------------------------------------------------------------------------------------ ways


def _adopt_ways(layer: Any) -> None:
    """Let a layer follow its own mode, compute in the precision of what it is given, and draw from PyTorch."""
    layer.autocast = False  # in which precision to compute is said from outside
    policy = layer.dtype_policy
    if policy.compute_dtype in FLOATS or policy.variable_dtype in FLOATS:
        layer.dtype_policy = "float32"
    if is_graph(layer):
        layer.__dict__["_convert_inputs_to_tensors"] = list  # as they come, whatever it was built for
    for generator in layer._seed_generators:
        generator.__class__ = _drawing()
    if _takes_training(layer):
        layer.register_forward_pre_hook(_by_mode, with_kwargs=True)
    if callable(getattr(layer, "finalize_state", None)):  # constants that it made of its weights
        layer.register_forward_pre_hook(_finalized)


def _takes_training(layer: Any) -> bool:
    return "training" in inspect.signature(layer.call).parameters


def _by_mode(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return inputs, {**named, "training": layer.training}


def _finalized(layer: Any, inputs: tuple[Any, ...]) -> None:
    layer.finalize_state()


@functools.cache
def _drawing() -> type:
    """Keras' source of randomness for dropout and its like, which asks PyTorch's generator: what is seeded and kept."""
    import keras

    class Drawing(keras.random.SeedGenerator):
        def next(self, ordered: bool = True) -> Tensor:
            return torch.randint(2**31, (2,))

    return Drawing
