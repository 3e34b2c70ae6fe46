"""The one contract of what a network reads: the same laws for pictures, texts, pairs of texts and recordings."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networks_of
import numpy as np
import pytest
import stage
import torch
import world
from networks_of import KIND
from numpy.typing import NDArray
from torch import Tensor

from frostline.activations.chunks import ALIGNMENT
from frostline.activations.store import Store, Tier
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.backbones.load import load
from frostline.backbones.pooling import pool
from frostline.bench.bench import Bench, Source
from frostline.bench.finals import cached_versus_live, certify
from frostline.bench.lay import lay
from frostline.bench.passing import Network, once_through
from frostline.bench.rounding import change
from frostline.bench.task import by_length, lengths
from frostline.bench.unit import kept_weights, perform, perform_together, stackable
from frostline.data.intake import Intake, Raw, inputs_of
from frostline.formats.model import assemble, probabilities
from frostline.plan import legal_depths, plan
from frostline.settings import settings
from frostline.tasks import heads
from frostline.training import loop
from frostline.training.feed import feed, steps
from frostline.training.prepare import prepared, top
from frostline.values import Adapter, Arm, Head, Layer, Plan, Recipe, Way

COUNT, BATCH = 24, 5
RECIPE = Recipe(epochs=2, lr=2e-2, batch=BATCH, kept_lr=1.0)
LAYERS = {
    "pictures": 4, "encoder": 5, "distilled": 4, "modern": 5, "decoder": 4, "pairs": 5,
    "normed_by_group": 7, "normed_by_layer": 7, "spectrogram": 3, "listener": 5,
}  # fmt: skip
TEXTS = ("encoder", "distilled", "modern", "decoder", "pairs")  # what is stored of them differs in length
SOME = ("encoder", "decoder", "normed_by_layer")  # that differ in what pools and in what masks
ARMS: dict[str, dict[str, Any]] = {
    "freeze@2": {"freeze": 2},
    "drop@2": {"freeze": 1, "keep": 2, "above": "drop"},
    "reinit@2": {"freeze": 2, "keep": 2, "above": "reinit"},
    "adapter": {"freeze": 1, "adapter": Adapter(rank=2)},
    "attention": {"freeze": 2, "keep": 3, "above": "drop", "head": Head("attention")},
}


@dataclass(frozen=True)
class World:
    """A network and data for it."""

    spec: str
    data: Any  # a folder, or texts and labels

    @property
    def source(self) -> Source:
        return Source() if isinstance(self.data, Path) else Source(data=self.data)


@dataclass(frozen=True)
class Doubled:
    """What a network in double precision reads."""

    own: Intake

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def ready(self, raw: Raw, where: torch.device) -> dict[str, Tensor]:
        found = self.own.ready(raw, where)
        return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


@dataclass(frozen=True)
class Trained:
    losses: list[float]
    state: dict[str, Tensor]
    predictions: Tensor


def given(name: str, factory: pytest.TempPathFactory) -> World:
    """A network with data, made once; the encoder reads `pairs`, too."""
    if name == "pictures":
        drawn = world.once(factory, "drawn", lambda folder: world.draw(folder / "data", COUNT // 3))
        return World(f"{stage.__file__}:small", drawn)
    spec = f"hf/{networks_of.saved(factory, 'encoder' if name == 'pairs' else name)}"
    if name == "pairs":
        return World(spec, networks_of.pairs(COUNT))
    if KIND[name] == "texts":
        return World(spec, networks_of.texts(COUNT))
    return World(spec, world.once(factory, "waves", lambda f: networks_of.recordings(f / "data", COUNT // 2)))


def laid(it: World, folder: Path | None = None, *, dry: bool = False, way: Way | None = None, **options: Any) -> Bench:
    """A bench on which every depth is stored, for a network whose layers are all alike slow."""
    data = str(it.data) if isinstance(it.data, Path) else "arrays"
    weights = {"weights": "none"} if it.spec.endswith(":small") else {}
    wanted = {"data": data, "backbone": it.spec, "device": "cpu", "threads": 1, "precision": "fp32", **weights}
    resolved = settings({**wanted, "batch_size": BATCH, "epochs": 2, **options})
    count = len(dissect(load(it.spec, weights=resolved.weights)).layers)
    slow = dict.fromkeys(("forward", "backward", "carry"), (0.01,) * count)
    calibration = replace(stage.CALIBRATION, way=way or stage.WAY, **slow)

    def everywhere(layers: Sequence[Layer]) -> Mapping[int, float]:
        return dict.fromkeys(legal_depths(layers), 10.0)

    return lay(resolved, it.source, folder=folder, calibration=calibration, demands=everywhere, dry=dry)


@pytest.fixture(scope="module", params=LAYERS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return laid(given(request.param, tmp_path_factory), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return laid(given("encoder", tmp_path_factory), tmp_path_factory.mktemp("run"))


def unequal(bench: Bench) -> bool:
    """Whether examples differ in length."""
    return bench.intake.sizes is not None


def network_of(bench: Bench) -> Network:
    return Network(bench.backbone, bench.anatomy, bench.examples, bench.device, bench.settings, COUNT, {})


def doubled(bench: Bench, folder: Path, tier: Tier) -> Bench:
    """The same bench in double precision, with all its depths stored in one place."""
    backbone = replace(bench.backbone, module=copy.deepcopy(bench.backbone.module).double())
    network = replace(network_of(bench), backbone=backbone)
    vars(network)["intake"] = Doubled(bench.intake)
    store, depths = Store(folder, memory=2**30, disk=2**30), dict.fromkeys(bench.whole, tier)
    filled = once_through(network, store, depths, lambda done, rows: None, dtype="float64")
    assert {stored.tier for stored in filled.whole.values()} == {tier}
    return replace(bench, backbone=backbone, store=store, whole=filled.whole, intake=vars(network)["intake"])


def arm_of(bench: Bench, name: str) -> Arm:
    return Arm(name, plan(bench.anatomy.layers, RECIPE, **ARMS[name]), (RECIPE.lr,))


def trained(bench: Bench, of: Plan, start: int | None) -> Trained:
    """A training from what is stored at a depth, or from the examples; and what it predicts."""
    depth, kind = (
        0 if start is None else start,
        str(next(bench.backbone.module.parameters()).dtype).removeprefix("torch."),
    )
    targets, rows, where = bench.examples.targets, np.arange(COUNT), bench.device.device

    def read(those: NDArray[np.int64], epoch: int) -> Sequence[NDArray[Any]]:
        found = bench.read(those) if start is None else bench.stored(depth, those)
        # raw inputs are never stored in double precision
        return [array.astype(kind) if array.dtype == np.float32 else array for array in found]

    learn = feed(read, rows, targets, BATCH, device=where, seed=2, sizes=lengths(bench, rows))
    look = by_length(bench, rows)
    head = heads.made(Head(), bench.pooled[top(of)].shape[1], len(bench.examples.classes), seed=1).to(
        getattr(torch, kind)
    )
    with prepared(bench.backbone, bench.anatomy, of, head, start=depth, seed=4, device=bench.device) as learner:
        torch.manual_seed(5)
        losses = [epoch.loss for epoch in loop.train(learner, learn, of, steps(COUNT, BATCH), bench.device)]
        predicted = loop.predict(learner, feed(read, look, targets[look], 7, device=where), bench.device)
        state = {name: tensor.clone() for name, tensor in learner.module.state_dict().items()}
    return Trained(losses, state, predicted[np.argsort(look)])


# ------------------------------------------------------------------------------------------------ cached equals live


def test_a_network_is_sawn_where_it_can_be_and_each_prefix_and_suffix_equal_the_whole(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["bench"]
    layers = bench.anatomy.layers
    assert len(layers) == LAYERS[name]
    assert all(layer.cut and layer.error is not None and layer.error < 1e-5 for layer in layers), layers
    assert sorted(bench.whole) == [*range(1 if bench.intake.at_hand else 0, len(layers) + 1)]
    ragged = [any(field.ragged for field in bench.whole[depth].fields) for depth in range(1, len(layers))]
    assert any(ragged) == unequal(bench) == (name in TEXTS)


def test_in_float64_training_from_what_is_stored_ends_at_the_parameters_of_training_live(
    bench: Bench, tmp_path: Path
) -> None:
    last, layers = len(bench.anatomy.layers), bench.anatomy.layers
    exact, on_disk = doubled(bench, tmp_path, "memory"), doubled(bench, tmp_path, "disk")
    for depth in sorted({0, 1, last // 2, last} & set(exact.whole)):
        for one, other in zip(exact.stored(depth, rows := np.arange(COUNT)), on_disk.stored(depth, rows), strict=True):
            np.testing.assert_array_equal(one, other)
        plans = [plan(layers, RECIPE, freeze=depth)]
        plans += [plan(layers, RECIPE, freeze=depth, keep=depth, above="drop")] if depth == last // 2 else []
        for of in plans:
            live, cached = trained(exact, of, None), trained(exact, of, depth)
            assert cached.losses == pytest.approx(live.losses, abs=1e-10)
            assert cached.losses[-1] != pytest.approx(cached.losses[0], abs=1e-6)
            for key, tensor in live.state.items():
                torch.testing.assert_close(
                    cached.state[key], tensor, rtol=0, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}"
                )
            torch.testing.assert_close(cached.predictions, live.predictions, rtol=0, atol=1e-6)


def test_stored_activations_of_another_example_are_noticed(bench: Bench) -> None:
    """The law above is no empty agreement."""
    of = plan(bench.anatomy.layers, RECIPE, freeze=1)
    swapped = replace(bench, places=bench.places[::-1].copy())
    if bench.intake.at_hand:  # masks would not fit
        swapped = replace(bench, examples=replace(bench.examples, targets=1 - bench.examples.targets))
    assert np.abs(np.subtract(trained(bench, of, 1).losses, trained(swapped, of, 1).losses)).max() > 1e-3


@pytest.mark.parametrize("bench", SOME, indirect=True)
@pytest.mark.parametrize("name", ARMS)
def test_each_arm_learns_the_same_from_the_store_and_live(bench: Bench, name: str) -> None:
    arm = arm_of(bench, name)
    apart = cached_versus_live(bench, arm, stage.unit(arm))
    assert apart is not None
    assert apart < 1e-4
    outcome = perform(bench, arm, stage.unit(arm))
    assert np.isfinite(outcome.log_probabilities).all()
    assert sorted(outcome.rows.tolist()) == bench.split.folds[0].validation.tolist()


@pytest.mark.parametrize("bench", SOME, indirect=True)
def test_rates_that_are_trained_together_end_where_each_would_alone(bench: Bench) -> None:
    stacked = replace(bench, calibration=replace(bench.calibration, way=Way(stacked=0)))
    arm = arm_of(stacked, "freeze@2")
    assert stackable(stacked, arm)
    units = [replace(stage.unit(arm), rate=rate) for rate in (1e-4, 2e-3)]
    for unit, together in zip(units, perform_together(stacked, arm, units), strict=True):
        alone = [epoch.loss for epoch in perform(bench, arm, unit).epochs]
        assert [epoch.loss for epoch in together.epochs] == pytest.approx(alone, rel=1e-4)


# ------------------------------------------------------------------------------------------------ padding


def test_an_example_has_the_same_features_alone_and_beside_a_long_one(bench: Bench) -> None:
    halves, depths = Halves(bench.backbone.module, bench.anatomy), [d for d in bench.whole if d]

    def features(rows: NDArray[np.int64]) -> dict[int, Tensor]:
        inputs = inputs_of(bench.intake, rows, torch.device("cpu"))
        return {depth: pool(bench.anatomy, depth, tap, inputs) for depth, tap in halves.taps(inputs, depths).items()}

    together = features(np.arange(COUNT))
    for row in range(0, COUNT, 5):
        for depth, alone in features(np.array([row])).items():
            torch.testing.assert_close(alone[0], together[depth][row], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(bench.pooled[depth][np.array([row])][0], alone[0].numpy(), rtol=1e-5, atol=1e-5)


def test_the_whole_network_says_the_same_of_an_example_alone_and_beside_a_long_one(bench: Bench) -> None:
    def logits(rows: NDArray[np.int64]) -> Tensor:
        with torch.no_grad():
            found = bench.backbone.module(**inputs_of(bench.intake, rows, torch.device("cpu")))
        return found if isinstance(found, Tensor) else found.logits

    together = logits(np.arange(COUNT))
    for row in range(0, COUNT, 7):
        torch.testing.assert_close(logits(np.array([row]))[0], together[row], rtol=1e-5, atol=1e-5)


def test_what_is_stored_takes_the_bytes_that_it_holds_and_a_forecast_knows_them(
    bench: Bench, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sizes = bench.intake.sizes
    for depth, stored in bench.whole.items():
        held = 0
        for field in stored.fields:
            held += field.bytes * (int(sizes.sum()) if field.ragged and sizes is not None else COUNT)
        assert held <= stored.bytes < held + len(stored.fields) * ALIGNMENT, depth
    dry = laid(given(request.node.callspec.params["bench"], tmp_path_factory), dry=True)
    assert {d: (s.fields, s.bytes) for d, s in dry.whole.items()} == {
        d: (s.fields, s.bytes) for d, s in bench.whole.items()
    }


def test_texts_of_unequal_length_are_stored_in_less_than_half_of_what_padding_takes(texts: Bench) -> None:
    sizes = texts.intake.sizes
    assert sizes is not None
    assert texts.whole[2].bytes == 4 * 16 * int(sizes.sum())
    assert texts.whole[2].bytes < 0.5 * 4 * 16 * COUNT * int(sizes.max())


def test_half_precision_in_the_store_moves_features_little(bench: Bench) -> None:
    depths = [depth for depth in bench.whole if depth]
    assert 0 < change(network_of(bench), depths, "float16") < 0.01


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("kind", ["freeze@2", "drop@2"])
def test_a_kept_model_predicts_from_the_inputs_what_was_told_of_it_however_they_are_batched(
    bench: Bench, kind: str
) -> None:
    arm = arm_of(bench, kind)
    unit = stage.unit(arm)
    outcome = perform(bench, arm, unit, keep=True)
    model = assemble(bench.backbone, bench.anatomy, arm.plan, kept_weights(bench, unit), bench.examples.classes)
    inputs, expected = [bench.examples.inputs[row] for row in outcome.rows], np.exp(outcome.log_probabilities)
    for batch in (1, 3, len(inputs)):
        found = np.concatenate(list(probabilities(model, inputs, batch=batch)))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    aside = replace(bench, split=replace(bench.split, certification=outcome.rows[::-1].copy()))
    (proof,) = certify(aside, [(arm, unit)])
    order, told = np.argsort(proof.rows), np.argsort(outcome.rows)
    assert proof.rows[order].tolist() == outcome.rows[told].tolist()
    np.testing.assert_allclose(np.exp(proof.log_probabilities[order]), expected[told], atol=1e-4)
