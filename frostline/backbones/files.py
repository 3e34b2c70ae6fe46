"""Networks of the user's own: a factory in a Python file, or a module that is already there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.backbones.keras import built_of
from frostline.backbones.keras_library import drawn, is_keras, library, on_torch
from frostline.backbones.preprocessing import from_timm
from frostline.backbones.sources import REMEDY, Built, Options
from frostline.errors import BackboneError, WeightsError
from frostline.userfile import failed, function
from frostline.values import Preprocessing


def file_network(file: Path, factory: str, pretrained: bool, image_size: int | None, options: Options) -> Built:
    """What `factory` of the user's file builds.

    It is called twice under different seeds, to learn whether it brings weights of its own: what differs is random.
    Raises BackboneError with the line of the file that failed, WeightsError where pre-trained weights are wanted
    and the factory brings none.
    """
    with on_torch():  # the file may import Keras, and so may what is called below
        made = function(file, factory, BackboneError)

    def make(seed: int) -> Built:
        with torch.random.fork_rng(devices=[]), drawn(seed), on_torch():
            torch.manual_seed(seed)
            return _called(made, file, factory, image_size, options)

    one, other = make(0), dict(make(1).module.named_parameters())
    module = one.module
    random = {name for name, parameter in module.named_parameters() if not torch.equal(parameter, other[name])}
    matrices = {name for name, parameter in module.named_parameters() if parameter.ndim > 1}
    brings = bool(matrices) and not matrices <= random

    def drawn_again() -> nn.Module:
        return reset(copy.deepcopy(module)) if brings else make(int(torch.randint(2**31, ()))).module

    again = one.make or drawn_again
    if not pretrained:
        return replace(one, module=again() if brings else module, make=again, weights="none")
    if not brings:
        raise WeightsError(
            f"{file}:{factory} builds a network with random weights, and pre-trained ones are wanted; {REMEDY}"
        )
    fresh = tuple(name for name, _ in module.named_parameters() if name in random)
    left = (f"{file.name}:{factory} leaves {', '.join(fresh[:4])} random",) if fresh else ()
    return replace(one, make=again, unloaded=fresh, notes=one.notes + left)


def given_network(module: nn.Module, pretrained: bool) -> Built:
    """A module that the caller holds; its weights are what they are, unless random ones are asked for."""

    def again() -> nn.Module:
        return reset(copy.deepcopy(module))

    known, notes = own_configuration(module)
    if pretrained:
        return Built(module, again, known, "as given", notes=notes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Built(again(), again, known, "none", notes=notes)


def own_configuration(module: nn.Module) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """From `pretrained_cfg` or `default_cfg`, timm's convention, or the image size in a transformers `config`."""
    for name in ("pretrained_cfg", "default_cfg"):
        config: Any = getattr(module, name, None)
        if isinstance(config, Mapping) and "input_size" in config:
            return from_timm(config, channels=first_channels(module))
    size: Any = getattr(getattr(module, "config", None), "image_size", None)
    if isinstance(size, int):
        known, _ = from_timm({"input_size": (3, size, size)}, channels=first_channels(module))
        return known, (f"its configuration says {size} pixels only: mean {known.mean} and std {known.std} are assumed",)
    return None, ()


def first_channels(module: nn.Module) -> int:
    """How many channels its first convolution reads: 1 for grey pictures, else 3."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def reset(module: nn.Module) -> nn.Module:
    """The same network with new random weights, in place: each part's own initialisation.

    Parameters that no part knows how to draw (class tokens, scales) are shuffled, which keeps their distribution
    and nothing of what they had learned.
    """
    drawn: set[int] = set()
    for part in module.modules():
        renew: Any = getattr(part, "reset_parameters", None)
        if callable(renew):
            renew()
            drawn.update(id(parameter) for parameter in part.parameters(recurse=False))
    with torch.no_grad():
        for parameter in module.parameters():
            if id(parameter) not in drawn:
                parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    return module


def _called(made: Callable[..., Any], file: Path, name: str, image_size: int | None, options: Options) -> Built:
    """What the user's factory builds, as a network of PyTorch; `make` is None where that is not known."""
    try:
        module = made(**options)
    except Exception as error:  # whatever a user's factory may raise
        call = f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
        raise failed(error, file, f"fails in {call}", BackboneError) from error
    weights = f"{file.name}:{name}"
    if is_keras(module):
        library()  # tells of the backend
        return built_of(module, weights, image_size)
    if not isinstance(module, nn.Module):
        raise BackboneError(
            f"{file}:{name} returns a {type(module).__name__}; a torch.nn.Module or a Keras model is needed"
        )
    known, notes = own_configuration(module)
    return Built(module, None, known, weights, notes=notes)
