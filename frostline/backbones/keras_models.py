"""What is asked of a model of Keras: how to build it again, what pictures it takes, what stands in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from frostline.backbones.keras_library import drawn, library, quiet, sentence
from frostline.errors import BackboneError


def rebuilt(
    model: Any, *, seed: int = 0, size: tuple[int, int] | None = None, config: Mapping[str, Any] | None = None
) -> Any:
    """The same model from its configuration, with fresh weights of this seed.

    `size` gives it pictures of other pixels; `config` stands in for its own configuration. Raises BackboneError where
    it cannot be built from that, which a class of the user's own may not allow.
    """
    shape = wanted = picture_shape(model)
    if size is not None:
        wanted = (*size, shape[-1]) if channels_last(model) else (shape[0], *size)
    keras = library()
    try:
        with keras.saving.custom_object_scope(own_classes(model)), drawn(seed), quiet(), keras.device("cpu"):
            found = type(model).from_config(_sized(dict(config or model.get_config()), shape, wanted))
            if not found.built or not found.weights:
                with torch.no_grad():
                    found(torch.zeros(1, *wanted))
    except Exception as error:  # a class of the user's own may fail in any way
        raise BackboneError(
            f"the Keras model {model.name!r} cannot be built again from its configuration ({sentence(error)}); let its "
            "class have a get_config and from_config with which Keras itself saves and loads it"
        ) from error
    return found


def copy_weights(model: Any, like: Any) -> None:
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
    """Whether its pictures are (height, width, channels): from their shape, or from the layers where both would fit."""
    shape = picture_shape(model)
    first, last = shape[0] in (1, 3), shape[-1] in (1, 3)
    if first != last:
        return last
    said = {layer.data_format for layer in every_layer(model) if isinstance(getattr(layer, "data_format", None), str)}
    return said != {"channels_first"}


def every_layer(model: Any) -> Iterator[Any]:
    """The model and everything in it, each once."""
    yield from model._flatten_layers(include_self=True, recursive=True)


def is_graph(layer: Any) -> bool:
    """Whether Keras knows what is computed from what in it: a functional or sequential model."""
    return any(kind.__name__ in ("Functional", "Sequential") for kind in type(layer).__mro__)


def nodes_of(model: Any) -> list[Any]:
    """The steps of a graph: each runs an operation once. Empty for what is no graph."""
    graph = getattr(model, "_functional", None) or model  # a sequential model holds its graph
    return [node for nodes in getattr(graph, "_nodes_by_depth", {}).values() for node in nodes]


def variables_of(layer: Any) -> tuple[Any, ...]:
    """The weights of a layer itself, without those of its parts."""
    return (*layer._trainable_variables, *layer._non_trainable_variables)


def _sized(config: dict[str, Any], shape: tuple[int, ...], wanted: tuple[int, ...]) -> dict[str, Any]:
    """A configuration with inputs of another shape, in the models that stand in it too."""
    if shape == wanted or 0 in wanted:
        return config
    if config.get("class_name") == "InputLayer":
        held = config["config"]
        same = tuple(held.get("batch_shape") or ())[1:] == shape
        return {**config, "config": {**held, "batch_shape": (None, *wanted)}} if same else config
    found = dict(config)
    for key in ("layers", "config"):
        inner: Any = found.get(key)
        if isinstance(inner, list):
            found[key] = [_sized(layer, shape, wanted) for layer in inner if isinstance(layer, dict)]
        elif isinstance(inner, dict):
            found[key] = _sized(inner, shape, wanted)
    if tuple(found.get("build_input_shape") or ())[1:] == shape:  # of a sequential one
        found["build_input_shape"] = (None, *wanted)
    return found
