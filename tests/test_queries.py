"""Detectors of transformers: what they are cut into, that stored equals live, and a model that finds things."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import networks_of
import numpy as np
import pytest
import stage
import torch
from PIL import Image
from safetensors.torch import save_file
from test_detection import KINDS, drawn
from torch import Tensor, nn
from transformers import AutoModelForObjectDetection
from world import ONE, once, tell

import frostline
from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.backbones.load import load
from frostline.backbones.queries import Queried
from frostline.bench.bench import Bench, Source
from frostline.bench.lay import lay
from frostline.bench.levels import head_kind, unpooled
from frostline.bench.unit import perform, stackable
from frostline.errors import BackboneError, OptionError, WeightsError
from frostline.formats.model import open_model, probabilities
from frostline.plan import plan
from frostline.run import entrants
from frostline.settings import settings
from frostline.tasks.table import TASKS
from frostline.training import loop
from frostline.training.device import accelerator
from frostline.training.prepare import prepared
from frostline.values import Arm, Backbone, Cut, Estimate, Evidence, Head, Layer, Plan, Recipe, Unit, Way

CUTS = {  # depths at which each can be sawn: not where a pyramid or a decoder reads below again
    "detr": [1, 2, 3, 4, 5, 6, 7, 8, 10, 11],
    "rtdetr": [1, 2, 3, 4, 5, 7, 12, 15],
    "dfine": [1, 2, 3, 4, 5, 6, 8, 13, 16],
    "yolos": [1, 2, 3, 4],
}
WIDE = 16  # of a hidden state


@pytest.fixture(scope="module", params=CUTS)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load(f"hf/{networks_of.saved(tmp_path_factory, request.param)}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "scenes", lambda folder: drawn(folder / "scenes"))


@pytest.fixture(scope="module")
def bench(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    spec = f"hf/{networks_of.saved(tmp_path_factory, 'rtdetr')}"
    given = {"data": str(data), "backbone": spec, "task": "detection", "threads": 1, "epochs": 2, "workers": 1}
    slow = dict.fromkeys(("forward", "backward", "carry"), (0.01,) * CUTS["rtdetr"][-1])
    return lay(settings(given), Source(), calibration=replace(stage.CALIBRATION, way=stage.WAY, **slow))


def pictures(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, networks_of.PIXELS, networks_of.PIXELS, generator=draw)


def things(count: int) -> Tensor:
    """Of each picture two boxes, and one row of none."""
    draw = torch.Generator().manual_seed(1)
    corner = 0.6 * torch.rand(count, 2, 2, generator=draw)
    kinds = torch.randint(len(KINDS), (count, 2, 1), generator=draw).float()
    found = torch.cat([corner, corner + 0.3, kinds], dim=2)
    return torch.cat([found, torch.full((count, 1, 5), float("nan"))], dim=1)


# ------------------------------------------------------------------------------------------------ the network


def test_the_rows_are_the_detectors_own_hidden_states_and_boxes_under_its_own_names(
    backbone: Backbone, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    folder = networks_of.saved(tmp_path_factory, request.node.callspec.params["backbone"])
    whole, given = AutoModelForObjectDetection.from_pretrained(folder).eval(), pictures(3)
    with torch.no_grad():
        expected, found = whole(given), backbone.module(given)
    hidden = expected.last_hidden_state[:, -networks_of.FOUND :]
    torch.testing.assert_close(found, torch.cat([hidden, expected.pred_boxes], dim=2))
    theirs = {name for name in whole.state_dict() if not name.startswith("class_labels_classifier")}
    assert theirs == set(backbone.module.state_dict())
    still = {name for name, parameter in backbone.module.named_parameters() if not parameter.requires_grad}
    assert still == ({"model.decoder.up", "model.decoder.reg_scale"} & theirs)  # of D-FINE, which are no weights


def test_it_is_sawn_wherever_one_set_of_tensors_carries_everything(
    backbone: Backbone, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["backbone"]
    anatomy = dissect(backbone)
    assert [layer.index + 1 for layer in anatomy.layers if layer.cut] == CUTS[name]
    assert all(layer.error is not None and layer.error < 1e-5 for layer in anatomy.layers if layer.cut)
    assert anatomy.layers[-1].shape == (networks_of.FOUND, WIDE + 4)  # the box predictor is a layer, and nothing a head
    assert anatomy.head == ()
    exact = copy.deepcopy(backbone.module).double()
    halves, given = Halves(exact, anatomy), {"pixel_values": pictures(3).double()}
    taps = halves.taps(given, CUTS[name])
    for depth in CUTS[name]:
        with torch.no_grad():
            found = halves.suffix(taps[depth], depth)
            torch.testing.assert_close(found, exact(**given), rtol=0, atol=1e-12)


def trained(backbone: Backbone, anatomy: Anatomy, of: Plan, start: int) -> tuple[dict[str, Tensor], list[float]]:
    """Two steps in double precision from what crosses a depth: all that was learned, and the losses."""
    given, where = pictures(4).double(), accelerator("cpu", "fp32")
    (cargo,) = Halves(backbone.module, anatomy).taps({"pixel_values": given}, (start,)).values()
    head = unpooled(anatomy, of, len(KINDS), (64, 64), seed=0).double()
    task = TASKS["detection"]
    with prepared(backbone, anatomy, of, head, start=start, seed=0, device=where, task=task) as learner:
        torch.manual_seed(0)
        epochs = loop.train(learner, lambda epoch: iter([(cargo, things(4))]), of, 1, where)
        losses = [epoch.loss for epoch in epochs]
        return {name: tensor.clone() for name, tensor in learner.module.state_dict().items()}, losses


def test_in_float64_training_from_what_is_stored_ends_at_the_parameters_of_training_live(
    backbone: Backbone, request: pytest.FixtureRequest
) -> None:
    anatomy, exact = dissect(backbone), replace(backbone, module=copy.deepcopy(backbone.module).double())
    cuts = CUTS[request.node.callspec.params["backbone"]]
    for depth in (cuts[1], cuts[-1]):
        recipe = Recipe(2, 1e-2, batch=4, kept_lr=1.0)
        of = plan(anatomy.layers, recipe, freeze=depth, head=Head("queries", start="random"))
        (live, told), (cached, again) = (trained(exact, anatomy, of, start) for start in (0, depth))
        assert again == pytest.approx(told, abs=1e-10)
        assert told[1] != pytest.approx(told[0], abs=1e-6)
        for name, tensor in live.items():
            torch.testing.assert_close(cached[name], tensor, rtol=0, atol=1e-8, msg=name)


# ------------------------------------------------------------------------------------------------ loading


def test_a_file_of_weights_may_say_other_classes_or_none_but_must_bring_every_layer(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = networks_of.saved(tmp_path_factory, "detr")
    state = AutoModelForObjectDetection.from_pretrained(folder).state_dict()
    moved = {name: tensor + 1 if name == "bbox_predictor.layers.2.bias" else tensor for name, tensor in state.items()}
    save_file(moved, tmp_path / "moved.safetensors")
    found = load(f"hf/{folder}", weights=str(tmp_path / "moved.safetensors")).module
    assert torch.equal(found.state_dict()["bbox_predictor.layers.2.bias"], state["bbox_predictor.layers.2.bias"] + 1)
    save_file({k: v for k, v in state.items() if "bbox_predictor" not in k}, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match="bbox_predictor"):
        load(f"hf/{folder}", weights=str(tmp_path / "less.safetensors"))


def test_pictures_are_squashed_whole_and_an_oblong_processor_is_told_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    detr, rtdetr = (load(f"hf/{networks_of.saved(tmp_path_factory, name)}") for name in ("detr", "rtdetr"))
    for found, notes in ((detr, 1), (rtdetr, 0)):
        assert getattr(found.preprocessing, "size", None) == (networks_of.PIXELS,) * 2
        assert getattr(found.preprocessing, "resize", 0) is None
        assert len(found.notes) == notes
    assert "squashed to (64, 64)" in detr.notes[0]


def test_a_head_of_places_or_anchors_is_refused_where_the_network_finds_things(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    spec = f"hf/{networks_of.saved(tmp_path_factory, 'detr')}"
    given = settings({"data": "d", "backbone": spec, "task": "detection", "detector": "retinanet"})
    with pytest.raises(OptionError, match=r"'retinanet'.*finds things by layers of its own"):
        head_kind(given, load(spec))


def test_a_detector_that_hands_on_no_queries_is_refused() -> None:
    class Other(nn.Module):
        config = SimpleNamespace(model_type="other")

        def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
            return {"logits": pixel_values}

    with pytest.raises(BackboneError, match=r"type 'other'.*no boxes"):
        Queried(Other())(pictures(1))


# ------------------------------------------------------------------------------------------------ trainings


def arm(bench: Bench, freeze: int) -> Arm:
    recipe = Recipe(2, 3e-3, batch=4)
    of = plan(bench.anatomy.layers, recipe, freeze=freeze, head=Head("queries", start="random"))
    return Arm(f"freeze@{freeze}", of, (3e-3,))


@pytest.mark.parametrize("freeze", [5, 15])
def test_training_from_the_store_ends_where_training_live_does(bench: Bench, freeze: int) -> None:
    of = arm(bench, freeze)
    unit = Unit(of.id, 3e-3, 1, 0, 0, 2)
    stored, live = perform(bench, of, unit), perform(replace(bench, whole={}, varied=()), of, unit)
    assert max(bench.whole) > 0
    np.testing.assert_allclose([e.loss for e in stored.epochs], [e.loss for e in live.epochs], rtol=1e-4)


def test_what_waits_for_the_host_is_neither_stacked_nor_recorded(bench: Bench) -> None:
    eager = replace(bench, calibration=replace(bench.calibration, way=Way(stacked=0, graphs=True)))
    assert not stackable(eager, arm(bench, 5))
    task = TASKS["detection"].bound(unpooled(bench.anatomy, arm(bench, 5).plan, len(KINDS), (64, 64), seed=0))
    assert task.waits
    assert not TASKS["classification"].waits


def test_every_strategy_has_the_head_of_queries_and_everything_frozen_is_trained_as_well(bench: Bench) -> None:
    def seen(layer: Layer, score: float) -> Evidence:
        depth = layer.index + 1
        return Evidence(Cut(depth, layer.name), Estimate(score, score, score), 0.0, 16)

    curve = [seen(layer, 0.1 * (layer.index == 4)) for layer in bench.anatomy.layers if layer.cut]
    arms = entrants.proposed(bench, curve)
    assert {of.plan.head for of in arms} == {Head("queries", start="random")}
    assert {"head_only", "full_finetune", "last_block", "reinit@5"} <= {of.id for of in arms}
    assert all(of.plan.above != "drop" for of in arms)
    assert entrants.scratch_of(bench, 2).plan.head.kind == "queries"
    assert entrants.base_recipe(bench).lr * entrants.base_recipe(bench).kept_lr == pytest.approx(1e-4)


# ------------------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = f"hf/{networks_of.saved(tmp_path_factory, 'yolos')}"

    def make(folder: Path) -> Path:
        words = ("train", data, "--task", "detection", "--backbone", spec, "--freeze", 2, "--epochs", 1, *ONE)
        said = tell(*words, "--out", folder / "run")
        assert said.code == 0, said.err
        return folder / "run"

    return once(tmp_path_factory, "queried", make)


def test_a_training_is_told_in_mean_average_precision_and_nothing_frozen_moved(found: Path) -> None:
    summary = frostline.load(found).summary
    assert summary["score"]["metric"] == "map50"
    (trained,) = summary["arms"]
    assert trained["plan"]["head"]["kind"] == "queries"
    assert trained["plan"]["freeze"] == 2
    assert summary["checks"]["frozen_unchanged"]


def test_the_model_tells_boxes_in_pixels_draws_them_and_says_the_same_however_it_is_asked(
    found: Path, data: Path, tmp_path: Path
) -> None:
    files = [data / "images" / f"{number}.png" for number in range(3)]
    said = tell("predict", found, *files, "--json", "--draw", tmp_path / "drawn")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == [str(file) for file in files]
    with Image.open(rows[0]["drawn"]) as picture:
        assert picture.size == (96, 72)
    model = open_model(found)
    together = np.concatenate(list(probabilities(model, files)))
    alone = np.concatenate(list(probabilities(model, files, batch=1)))
    assert together.shape == (3, 100, 6)
    np.testing.assert_allclose(together[..., 4], alone[..., 4], atol=1e-5)
    sure = together[0][np.nan_to_num(together[0][:, 4]) >= 0.3]
    assert len(rows[0]["scores"]) == len(sure)
    assert next(iter(frostline.load(found).predict(files)))["boxes"] == rows[0]["boxes"]
