"""Laws of plans: pure functions of the epoch, the same after a journey through JSON, at home in any module."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from architectures import TIMM
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.errors import CutError, PlanError
from frostline.plan import (
    cut_at,
    depth_of,
    from_json,
    gradual,
    legal_depths,
    plan,
    read,
    to_json,
    with_epochs,
    with_rate,
)
from frostline.values import Adapter, Backbone, Head, Layer, Plan, Recipe

RECIPE = Recipe(epochs=10, lr=1e-2)


def layer(index: int, name: str, **given: Any) -> Layer:
    members = (f"{name}.weight", f"{name}.bias", f"{name}.running_mean")
    return Layer(index, name, 20, 100, (4,), 16, True, members=members, modules=(name,), **given)


NAMES = ("stem", "blocks.0", "blocks.1", "blocks.2", "top")
LAYERS = tuple(layer(index, name) for index, name in enumerate(NAMES))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    rate = st.floats(1e-6, 10.0)
    return Recipe(
        epochs=draw(st.integers(1, 40)),
        lr=draw(rate),
        batch=draw(st.integers(1, 64)),
        optimiser=draw(st.sampled_from(["adamw", "sgd"])),
        kept_lr=draw(rate),
        layer_decay=draw(st.floats(0.1, 1.0)),
        weight_decay=draw(st.floats(0.0, 1.0)),
        anchor=draw(st.floats(0.0, 1.0)),
        schedule=draw(st.sampled_from(["one_cycle", "cosine", "constant"])),
        warmup=draw(st.floats(0.0, 0.9)),
        clip=draw(st.none() | rate),
        smoothing=draw(st.floats(0.0, 0.5)),
        augment=draw(st.sampled_from(["none", "flip", "crop", "flip_crop"])),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that keeps the rules."""
    depth = len(LAYERS)
    keep = draw(st.integers(0, depth))
    freeze = draw(st.integers(0, keep))
    above = "tune" if keep == depth else draw(st.sampled_from(["reinit", "drop"] if keep else ["reinit"]))
    flags = st.tuples(*(st.just(False) if i < freeze else st.booleans() for i in range(keep)))
    recipe = draw(recipes())
    epochs = sorted(draw(st.sets(st.integers(0, recipe.epochs), max_size=3)))
    return Plan(
        layers=LAYERS,
        keep=keep,
        freeze=freeze,
        above=above,  # pyright: ignore[reportArgumentType]
        train=draw(flags),
        recipe=recipe,
        head=Head(cuts=draw(st.sampled_from([(), (1, 3)])), start=draw(st.sampled_from(["probe", "random"]))),
        thaw=tuple((epoch, draw(flags)) for epoch in epochs),
        adapter=draw(st.sampled_from([None, Adapter(rank=4, targets=("blocks.0",))])),
        statistics=draw(st.sampled_from(["eval", "batch", "reestimate"])),
        blend=draw(st.floats(0.0, 1.0)),
    )


# ------------------------------------------------------------------------------------------- who learns, and how fast


@given(plans(), st.permutations(range(12)))
def test_who_learns_is_a_pure_function_of_the_epoch(of: Plan, order: list[int]) -> None:
    forward = [of.learning(epoch) for epoch in range(12)]
    assert {epoch: of.learning(epoch) for epoch in order} == dict(enumerate(forward))
    for epoch, flags in enumerate(forward):
        earlier = [later for start, later in of.thaw if start <= epoch]
        assert flags[: of.keep] == (earlier[-1] if earlier else of.train)
        assert not any(flags[: of.freeze])
        assert flags[of.keep :] == (of.above == "reinit",) * (len(LAYERS) - of.keep)


@given(plans())
def test_rates_are_those_of_the_formula_and_none_where_nothing_ever_learns(of: Plan) -> None:
    ever = [any(of.learning(epoch)[i] for epoch in range(of.recipe.epochs + 1)) for i in range(len(LAYERS))]
    recipe = of.recipe
    for index, rate in enumerate(of.rates()):
        if not ever[index]:
            assert rate is None
        elif index >= of.keep:
            assert rate == recipe.lr
        else:
            assert rate == pytest.approx(recipe.lr * recipe.kept_lr * recipe.layer_decay ** (of.keep - 1 - index))


def test_layer_decay_halves_from_the_topmost_kept_layer_down() -> None:
    of = plan(LAYERS, replace(RECIPE, layer_decay=0.5, kept_lr=0.1), keep=4, freeze=1, above="reinit")
    assert of.rates() == (None, pytest.approx(2.5e-4), pytest.approx(5e-4), pytest.approx(1e-3), 1e-2)


# --------------------------------------------------------------------------------------------------------------- JSON


@given(plans())
def test_a_plan_is_the_same_after_a_journey_through_json(of: Plan) -> None:
    text = json.dumps(to_json(of), allow_nan=False)
    back = from_json(json.loads(text))
    assert back == of
    assert isinstance(back.layers[0].members, tuple)
    assert hash(back) == hash(of)


def test_a_plan_is_read_from_its_own_file_and_from_the_summary_of_a_run(tmp_path: Path) -> None:
    of = plan(LAYERS, RECIPE, freeze=2, thaw=[(3, (False, False, True, True, True))])
    (tmp_path / "plan.json").write_text(json.dumps(to_json(of)))
    (tmp_path / "summary.json").write_text(json.dumps({"decision": {"plan": to_json(of)}}))
    assert read(tmp_path / "plan.json") == read(tmp_path / "summary.json") == of


DOCUMENT = to_json(plan(LAYERS, RECIPE, freeze=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "frostline.plan/9"}, "frostline.plan/9"),
        ({"freeze": "deep"}, "'freeze' is wrong.*'deep'"),
        ({"freeze": 9}, "freeze is 9.*0..5 is allowed"),
        ({"statistics": "both"}, "'statistics' is wrong.*'both'"),
        ({"recipe": {**DOCUMENT["recipe"], "lr": -1.0}}, r"lr is -1\.0"),
        ({"recipe": {**DOCUMENT["recipe"], "rate": 1.0}}, "'recipe.rate'"),
        ({"blended": 0.5}, "'blended'"),
        ({"head": {"kind": "linear", "cut": [3]}}, "'head.cut'"),
    ],
)
def test_a_plan_of_wrong_values_or_unknown_fields_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        from_json({**DOCUMENT, **change})


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '"plan"', '{"decision": 3}', '{"decision": {"plan": [1]}}', None])
def test_a_file_that_holds_no_plan_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError):
        read(path)


# ---------------------------------------------------------------------------------------------------- bad plans


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 6, "above": "drop"}, "keep is 6.*0..5"),
        ({"keep": 2}, "say whether those above"),
        ({"keep": 0, "above": "drop"}, "keep 0"),
        ({"keep": 5, "above": "drop"}, "'drop' with keep 5"),
        ({"keep": 3, "above": "tune"}, "'tune' with keep 3"),
        ({"keep": 2, "freeze": 3, "above": "drop"}, "freeze is 3.*0..2"),
        ({"freeze": 2, "train": (False, True, True, True, True)}, "False for the 2 frozen"),
        ({"train": (True,) * 4}, "one flag for each of the 5"),
        ({"thaw": [(-1, (True,) * 5)]}, "thaw at epoch -1"),
        ({"thaw": [(3, (True,) * 5), (1, (True,) * 5)]}, r"epochs \[3, 1\]"),
        ({"thaw": [(1, (True,) * 5), (1, (True,) * 5)]}, r"epochs \[1, 1\]"),
        ({"freeze": 1, "thaw": [(1, (True,) * 5)]}, "False for the 1 frozen"),
        ({"blend": 1.5}, "blend is 1.5"),
        ({"blend": float("nan")}, "blend is nan"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_by_value(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(LAYERS, RECIPE, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"lr": 0.0}, "lr is 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"kept_lr": -1.0}, "kept_lr is -1"),
        ({"layer_decay": 0.0}, "layer_decay is 0"),
        ({"warmup": 1.0}, "warmup is 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"anchor": -0.1}, "anchor is -0.1"),
        ({"clip": 0.0}, "clip is 0"),
        ({"clip": -1.0}, "clip is -1"),
        ({"smoothing": 1.5}, "smoothing is 1.5"),
        ({"smoothing": -0.5}, "smoothing is -0.5"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_by_value(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(RECIPE, **given)


# ---------------------------------------------------------------------------------------------------------- depths


@pytest.mark.parametrize(
    ("freeze", "depth"),
    [
        (0, 0),
        (5, 5),
        ("3", 3),
        ("0", 0),
        (0.0, 0),
        (1.0, 5),
        (0.4, 2),
        ("0.4", 2),
        ("1.0", 5),
        (1, 1),
        ("1", 1),
        ("stem", 1),
        ("blocks.1", 3),
        ("top", 5),
    ],
)
def test_a_depth_is_a_count_a_fraction_or_the_name_of_its_last_layer(freeze: int | str | float, depth: int) -> None:
    assert depth_of(LAYERS, freeze) == depth
    assert plan(LAYERS, RECIPE, freeze=freeze).train == tuple(i >= depth for i in range(5))


@pytest.mark.parametrize("freeze", [6, -1, "6", "-1", 1.5, "2.5", -0.1, float("nan"), "nan", "inf"])
def test_a_depth_outside_of_the_network_is_refused_with_what_is_allowed(freeze: int | str | float) -> None:
    with pytest.raises(CutError, match=r"0 to 5 .*0\.0 to 1\.0.*'top'"):
        depth_of(LAYERS, freeze)


def test_a_name_that_matches_nothing_is_refused_with_those_near_it() -> None:
    with pytest.raises(CutError, match=r"'block\.1'.*near it: blocks\.1"):
        depth_of(LAYERS, "block.1")
    with pytest.raises(CutError, match=r"near it: stem, blocks\.0, blocks\.1"):
        depth_of(LAYERS, "zzzzzz")


def test_freezing_below_what_is_shared_is_refused_with_the_reason() -> None:
    tied = (*LAYERS[:2], replace(LAYERS[2], legal=False, cut=False, why="parameters are shared across it"), *LAYERS[3:])
    with pytest.raises(CutError, match=r"'blocks\.1' \(depth 3\).*shared across"):
        plan(tied, RECIPE, freeze=3)
    assert plan(tied, RECIPE, freeze=2).freeze == 2
    assert legal_depths(tied) == (0, 1, 2, 4, 5)
    assert [cut_at(tied, depth).name for depth in (0, 2)] == ["input", "blocks.0"]


# ------------------------------------------------------------------------------------------------------- schedules


@given(plans(), st.integers(1, 60))
def test_another_schedule_keeps_the_order_of_thawing_and_everything_else(of: Plan, epochs: int) -> None:
    moved = with_epochs(of, epochs)
    assert moved.recipe == replace(of.recipe, epochs=epochs)
    assert replace(moved, recipe=of.recipe, thaw=of.thaw) == of
    found = [flags for _, flags in moved.thaw]
    remaining = iter(flags for _, flags in of.thaw)
    assert all(any(flags == other for other in remaining) for flags in found)  # a subsequence
    assert moved.rates()[of.keep :] == of.rates()[of.keep :]
    if of.thaw:
        assert moved.thaw[-1][1] == of.thaw[-1][1]
    assert with_epochs(of, of.recipe.epochs) == of


@given(st.integers(1, 40), st.integers(0, 50), st.integers(1, 40))
def test_what_thaws_within_a_schedule_and_nothing_else_thaws_within_another_one(old: int, at: int, new: int) -> None:
    of = plan(LAYERS, replace(RECIPE, epochs=old), train=(False,) * 5, thaw=[(at, (True,) * 5)])
    moved = with_epochs(of, new)
    assert any(moved.learning(new - 1)) == any(of.learning(old - 1)) == (at < old)


def test_another_rate_changes_nothing_else() -> None:
    of = plan(LAYERS, RECIPE, freeze=2)
    assert with_rate(of, 0.5) == replace(of, recipe=replace(RECIPE, lr=0.5))


# -------------------------------------------------------------------------------------------- in somebody's own loop


class Parameter:
    """As much of a parameter as a plan asks for: no torch is needed."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.ndim, self.learns = shape, len(shape), True

    def numel(self) -> int:
        return self.shape[0] * (self.shape[1] if self.ndim > 1 else 1)

    def requires_grad_(self, learns: bool) -> None:
        self.learns = learns


class Module:
    """A network of five layers and a head that is no torch module."""

    def __init__(self) -> None:
        self.parameters = {
            f"{name}.{kind}": Parameter(4, 4) if kind == "weight" else Parameter(4)
            for name in (*NAMES, "fc")
            for kind in ("weight", "bias")
        }
        self.parts = {name: Part() for name in NAMES}

    def named_parameters(self, remove_duplicate: bool = True) -> Any:
        return self.parameters.items()

    def named_buffers(self, remove_duplicate: bool = True) -> Any:
        return [(f"{name}.running_mean", None) for name in NAMES]

    def named_modules(self) -> Any:
        return self.parts.items()


class Part:
    """A module that is told its mode."""

    def __init__(self) -> None:
        self.training = True

    def eval(self) -> None:
        self.training = False


@given(plans(), st.integers(0, 12))
def test_applying_a_plan_needs_no_torch_and_freezes_what_does_not_learn(of: Plan, epoch: int) -> None:
    module = Module()
    learning = of.apply(module, epoch)
    for layer, learns in zip(LAYERS, of.learning(epoch), strict=True):
        assert module.parameters[f"{layer.name}.weight"].learns == learns
        batch = of.statistics == "batch" or layer.index >= of.keep
        assert module.parts[layer.name].training == (learns and batch)
    assert module.parameters["fc.weight"].learns
    assert learning == sum(p.numel() for p in module.parameters.values() if p.learns)


@given(plans())
def test_groups_hold_each_parameter_that_ever_learns_once_under_static_names(of: Plan) -> None:
    module = Module()
    groups = of.parameter_groups(module)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(set(held)) == len(held)
    rates = dict(zip(NAMES, of.rates(), strict=True)) | {"fc": of.recipe.lr}
    assert set(held) == {id(p) for name, p in module.parameters.items() if rates[name.rpartition(".")[0]] is not None}
    for group in groups:
        name = group["name"].removesuffix("/no_decay")
        assert group["lr"] == rates["fc" if name == "head" else name]
        vectors = group["name"].endswith("/no_decay")
        assert all((p.ndim < 2) == vectors for p in group["params"])
        assert group["weight_decay"] == (0.0 if vectors else of.recipe.weight_decay)
    for epoch in (0, 5, 12):
        of.apply(module, epoch)
        again = of.parameter_groups(module)
        assert [(g["name"], g["lr"], [id(p) for p in g["params"]]) for g in again] == [
            (g["name"], g["lr"], [id(p) for p in g["params"]]) for g in groups
        ]


@cache
def resnet() -> tuple[Backbone, Anatomy]:
    backbone = TIMM["resnet18"]()
    return backbone, dissect(backbone)


def test_a_plan_serves_ones_own_loop_on_a_resnet_of_timm() -> None:
    backbone, anatomy = resnet()
    module = copy.deepcopy(backbone.module).train()
    of = plan(anatomy.layers, Recipe(epochs=4, lr=1e-3), freeze="layer2.1", thaw=[(2, (False,) * 9)])
    learning = of.apply(module)
    frozen = ("conv1.", "bn1.", "layer1.", "layer2.")
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == {
        n for n, _ in module.named_parameters() if n.startswith(frozen)
    }
    assert learning == sum(p.numel() for p in module.parameters() if p.requires_grad)
    for name, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            assert not part.training, name
    optimiser = torch.optim.AdamW(of.parameter_groups(module))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimiser.step()
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in module.named_parameters() if not name.startswith(frozen)}
    assert of.apply(module, 2) == sum(p.numel() for n, p in module.named_parameters() if n.startswith("fc"))


def test_a_plan_for_another_network_is_refused_with_a_name_that_is_missing() -> None:
    of = plan(resnet()[1].layers, RECIPE, freeze=1)
    for use in (of.apply, of.parameter_groups):
        with pytest.raises(PlanError, match=r"names '[a-z0-9.]+' and \d+ others that this module lacks"):
            use(stage.network().module)


class Tied(nn.Module):
    """Two modules of one layer share a weight, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.pair = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.pair[2].weight = self.pair[0].weight
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(self.pair(torch.tanh(self.first(x)))))


def test_a_weight_with_two_names_is_frozen_and_grouped_as_one() -> None:
    backbone = Backbone("tied", Tied().eval(), {"x": torch.randn(2, 4)}, "x", None, "none")
    layers = dissect(backbone).layers
    members = {name for layer in layers for name in layer.members}
    assert {"pair.0.weight", "pair.2.weight"} <= members
    of = plan(layers, RECIPE, freeze=len(layers))
    of.apply(backbone.module)
    assert {n for n, p in backbone.module.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    groups = plan(layers, RECIPE).parameter_groups(backbone.module)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in backbone.module.parameters())


@given(depth=st.integers(1, 7), epochs=st.integers(1, 12), share=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_gradual_unfreezing_thaws_every_layer_once_in_its_order_and_by_its_time(
    depth: int, epochs: int, share: float, seed: int
) -> None:
    layers, recipe = tuple(layer(i, f"blocks.{i}") for i in range(depth)), replace(RECIPE, epochs=epochs)
    order = tuple(int(i) for i in np.random.default_rng(seed).permutation(depth))
    of = gradual(layers, recipe, until=share, order=order)
    seen: list[int] = []
    for epoch in range(epochs):
        learning = {i for i, learns in enumerate(of.learning(epoch)) if learns}
        assert learning == set(order[: len(learning)])  # what thaws first stands first
        seen.append(len(learning))
    assert seen == sorted(seen)
    assert seen[-1] == depth
    assert seen[0] == (0 if epochs > 1 else depth)  # the head alone
    assert seen[min(epochs - 1, max(1, int(share * epochs)))] == depth


@given(plans(), st.integers(0, 12))
def test_the_first_layers_that_stand_still_in_an_epoch_are_those_that_apply_would_freeze(of: Plan, epoch: int) -> None:
    count, learns = of.freeze_at(epoch), of.learning(epoch)
    assert not any(learns[:count])
    assert count >= of.freeze
    assert count == of.keep or learns[count]


def test_gradual_unfreezing_goes_from_the_top_down_by_an_epoch_or_a_share_of_the_schedule() -> None:
    recipe = replace(RECIPE, epochs=10)
    by_share, by_epoch = gradual(LAYERS, recipe, until=0.5), gradual(LAYERS, recipe, until=5)
    assert by_share == by_epoch
    assert [epoch for epoch, _ in by_epoch.thaw] == [1, 2, 3, 4, 5]
    assert [sum(flags) for _, flags in by_epoch.thaw] == [1, 2, 3, 4, 5]
    assert by_epoch.thaw[0][1] == (False, False, False, False, True)
    wrong = ((0, None, "until is 0"), (11, None, "1 to 10"), (1.5, None, "until is 1.5"), (0.5, (0, 0), "order"))
    for until, order, said in wrong:
        with pytest.raises(PlanError, match=said):
            gradual(LAYERS, recipe, until=until, order=order)
