"""Where networks come from: timm, torchvision. Each verb builds one network and says what it knows."""

from __future__ import annotations

import difflib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline.backbones.preprocessing import from_timm, from_torchvision
from frostline.errors import BackboneError, WeightsError
from frostline.values import Prepared

PATIENCE = 5.0  # seconds to find out that a host cannot be reached; the libraries' own retries take minutes
REMEDY = "give a file with `--weights FILE`, or take random weights with `--weights none`"
Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Built:
    """A network as its source made it."""

    module: nn.Module
    make: Callable[[], nn.Module] | None  # the same architecture once more, with random weights
    preprocessing: Prepared | None
    weights: str  # where they came from; "none" for random
    heads: tuple[str, ...] = ()  # names of its classifier modules, where the source knows them
    unloaded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    encode: Callable[[Sequence[Any]], Mapping[str, NDArray[np.generic]]] | None = None
    queries: bool = False  # as a Backbone has it


def unreachable(url: str) -> str | None:
    """Why the address does not answer, or None where it does; a refusal by the host is an answer."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") and "huggingface" in url:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:
        return None if error.code < 500 else str(error)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def unknown(name: str, source: str, names: Sequence[str]) -> BackboneError:
    """The error for a name that a source does not have, with the names that look like it."""
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    hint = f"close names are {', '.join(f'{source}/{other}' for other in close)}" if close else "no name is close to it"
    return BackboneError(f"{source} has no network {name!r}; {len(names)} are known, {hint}")


# ------------------------------------------------------------------------------------------------ timm


def timm_network(name: str, pretrained: bool, image_size: int | None, options: Options) -> Built:
    """`timm.create_model`; raises BackboneError for names and options it does not know, WeightsError offline."""
    import timm
    from timm.data import resolve_data_config

    if not timm.is_model(name):
        raise unknown(name, "timm", [*timm.list_models(), *timm.list_pretrained()])
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the part of the name behind the dot
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise BackboneError(f"timm/{name} is unknown: {error} Its tags are {', '.join(tags) or 'none'}") from error
    options = dict(options)
    if image_size is not None and config is not None and config.fixed_input_size:
        options.setdefault("img_size", image_size)

    def make() -> nn.Module:
        return timm.create_model(name, pretrained=False, **options)

    found = _timm_weights(name, config) if pretrained else {}
    try:
        module = timm.create_model(name, pretrained=True, **found, **options) if pretrained else make()
    except (TypeError, RuntimeError, ValueError, AttributeError, KeyError, AssertionError) as error:
        raise BackboneError(
            f"timm/{name} cannot be built with the options {options}: {error}; "
            "options are the arguments of timm.create_model"
        ) from error
    except OSError as error:
        raise WeightsError(f"the pre-trained weights of timm/{name} cannot be had ({error}); {REMEDY}") from error
    carried: Any = module.pretrained_cfg
    own: Mapping[str, Any] = carried
    known, notes = from_timm(resolve_data_config({}, pretrained_cfg=own), channels=int(options.get("in_chans", 3)))
    named: Any = own.get("classifier") or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    unloaded: tuple[str, ...] = ()
    if pretrained and options.get("num_classes", own["num_classes"]) != own["num_classes"]:
        unloaded = tuple(key for key, _ in module.named_parameters() if key.startswith(tuple(f"{h}." for h in heads)))
        notes += (f"its classifier is new, for {options['num_classes']} classes",)
    weights = f"timm/{own['architecture']}.{own['tag']}" if pretrained else "none"
    return Built(module, make, known, weights, heads, unloaded, notes)


def _timm_weights(name: str, config: Any) -> dict[str, Any]:
    """Where they lie on this machine, as an option of `create_model`; {} where they can be fetched."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    if config is None or not config.has_weights:
        raise WeightsError(f"timm/{name} has no pre-trained weights; {REMEDY}")
    url = config.url
    if config.hf_hub_id and not config.custom_load:
        cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
        if isinstance(cached, str):
            return {"pretrained_cfg_overlay": {"file": cached}}
    if config.hf_hub_id:
        url = hf_hub_url(config.hf_hub_id, "model.safetensors")
    cause = unreachable(str(url))
    if cause is not None:
        raise WeightsError(f"the pre-trained weights of timm/{name} cannot be had ({url}: {cause}); {REMEDY}")
    return {}


# ------------------------------------------------------------------------------------------------ torchvision


def torchvision_network(name: str, pretrained: bool, image_size: int | None, options: Options) -> Built:
    """`torchvision.models.get_model` with its DEFAULT weights; errors as for timm. `image_size` needs no rebuilding."""
    import torch
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise unknown(name, "torchvision", names)
    offered: Any = models.get_model_weights(name)
    default = offered.DEFAULT
    known, notes = from_torchvision(default.transforms())

    def make() -> nn.Module:
        return models.get_model(name, weights=None, **options)

    if pretrained and not (Path(torch.hub.get_dir()) / "checkpoints" / Path(default.url).name).is_file():
        cause = unreachable(default.url)
        if cause is not None:
            raise WeightsError(
                f"the pre-trained weights of torchvision/{name} cannot be had ({default.url}: {cause}); {REMEDY}"
            )
    try:
        module = models.get_model(name, weights=default, **options) if pretrained else make()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"torchvision/{name} cannot be built with the options {dict(options)}: {error}; "
            "options are the arguments of its function in torchvision.models"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"the pre-trained weights of torchvision/{name} cannot be had ({error}); {REMEDY}"
        ) from error
    return Built(module, make, known, f"torchvision/{default}" if pretrained else "none", notes=notes)
