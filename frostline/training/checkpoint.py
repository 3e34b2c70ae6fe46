"""A trained model on disk: one safetensors file, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from frostline.errors import RunError, StoreError
from frostline.tasks import heads
from frostline.values import Plan

HEAD = "frostline_head."  # before the names of the new head's weights; all others are the backbone's own names


def write(path: Path, network: nn.Module, head: nn.Module, plan: Plan) -> None:
    """Save what the plan keeps of a network, under the network's own names, and its new head. Raises StoreError."""
    used = plan.layers[: plan.keep] if plan.above == "drop" else plan.layers
    wanted = {name for layer in used for name in layer.members}
    state = {name: tensor for name, tensor in network.state_dict().items() if name in wanted}
    state |= {HEAD + name: tensor for name, tensor in head.state_dict().items()}
    temporary = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # a full disk is the library's own error while it writes
        if temporary.exists():  # not where a file stands in the place of its folder
            temporary.unlink()
        raise StoreError(f"the model cannot be written to {path}: {error}; free some space") from error


def read(path: Path, network: nn.Module) -> nn.Module:
    """Load saved weights into `network`, in place, and return the head. Raises RunError where they do not fit."""
    try:
        state = load_file(path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError(f"no model can be read from {path}: {error}; give the directory of a finished run") from error
    head_state = {name.removeprefix(HEAD): t for name, t in state.items() if name.startswith(HEAD)}
    body = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    known = network.state_dict()
    wrong = [name for name, tensor in body.items() if name not in known or known[name].shape != tensor.shape]
    try:
        head = heads.rebuilt(head_state)
    except (KeyError, RuntimeError):
        wrong.append("the head")
        head = network
    if wrong:
        raise RunError(f"{path} does not fit this network: {wrong[0]!r}; it was made with another one")
    network.load_state_dict(body, strict=False)
    return head
