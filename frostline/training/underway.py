"""A training on its way, on disk: one that is interrupted goes on from its last epoch to the same bits.

What an epoch needs of those before it is all here: what learns and what follows the batches, the optimiser's state, the
random state that dropout draws from. Rates and the order of the rows are functions of the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from frostline.training.step import Going
from frostline.values import Epoch

MODULE, OPTIMISER, RANDOM = "module.", "optimiser.", "random."


def write(path: Path, mark: str, going: Going, told: tuple[Epoch, ...]) -> None:
    """Keep a training after its last epoch, whole or not at all; `mark` says which training it is.

    A disk that is full keeps the file before: nothing but time is lost.
    """
    tensors = {MODULE + name: tensor for name, tensor in _moving(going)}
    for number, state in going.optimiser.state_dict()["state"].items():
        tensors |= {f"{OPTIMISER}{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {RANDOM + name: state for name, state in _random().items()}
    # separate memory for each: safetensors refuses what overlaps
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    temporary = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(held, temporary, {"mark": mark, "epochs": json.dumps([asdict(epoch) for epoch in told])})
        temporary.replace(path)
    except (OSError, SafetensorError):
        temporary.unlink(missing_ok=True)


def read(path: Path, mark: str, going: Going) -> tuple[Epoch, ...]:
    """Bring a training to where it was kept, in place, and return its epochs; none where that was another one."""
    try:
        with safe_open(path, framework="pt") as file:
            said: Mapping[str, str] = file.metadata() or {}
            if said.get("mark") != mark:
                return ()
            told = TypeAdapter(tuple[Epoch, ...]).validate_json(said["epochs"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, ValueError, KeyError, SafetensorError):
        return ()
    states = dict[int, dict[str, Tensor]]()
    numbered = [parameter for group in going.optimiser.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith(OPTIMISER):
            number, _, key = name.removeprefix(OPTIMISER).partition(".")
            states.setdefault(int(number), {})[key] = _laid_out(tensor, numbered[int(number)])
    with torch.no_grad():
        for name, tensor in _moving(going):
            tensor.copy_(tensors[MODULE + name])
    going.optimiser.load_state_dict(going.optimiser.state_dict() | {"state": states})
    torch.set_rng_state(tensors[f"{RANDOM}cpu"])
    if f"{RANDOM}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{RANDOM}cuda"])
    return told


def _laid_out(state: Tensor, parameter: Tensor) -> Tensor:
    """What an optimiser knows of a parameter, in memory as that lies there: fused steps walk both as they lie."""
    return torch.empty_like(parameter).copy_(state) if state.shape == parameter.shape else state


def _moving(going: Going) -> Iterator[tuple[str, Tensor]]:
    """What a training may change: what is in a group of the optimiser, and every buffer."""
    learned = {id(parameter) for group in going.learner.groups for parameter in group["params"]}
    for name, parameter in going.learner.module.named_parameters():
        if id(parameter) in learned:
            yield name, parameter
    yield from going.learner.module.named_buffers()


def _random() -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found
