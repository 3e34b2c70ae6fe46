"""A network of Keras 3 as a module of PyTorch: its layers are modules with names, its weights are theirs.

On its torch backend a Keras layer is an `nn.Module`, but its weights lie in a table of their own and not in the layer,
layers of a functional model are no children of it, statistics count as parameters, and whether it trains is an argument
of every call. Here each layer holds its weights itself, as parameters and buffers under the names that Keras gives
them, and each follows its own `training` flag. Then all that works on modules works on these: cuts, frozen layers,
checkpoints, other devices and precisions.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from frostline.backbones.keras_library import drawn, library, quiet, sentence
from frostline.errors import BackboneError

# stored statistics are told by these names everywhere else
STATISTICS: Mapping[str, str] = {"moving_mean": "running_mean", "moving_variance": "running_var"}
OWN = ("model", "channels_last", "reversed_channels")  # names that the network itself bears


@final
class KerasNetwork(nn.Module):
    """A Keras model that takes pictures (n, channels, height, width), as every other network here does.

    `model` stays a Keras model: `save` writes what was learned. `reversed_channels` hands it blue before red.
    """

    model: Any

    def __init__(self, model: Any, *, reversed_channels: bool = False) -> None:
        super().__init__()
        held(model)
        # its layers and weights are this module's own; the model itself is no part of it, and its name is in none
        self.__dict__ |= {"model": model, "_modules": model._modules}
        self.__dict__ |= {"_parameters": model._parameters, "_buffers": model._buffers}
        self.channels_last = channels_last(model)
        self.reversed_channels = reversed_channels
        self._told = "training" in inspect.signature(model.call).parameters

    def forward(self, pixels: Tensor) -> Any:
        from keras import device

        if self.reversed_channels:
            pixels = pixels.flip(1)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        # `call` and not the model itself: that would insist on the size of picture that it was built for
        with device(str(pixels.device)):
            return self.model.call(pixels, training=self.training) if self._told else self.model.call(pixels)

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasNetwork:
        again = KerasNetwork(anew(self.model), reversed_channels=self.reversed_channels)
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


# ------------------------------------------------------------------------------------------------ models


def anew(
    model: Any, *, seed: int = 0, size: tuple[int, int] | None = None, config: dict[str, Any] | None = None
) -> Any:
    """The same model from its configuration, with fresh weights; `size` gives it pictures of other pixels.

    `config` stands in for its own configuration.

    Raises BackboneError where it has no configuration, which a class of the user's own may lack.
    """
    shape = picture_shape(model)
    if size is not None:
        shape = (*size, shape[-1]) if channels_last(model) else (shape[0], *size)
    keras = library()
    try:
        with keras.saving.custom_object_scope(own_classes(model)), drawn(seed), quiet():
            found = type(model).from_config(_sized(config or model.get_config(), shape))
            if not found.built or not found.weights:
                with torch.no_grad(), keras.device("cpu"):
                    found(torch.zeros(1, *shape))
    except Exception as error:  # a class of the user's own may fail in any way
        raise BackboneError(
            f"the Keras model {model.name!r} cannot be built again from its configuration "
            f"({type(error).__name__}: {sentence(error)}); let its class have get_config and from_config, with which "
            "Keras itself saves and loads it"
        ) from error
    return found


def fill(model: Any, like: Any) -> None:
    """Copy the weights of a model of the same architecture, in place. Raises ValueError where shapes differ."""
    with quiet():
        model.set_weights(like.get_weights())


def own_classes(model: Any) -> dict[str, type]:
    """Classes in the model that are none of Keras, under every name by which a configuration may call them."""
    kinds = {type(layer) for layer in every_layer(model) if not type(layer).__module__.startswith("keras.")}
    registered = library().saving.get_registered_name
    return {name: kind for kind in kinds for name in (kind.__name__, registered(kind))}


def picture_shape(model: Any) -> tuple[int, ...]:
    """What one picture is, as the model has it: (height, width, channels), or channels first.

    A side that it leaves open is 0. Raises BackboneError where it takes anything but one batch of pictures.
    """
    given: Any = getattr(model, "input_shape", None) if model.built else None
    given = given or getattr(model, "_build_shapes_dict", None)
    shape: list[Any] = list(next(iter(given.values())) if isinstance(given, dict) else given or ())
    if len(shape) != 4 or not all(side is None or isinstance(side, int) for side in shape):
        raise BackboneError(
            f"the Keras model {model.name!r} takes inputs of the shape {given}; one batch of pictures "
            "(None, height, width, channels) is needed; call it once on such a batch if it was never called"
        )
    return tuple(side or 0 for side in shape[1:])


def channels_last(model: Any) -> bool:
    """Whether its pictures are (height, width, channels), from the layers that say so."""
    said = {layer.data_format for layer in every_layer(model) if isinstance(getattr(layer, "data_format", None), str)}
    return said != {"channels_first"}


def every_layer(model: Any) -> Iterator[Any]:
    """The model and everything in it, each once."""
    yield from model._flatten_layers(include_self=True, recursive=True)


def _sized(config: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """A model's configuration with inputs of this shape."""
    layers: Any = config.get("layers", ())
    inputs: list[Any] = [layer for layer in layers if layer.get("class_name") == "InputLayer"]
    if len(inputs) == 1 and 0 not in shape:
        held = inputs[0]["config"]
        inputs[0]["config"] = held | {"batch_shape": (None, *shape)}
        if isinstance(config.get("build_input_shape"), (list, tuple)):  # of a sequential one
            config["build_input_shape"] = (None, *shape)
    return config


# ------------------------------------------------------------------------------------------------ layers as modules


def held(model: Any) -> None:
    """Let every layer hold its own weights and parts, and follow its own mode; all of it learns and is float32."""
    model.trainable = True
    for layer in every_layer(model):
        parts = _parts(layer)
        # Keras finds parts that were set as attributes in the module's own table, which is made anew here
        layer.__dict__.update({name: part for name, part in layer._modules.items() if part is not None})
        layer.__dict__["_torch_params"] = {}  # Keras' own table of weights; made again where it is missing
        layer._modules.clear()
        layer._modules.update(parts)
        layer._parameters.clear()
        layer._buffers.clear()
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            _take(layer, variable)
        for generator in layer._seed_generators:
            generator.__class__ = _drawing()
        layer.autocast = False  # in which precision to compute is said from outside
        if layer.dtype_policy.compute_dtype != layer.dtype_policy.variable_dtype:
            layer.dtype_policy = layer.dtype_policy.variable_dtype
        if is_graph(layer):
            layer.__dict__["_convert_inputs_to_tensors"] = list  # as they come, whatever it was built for
        if "training" in inspect.signature(layer.call).parameters:
            layer.register_forward_pre_hook(_by_mode, with_kwargs=True)


def is_graph(layer: Any) -> bool:
    """Whether Keras knows what is computed from what in it: a functional or sequential model."""
    return any(kind.__name__ in ("Functional", "Sequential") for kind in type(layer).__mro__)


def _parts(layer: Any) -> dict[str, nn.Module]:
    """Its parts by the names they have in the network: their own in a chain or graph, else those of attributes.

    Where a class of the user's own makes its parts, Keras numbers them on, and the second network would have others.
    """
    graph = is_graph(layer)
    attributes = {id(part): name for name, part in _attributes(layer)}
    found: dict[str, nn.Module] = {}
    part: Any
    for part in layer._layers:
        if not isinstance(part, nn.Module) or type(part).__name__ == "InputLayer":
            continue
        chosen = None if graph else attributes.get(id(part))
        name = chosen or _free(str(part.name), lambda name: name in found or hasattr(layer, name) or name in OWN)
        found[name] = part
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


def _take(layer: Any, variable: Any) -> None:
    """Let a layer hold a weight: as a parameter where it learns, else as a buffer."""
    own = STATISTICS.get(variable.name, variable.name)
    name = _free(own, lambda name: name in layer._parameters or name in layer._buffers or name in layer._modules)
    value = variable.__dict__.pop("_value")
    learns = bool(variable.trainable) and value.is_floating_point()
    if learns:
        layer._parameters[name] = nn.Parameter(value.detach())
    else:
        layer._buffers[name] = value.detach()
    variable.__dict__["_home"] = (layer._parameters if learns else layer._buffers, name)
    variable.__class__ = _homed()


def _free(wanted: str, taken: Callable[[str], bool]) -> str:
    """A name that a part of a module may bear, as near to the wanted one as can be."""
    wanted = re.sub(r"\W", "_", wanted)
    return next(name for n in itertools.count(1) if not taken(name := wanted if n == 1 else f"{wanted}_{n}"))


@functools.cache
def _homed() -> type:
    """Keras' variable, whose value is what its layer holds: whoever swaps that swaps the variable's."""
    import keras

    class Homed(keras.Variable):
        @property
        def _value(self) -> Any:
            table, name = self.__dict__["_home"]
            return table[name]

    return Homed


@functools.cache
def _drawing() -> type:
    """Keras' source of randomness for dropout and its like, which asks PyTorch's generator: what is seeded and kept."""
    import keras

    class Drawing(keras.random.SeedGenerator):
        def next(self, ordered: bool = True) -> Tensor:
            return torch.randint(2**31, (2,))

    return Drawing


def _by_mode(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return inputs, {**named, "training": layer.training}
