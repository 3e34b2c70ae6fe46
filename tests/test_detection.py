"""Boxes: what several depths hold reaches the head from the store as it does live, and a search finds things."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from world import ONE, once, refused, tell

import frostline
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.bench.bench import Bench, Source
from frostline.bench.lay import lay
from frostline.bench.levels import with_levels
from frostline.bench.task import plan_training
from frostline.bench.unit import head_of, perform
from frostline.data.read import read
from frostline.errors import DataError, OptionError
from frostline.plan import plan
from frostline.run import terms
from frostline.run.wish import Wish, granted
from frostline.search.scores import losses
from frostline.search.strategies import UNPROBED
from frostline.settings import CHOICES, settings
from frostline.tasks.detection import STRIDES
from frostline.tasks.strides import depths_of
from frostline.tasks.table import TASKS
from frostline.values import Arm, Backbone, Head, HeadKind, Preprocessing, Recipe, Unit, Way

SIDE = 64
KINDS = ("disc", "square")


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Stages(nn.Module):
    """A stem and stages of stride 2 to 32, pooled into a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.default_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.8,
                            "interpolation": "bilinear", "num_classes": 4, "classifier": "head"}  # fmt: skip
        self.stages = nn.Sequential(block(3, 8), block(8, 8), block(8, 12), block(12, 16), block(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


class Slim(Stages):
    """The same of three layers without batch norms, on which a training takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 16, 2, 2))
        self.stages = nn.Sequential(*(nn.Sequential(conv, nn.ReLU()) for conv in convolutions))


def slim() -> nn.Module:
    """The factory that the command line names."""
    return Slim()


def stages() -> nn.Module:
    """The factory that the command line names."""
    return Stages()


def network(dtype: torch.dtype = torch.float32) -> Backbone:
    torch.manual_seed(0)
    how = Preprocessing((SIDE, SIDE), None, (0.5,) * 3, (0.5,) * 3)
    data = torch.randn(2, 3, SIDE, SIDE, dtype=dtype)
    return Backbone("stages", Stages().to(dtype).eval(), {"x": data}, "x", how, "none")


def scene(rng: np.random.Generator) -> tuple[Image.Image, list[tuple[str, tuple[int, int, int, int]]]]:
    """A discs-and-squares picture that is wider than high, and its boxes."""
    picture = Image.fromarray(rng.integers(0, 60, (72, 96, 3)).astype(np.uint8))
    pen, found = ImageDraw.Draw(picture), list[tuple[str, tuple[int, int, int, int]]]()
    for _ in range(int(rng.integers(1, 4))):
        x, y, size = int(rng.integers(0, 70)), int(rng.integers(0, 48)), int(rng.integers(16, 24))
        kind, box = KINDS[int(rng.integers(2))], (x, y, x + size, y + size)
        (pen.ellipse if kind == "disc" else pen.rectangle)(box, fill="white")
        found.append((kind, box))
    return picture, found


def drawn(folder: Path, count: int = 36) -> Path:
    """A COCO data set of such pictures."""
    rng, images, boxes = np.random.default_rng(0), list[dict[str, Any]](), list[dict[str, Any]]()
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        picture, found = scene(rng)
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 72})
        for kind, (left, top, right, bottom) in found:
            box = [left, top, right - left, bottom - top]
            boxes.append({"id": len(boxes), "image_id": number, "category_id": 5 + KINDS.index(kind), "bbox": box})
    categories = [{"id": 5 + n, "name": name} for n, name in enumerate(KINDS)]
    told = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "scenes", lambda folder: drawn(folder / "scenes"))


@pytest.fixture(scope="module")
def bench(data: Path) -> Bench:
    given = {"data": str(data), "backbone": f"{__file__}:stages", "weights": "none", "task": "detection"}
    given = {**given, "detector": "fcos"}  # whose rounding grows least
    return lay(settings({**given, "epochs": 2, "workers": 1, "threads": 1, "precision": "fp32"}), Source(), folder=None)


def arm(bench: Bench, freeze: int, kind: HeadKind = "pyramid") -> Arm:
    head = Head(kind, cuts=bench.anatomy.levels[:-1], start="random")
    of = plan(bench.anatomy.layers, Recipe(2, 3e-3, batch=4), freeze=freeze, head=head)
    return Arm(f"freeze@{freeze}", of, (3e-3,))


# ------------------------------------------------------------------------------------------------ several depths


def test_the_levels_are_the_last_of_each_stride_and_what_pools_behind_them_is_cut_off() -> None:
    backbone = network()
    anatomy = with_levels(dissect(backbone), backbone, partial(depths_of, strides=STRIDES))
    assert [layer.shape[1] for layer in anatomy.layers] == [32, 16, 8, 4, 2]
    assert anatomy.levels == (3, 4, 5)
    assert [anatomy.below(depth) for depth in range(6)] == [(), (), (), (), (3,), (3, 4)]


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
def test_what_a_suffix_sees_at_each_level_is_what_the_whole_network_makes_there(start: int) -> None:
    backbone = network(torch.float64)
    anatomy = with_levels(dissect(backbone), backbone, partial(depths_of, strides=STRIDES))
    inputs = {"x": torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64)}
    halves = Halves(backbone.module, anatomy)
    whole = halves.taps(inputs, (0, 1, 2, 3, 4, 5))
    cargo = (*anatomy.gathered(whole, start), *(inputs[name] for name in anatomy.beside(start)))
    frontier, given = anatomy.parted(start, cargo)
    with halves.sawn(start, until=5, levels=anatomy.levels) as run, torch.no_grad():
        last = run(frontier, given or None)
        found = {
            **anatomy.lower(start, cargo),
            **({start: frontier} if start in anatomy.levels else {}),
            **run.seen,
            5: last,
        }
    assert sorted(found) == [3, 4, 5]
    for level in anatomy.levels:
        # batch norms and ReLUs in place: what was seen is a copy that nothing above overwrote
        torch.testing.assert_close(found[level][0], whole[level][0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("freeze", "kind"),
    [(1, "pyramid"), (3, "pyramid"), (4, "pyramid"), (5, "pyramid"), (3, "anchors"), (3, "proposals")],
)
def test_training_from_the_store_ends_where_training_live_does(bench: Bench, freeze: int, kind: HeadKind) -> None:
    of = arm(bench, freeze, kind)
    rate = 3e-3 if kind == "pyramid" else 3e-4  # the deeper, the more rounding grows with the rate
    unit = Unit(of.id, rate, 1, 0, 0, 2)
    stored, live = perform(bench, of, unit), perform(replace(bench, whole={}, varied=()), of, unit)
    assert max(bench.whole) > 0
    np.testing.assert_allclose([e.loss for e in stored.epochs], [e.loss for e in live.epochs], rtol=1e-4)
    # equal scores change places by rounding, so what the detections are worth is compared, picture by picture
    truth = bench.examples.targets[stored.rows]
    ours, theirs = (losses(outcome.log_probabilities, truth) for outcome in (stored, live))
    assert np.abs(ours - theirs).max() < 0.05


def test_calibration_measures_the_head_that_is_trained_and_forecasts_count_it(bench: Bench) -> None:
    measured = bench.calibration.topping
    assert measured is not None
    assert min(measured.step, measured.answer, measured.judging) > 0
    of = arm(bench, 5)
    unit = Unit(of.id, 3e-3, 1, 0, 0, 2)
    head = head_of(bench, plan_training(bench, of, unit))
    assert measured.parameters == sum(parameter.numel() for parameter in head.parameters())
    two_stages = lay(replace(bench.settings, detector="fasterrcnn"), Source(), folder=None).calibration.topping
    assert two_stages is not None and two_stages.parameters > measured.parameters  # what is remembered is of a head
    rows, judged = len(bench.split.folds[0].train), len(bench.split.folds[0].validation)
    slower = replace(measured, step=measured.step + 1.0, answer=measured.answer + 2.0)
    other = replace(bench, calibration=replace(bench.calibration, topping=slower))
    more = terms.unit_seconds(other, of, unit) - terms.unit_seconds(bench, of, unit)
    assert more == pytest.approx(2 * rows * 1.0 + judged * 2.0)


def test_what_is_stored_is_as_large_as_was_forecast(bench: Bench) -> None:
    slow = replace(bench.calibration, forward=(1e-2,) * 5, backward=(2e-2,) * 5, way=Way())  # storing pays everywhere
    found = lay(bench.settings, Source(), folder=None, calibration=slow)
    assert {depth for depth, _ in found.forecast.stored} >= {4, 5}, "levels lie below these"
    there = {depth: found.whole[depth].bytes for depth, _ in found.forecast.stored}
    assert sum(found.forecast.bytes.values()) == sum(there.values())


# ------------------------------------------------------------------------------------------------ data


def test_boxes_become_shares_of_the_sides_and_pictures_without_any_stay(data: Path, tmp_path: Path) -> None:
    found = read(data, question="detection")
    assert found.classes == KINDS
    told = json.loads((data / "annotations.json").read_text())
    first = [box["bbox"] for box in told["annotations"] if box["image_id"] == 0]
    row = found.targets[found.ids.index("images/0.png")]
    mine = row[np.isfinite(row).all(axis=1)][:, :4] * [96, 72, 96, 72]
    expected = np.array([[x, y, x + w, y + h] for x, y, w, h in first], float)
    np.testing.assert_allclose(np.sort(mine, axis=0), np.sort(expected.clip(max=[96, 72, 96, 72]), axis=0), atol=1e-4)


def test_what_has_no_boxes_or_no_maps_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="holds no boxes"):
        read(tmp_path, question="detection")
    with pytest.raises(DataError, match="of COCO, Pascal VOC or YOLO"):
        read((np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]), question="detection")
    with pytest.raises(OptionError, match="shifted"):
        read(data, question="detection", shifted=str(data))
    maps = ("--weights", "none", "--task", "detection", *ONE)
    said = tell("find", data, "--backbone", "timm/vit_tiny_patch16_224", *maps, "--out", tmp_path / "run")
    refused(said, "stride", "convolutional backbone")
    said = tell("find", data, "--backbone", f"{__file__}:stages", *maps, "--image-size", 100, "--out", tmp_path / "run")
    refused(said, "100 x 100", "multiples of 32", "--image-size 96")


# ------------------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        words = ("find", data, "--task", "detection", "--backbone", f"{__file__}:stages", "--weights", "none", *ONE)
        said = tell(
            *words, "--effort", "quick", "--epochs", 2, "--batch-size", 8, "--workers", 1, "--out", folder / "run"
        )
        assert said.code == 0, said.err
        return folder / "run"

    return once(tmp_path_factory, "detected", make)


def test_a_search_for_boxes_answers_with_mean_average_precision(found: Path) -> None:
    summary = frostline.load(found).summary
    assert summary["score"]["metric"] == "map50"
    assert {"map", "map50"} <= summary["metrics"].keys()
    assert {"head_only", "full_finetune", "scratch"} <= summary["baselines"].keys()
    assert all(point["metric"] == "r2" for point in summary["curve"])
    assert summary["checks"]["cached_vs_live"] < 1e-2
    assert "mAP@50" in (found / "report.html").read_text()


def test_a_comparison_leaves_out_what_begins_with_a_probe_and_says_why(tmp_path: Path) -> None:
    few = ("--effort", "quick", "--epochs", 1, "--batch-size", 12, "--device", "cpu", "--precision", "fp32")
    words = ("--task", "detection", "--backbone", f"{__file__}:slim", "--weights", "none", "--detector", "fcos", *ONE)
    said = tell("compare", drawn(tmp_path / "few", 20), *words, *few, "--workers", 1, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    compared = frostline.load(tmp_path / "run").summary["comparison"]
    assert {"head_only", "scratch", "full_finetune", "gradual_unfreezing", "surgical", "l2_sp"} <= compared.keys()
    assert not UNPROBED.keys() & compared.keys()
    assert all(row["total"] > 0 for row in compared.values())
    told = " ".join((said.out + said.err).split())
    for name, reason in UNPROBED.items():
        assert f"{name.replace('_', ' ')} is not among the strategies: {reason}" in told
    assert "head only" in (tmp_path / "run" / "report.html").read_text()


def test_a_strategy_by_its_name_and_a_depth_have_the_head_of_the_task(bench: Bench) -> None:
    for wish, freeze in ((Wish("head_only"), 5), (Wish(freeze=2), 2), (Wish("scratch"), 0), (Wish("lora"), 0)):
        of = granted(wish, bench)
        assert (of.head.kind, of.head.cuts, of.freeze) == ("pyramid", (3, 4), freeze)
        outcome = perform(bench, Arm("plan", of, (of.recipe.lr,)), Unit("plan", of.recipe.lr, 1, 0, 0, 1))
        assert not outcome.diverged
    with pytest.raises(OptionError, match=UNPROBED["lp_ft"]):
        granted(Wish("lp_ft"), bench)


@pytest.mark.parametrize(("name", "kind"), [("retinanet", "anchors"), ("fasterrcnn", "proposals")])
def test_a_detector_finds_boxes_where_it_is_asked_for(data: Path, name: str, kind: str, tmp_path: Path) -> None:
    words = ("--task", "detection", "--backbone", f"{__file__}:stages", "--weights", "none", "--detector", name)
    said = tell("train", data, *words, "--freeze", 3, "--device", "cpu", *ONE, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    plan = json.loads((tmp_path / "run" / "model" / "plan.json").read_text())
    assert (plan["head"]["kind"], plan["freeze"]) == (kind, 3)
    said = tell("predict", tmp_path / "run", data / "images" / "0.png", "--json")
    assert said.code == 0, said.err
    (row,) = (json.loads(line) for line in said.out.splitlines())
    assert len(row["boxes"]) == len(row["labels"]) > 0


def test_a_detector_is_refused_where_no_boxes_are_found_and_one_that_is_not_known() -> None:
    boxes = {"data": "d", "backbone": "b", "task": "detection"}
    with pytest.raises(OptionError, match="'retinanet' and the task classification"):
        settings({**boxes, "task": "classification", "detector": "retinanet"})
    assert set(TASKS["detection"].heads) == set(CHOICES["detector"])
    with pytest.raises(OptionError, match="allowed are fasterrcnn, fcos, retinanet; did you mean 'retinanet'"):
        settings({**boxes, "detector": "retina"})


def test_boxes_are_told_in_pixels_of_the_picture_and_drawn(found: Path, data: Path, tmp_path: Path) -> None:
    files = [data / "images" / f"{number}.png" for number in range(3)]
    said = tell("predict", found, *files, "--json", "--draw", tmp_path / "drawn")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == [str(file) for file in files]
    for row in rows:
        assert len(row["boxes"]) == len(row["labels"]) == len(row["scores"])
        assert set(row["labels"]) <= set(KINDS)
        corners = np.array(row["boxes"]).reshape(-1, 4)
        assert ((corners >= 0) & (corners <= [96, 72, 96, 72])).all()
        with Image.open(row["drawn"]) as picture:
            assert picture.size == (96, 72)
    again = tell("predict", found, files[0], "--draw", tmp_path / "drawn")
    assert again.code == 0
    assert len(list((tmp_path / "drawn").iterdir())) == 4  # a name that is taken gets a number


def test_what_finds_boxes_is_no_network_that_other_libraries_have(found: Path, tmp_path: Path) -> None:
    said = tell("export", found, "--to", "onnx", "--out", tmp_path / "there")
    refused(said, "is detection", "classification, multilabel, regression", "frostline predict")
    assert not list(tmp_path.iterdir())
