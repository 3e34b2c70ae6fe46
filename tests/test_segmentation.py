"""Classes of places: SegFormer's decoder is transformers', and a search for masks ends with a model that draws them."""

from __future__ import annotations

import json
from pathlib import Path

import networks_of
import numpy as np
import pytest
import torch
from PIL import Image
from scenes import KINDS, scenes
from torch import nn
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead
from world import ONE, once, refused, tell

import frostline
from frostline.backbones.cuts import dissect
from frostline.backbones.load import load
from frostline.errors import PlanError
from frostline.formats.model import open_model, predict
from frostline.formats.overlaid import palette
from frostline.tasks import heads
from frostline.tasks.decoder import GROUPS, STRIDES, WIDTH, Decoder
from frostline.tasks.segmentation import SEGMENTATION, classes_of, drawn, kept, loss
from frostline.tasks.strides import depths_of
from frostline.values import VOID

LEVELS = ((8, 16, 12), (12, 8, 6), (16, 4, 3), (20, 2, 2))


def maps(count: int = 2, seed: int = 0) -> list[tuple[torch.Tensor]]:
    """What crosses depths of these levels."""
    draw = torch.Generator().manual_seed(seed)
    return [(torch.randn(count, *level, generator=draw),) for level in LEVELS]


# ------------------------------------------------------------------------------------------------ the head


def test_the_decoder_is_segformers_with_each_two_of_its_matrices_as_one() -> None:
    """But for the norm, which is put into theirs."""
    config = SegformerConfig(hidden_sizes=[level[0] for level in LEVELS], decoder_hidden_size=WIDTH, num_labels=3)
    theirs = SegformerDecodeHead(config).eval()
    theirs.batch_norm = nn.GroupNorm(GROUPS, WIDTH)
    ours = Decoder(LEVELS, 3, (64, 48))
    fuse = theirs.linear_fuse.weight[:, :, 0, 0].split(WIDTH, dim=1)[::-1]  # theirs stand with the coarsest first
    with torch.no_grad():
        for read, linear, part in zip(ours.reads, theirs.linear_projections, fuse, strict=True):
            read.weight[:, :, 0, 0] = part @ linear.proj.weight
            read.bias.copy_(part @ linear.proj.bias)
        ours.says.load_state_dict(theirs.classifier.state_dict())
        given = maps()
        torch.testing.assert_close(ours(given), theirs([level for (level,) in given]), rtol=1e-4, atol=1e-4)


def test_a_decoder_is_made_again_from_what_it_saved_and_answers_in_its_size() -> None:
    head = Decoder(LEVELS, 3, (30, 20))
    again = heads.rebuilt(head.state_dict())
    assert isinstance(again, Decoder)
    torch.testing.assert_close(again(maps()), head(maps()))
    task = SEGMENTATION.bound(again)
    found = task.readable(task.predictions(again(maps())))
    assert found.shape == (2, 30, 20)
    assert found.dtype == torch.uint8


def test_a_head_of_another_kind_is_refused() -> None:
    with pytest.raises(PlanError, match="of the kind 'decoder'"):
        SEGMENTATION.bound(nn.Linear(2, 2)).loss(torch.zeros(1, 2), torch.zeros(1, 2, 2))


# ------------------------------------------------------------------------------------------------ the loss


def test_the_loss_is_the_mean_over_pictures_of_the_mean_over_places_that_are_asked_for() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(3, 4, 5, 6, dtype=torch.float64), torch.randint(0, 4, (3, 10, 12), dtype=torch.uint8)
    targets[0, :7], targets[1] = VOID, VOID
    large = functional.interpolate(outputs, (10, 12), mode="bilinear")
    each = [functional.cross_entropy(large[n : n + 1], targets[n : n + 1].long(), ignore_index=VOID) for n in (0, 2)]
    torch.testing.assert_close(loss(outputs, targets), sum(each, torch.zeros(())) / 3)  # the second asks nothing


def test_the_class_of_a_place_is_the_likeliest_of_logits_drawn_as_large() -> None:
    outputs = torch.full((1, 3, 2, 2), -9.0)
    outputs[0, 2, 0], outputs[0, 1, 1] = 9.0, 9.0
    found = classes_of(kept(outputs, (4, 6)))
    assert found[0, :2].unique().tolist() == [2]
    assert found[0, 2:].unique().tolist() == [1]
    sure = drawn(outputs, np.random.default_rng(0))
    assert float(sure) == pytest.approx(0, abs=1e-3)


# ------------------------------------------------------------------------------------------------ backbones


@pytest.mark.parametrize("name", ["segmenter", "segmented"])
def test_segformers_own_encoder_gives_the_maps_of_all_strides(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backbone = load(f"hf/{networks_of.saved(tmp_path_factory, name)}")
    shapes = [layer.shape if layer.cut else () for layer in dissect(backbone).layers]
    assert [shapes[depth - 1][1] for depth in depths_of(shapes, (64, 64), STRIDES)] == [16, 8, 4, 2]
    if name == "segmented":
        whole = SegformerForSemanticSegmentation.from_pretrained(networks_of.saved(tmp_path_factory, name))
        ours = backbone.module.state_dict()
        for key, tensor in whole.segformer.state_dict().items():
            torch.testing.assert_close(ours[f"segformer.{key}"], tensor, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "masked", lambda folder: scenes(folder / "scenes", 24))


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        spec = f"hf/{networks_of.saved(tmp_path_factory, 'segmenter')}"
        words = ("find", data, "--task", "segmentation", "--backbone", spec, *ONE)
        said = tell(*words, "--effort", "quick", "--epochs", 1, "--out", folder / "run")
        assert said.code == 0, said.err
        return folder / "run"

    return once(tmp_path_factory, "found_masks", make)


def test_a_search_for_masks_answers_with_mean_iou(found: Path) -> None:
    summary = frostline.load(found).summary
    assert summary["score"]["metric"] == "mean_iou"
    assert {"mean_iou", "pixel_accuracy"} == summary["metrics"].keys()
    assert {"head_only", "full_finetune", "scratch"} <= summary["baselines"].keys()
    assert all(point["metric"] == "r2" for point in summary["curve"])
    assert summary["checks"]["cached_vs_live"] < 1e-4
    assert "mean IoU" in (found / "report.html").read_text()


def test_masks_are_written_as_large_as_the_picture_and_drawn_over_it(found: Path, data: Path, tmp_path: Path) -> None:
    files = [data / "images" / f"{number:02d}.png" for number in range(3)]
    said = tell("predict", found, *files, "--json", "--masks", tmp_path / "masks", "--draw", tmp_path / "drawn")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    for row, alone in zip(rows, predict(open_model(found), files, batch=1), strict=True):
        assert tuple(row["shares"]) == KINDS
        with Image.open(row["written"]) as mask, Image.open(row["drawn"]) as over:
            assert mask.size == over.size == (48, 40)
            values = np.asarray(mask)
            assert (values == alone["mask"]).mean() > 0.99
            assert mask.convert("RGB").getpixel((0, 0)) == tuple(palette()[values[0, 0]])
        shares = [(values == number).mean() for number in range(len(KINDS))]
        np.testing.assert_allclose(list(row["shares"].values()), shares, atol=1e-6)
    plain = tell("predict", found, files[0])
    assert plain.out.startswith(str(files[0]))
    assert any(f"{name} " in plain.out for name in KINDS)


def test_what_has_no_maps_or_is_no_search_is_refused(data: Path, tmp_path: Path) -> None:
    words = ("--weights", "none", "--task", "segmentation", *ONE)
    said = tell("find", data, "--backbone", "timm/vit_tiny_patch16_224", *words, "--out", tmp_path / "run")
    refused(said, "no layer gives maps of stride 4", "convolutional backbone")
