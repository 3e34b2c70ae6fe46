"""A backbone, by name, by folder, by file or as a module: built, filled with its weights, with an example to run."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frostline.backbones.files import file_network, first_channels, given_network
from frostline.backbones.hugging_face import Encode, Sizes, transformers_network
from frostline.backbones.keras import SUFFIXES, keras_model, keras_network, read_keras_weights
from frostline.backbones.keras_library import is_keras, sentence
from frostline.backbones.keras_network import KerasNetwork
from frostline.backbones.preprocessing import overridden
from frostline.backbones.sources import Built, Options, timm_network, torchvision_network
from frostline.backbones.weights import fit, read_weights
from frostline.errors import BackboneError, OptionError
from frostline.values import Backbone, Prepared, Preprocessing, Tokens, Waves

SOURCES: Mapping[str, Callable[[str, bool, int | None, Options], Built]] = {
    "timm": timm_network,
    "torchvision": torchvision_network,
    "keras": keras_network,
}
ALLOWED = "timm/NAME, torchvision/NAME, hf/NAME, hf/FOLDER, keras/NAME, FILE.keras and FILE.py:FACTORY"
TOKENS = 16  # length of an example text


def load(
    spec: str | nn.Module,
    *,
    weights: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    max_length: int | None = None,
    seconds: float | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Backbone:
    """The network in eval mode and float32, with its preprocessing and an example batch of two.

    `weights` None takes the pre-trained ones of its source, "none" random ones, anything else is a file. What is
    said about pictures goes before the backbone's own configuration; of texts `max_length` tokens are read, of
    recordings so many `seconds`. `model_kwargs` go to whoever builds it.
    No draw here touches the caller's random state. Raises BackboneError for networks that are unknown or cannot be
    built, WeightsError where the weights cannot be had or belong to another network.
    """
    name, sizes = _name(spec), Sizes(image_size, max_length, seconds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = _built(spec, weights is None, sizes, model_kwargs or {})
    if weights is not None and weights != "none":
        built = _filled(built, Path(weights).expanduser())
    if weights == "none":
        built = replace(built, notes=(*built.notes, "its weights are random: nothing was learned before"))
    module = built.module.float().eval()
    of_pictures: dict[str, Any] = {"image_size": image_size, "mean": mean, "std": std, "interpolation": interpolation}
    known, assumed = built.preprocessing, ()
    if known is None or isinstance(known, Preprocessing):
        _refuse_sizes(name, "pictures", {"max_length": max_length, "seconds": seconds})
        channels = first_channels(module) if known is None else len(known.mean)
        known, assumed = overridden(known, **of_pictures, channels=channels)
    else:
        texts = isinstance(known, Tokens)
        other = {"seconds": seconds} if texts else {"max_length": max_length}
        _refuse_sizes(name, "texts" if texts else "recordings", {**of_pictures, **other})
    data = _data_argument(module, name)
    example = _example(module, name, data, known, built.encode)
    _runs(module, name, example)
    return Backbone(
        name=name,
        module=module,
        example=example,
        data=data,
        preprocessing=known,
        weights=built.weights,
        fresh=None if built.make is None else _fresh(built.make),
        unloaded=built.unloaded,
        notes=built.notes + assumed,
        encode=built.encode,
        queries=built.queries,
    )


def _refuse_sizes(name: str, kind: str, given: Mapping[str, Any]) -> None:
    """Raise OptionError for what is said of inputs of another kind."""
    for option, value in given.items():
        if value is not None:
            raise OptionError(f"{option} is {value!r}, and {name} reads {kind}; leave it away")


def _name(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    return str(spec.name) if is_keras(spec) else type(spec).__name__


def _module(spec: Any) -> nn.Module:
    if not isinstance(spec, nn.Module):
        raise BackboneError(
            f"backbone is a {type(spec).__name__}; a name as on the command line, a torch.nn.Module or a Keras model "
            "on the torch backend is needed"
        )
    return spec


def _filled(built: Built, file: Path) -> Built:
    """The network with the weights of a file."""
    if isinstance(built.module, KerasNetwork) and file.suffix in SUFFIXES:
        read_keras_weights(built.module, file)
        return replace(built, weights=str(file))
    unloaded, notes = fit(built.module, read_weights(file), str(file), heads=built.heads)
    return replace(built, weights=str(file), unloaded=unloaded, notes=built.notes + notes)


def _built(spec: str | nn.Module, pretrained: bool, sizes: Sizes, options: Options) -> Built:
    image_size = sizes.image
    if not isinstance(spec, str):
        if options:
            raise BackboneError(f"model_kwargs {dict(options)} are given for a module that is already built; drop them")
        return keras_model(spec, pretrained, image_size) if is_keras(spec) else given_network(_module(spec), pretrained)
    if spec.endswith(SUFFIXES):
        return keras_network(spec.removeprefix("keras/"), pretrained, image_size, options)
    file, _, factory = spec.rpartition(":")
    if file.endswith(".py"):
        return file_network(Path(file).expanduser(), factory, pretrained, image_size, options)
    source, _, name = spec.partition("/")
    if source == "hf" and name:
        return transformers_network(name, pretrained, sizes, options)
    if source not in SOURCES or not name:
        raise _unknown_source(spec)
    return SOURCES[source](name, pretrained, image_size, options)


def _unknown_source(spec: str) -> BackboneError:
    if spec.endswith(".py"):
        return BackboneError(f"{spec!r} names a file but no factory; write {spec}:FACTORY with the function's name")
    if Path(spec).expanduser().is_dir():
        return BackboneError(f"{spec!r} is a folder; write hf/{spec} where transformers saved it")
    import timm
    from torchvision import models

    known = {"timm": timm.list_models(), "torchvision": models.list_models(module=models)}
    offered = [f"{source}/{name}" for source, names in known.items() for name in names]
    bare = spec.rpartition("/")[2]
    near = [name for name in offered if name.endswith(f"/{bare}")]
    near = near or difflib.get_close_matches(f"timm/{bare}", offered, n=4, cutoff=0.6)
    hint = f"; close names are {', '.join(near)}" if near else ""
    return BackboneError(f"backbone {spec!r} names no source; allowed are {ALLOWED}{hint}")


def _fresh(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def fresh(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make().float().eval()

    return fresh


def _data_argument(module: nn.Module, name: str) -> str:
    """The first parameter of its forward."""
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            return parameter.name
    raise BackboneError(f"forward of {name} names no argument; give its first one a name instead of *args or **kwargs")


def _example(
    module: nn.Module, name: str, data: str, known: Prepared | None, encode: Encode | None
) -> dict[str, Tensor]:
    """Seeded noise of the right shape: pictures, recordings, or texts where a transformers network reads those."""
    generator = torch.Generator().manual_seed(0)
    vocabulary: Any = getattr(getattr(module, "config", None), "vocab_size", None)
    if isinstance(known, Waves) and encode is not None:
        waves = 0.1 * torch.randn(2, round(known.seconds * known.rate), generator=generator)
        return {key: torch.from_numpy(np.array(table)) for key, table in encode(list(waves.numpy())).items()}
    if isinstance(known, Tokens):
        ids = torch.randint(0, vocabulary, (2, TOKENS), generator=generator)
        pad = next(iter(known.padding.values()))
        ids[ids == pad] = (pad + 1) % vocabulary  # what fills a text up is no part of one
        plain = {each: torch.zeros_like(ids) for each in known.padding}
        return {**plain, data: ids, "attention_mask": torch.ones_like(ids)}
    if isinstance(known, Preprocessing):
        return {data: torch.randn(2, len(known.mean), *known.size, generator=generator)}
    if data == "input_ids" and isinstance(vocabulary, int):
        ids = torch.randint(0, vocabulary, (2, TOKENS), generator=generator)
        return {data: ids, "attention_mask": torch.ones_like(ids)}
    raise BackboneError(
        f"{name} says nothing about the pictures it reads; give their size in pixels with `--image-size`, or let the "
        "module carry default_cfg = {'input_size': (3, 224, 224), 'mean': .., 'std': ..}"
    )


def _runs(module: nn.Module, name: str, example: Mapping[str, Tensor]) -> None:
    """Better here than in the middle of a search: a size that the architecture does not take, a broken forward."""
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in example.items())
    try:
        with torch.no_grad():
            module(**example)
    except Exception as error:  # whatever a forward of anybody's may raise
        raise BackboneError(
            f"{name} fails on an example batch ({shapes}): {type(error).__name__}: {sentence(error)}; "
            "give the size it was made for with `--image-size`, or mend its forward"
        ) from error
