"""Weights from a file: read without running anything that is in it, and fitted to a network by name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from frostline.errors import WeightsError

WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "net")  # under which training scripts save
PREFIXES = ("module.", "_orig_mod.")  # left behind by DataParallel and torch.compile
COUNTER = "num_batches_tracked"  # absent from old checkpoints, and read by nothing while momentum is set
NAMED = 4  # keys that a message lists of each kind


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from safetensors or from a PyTorch file that holds tensors only.

    Raises WeightsError where the file is missing, damaged, of another framework, or would have to run code.
    """
    if not file.is_file():
        offered = file.parent.iterdir() if file.parent.is_dir() else ()
        beside = sorted(
            entry.name for entry in offered if entry.suffix in (".safetensors", ".pt", ".pth", ".th", ".bin")
        )
        seen = f"; {file.parent} holds {', '.join(beside[:6])}" if beside else ""
        raise WeightsError(f"weights {str(file)!r} are no file{seen}; give a .safetensors or PyTorch file, or `none`")
    if file.suffix == ".safetensors":
        return _safetensors(file)
    if file.suffix in (".h5", ".keras"):
        raise WeightsError(f"{file} is of Keras, and this network is not; give the file itself as the backbone")
    if file.suffix in (".onnx", ".npz", ".msgpack"):
        raise WeightsError(f"{file} is no PyTorch checkpoint; safetensors and PyTorch files are read; convert it")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} is not read, since it is damaged or would run code of its own when opened "
            f"({_cause(error)}); only tensors are allowed; where you trust it, save them anew with "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{file} cannot be read as PyTorch weights: {_cause(error)}; fetch or save it anew"
        ) from error
    return _tensors(content, file)


def _cause(error: Exception) -> str:
    """The sentence of a long message that says what was met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Unsupported" in line or "WeightsUnpickler error" in line]
    return (told or lines or [type(error).__name__])[0][:200]


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _stripped(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read as safetensors: {error}; fetch or save it anew") from error


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        table = cast("Mapping[str, Any]", content)
        tensors = {key: value for key, value in table.items() if isinstance(value, Tensor)}
        if tensors:
            return _stripped(tensors)
        content = next((table[key] for key in WRAPPERS if isinstance(table.get(key), Mapping)), None)
    raise WeightsError(
        f"{file} holds no tensors by name; a state dictionary is needed, bare or under one of {', '.join(WRAPPERS)}"
    )


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return dict(tensors)


def last_learning(module: nn.Module) -> str:
    """The last module that owns parameters: where the network is a classifier, its classifier."""
    names = [name for name, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None]
    return names[-1] if names else ""


def fit(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, *, heads: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copies the tensors into the module; hands back the parameters they did not bring, and notes about them.

    Everything must fit but the classifier (`heads`, by default the last module with parameters): where that alone
    is absent or has another number of classes it keeps its fresh weights.
    Raises WeightsError counting and naming what is missing, unexpected or of another shape.
    """
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    missing = [key for key in own if key not in tensors and not key.endswith(COUNTER)]
    unexpected = [key for key in tensors if key not in own and not key.endswith(COUNTER)]
    wrong = [key for key, shape in own.items() if key in tensors and tuple(tensors[key].shape) != shape]
    names = tuple(heads) or (last_learning(module),)

    def of_head(key: str) -> bool:
        return any(key.startswith(f"{name}.") for name in names)

    if not all(map(of_head, (*missing, *unexpected, *wrong))) or not len(own) - len(missing) - len(wrong):
        raise WeightsError(_misfit(source, tensors, own, (missing, unexpected, wrong)))
    module.load_state_dict({k: v for k, v in tensors.items() if k in own and k not in wrong}, strict=False)
    absent = tuple(key for key in own if key in missing or key in wrong)
    if not absent:
        return (), ()
    was = f"{tensors[wrong[0]].shape[0]} classes" if wrong else "no classifier"
    has = own[absent[0]][0]
    return absent, (
        f"the checkpoint has {was} where the network has {has}: {', '.join(absent)} keep fresh weights, "
        "and everything below is loaded",
    )


def _misfit(
    source: str, tensors: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]], keys: tuple[list[str], ...]
) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:NAMED]) + (", .." if len(names) > NAMED else "")

    missing, unexpected, wrong = keys
    shapes = [f"{key} {tuple(tensors[key].shape)} for {own[key]}" for key in wrong]
    told = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    return (
        f"{source} belongs to another network: of its {len(tensors)} tensors and the network's {len(own)} are "
        f"{'; '.join(told)}; give the checkpoint of this very architecture, or set its options with `--model-kwargs`"
    )
