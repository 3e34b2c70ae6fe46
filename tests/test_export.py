"""What leaves is loaded by its own library and says there what it says here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from PIL import Image
from world import draw, once, refused, tell

import frostline
from frostline.errors import OptionError, StoreError
from frostline.formats.export import FORMATS
from frostline.formats.whole import Refused
from frostline.journey import Result
from frostline.run.wish import Wish

OPTIONS = {"weights": "none", "device": "cpu", "epochs": 1, "batch_size": 8, "threads": 1, "precision": "fp32"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger than they are read, and not square: resizing and cutting are part of what is exported."""
    return once(tmp_path_factory, "pictures", _pictures)


def _pictures(folder: Path) -> Path:
    for file in draw(folder / "data", 12).rglob("*.png"):
        Image.open(file).convert("RGB").resize((52, 40), Image.Resampling.BICUBIC).save(file)
    return folder / "data"


def trained(pictures: Path, out: Path, backbone: str, wish: Wish | str, **given: Any) -> Result:
    return frostline.train(str(pictures), backbone, wish, out=str(out), **{**OPTIONS, **given})


@pytest.fixture(scope="module")
def of_timm(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    def make(folder: Path) -> Result:
        return trained(pictures, folder / "run", "timm/test_resnet", "lp_ft", image_size=32)

    return once(tmp_path_factory, "of_timm", make)


@pytest.fixture(scope="module")
def of_transformers(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return once(tmp_path_factory, "of_transformers", lambda folder: _of_transformers(pictures, folder))


def _of_transformers(pictures: Path, place: Path) -> Result:
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification, MobileNetV1ImageProcessor

    torch.manual_seed(0)
    config = MobileNetV1Config(depth_multiplier=0.25, image_size=32, num_labels=5)
    MobileNetV1ForImageClassification(config).save_pretrained(place / "model")
    MobileNetV1ImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(
        place / "model"
    )
    return trained(pictures, place / "run", f"hf/{place / 'model'}", Wish(freeze=2), weights=None)


@pytest.fixture(scope="module")
def dropped(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    def make(folder: Path) -> Result:
        return trained(pictures, folder / "run", f"{stage.__file__}:small", "truncation")

    return once(tmp_path_factory, "dropped", make)


def own(run: Result, files: list[Path]) -> np.ndarray:
    return np.array([list(row["scores"].values()) for row in run.predict(files)])


def some(pictures: Path) -> list[Path]:
    return sorted(pictures.rglob("*.png"))[::9]


def test_timm_builds_it_from_the_folder_and_reads_pictures_the_same_way(of_timm: Result, pictures: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    found = frostline.export(of_timm.folder, "safetensors")
    network = timm.create_model(f"local-dir:{found.folder}", pretrained=True).eval()
    assert type(network).__name__ == "ResNet"
    assert network.num_classes == 3
    how = create_transform(**resolve_data_config({}, model=network))
    files = some(pictures)
    inputs = torch.stack([how(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        said = network(inputs).softmax(1).numpy()
    np.testing.assert_allclose(said, own(of_timm, files), atol=2e-4)
    weights = found.folder / "model.safetensors"
    again = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(weights)).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(again(inputs).softmax(1).numpy(), said, atol=1e-5)


def test_transformers_loads_it_with_its_processor_and_names_the_classes(
    of_transformers: Result, pictures: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    found = frostline.export(of_transformers.folder, "transformers")
    network = AutoModelForImageClassification.from_pretrained(found.folder)
    processor = AutoImageProcessor.from_pretrained(found.folder)
    files = some(pictures)
    inputs = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")
    with torch.inference_mode():
        said = network(**inputs).logits.softmax(1).numpy()
    # its processor resizes tensors, where ours resizes pictures: pixels differ by their rounding
    np.testing.assert_allclose(said, own(of_transformers, files), atol=2e-2)
    assert network.config.id2label == {0: "bar", 1: "cross", 2: "ring"}
    assert found.off < 1e-4


GRAPHS = [
    *[(to, name) for to in ("onnx", "torch_export") for name in ("of_timm", "of_transformers")],
    ("onnx", "dropped"),
]


@pytest.mark.parametrize(("to", "name"), GRAPHS)
def test_a_graph_says_the_same_of_any_number_of_pictures(
    to: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(name)
    found = frostline.export(run.folder, to, out=tmp_path / "there")
    assert found.off < 1e-4
    assert json.loads((found.folder / "classes.json").read_text()) == ["bar", "cross", "ring"]
    for count in (1, 5):
        size = 8 if name == "dropped" else 32
        inputs = torch.randn(count, 3, size, size)
        if to == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(found.folder / "model.onnx"))
            said = session.run(None, {"pixels": inputs.numpy()})[0]
        else:
            said = torch.export.load(found.folder / "model.pt2").module()(inputs).detach().numpy()
        assert said.shape == (count, 3)
        np.testing.assert_allclose(said.sum(1), 1, atol=1e-5)


def test_what_torch_cannot_trace_is_refused_with_the_remedy(dropped: Result, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"cannot trace this network.*use --to onnx"):
        frostline.export(dropped.folder, "torch_export", out=tmp_path / "there")
    assert not list(tmp_path.iterdir())


def test_what_drops_layers_is_no_network_of_the_sources_class(dropped: Result, tmp_path: Path) -> None:
    for to in ("safetensors", "transformers"):
        with pytest.raises(Refused, match="drops the layers above"):
            frostline.export(dropped.folder, to, out=tmp_path / to)
        assert not (tmp_path / to).exists()
        assert not (tmp_path / f"{to}.partial").exists()


def test_a_network_of_another_library_is_refused_by_name(of_timm: Result, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="none of transformers"):
        frostline.export(of_timm.folder, "transformers", out=tmp_path / "there")


def test_the_card_carries_the_evidence_and_how_to_load_it(of_timm: Result, tmp_path: Path) -> None:
    found = frostline.export(of_timm.folder, "safetensors", out=tmp_path / "there")
    text = (found.folder / "README.md").read_text()
    score = of_timm.summary["score"]
    assert f"{score['value']:.4g}" in text and "interval" in text
    assert "bar, cross, ring" in text
    assert "timm.create_model" in text
    with pytest.raises(StoreError, match="exists already"):
        frostline.export(of_timm.folder, "safetensors", out=tmp_path / "there")
    with pytest.raises(OptionError, match="allowed are safetensors"):
        frostline.export(of_timm.folder, "caffe", out=tmp_path / "other")


def test_the_command_line_says_what_was_written_and_how_it_is_used(of_timm: Result, tmp_path: Path) -> None:
    said = tell("export", of_timm.folder, "--to", "onnx", "--out", tmp_path / "there")
    assert said.code == 0, said.err
    assert "model.onnx" in said.out and "onnxruntime" in said.out
    refused(tell("export", of_timm.folder, "--to", "keras2"), *FORMATS)
    refused(tell("export", tmp_path, "--to", "onnx"), "summary.json")
