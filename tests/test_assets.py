"""Contracts with real networks and photographs, where the environment says that they lie on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_underway import ends_at_the_same_bits
from world import ONE, refused, tell

import frostline
from frostline.backbones.cuts import dissect
from frostline.backbones.load import load
from frostline.bench.bench import Source
from frostline.bench.lay import lay
from frostline.plan import gradual, plan
from frostline.settings import settings
from frostline.tasks import heads
from frostline.training import adapters, loop
from frostline.training.device import accelerator
from frostline.training.feed import feed
from frostline.training.prepare import prepared
from frostline.values import Adapter, Arm, Head, Recipe, Unit

PLACE = os.environ.get("FROSTLINE_ASSETS")
pytestmark = pytest.mark.skipif(PLACE is None, reason="FROSTLINE_ASSETS names no folder with networks and data sets")
ASSETS = Path(PLACE or "/nowhere").resolve()
WEIGHTS, DATA = ASSETS / "weights", ASSETS / "datasets"
RESNETS = WEIGHTS / "cifar_resnets"
RESNET = '''
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """He et al., 2016, section 4.2: the shortcut is padded, not learned."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x):
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        same = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(inner + same)


class ResNet(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(i, o, s), *(Block(o, o, 1) for _ in range(blocks - 1))) for i, o, s in sizes
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def resnet20():
    return ResNet(3)


def resnet32():
    return ResNet(5)
'''


def test_a_linear_probe_of_a_small_mobilenet_tells_ants_from_bees() -> None:
    backbone = f"hf/{WEIGHTS / 'mobilenetv1_025_128_in1k' / 'hf'}"
    found = tell("probe", DATA / "hymenoptera", "--backbone", backbone, *ONE, "--json").document
    assert found["data"]["classes"] == ["ants", "bees"]
    assert found["data"]["train"] == 244
    assert found["data"]["validation"] == 153
    last = found["curve"][-1]["score"]
    assert last["mean"] >= 0.80
    assert last["mean"] > found["curve"][0]["score"]["mean"] + 0.1
    assert max(point["random"] for point in found["curve"]) < last["mean"]


def test_copies_that_were_encoded_or_sized_anew_stand_on_one_side_with_their_originals(tmp_path: Path) -> None:
    for file in sorted((DATA / "hymenoptera" / "train").rglob("*.jpg"))[::2]:
        place = tmp_path / file.parent.name / file.name
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)
    originals = sorted(tmp_path.rglob("*.jpg"))
    for number, file in enumerate(originals[::4]):
        picture = Image.open(file).convert("RGB")
        if number % 2:
            picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))
        picture.save(file.with_name(f"{file.stem}_copy.jpg"), quality=95 if number % 2 else 60)
    options = {"workers": 1, "threads": 1, "precision": "fp32"}
    bench = frostline.probe(tmp_path, f"hf/{WEIGHTS / 'mobilenetv1_025_128_in1k' / 'hf'}", **options).bench
    pairs = bench.profile.near_duplicates
    assert pairs is not None
    # two photographs of one scene may be among the originals
    assert len(originals[::4]) <= pairs <= len(originals[::4]) + 2
    for fold in bench.split.folds:
        sides = {bench.examples.ids[row]: side for side in ("train", "validation") for row in getattr(fold, side)}
        copies = [name for name in sides if "_copy" in name]
        assert copies
        assert all(sides[name] == sides[name.replace("_copy", "")] for name in copies)


@pytest.mark.parametrize(
    ("spec", "options", "million"),
    [
        ("hf/{w}/mobilenetv1_025_128_in1k/hf", {}, 0.47),
        ("hf/{w}/mobilenetv1_050_160_in1k/hf", {}, 1.3),
        ("hf/{w}/mobilenetv2_100_in1k/hf", {}, 3.5),
        ("timm/mobilenetv2_100", {"weights": "{w}/mobilenetv2_100_in1k/timm.safetensors", "pad": "same"}, 3.5),
        ("{t}/resnet.py:resnet20", {"weights": "{w}/cifar_resnets/resnet20.safetensors"}, 0.27),
        ("{t}/resnet.py:resnet32", {"weights": "{w}/cifar_resnets/resnet32.safetensors"}, 0.46),
    ],
)
def test_layers_of_a_real_network_hold_its_parameters_and_prove_its_cuts(
    spec: str, options: dict[str, str], million: float, tmp_path: Path
) -> None:
    (tmp_path / "resnet.py").write_text(RESNET)
    weights = options.get("weights", "none").format(w=WEIGHTS)
    more = {"model_kwargs": {"pad_type": "same"}} if "pad" in options else {}
    image = {"image_size": 32} if "resnet.py" in spec else {}
    layers = frostline.layers(spec.format(w=WEIGHTS, t=tmp_path), weights=weights, **more, **image)
    cuts = [layer for layer in layers if layer.cut]
    assert cuts[0].index == 0
    assert 5 <= len(cuts) <= 20
    assert all(layer.error is not None and layer.error < 1e-3 for layer in cuts)
    total = sum(layer.parameters for layer in layers) / 1e6
    assert 0.4 * million < total < 1.02 * million  # the head is not among the layers


def test_an_authors_pickle_is_read_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "resnet.py").write_text(RESNET)
    spec = f"{tmp_path / 'resnet.py'}:resnet20"
    words = ("--backbone", spec, "--image-size", 32, "--weights")
    data = DATA / "cifar10_jpeg"
    told = [
        tell("layers", spec, "--image-size", 32, "--weights", RESNETS / f"resnet20.{kind}", "--json")
        for kind in ("th", "safetensors")
    ]
    assert told[0].code == 0, told[0].err
    assert told[0].document == told[1].document
    refused(tell("find", data, *words, RESNETS / "resnet32.safetensors", "--out", tmp_path / "run"), "unexpected")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1_025_128_in1k"])
def test_a_real_network_learns_with_adapters(name: str, tmp_path: Path) -> None:
    """A plain and a depthwise one: every adapter moves and nothing else below the head, and the loss falls."""
    if name == "resnet20":
        file = tmp_path / "resnet.py"
        file.write_text(RESNET)
        backbone = load(f"{file}:resnet20", weights=str(RESNETS / "resnet20.safetensors"), image_size=32)
    else:
        backbone = load(f"hf/{WEIGHTS / name / 'hf'}", image_size=64)
    anatomy, size = dissect(backbone), 32 if name == "resnet20" else 64
    of = plan(anatomy.layers, Recipe(epochs=4, lr=5e-3, batch=8, clip=None), freeze=3, adapter=Adapter(rank=4))
    chosen, left = adapters.targets(backbone.module, of)
    assert chosen and bool(left) == (name != "resnet20"), left
    assert all("depthwise" in why for why in left.values())
    pictures = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0)).numpy()
    learn = feed(lambda rows, epoch: [pictures[rows]], np.arange(16), np.arange(16) % 2, 8, device=torch.device("cpu"))
    head = heads.made(Head(), anatomy.layers[-1].shape[0], 2, seed=0)
    with prepared(backbone, anatomy, of, head, start=0, seed=0, device=accelerator("cpu")) as learner:
        network = learner.module.get_submodule("network")
        before = {key: tensor.detach().clone() for key, tensor in network.named_parameters()}
        epochs = list(loop.train(learner, learn, of, 2, accelerator("cpu")))
        for key, tensor in network.named_parameters():
            assert torch.equal(tensor, before[key]) != (".lora_" in key), key
        adapters.merge(network)
        adapters.remove(network)
    assert epochs[-1].loss < epochs[0].loss
    assert network.state_dict().keys() == backbone.module.state_dict().keys()


def test_a_real_network_goes_on_in_the_middle_of_gradual_unfreezing_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in sorted((DATA / "hymenoptera" / "train").rglob("*.jpg"))[::5]:
        place = tmp_path / "data" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (tmp_path / "run").mkdir()
    given = {"data": str(tmp_path / "data"), "backbone": f"hf/{WEIGHTS / 'mobilenetv1_025_128_in1k' / 'hf'}"}
    given |= {"image_size": 64, "epochs": 6, "batch_size": 16, "threads": 1, "workers": 1, "precision": "fp32"}
    bench = lay(settings(given), Source(), folder=tmp_path / "run")
    thawing = gradual(bench.anatomy.layers, Recipe(6, 3e-3, batch=16))
    assert [sum(flags) for _, flags in thawing.thaw] == [9, 18, 27]
    for epoch in (2, 4):
        unit = Unit("gradual", 3e-3, 1, 0, epoch, 6)
        ends_at_the_same_bits(bench, Arm("gradual", thawing, (3e-3,)), unit, epoch, monkeypatch)
