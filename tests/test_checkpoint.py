"""Laws of the model on disk: what was kept comes back bit for bit, and what does not fit is refused."""

from __future__ import annotations

import copy
import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import stage
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from frostline.backbones.anatomy import Anatomy
from frostline.errors import RunError, StoreError
from frostline.plan import plan
from frostline.tasks import heads
from frostline.training import checkpoint
from frostline.values import Backbone, Head, Plan, Recipe

RECIPE = Recipe(epochs=1, lr=1e-3)


@cache
def network() -> tuple[Backbone, Anatomy]:
    backbone = stage.network()
    return backbone, stage.anatomy(backbone)


def dropped() -> Plan:
    return plan(network()[1].layers, RECIPE, keep=2, above="drop")


def test_network_and_head_come_back_bit_for_bit(tmp_path: Path) -> None:
    backbone, anatomy = network()
    head = heads.made(Head(), stage.WIDTH, 5, seed=3)
    checkpoint.write(tmp_path / "a" / "b.safetensors", backbone.module, head, plan(anatomy.layers, RECIPE))
    other = stage.network(seed=9).module
    found = checkpoint.read(tmp_path / "a" / "b.safetensors", other)
    assert torch.equal(found.weight, head.weight)
    assert torch.equal(found.bias, head.bias)
    kept = {name for layer in anatomy.layers for name in layer.members}
    for name, tensor in backbone.module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor) == (name in kept), name
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.safetensors"]


def test_what_a_plan_drops_is_not_written_and_names_are_the_networks_own(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, network()[0].module, heads.made(Head(), stage.WIDTH, 3, seed=0), dropped())
    names = set(load_file(path))
    below = {name for layer in network()[1].layers[:2] for name in layer.members}
    assert names == below | {"frostline_head.weight", "frostline_head.bias"}


def test_a_model_of_another_network_is_refused_by_the_name_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, network()[0].module, heads.made(Head(), stage.WIDTH, 3, seed=0), dropped())
    with pytest.raises(RunError, match=r"does not fit this network: '(stem|blocks)"):
        checkpoint.read(path, nn.Sequential(nn.Linear(2, 2)))
    other = copy.deepcopy(network()[0].module)
    other.stem = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(RunError, match=r"does not fit this network: 'stem.0.weight'"):
        checkpoint.read(path, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    save_file({"stem.0.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(RunError, match="'the head'"):
        checkpoint.read(path, network()[0].module)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "folder"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        checkpoint.write(path, network()[0].module, heads.made(Head(), stage.WIDTH, 3, seed=0), dropped())
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no weights at all"}[damage])
    with pytest.raises(RunError, match=r"no model can be read from .*model\.safetensors"):
        checkpoint.read(path, stage.network().module)


@contextmanager
def full_disk(bytes_left: int) -> Generator[None]:
    """No file can grow beyond so many bytes: the kernel refuses the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_leaves_the_model_that_was_there_and_no_half_of_another(tmp_path: Path) -> None:
    path, head = tmp_path / "model.safetensors", heads.made(Head(), stage.WIDTH, 3, seed=0)
    checkpoint.write(path, network()[0].module, head, dropped())
    before = path.read_bytes()
    with full_disk(1000), pytest.raises(StoreError, match=r"cannot be written to .*model\.safetensors"):
        checkpoint.write(path, network()[0].module, head, dropped())
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["model.safetensors"]
