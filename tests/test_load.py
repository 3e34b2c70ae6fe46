"""Backbones: built from every source, filled with weights that fit, or refused with a reason."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from frostline.backbones.load import load
from frostline.backbones.preprocessing import from_processor
from frostline.backbones.weights import fit, read_weights
from frostline.errors import BackboneError, OptionError, WeightsError

FACTORY = """
import torch
from torch import nn


class Small(nn.Module):
    default_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "input_size": (3, 16, 16), "crop_pct": 0.5}

    def __init__(self, width=4, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def small(width=4, classes=3):
    return Small(width, classes)


def learned():
    network = Small()
    with torch.no_grad():
        network.conv.weight.fill_(0.5)
    return network


def broken():
    return 1 / 0


def no_network():
    return "a network"
"""


BENT = "#\ndef f(:\n"


def factory(folder: Path, text: str = FACTORY) -> str:
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


def refused(kind: type[BackboneError], *words: str, spec: str | nn.Module, **options: Any) -> None:
    """Loading ends with exit code 2, and the message says each of these words."""
    with pytest.raises(kind) as caught:
        load(spec, **options)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value), str(caught.value)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ------------------------------------------------------------------------------------------------ every source


def contract(spec: str | nn.Module, **options: Any) -> None:
    """What holds of every loaded backbone."""
    before = torch.random.get_rng_state()
    backbone = load(spec, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not backbone.module.training
    assert {p.dtype for p in backbone.module.parameters()} == {torch.float32}
    assert next(iter(backbone.example)) == backbone.data
    assert len(backbone.example[backbone.data]) == 2
    with torch.no_grad():
        backbone.module(**backbone.example)
    assert torch.equal(load(spec, **options).example[backbone.data], backbone.example[backbone.data])
    assert backbone.fresh is not None
    one, again, other = backbone.fresh(1), backbone.fresh(1), backbone.fresh(2)
    assert equal(one, again)
    assert not equal(one, other)
    assert [k for k, _ in one.named_parameters()] == [k for k, _ in backbone.module.named_parameters()]
    assert not any(
        torch.equal(a, b) for a, b in zip(one.parameters(), backbone.module.parameters(), strict=True) if a.ndim > 1
    )


def test_every_source_keeps_the_contract(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    small = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    small.save_pretrained(tmp_path / "hf")
    vit = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    contract("timm/mobilenetv3_small_050", weights="none")
    contract("torchvision/squeezenet1_1", weights="none", image_size=64)
    contract(f"hf/{tmp_path / 'hf'}", image_size=32)
    contract(f"{factory(tmp_path)}:small", weights="none")
    contract(f"{factory(tmp_path)}:learned")
    contract(ViTForImageClassification(vit))
    contract(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 2)), image_size=5)


def test_preprocessing_is_the_networks_own() -> None:
    import timm
    from timm.data import resolve_data_config
    from torchvision.models import ResNet18_Weights

    own = resolve_data_config({}, model=timm.create_model("mobilenetv3_small_050"))
    known = load("timm/mobilenetv3_small_050", weights="none").preprocessing
    assert known is not None
    assert (known.mean, known.std, known.interpolation) == (own["mean"], own["std"], own["interpolation"])
    assert (known.size, known.resize) == ((224, 224), 256)
    preset, known = ResNet18_Weights.DEFAULT.transforms(), load("torchvision/resnet18", weights="none").preprocessing
    assert known is not None
    assert (list(known.mean), known.size[0], known.resize) == (preset.mean, preset.crop_size[0], preset.resize_size[0])


def test_a_factorys_default_cfg_is_read_and_overridden(tmp_path: Path) -> None:
    spec = f"{factory(tmp_path)}:small"
    known = load(spec, weights="none").preprocessing
    assert known is not None
    assert (known.size, known.resize, known.mean) == ((16, 16), 32, (0.1, 0.2, 0.3))
    changed = load(spec, weights="none", image_size=24, mean=(0.5,), std=(0.2, 0.3, 0.4), interpolation="bicubic")
    known = changed.preprocessing
    assert known is not None
    assert (known.size, known.resize, known.mean) == ((24, 24), 48, (0.5, 0.5, 0.5))
    assert (known.std, known.interpolation) == ((0.2, 0.3, 0.4), "bicubic")
    assert changed.example["x"].shape == (2, 3, 24, 24)


def test_options_reach_the_factory_and_the_network(tmp_path: Path) -> None:
    wide = load(f"{factory(tmp_path)}:small", weights="none", model_kwargs={"width": 7})
    assert wide.module.conv.out_channels == 7
    grey = load("timm/mobilenetv3_small_050", weights="none", model_kwargs={"in_chans": 1})
    assert grey.example["x"].shape == (2, 1, 224, 224)
    assert grey.preprocessing is not None
    assert len(grey.preprocessing.mean) == 1


def test_a_network_of_one_size_is_built_for_the_size_asked_for() -> None:
    assert load("timm/vit_tiny_patch16_224", weights="none", image_size=64).example["x"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("config", "size", "resize"),
    [
        (
            {"size": {"shortest_edge": 146}, "do_center_crop": True, "crop_size": {"height": 128, "width": 128}},
            128,
            146,
        ),
        ({"size": {"height": 224, "width": 224}}, 224, None),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256),  # ConvNeXt
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, None),
    ],
)
def test_processors_of_transformers_are_understood(config: Mapping[str, Any], size: int, resize: int | None) -> None:
    moments = {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "rescale_factor": 0.00392156862745098, "resample": 3}
    known, notes = from_processor({**config, **moments})
    assert (known.size, known.resize, known.mean, known.scale) == ((size, size), resize, (0.1,) * 3, 255.0)
    assert known.interpolation == "bicubic"
    assert notes == ()


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "e": 3}]
)
def test_weights_from_either_kind_of_file_are_the_same_bits(
    tmp_path: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    spec = f"{factory(tmp_path)}:small"
    source = load(spec, weights="none").fresh
    assert source is not None
    network = source(5)
    torch.save(wrap(network.state_dict()), tmp_path / "w.pth")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        loaded = load(spec, weights=str(tmp_path / file))
        assert equal(loaded.module, network)
        assert (loaded.unloaded, loaded.notes) == ((), ())


def test_a_classifier_of_other_classes_is_replaced_by_name_and_said(tmp_path: Path) -> None:
    file = factory(tmp_path)
    other = load(f"{file}:small", weights="none", model_kwargs={"classes": 8}).module
    save_file(other.state_dict(), tmp_path / "eight.safetensors")
    loaded = load(f"{file}:small", weights=str(tmp_path / "eight.safetensors"))
    assert loaded.unloaded == ("head.weight", "head.bias")
    assert "8 classes where the network has 3" in loaded.notes[0]
    assert torch.equal(loaded.module.conv.weight, other.conv.weight)
    save_file({k: v for k, v in other.state_dict().items() if "head" not in k}, tmp_path / "headless.safetensors")
    assert load(f"{file}:small", weights=str(tmp_path / "headless.safetensors")).unloaded == loaded.unloaded


def test_a_checkpoint_of_another_architecture_is_refused_with_its_keys(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Linear(2, 2))
    state = {**other.state_dict(), "conv.weight": torch.zeros(5, 3, 3, 3), "conv.bias": torch.zeros(4)}
    save_file(state, tmp_path / "other.safetensors")
    refused(
        WeightsError,
        "belongs to another network",
        "6 missing (norm.weight",
        "2 unexpected (0.bias, 0.weight)",
        "1 of another shape (conv.weight (5, 3, 3, 3) for (4, 3, 3, 3))",
        spec=f"{factory(tmp_path)}:small",
        weights=str(tmp_path / "other.safetensors"),
    )


def test_a_misfit_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError):
        fit(network, {"0.weight": torch.zeros(3, 2), "1.weight": torch.zeros(2, 3)}, "x")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


class Marker:
    """What a malicious checkpoint does when it is opened."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.file, "w")


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"w": Marker(str(tmp_path / "ran"))}, protocol=2))
    torch.save({"w": Marker(str(tmp_path / "ran"))}, tmp_path / "worse.pth")
    for name in ("bad.pth", "worse.pth"):
        with pytest.raises(WeightsError, match=r"would run code.*safetensors"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    (tmp_path / "b.pth").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    (tmp_path / "d.h5").write_bytes(b"x")
    told = {"a.safetensors": "as safetensors", "b.pth": "b.pth", "c.pth": "no tensors by name", "d.h5": "of Keras"}
    for name, words in told.items():
        with pytest.raises(WeightsError, match=words):
            read_weights(tmp_path / name)
    with pytest.raises(WeightsError, match=r"no file; .* holds a\.safetensors, b\.pth, c\.pth"):
        read_weights(tmp_path / "e.pth")


def test_a_factory_that_brings_no_weights_needs_them_named(tmp_path: Path) -> None:
    file = factory(tmp_path)
    refused(WeightsError, "random weights", "--weights FILE", "--weights none", spec=f"{file}:small")
    assert "random" in load(f"{file}:small", weights="none").notes[0]
    learned = load(f"{file}:learned")
    assert torch.equal(learned.module.conv.weight, torch.full((4, 3, 3, 3), 0.5))
    assert learned.unloaded == ("conv.bias", "head.weight", "head.bias")


def test_pretrained_weights_out_of_reach_are_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    for spec in ("timm/mobilenetv3_small_050", "torchvision/resnet18"):
        refused(WeightsError, spec, "cannot be had", "--weights FILE", "--weights none", spec=spec)
    refused(WeightsError, "hf/somebody/network", "hf/FOLDER", spec="hf/somebody/network")


# ------------------------------------------------------------------------------------------------ what is refused


def test_unknown_names_are_refused_with_close_ones() -> None:
    refused(BackboneError, "timm has no network 'resnet180'", "timm/resnet18", spec="timm/resnet180", weights="none")
    refused(BackboneError, "torchvision/resnet18", spec="torchvision/resnt18", weights="none")
    refused(BackboneError, "names no source", "timm/resnet18", "torchvision/resnet18", spec="resnet18")
    refused(BackboneError, "names no source", "hf/FOLDER", spec="nothing/like-it")
    refused(BackboneError, "resnet18.a1_in1k", spec="timm/resnet18.nobody", weights="none")
    refused(BackboneError, "does not exist", spec="hf/./nowhere")


def test_options_that_nobody_knows_are_refused() -> None:
    options = {"wings": 2}
    refused(BackboneError, "wings", spec="timm/resnet18", weights="none", model_kwargs=options)
    refused(BackboneError, "wings", spec="torchvision/resnet18", weights="none", model_kwargs=options)
    refused(BackboneError, "already built", spec=nn.Linear(2, 2), model_kwargs=options)
    with pytest.raises(OptionError, match="interpolation 'cubic'"):
        load("timm/resnet18", weights="none", interpolation="cubic")
    for name, value in (("mean", (math.nan,)), ("std", (1.0, math.inf, 1.0)), ("std", (0.0,)), ("image_size", 1)):
        with pytest.raises(OptionError, match=f"^{name} is "):
            load("timm/resnet18", weights="none", **{name: value})


def test_errors_in_the_users_file_name_its_line(tmp_path: Path) -> None:
    file = factory(tmp_path)
    line = FACTORY.splitlines().index("    return 1 / 0") + 1
    refused(BackboneError, f"line {line}", "ZeroDivisionError", spec=f"{file}:broken")
    refused(BackboneError, "has no function 'big'", "small, learned, broken", spec=f"{file}:big")
    refused(BackboneError, "returns a str", spec=f"{file}:no_network")
    refused(BackboneError, "names a file but no factory", spec=file)
    refused(BackboneError, "line 2", "SyntaxError", spec=f"{factory(tmp_path, BENT)}:f")
    refused(BackboneError, "line 1", "ModuleNotFoundError", spec=f"{factory(tmp_path, 'import no_such_thing')}:f")


def test_a_module_that_says_nothing_about_its_input_asks_for_the_size() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    refused(BackboneError, "Sequential says nothing", "--image-size", "default_cfg", spec=network)
    refused(BackboneError, "fails on an example batch (input (2, 3, 9, 9))", spec=network, image_size=9)
    assert "assumed" in load(network, image_size=5).notes[0]


# ------------------------------------------------------------------------------------------------ real networks


def test_the_real_networks_load_and_agree_across_libraries() -> None:
    assets = os.environ.get("FROSTLINE_ASSETS")
    if assets is None:
        pytest.skip("FROSTLINE_ASSETS names no folder of real networks")
    folder = Path(assets) / "weights"
    same = {"pad_type": "same"}
    timm = load(
        "timm/mobilenetv2_100", weights=str(folder / "mobilenetv2_100_in1k" / "timm.safetensors"), model_kwargs=same
    )
    hf = load(f"hf/{folder / 'mobilenetv2_100_in1k' / 'hf'}")
    with torch.no_grad():
        logits = timm.module(timm.example["x"])
        other = hf.module(timm.example["x"]).logits
    # transformers keeps the background class in front where a checkpoint has it
    torch.testing.assert_close(logits, other[:, -logits.shape[1] :], atol=1e-3, rtol=1e-3)
    insects = load(
        "timm/mobilenetv2_100",
        weights=str(folder / "mobilenetv2_100_inat_insect" / "timm.safetensors"),
        model_kwargs=same,
    )
    assert insects.unloaded == ("classifier.weight", "classifier.bias")
    spec = f"{Path(assets) / 'resnet_cifar.py'}:resnet20"
    pickled, safe = (
        load(spec, weights=str(folder / "cifar_resnets" / f"resnet20.{kind}")) for kind in ("th", "safetensors")
    )
    assert equal(pickled.module, safe.module)
    refused(WeightsError, "unexpected", spec=spec, weights=str(folder / "cifar_resnets" / "resnet32.safetensors"))
