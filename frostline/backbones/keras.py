"""Networks of Keras 3: by the name of an application, from a file that Keras saved, or as a model."""

from __future__ import annotations

import inspect
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves

from frostline.backbones.keras_library import drawn, library, quiet, sentence
from frostline.backbones.keras_models import channels_last, copy_weights, every_layer, picture_shape, rebuilt
from frostline.backbones.keras_network import KerasNetwork
from frostline.backbones.keras_presets import preset, presets
from frostline.backbones.sources import PATIENCE, REMEDY, Built, Options, unknown
from frostline.errors import BackboneError, WeightsError
from frostline.values import Preprocessing

SUFFIXES = (".keras", ".h5", ".hdf5")
USUAL = (224, 224)  # pixels of an application that leaves them open
SCALING = ("Rescaling", "Normalization")  # layers with which a network scales its pictures itself
RAW = "pixels from 0 to 255, as Keras' own data sets bring them,"


@dataclass(frozen=True, slots=True)
class InputScaling:
    """What is done to pixels from 0 to 255 before a network reads them, channel by channel in the order of RGB."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverses: bool = False  # it reads blue before red
    size: tuple[int, int] | None = None  # height, width to which pictures are brought, where that is said
    crops: bool = False  # the shorter side is, and the centre cut out


def keras_network(name: str, pretrained: bool, image_size: int | None, options: Options) -> Built:
    """`keras/NAME` of keras.applications or KerasHub, or `keras/FILE` as Keras saved it.

    `options` are arguments of the application. Raises BackboneError for what is unknown or cannot be built,
    WeightsError where the weights cannot be had.
    """
    if name.endswith(SUFFIXES):
        return keras_file(Path(name).expanduser(), pretrained, image_size, options)
    offered = {
        key: value
        for key, value in vars(library().applications).items()
        if inspect.isfunction(value) and key[0].isupper()
    }
    weights = f"keras/{name}" if pretrained else "none"
    if name not in offered:
        with drawn(int(torch.randint(2**31, ()))):
            model = preset(name, pretrained, options)
        if model is None:
            raise unknown(name, "keras", sorted((*offered, *presets())))
        return built_of(model, weights, image_size)
    build = offered[name]
    model = _application(build, name, pretrained, options)
    return built_of(model, weights, image_size, _asked(sys.modules[build.__module__].preprocess_input))


def keras_file(file: Path, pretrained: bool, image_size: int | None, options: Options) -> Built:
    """A `.keras` file, or an `.h5` file with architecture and weights. Code in it is not run.

    Raises BackboneError where it is missing or Keras refuses it, with what to do.
    """
    if options:
        raise BackboneError(
            f"model_kwargs {dict(options)} are given for {file}, whose model is built already; drop them"
        )
    if file.is_dir():
        raise BackboneError(f"{str(file)!r} is a folder, in which Keras 3 saves no model; give a file of model.save()")
    if not file.is_file():
        raise BackboneError(f"{str(file)!r} does not exist; give a file that model.save('network.keras') wrote")
    keras = library()
    try:
        with drawn(0), quiet(), keras.device("cpu"):
            model = keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # what a file of anybody's makes Keras raise is of many kinds
        raise BackboneError(_refusal(file, error)) from error
    built = built_of(model, str(file), image_size)
    return built if pretrained else _random(built)


def keras_model(model: Any, pretrained: bool, image_size: int | None) -> Built:
    """A model that the caller holds. It is not touched: a copy learns. Raises BackboneError."""
    library()
    copy = rebuilt(model)
    try:
        copy_weights(copy, model)
    except ValueError as error:
        raise BackboneError(
            f"the Keras model {model.name!r}, built again from its configuration, has other weights "
            f"({sentence(error)}); let get_config say all that its weights depend on"
        ) from error
    built = built_of(copy, "as given", image_size)
    _refuse_other(built, model)
    frozen = [layer.name for layer in every_layer(model) if layer.weights and not layer.trainable]
    if frozen:
        thawed = f"{', '.join(frozen[:4])}{', ..' if len(frozen) > 4 else ''} had trainable False and may learn here"
        built = replace(built, notes=(*built.notes, thawed))
    return built if pretrained else _random(built)


def _refuse_other(built: Built, model: Any) -> None:
    """Raise BackboneError where a copy computes something else: what a class keeps outside of its weights is lost."""
    network, how = built.module, built.preprocessing
    assert how is None or isinstance(how, Preprocessing), "Keras networks read pictures here"
    assert isinstance(network, KerasNetwork) and how is not None, "as every Keras network is built"
    shape = (2, len(how.mean), *(side or own for side, own in zip(_sides(model), how.size, strict=True)))
    pictures = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad(), quiet(), library().device("cpu"):
        theirs = tree_leaves(model(pictures.permute(0, 2, 3, 1) if network.channels_last else pictures))
        ours = tree_leaves(network.eval()(pictures))
    if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(ours, theirs, strict=True)):
        raise BackboneError(
            f"a copy of the Keras model {model.name!r} computes something else than it does; let its layers keep all "
            "that they use in weights (add_weight), or in get_config"
        )


def _sides(model: Any) -> tuple[int, int]:
    """Height and width of its pictures in pixels; 0 for what it leaves open."""
    shape = picture_shape(model)
    return (shape[0], shape[1]) if channels_last(model) else (shape[1], shape[2])


def read_keras_weights(network: KerasNetwork, file: Path) -> None:
    """Weights that Keras saved, `.weights.h5` or a whole model, into a network, in place. Raises WeightsError."""
    if not file.is_file():
        raise WeightsError(f"weights {str(file)!r} are no file; give what model.save_weights('my.weights.h5') wrote")
    model = network.model
    try:
        with quiet():
            if file.name.endswith(".weights.h5"):
                model.load_weights(file)
            else:
                with library().device("cpu"):
                    other = library().models.load_model(file, compile=False, safe_mode=True)
                copy_weights(model, other)
    except Exception as error:  # Keras raises many kinds
        raise WeightsError(
            f"{file} does not hold the weights of {model.name!r}: {sentence(error)}; give the file of this very "
            "architecture, or the whole network as the backbone"
        ) from error


def _application(build: Callable[..., Any], name: str, pretrained: bool, options: Options) -> Any:
    def made(weights: str | None) -> Any:
        with drawn(int(torch.randint(2**31, ()))), quiet(), library().device("cpu"):
            return build(weights=weights, **options)

    try:
        plain = made(None)
    except Exception as error:  # an argument that the application does not take
        raise BackboneError(
            f"keras/{name} cannot be built with the options {dict(options)}: {sentence(error)}; options are the "
            f"arguments of keras.applications.{name}"
        ) from error
    if not pretrained:
        return plain
    waits = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # what is kept in ~/.keras/models is not asked for
    try:
        return made("imagenet")
    except Exception as error:  # Keras raises a bare Exception where it cannot fetch
        raise WeightsError(
            f"the pre-trained weights of keras/{name} cannot be had ({sentence(error)}); {REMEDY}"
        ) from error
    finally:
        socket.setdefaulttimeout(waits)


def _asked(preprocess: Callable[..., Any]) -> InputScaling:
    """What an application does to the pixels of a picture, asked of its own function with pictures of one colour."""

    def asked(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        # in float64, and with the channels where they stand here, whatever Keras is configured to
        return np.asarray(preprocess(picture.copy(), data_format="channels_last"), np.float64).ravel()

    dark = asked(np.zeros((1, 1, 1, 3)))
    slopes = np.stack([asked(np.eye(3)[channel].reshape(1, 1, 1, 3)) - dark for channel in range(3)])
    places = np.abs(slopes).argmax(axis=1)  # where each channel comes out
    slope, base = slopes[range(3), places], dark[places]
    return InputScaling(tuple((0.0 - base / slope).tolist()), tuple((1 / slope).tolist()), bool(places[0] == 2), USUAL)


def _converted(model: Any) -> InputScaling | None:
    """What KerasHub's converter of pictures does, which a model of it carries along."""
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    if converter is None:
        return None
    scale, offset = (np.broadcast_to(v, 3) for v in (converter.scale or 1.0, converter.offset or 0.0))
    size: Any = converter.image_size
    return InputScaling(
        tuple((-offset / scale).tolist()),
        tuple((1 / scale).tolist()),
        size=None if size is None or None in size else (int(size[0]), int(size[1])),
        crops=bool(converter.crop_to_aspect_ratio),
    )


def built_of(model: Any, weights: str, image_size: int | None, scaling: InputScaling | None = None) -> Built:
    """A model as a network of pictures; of `image_size` pixels where that is said and it was built for others.

    The model belongs to the network from then on. `scaling` None takes pixels as they are. Raises BackboneError.
    """
    scaling = scaling or _converted(model)
    said = (image_size, image_size) if image_size else None
    if said is None and scaling is not None and 0 in picture_shape(model):
        said = scaling.size
    model = _of_size(model, said)
    size, channels = said or _sides(model), picture_shape(model)[-1 if channels_last(model) else 0]
    if channels not in (1, 3):
        raise BackboneError(f"the Keras model {model.name!r} reads {channels} channels; 1 for grey or 3 for colour")
    if 0 in size:
        raise BackboneError(
            f"the Keras model {model.name!r} leaves the size of its pictures open; say it in pixels with --image-size"
        )
    notes: tuple[str, ...] = ()
    if scaling is None:
        scaling = InputScaling((0.0,) * channels, (1.0,) * channels)
        if not any(type(layer).__name__ in SCALING for layer in every_layer(model)):
            notes = (
                f"{model.name!r} does not say how pictures are scaled: {RAW} are assumed; else give --mean and --std",
            )
    resize = min(size) if scaling.crops else None
    known = Preprocessing((size[0], size[1]), resize, scaling.mean[:channels], scaling.std[:channels], scale=1.0)
    reverses = scaling.reverses

    def again() -> KerasNetwork:
        return KerasNetwork(rebuilt(model, seed=int(torch.randint(2**31, ()))), reversed_channels=reverses)

    return Built(KerasNetwork(model, reversed_channels=reverses), again, known, weights, notes=notes)


def _of_size(model: Any, size: tuple[int, int] | None) -> Any:
    """The model for pictures of another size, with its weights; itself where it takes any."""
    own = _sides(model)
    if size is None or own == size or 0 in own:
        return model
    try:
        wanted = rebuilt(model, size=size)
        copy_weights(wanted, model)
    except BackboneError as error:
        wanted, why = model, sentence(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    except ValueError as error:
        wanted, why = model, sentence(error)
    else:
        why = "its class builds it for one size"
    if _sides(wanted) == own:
        raise BackboneError(
            f"the Keras model {model.name!r} does not read {size[0]} x {size[1]} pixels: {why}; it was built for "
            f"{own[0]} x {own[1]}"
        )
    return wanted


def _random(built: Built) -> Built:
    """The same network with weights that learned nothing."""
    assert built.make is not None, "every Keras network is built with one"
    return replace(built, module=built.make(), weights="none")


def _refusal(file: Path, error: Exception) -> str:
    """Why Keras refuses a file, and what to do about it."""
    told = sentence(error)
    if "Lambda" in str(error) or "safe_mode" in str(error) or "unsafe" in str(error):
        return (
            f"{file} is not opened, since it holds code of its own, which would run ({told}); where you trust it, "
            "build the network in a Python file and give FILE.py:FACTORY"
        )
    if "Could not locate" in str(error) or "Unknown layer" in str(error) or "register_keras_serializable" in str(error):
        return (
            f"{file} has layers of a class that Keras does not know ({told}); load it in a Python file that defines "
            "the class, and give FILE.py:FACTORY"
        )
    if file.suffix != ".keras" and isinstance(error, TypeError):
        return (
            f"{file} was saved by Keras 2 in a way that Keras 3 refuses ({told}); load it with tf_keras, build the "
            "same network in Keras 3, copy its weights with set_weights(old.get_weights()) and save it with "
            "model.save('network.keras')"
        )
    if file.suffix != ".keras" and "config" in str(error):
        return f"{file} holds weights alone ({told}); give the network as the backbone, and the file with --weights"
    return f"{file} is no model that Keras can open ({told}); give a file that model.save('network.keras') wrote"
