"""Laws of what learns and what is frozen: parameters, buffers and modes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import stage
import torch
from torch import Tensor, nn

from frostline.activations.fingerprint import fingerprint
from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.errors import BackboneError, PlanError
from frostline.plan import plan
from frostline.tasks import heads
from frostline.training import loop
from frostline.training.device import Device
from frostline.training.feed import feed, steps
from frostline.training.prepare import predictor, prepared, reestimate
from frostline.training.step import Batch, Feed, Learner
from frostline.values import Adapter, Backbone, Head, Plan, Recipe

RECIPE = Recipe(epochs=2, lr=3e-2, batch=8, weight_decay=0.5)
ROWS = 20
Modes = list[tuple[str, bool]]


@cache
def network() -> tuple[Backbone, Anatomy]:
    backbone = stage.network()
    return backbone, stage.anatomy(backbone)


def of(recipe: Recipe = RECIPE, **given: Any) -> Plan:
    return plan(network()[1].layers, recipe, **given)


def head(seed: int = 0) -> nn.Module:
    return heads.made(Head(), stage.WIDTH, stage.CLASSES, seed=seed)


def batches(depth: int, batch: int = 8) -> Feed:
    """Rows of random pictures, as they cross a cut."""
    backbone, anatomy = network()
    inputs = torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    arrays = [tensor.numpy() for tensor in Halves(backbone.module, anatomy).prefix({"x": inputs}, depth)]
    targets = np.arange(ROWS) % stage.CLASSES
    cpu = torch.device("cpu")
    return feed(lambda rows, _: [array[rows] for array in arrays], np.arange(ROWS), targets, batch, device=cpu, seed=0)


def fit(learner: Learner, given: Plan, start: int, device: Device) -> None:
    """Train with a prediction after each epoch, as someone who watches would."""
    learn = batches(start)
    for _ in loop.train(learner, learn, given, steps(ROWS, 8), device):
        loop.predict(learner, learn, device)


FROZEN: dict[str, dict[str, Any]] = {
    "adamw": {"freeze": 2},
    "sgd_batch": {"freeze": 2, "statistics": "batch", "recipe": replace(RECIPE, optimiser="sgd")},
    "batch": {"freeze": 3, "statistics": "batch"},
    "reestimate": {"freeze": 2, "statistics": "reestimate"},
    "anchor": {"freeze": 1, "recipe": replace(RECIPE, anchor=5.0), "blend": 0.5},
    "gradual": {"freeze": 1, "train": (False,) * 4, "thaw": ((1, (False, False, True, True)),)},
    "reinit": {"freeze": 2, "keep": 2, "above": "reinit", "statistics": "batch"},
    "drop": {"freeze": 1, "keep": 3, "above": "drop", "statistics": "batch"},
}


@pytest.mark.parametrize("live", [True, False], ids=["live", "stored"])
@pytest.mark.parametrize("name", FROZEN)
def test_no_byte_below_the_frost_line_moves_and_the_backbone_itself_is_not_touched(name: str, live: bool) -> None:
    backbone, anatomy = network()
    given = of(**FROZEN[name])
    before, start = fingerprint(backbone.module), 0 if live else given.freeze
    with prepared(backbone, anatomy, given, head(), start=start, seed=0, device=stage.cpu()) as learner:
        if given.statistics == "reestimate":
            reestimate(learner, batches(start)(0), given)
        fit(learner, given, start, stage.cpu())
        loop.blend(learner, given.blend)
        trained = learner.module.get_submodule("network")
        names = stage.frozen_names(given)
        assert names
        assert fingerprint(trained, names) == fingerprint(backbone.module, names)
        assert fingerprint(trained) != before
    assert fingerprint(backbone.module) == before
    assert all(parameter.grad is None for parameter in backbone.module.parameters())


def watched(learner: Learner, kind: type[nn.Module], modes: Modes) -> None:
    """Tell `modes` in which mode each module of a kind runs, whenever it runs."""

    def hook(name: str) -> Any:
        return lambda module, *_: modes.append((name, module.training))

    for name, module in learner.module.get_submodule("network").named_modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(hook(name))


def modes_of(given: Plan, kind: type[nn.Module], start: int) -> tuple[Modes, Modes]:
    """The modes while training, and those while predicting after each epoch."""
    backbone, anatomy = network()
    seen, training, predicting = Modes(), Modes(), Modes()
    with prepared(backbone, anatomy, given, head(), start=start, seed=0, device=stage.cpu()) as learner:
        learn = batches(start)
        loop.predict(learner, learn, stage.cpu())  # the first run of a shape passes through the prefix to record it
        watched(learner, kind, seen)
        for _ in loop.train(learner, learn, given, steps(ROWS, 8), stage.cpu()):
            training += seen
            seen.clear()
            loop.predict(learner, learn, stage.cpu())
            predicting += seen
            seen.clear()
    return training, predicting


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("statistics", ["eval", "batch"])
def test_batch_norms_below_the_frost_line_are_in_inference_mode_at_every_step_and_after_every_prediction(
    statistics: Any, start: int
) -> None:
    training, predicting = modes_of(of(freeze=2, statistics=statistics), nn.BatchNorm2d, start)
    frozen = {"stem.1", "blocks.0.norm1", "blocks.0.norm2"}
    learning = {"blocks.1.norm1", "blocks.1.norm2", "blocks.2.norm1", "blocks.2.norm2"}
    ran = {0: frozen, 1: frozen - {"stem.1"}, 2: set[str]()}[start] | learning
    assert {name for name, _ in training} == {name for name, _ in predicting} == ran
    assert len(training) == 2 * 3 * len(ran)  # two epochs of three steps
    for name, mode in training:
        assert mode == (statistics == "batch" and name in learning), name
    assert not any(mode for _, mode in predicting)


def test_dropout_is_active_above_the_frost_line_alone_and_while_training_alone() -> None:
    training, predicting = modes_of(of(freeze=2), nn.Dropout, 0)
    assert set(training) == {("blocks.0.drop", False), ("blocks.1.drop", True), ("blocks.2.drop", True)}
    assert not any(mode for _, mode in predicting)


def test_modules_that_enclose_frozen_and_learning_layers_are_in_inference_mode_for_what_is_random_in_them() -> None:
    training, _ = modes_of(of(freeze=2), nn.Sequential, 0)
    assert set(training) == {("stem", False), ("blocks", False)}
    training, _ = modes_of(of(), nn.Sequential, 0)
    assert set(training) == {("stem", True), ("blocks", False)}


def test_what_the_user_froze_is_never_thawed() -> None:
    """One weight of a layer that learns, one that thaws, and fixed tables, as some transformers have them."""
    backbone = stage.network()
    held = ("blocks.0.conv1.weight", "blocks.2.norm1.bias")
    for name in held:
        backbone.module.get_parameter(name).requires_grad_(False)
    anatomy = stage.anatomy(backbone)
    assert [layer.held for layer in anatomy.layers] == [(), held[:1], (), held[1:]]
    thawing = plan(anatomy.layers, RECIPE, train=(False,) * 4, thaw=[(1, (False, True, False, True)), (2, (True,) * 4)])
    for given in (plan(anatomy.layers, RECIPE), thawing):
        with prepared(backbone, anatomy, given, head(), start=0, seed=0, device=stage.cpu()) as learner:
            network = learner.module.get_submodule("network")
            before = {name: network.get_parameter(name).detach().clone() for name in held}
            trained = {id(p) for group in learner.groups for p in group["params"]}
            assert not trained & {id(network.get_parameter(name)) for name in held}
            fit(learner, replace(given, recipe=replace(RECIPE, epochs=3)), 0, stage.cpu())
            for name in held:
                assert torch.equal(network.get_parameter(name), before[name])
                assert not network.get_parameter(name).requires_grad
            stem = backbone.module.get_parameter("stem.0.weight")
            assert not torch.equal(network.get_parameter("stem.0.weight"), stem)
    again = stage.network().module
    thawing.apply(again, 2)
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == list(held)


def test_dropout_of_a_layer_that_thaws_is_active_from_then_on() -> None:
    given = of(train=(False,) * 4, thaw=[(1, (False, False, False, True))])
    training, _ = modes_of(given, nn.Dropout, 0)
    assert [mode for name, mode in training if name == "blocks.2.drop"] == [False] * 3 + [True] * 3
    assert not any(mode for name, mode in training if name != "blocks.2.drop")


def test_new_layers_use_the_statistics_of_the_batch_as_they_have_no_others() -> None:
    given = of(freeze=2, keep=2, above="reinit", statistics="eval")
    training, _ = modes_of(given, nn.BatchNorm2d, 2)
    assert set(training) == {(f"blocks.{n}.norm{m}", True) for n in (1, 2) for m in (1, 2)}


def test_measured_statistics_are_means_over_the_batches_and_only_above_the_frost_line() -> None:
    backbone, anatomy = network()
    given = of(freeze=3, statistics="reestimate")
    stored = batches(3, batch=10)
    module = backbone.module.get_submodule("blocks.2")
    with prepared(backbone, anatomy, given, head(), start=3, seed=0, device=stage.cpu()) as learner:
        reestimate(learner, stored(0), given)
        trained = learner.module.get_submodule("network")
        norm = trained.get_submodule("blocks.2.norm1")
    convolved = [module.get_submodule("conv1")(inputs[0]).detach() for inputs, _ in stored(0)]
    mean = torch.stack([x.mean((0, 2, 3)) for x in convolved]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in convolved]).mean(0)
    buffers = dict(norm.named_buffers())
    torch.testing.assert_close(buffers["running_mean"], mean)
    torch.testing.assert_close(buffers["running_var"], variance)
    assert getattr(norm, "momentum", None) == 0.1
    assert not norm.training


class Headed(nn.Module):
    """Its layers are called as if they were heads."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 6)
        self.header = nn.Linear(6, 6)
        self.heads = nn.Sequential(nn.Linear(6, 6))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.heads(torch.tanh(self.header(torch.tanh(self.head(x)))))))


def test_a_layer_learns_whatever_it_is_called() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone("headed", Headed().eval(), {"x": torch.randn(2, 6)}, "x", None, "none")
    anatomy = dissect(backbone)
    names = [layer.name for layer in anatomy.layers]
    assert names[0] == "head"
    assert all(name.startswith("head") for name in names)
    given = plan(anatomy.layers, RECIPE)
    new = heads.made(Head(), 6, 3, seed=0)
    with prepared(backbone, anatomy, given, new, start=0, seed=0, device=stage.cpu()) as learner:
        grouped = {id(p) for group in learner.groups for p in group["params"]}
        trained = learner.module.get_submodule("network")
        wanted = {n for n, _ in trained.named_parameters() if not n.startswith("fc")}
        assert {n for n, p in trained.named_parameters() if id(p) in grouped} == wanted
        assert {id(p) for p in new.parameters()} <= grouped
        assert sum(len(group["params"]) for group in learner.groups) == len(grouped)


def test_layers_begin_anew_by_their_seed_and_kept_ones_from_the_source() -> None:
    backbone, anatomy = network()
    given = of(freeze=1, keep=2, above="reinit")
    states = list[dict[str, Tensor]]()
    for seed in (1, 1, 2):
        with prepared(backbone, anatomy, given, head(), start=1, seed=seed, device=stage.cpu()) as learner:
            states.append(learner.module.get_submodule("network").state_dict())
    source = backbone.module.state_dict()
    for name in source:
        new = name.startswith(("blocks.1", "blocks.2"))
        assert torch.equal(states[0][name], states[1][name])
        if new and "conv" in name:
            assert not torch.equal(states[0][name], states[2][name])
            assert not torch.equal(states[0][name], source[name])
        if not new:
            assert torch.equal(states[0][name], source[name])


def test_the_predictor_of_whole_inputs_tells_what_the_loop_predicts_from_the_cut() -> None:
    backbone, anatomy = network()
    inputs = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    for given in (of(freeze=2), of(freeze=1, keep=3, above="drop"), of(freeze=4)):
        new = head()
        expected = predictor(backbone.module, new, anatomy, given)({"x": inputs})

        def cut(epoch: int, given: Plan = given) -> Iterator[Batch]:
            for part in inputs.split(2):
                found = Halves(backbone.module, anatomy).prefix({"x": part}, given.freeze)
                yield found, torch.zeros(len(part), dtype=torch.int64)

        with prepared(backbone, anatomy, given, new, start=given.freeze, seed=0, device=stage.cpu()) as learner:
            torch.testing.assert_close(loop.predict(learner, cut, stage.cpu()), expected)
        assert expected.exp().sum(1).tolist() == pytest.approx([1.0] * 5)


def test_what_was_trained_is_let_go_when_nobody_holds_it() -> None:
    backbone, anatomy = network()
    device = stage.cpu()
    given = of(freeze=2)
    with prepared(backbone, anatomy, given, head(), start=2, seed=0, device=device) as learner:
        fit(learner, given, 2, device)
        trained = [weakref.ref(parameter) for group in learner.groups for parameter in group["params"]]
    del learner
    gc.collect()
    assert trained
    assert not any(parameter() is not None for parameter in trained)


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    backbone, anatomy = network()

    def enter(given: Plan, *, start: int = 0, of: Backbone = backbone) -> None:
        with prepared(of, anatomy, given, head(), start=start, seed=0, device=stage.cpu()):
            pass

    with pytest.raises(PlanError, match="depth 3, above the 2 frozen"):
        enter(of(freeze=2), start=3)
    with pytest.raises(PlanError, match="an adapter, and layers that learn themselves"):
        enter(of(adapter=Adapter(), train=(False, False, False, True)))
    with pytest.raises(PlanError, match=r"cuts \(1, 3\) besides the top one, and layers below it learn"):
        enter(of(head=Head(cuts=(1, 3))))
    for cuts in ((0, 2), (3, 1), (2, 2), (4,)):
        with pytest.raises(PlanError, match=r"allowed are depths of \(1, 2, 3\), rising, each once"):
            enter(of(freeze=4, head=Head(cuts=cuts)))
    with pytest.raises(BackboneError, match="'small' cannot be built anew"):
        enter(of(keep=2, above="reinit"), of=replace(backbone, fresh=None))
