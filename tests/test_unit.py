"""Laws of one unit: the same bits again, nothing leaks, and what is kept predicts what was told."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor, nn

from frostline.activations.fingerprint import fingerprint
from frostline.activations.store import Store
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.bench import finals
from frostline.bench import resident as residents
from frostline.bench import unit as units
from frostline.bench.bench import Bench
from frostline.bench.finals import cached_versus_live, certify, frozen_unchanged
from frostline.bench.measure import measure, trial
from frostline.bench.task import ALL, plan_training
from frostline.bench.unit import kept_weights, perform, starting_head
from frostline.data import batches
from frostline.errors import FrozenMoved, PlanError, RunFailed
from frostline.evidence import probes
from frostline.run.entrants import base_recipe
from frostline.training import checkpoint
from frostline.training.prepare import predictor
from frostline.values import (
    Adapter,
    Arm,
    Backbone,
    Epoch,
    Examples,
    Head,
    Outcome,
    Preprocessing,
    Recipe,
    Show,
    Unit,
    Way,
)

RECIPE = Recipe(epochs=2, lr=1e-2, batch=8)
KINDS: dict[str, dict[str, Any]] = {
    "freeze@2": {"freeze": 2},
    "full": {"start": "random"},
    "head_alone": {"freeze": 4, "start": "random"},
    "drop@3": {"freeze": 1, "keep": 3, "above": "drop"},
    "scratch": {"keep": 0, "above": "reinit", "statistics": "batch", "start": "random"},
    "batch": {"freeze": 2, "statistics": "batch"},
    "reestimate": {"freeze": 2, "statistics": "reestimate"},
    "blend": {"freeze": 1, "blend": 0.5},
    "gradual": {"train": (False,) * 4, "thaw": [(1, (False, False, True, True))]},
    "probe@4": {"freeze": 4},
    "probe@2": {"freeze": 2, "keep": 2, "above": "drop"},
}


class Trying(stage.Small):
    """The small network with two vices, which begin when they are switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.most: int | None = None  # examples that fit into memory
        self.stem.append(Restless())

    def forward(self, x: Tensor) -> Tensor:
        if self.most is not None and len(x) > self.most:
            raise torch.OutOfMemoryError(f"{len(x)} examples do not fit")
        return super().forward(x)


class Restless(nn.Module):
    """Counts its calls in a buffer, whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.restless = False

    def forward(self, x: Tensor) -> Tensor:
        if self.restless:
            self.get_buffer("calls").add_(1)
        return x + 0 * self.get_buffer("calls")


def trying() -> nn.Module:
    return Trying()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return stage.bench(tmp_path_factory.mktemp("run"))


@pytest.fixture
def vicious() -> Iterator[Bench]:
    yield stage.bench(None, backbone=f"{__file__}:trying")


def same(one: Outcome, other: Outcome) -> bool:
    def bare(epochs: tuple[Epoch, ...]) -> list[Epoch]:
        return [replace(epoch, seconds=0.0) for epoch in epochs]

    return np.array_equal(one.log_probabilities, other.log_probabilities) and bare(one.epochs) == bare(other.epochs)


def pictures(bench: Bench, rows: NDArray[np.int64]) -> Tensor:
    assert bench.backbone.preprocessing is not None
    return torch.from_numpy(batches.decode(bench.examples, rows, bench.backbone.preprocessing))


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_gives_the_same_bits_again_whatever_was_drawn_before(bench: Bench, kind: str) -> None:
    arm = stage.arm(bench, kind, recipe=RECIPE, **KINDS[kind])
    first = perform(bench, arm, stage.unit(arm, seed=1))
    torch.rand(7)
    assert same(perform(bench, arm, stage.unit(arm, seed=1)), first)
    assert first.rows.tolist() == bench.split.folds[0].validation.tolist()
    assert np.exp(first.log_probabilities).sum(1) == pytest.approx(np.ones(len(first.rows)), abs=1e-5)
    assert not first.diverged
    other = perform(bench, arm, stage.unit(arm, seed=2))
    assert same(other, first) == kind.startswith("probe")


def test_a_trained_unit_learns_and_says_what_it_took(bench: Bench) -> None:
    arm = stage.arm(bench, recipe=replace(RECIPE, epochs=4), start="random")
    outcome = perform(bench, arm, stage.unit(arm))
    assert [epoch.number for epoch in outcome.epochs] == [0, 1, 2, 3]
    assert outcome.epochs[-1].loss < outcome.epochs[0].loss
    assert outcome.batch == 8
    assert outcome.seconds > 0


@pytest.mark.parametrize("kind", ["probe@4", "freeze@2", "batch", "scratch", "reestimate"])
def test_no_label_of_a_validation_row_reaches_what_is_predicted_for_it(bench: Bench, kind: str) -> None:
    arm = stage.arm(bench, kind, recipe=RECIPE, **KINDS[kind])
    targets = bench.examples.targets.copy()
    rows = bench.split.folds[1].validation
    targets[rows] = (targets[rows] + 1) % stage.CLASSES
    lied = replace(bench, examples=replace(bench.examples, targets=targets), heads={})
    unit = stage.unit(arm, fold=1)
    assert same(perform(lied, arm, unit), perform(bench, arm, unit))


@pytest.mark.parametrize("kind", ["probe@4", "probe@2"])
def test_an_arm_in_closed_form_is_the_logistic_probe_on_pooled_features(bench: Bench, kind: str) -> None:
    arm = stage.arm(bench, kind, **KINDS[kind])
    found = perform(bench, arm, stage.unit(arm))
    fold, depth = bench.split.folds[0], arm.plan.keep
    halves = Halves(bench.backbone.module, bench.anatomy)
    (crossing,) = halves.prefix({"x": pictures(bench, np.arange(len(bench.examples)))}, depth)
    features = crossing.mean((2, 3)).double().numpy()
    linear = probes.logistic(features[fold.train], bench.examples.targets[fold.train], classes=stage.CLASSES)
    expected = log_softmax(features[fold.validation] @ linear.weights.T + linear.bias, axis=1)
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-3)
    assert found.epochs == ()


def test_a_trained_arm_without_steps_to_speak_of_predicts_what_its_probe_does(bench: Bench) -> None:
    """The first head of an arm is the probe on its own top cut."""
    still = replace(RECIPE, lr=1e-12, epochs=1)
    for kind, depth in (("freeze@2", 4), ("drop@3", 3)):
        arm = stage.arm(bench, kind, recipe=still, **KINDS[kind])
        found = perform(bench, arm, stage.unit(arm))
        linear = starting_head(bench, 0, (depth,), balance=False)
        expected = probes.log_probabilities(linear, bench.pooled[depth][found.rows])
        np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-3)


@pytest.mark.skipif(stage.DEVICE != "cpu", reason="the margin was chosen for what the CPU draws")
@pytest.mark.parametrize("kind", ["probe", "freeze@2", "full"])
def test_a_rare_class_is_found_more_often_where_classes_weigh_alike(kind: str) -> None:
    """One in ten is of the second class, and pictures tell little: the likeliest answer is nearly always the first."""
    pixels, _ = stage.pictures(600)
    rare = (np.arange(600) % 10 == 0).astype(np.int64)
    pixels[rare == 1, :, :, 0] += 12
    found: dict[str, float] = {}
    for metric in ("accuracy", "balanced_accuracy"):
        bench = stage.bench(None, data=(pixels, rare), metric=metric)
        recipe = replace(base_recipe(bench), epochs=8, lr=1e-2, kept_lr=1.0)
        assert recipe.balance == (metric != "accuracy")
        given = {"probe": {"freeze": 4}, "freeze@2": {"freeze": 2}, "full": {"start": "random"}}[kind]
        arm = stage.arm(bench, kind, recipe=recipe, **given)
        outcome = perform(bench, arm, stage.unit(arm))
        chosen = outcome.log_probabilities.argmax(axis=1)
        found[metric] = float(chosen[rare[outcome.rows] == 1].mean())
    assert found["balanced_accuracy"] > found["accuracy"] + 0.2


# ---------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("kind", KINDS)
def test_kept_weights_predict_from_pictures_what_the_outcome_says(bench: Bench, kind: str) -> None:
    arm = stage.arm(bench, kind, recipe=RECIPE, **KINDS[kind])
    unit = stage.unit(arm)
    outcome = perform(bench, arm, unit, keep=True)
    assert same(perform(bench, arm, unit), outcome)  # keeping changes nothing
    network = copy.deepcopy(bench.backbone.module)
    head = checkpoint.read(kept_weights(bench, unit), network)
    predict = predictor(network, head, bench.anatomy, arm.plan)
    found = predict({bench.anatomy.data: pictures(bench, outcome.rows)}).numpy()
    np.testing.assert_allclose(found, outcome.log_probabilities, atol=2e-5 * float(np.abs(found).max()) + 2e-5)


def test_a_unit_blends_and_measures_batch_norms_as_its_plan_says(bench: Bench) -> None:
    source = bench.backbone.module.state_dict()

    def moved(name: str, **given: Any) -> set[str]:
        arm = stage.arm(bench, name, recipe=RECIPE, freeze=2, **given)
        perform(bench, arm, stage.unit(arm), keep=True)
        network = copy.deepcopy(bench.backbone.module)
        checkpoint.read(kept_weights(bench, stage.unit(arm)), network)
        return {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, source[key])}

    assert moved("source", blend=0.0) == set()
    above = {name for layer in bench.anatomy.layers[2:] for name in layer.members}
    statistics = {name for name in above if "running" in name or name.endswith("tracked")}
    assert moved("tuned") == above - statistics
    assert moved("measured", statistics="reestimate") == above


def test_the_certification_rows_are_predicted_by_the_kept_model(bench: Bench) -> None:
    arm = stage.arm(bench, "kept", recipe=RECIPE, **KINDS["batch"])
    unit = stage.unit(arm)
    outcome = perform(bench, arm, unit, keep=True)
    aside = replace(bench, split=replace(bench.split, certification=outcome.rows[::-1].copy()))
    (proof,) = certify(aside, [(arm, unit)])
    assert proof.rows.tolist() == outcome.rows[::-1].tolist()
    np.testing.assert_allclose(proof.log_probabilities[::-1], outcome.log_probabilities, atol=1e-4)


def test_models_are_certified_in_one_pass_as_each_would_be_by_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [stage.arm(bench, name, recipe=RECIPE, **KINDS[name]) for name in ("batch", "drop@3")]
    models = [(arm, stage.unit(arm)) for arm in arms]
    for arm, unit in models:
        perform(bench, arm, unit, keep=True)
    aside = replace(bench, split=replace(bench.split, certification=np.arange(7)))
    alone = [certify(aside, [model])[0] for model in models]
    opened: list[int] = []
    frames = batches.frames

    def counted(examples: Examples, rows: NDArray[np.int64], *given: Any, **more: Any) -> NDArray[np.uint8]:
        opened.extend(rows.tolist())
        return frames(examples, rows, *given, **more)

    monkeypatch.setattr(batches, "frames", counted)
    together = certify(aside, models)
    assert sorted(opened) == list(range(7))
    assert [outcome.unit for outcome in together] == [unit for _, unit in models]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
    assert not np.allclose(alone[0].log_probabilities, alone[1].log_probabilities)
    assert certify(aside, []) == ()
    assert len(opened) == 7
    with monkeypatch.context() as patch:
        patch.setattr(finals, "TOGETHER", 1)  # no two models fit: then one after the other
        opened.clear()
        apart = certify(aside, models)
    for one, other in zip(apart, alone, strict=True):
        np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
    assert sorted(opened) == sorted([*range(7)] * 2)
    whole = finals._certified  # pyright: ignore[reportPrivateUsage]

    def short(bench: Bench, models: Sequence[tuple[Arm, Unit]], show: Show, room: int = 1) -> tuple[Outcome, ...]:
        if len(models) > room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(bench, models, show)

    monkeypatch.setattr(finals, "_certified", short)
    for one, other in zip(certify(aside, [*models, models[0]]), [*alone, alone[0]], strict=True):
        np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
    monkeypatch.setattr(finals, "_certified", partial(short, room=0))
    with pytest.raises(RunFailed, match="memory ran out while 'batch' predicted"):
        certify(aside, models)


def test_a_kept_model_whose_frozen_layers_are_not_the_source_s_is_not_handed_back(bench: Bench) -> None:
    arm = stage.arm(bench, "kept", recipe=RECIPE, freeze=2)
    unit = stage.unit(arm)
    perform(bench, arm, unit, keep=True)
    assert frozen_unchanged(bench, arm.plan, unit)
    network = copy.deepcopy(bench.backbone.module)
    head = checkpoint.read(kept_weights(bench, unit), network)
    with torch.no_grad():
        dict(network.named_buffers())["blocks.0.norm1.running_mean"][0] += 1e-6
    checkpoint.write(kept_weights(bench, unit), network, head, arm.plan)
    with pytest.raises(FrozenMoved, match="'kept' was written with frozen layers that are not the source's"):
        frozen_unchanged(bench, arm.plan, unit)


def test_a_model_of_everything_learns_from_every_row(bench: Bench) -> None:
    arm = stage.arm(bench, freeze=2)
    training = plan_training(bench, arm, stage.unit(arm, fold=ALL))
    assert training.rows.tolist() == training.predict.tolist() == list(range(len(bench.examples)))
    outcome = perform(bench, arm, stage.unit(arm, fold=ALL))
    assert len(outcome.rows) == len(bench.examples)


def test_training_starts_at_the_deepest_stored_cut_that_is_frozen(bench: Bench) -> None:
    for freeze in range(5):
        arm = stage.arm(bench, freeze=freeze, start="random")
        assert plan_training(bench, arm, stage.unit(arm)).start == max(d for d in bench.whole if d <= freeze)
        assert plan_training(bench, arm, stage.unit(arm), live=True).start == 0


def test_finalists_are_trained_on_pictures_that_are_augmented_anew(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path)
    arm = stage.arm(bench, freeze=2, recipe=Recipe(epochs=2, lr=1e-2, batch=8, augment="flip"))
    plain, kept = (perform(bench, arm, stage.unit(arm), keep=keep) for keep in (False, True))
    assert not same(plain, kept)
    assert same(perform(bench, arm, stage.unit(arm), keep=True), kept)


@pytest.mark.parametrize(("free", "kept"), [(10**12, True), (1000, False)])
def test_activations_that_fit_into_the_memory_of_a_device_are_kept_there_and_nothing_else_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, free: int, kept: bool
) -> None:
    arm, bench = stage.arm(bench, freeze=2, recipe=RECIPE), replace(bench, resident={})
    monkeypatch.setattr(residents, "free_bytes", lambda where: 0)
    expected, real, told = perform(bench, arm, stage.unit(arm)), units.feed, list[bool]()

    def watched(*args: Any, held: Any, **more: Any) -> Any:
        told.append(held is not None)
        return real(*args, held=held, **more)

    monkeypatch.setattr(units, "feed", watched)
    monkeypatch.setattr(residents, "free_bytes", lambda where: free)
    assert same(perform(bench, arm, stage.unit(arm)), expected)
    assert told == [kept, kept]  # to learn from, and to predict
    assert list(bench.resident) == [2] * kept
    if kept:  # the next one reads nothing
        monkeypatch.setattr(Store, "read", None)
        monkeypatch.setattr(units, "features_at", None)
        assert same(perform(bench, arm, stage.unit(arm)), expected)


def test_what_does_not_fit_beside_others_makes_room_or_stays_where_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = replace(bench, resident={})
    monkeypatch.setattr(residents, "RESIDENT", 1.0)
    monkeypatch.setattr(residents, "PIECE", 7)  # several, the last one smaller
    room = max(held.bytes for held in bench.whole.values())

    def free(where: torch.device) -> int:
        return room - sum(tensor.nbytes for found in bench.resident.values() for tensor in found)

    monkeypatch.setattr(residents, "free_bytes", free)
    for depth in (1, 2):
        found = residents.resident(bench, depth)
        assert found is not None
        assert list(bench.resident) == [depth]
        expected = bench.store.read(bench.whole[depth], np.arange(bench.whole[depth].rows))
        assert all(np.array_equal(tensor.cpu().numpy(), array) for tensor, array in zip(found, expected, strict=True))
    room = bench.whole[3].bytes - 1
    assert residents.resident(bench, 3) is None
    assert list(bench.resident) == [2]


def test_the_seed_of_a_run_reaches_every_training(tmp_path: Path) -> None:
    first, second = stage.bench(tmp_path / "a"), stage.bench(tmp_path / "b", seed=1)
    arm = stage.arm(first, freeze=2)
    second = replace(second, split=first.split, heads={})
    assert not same(*(perform(bench, arm, stage.unit(arm)) for bench in (first, second)))


@pytest.mark.parametrize("freeze", [1, 3])
def test_in_bf16_stored_activations_are_those_that_live_training_computes(freeze: int, tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, count=90, way=Way(precision="bf16"))
    assert bench.device.mixed_precision == "bf16"
    assert {field.dtype for field in bench.whole[freeze].fields} == {"bfloat16"}
    arm = stage.arm(bench, recipe=RECIPE, freeze=freeze)
    cached, live = (perform(each, arm, stage.unit(arm)) for each in (bench, replace(bench, whole={0: bench.whole[0]})))
    assert (cached.log_probabilities.argmax(axis=1) == live.log_probabilities.argmax(axis=1)).all()
    assert [e.loss for e in cached.epochs] == pytest.approx([e.loss for e in live.epochs], rel=1e-3)


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_out_of_memory_halves_the_batch_until_it_fits_and_the_outcome_says_so(vicious: Bench) -> None:
    arm = stage.arm(vicious, recipe=RECIPE, freeze=2)
    small = stage.arm(vicious, recipe=replace(RECIPE, batch=2), freeze=2)
    expected = perform(vicious, small, stage.unit(small))
    vicious.backbone.module.most = 3
    outcome = perform(vicious, arm, stage.unit(arm))
    assert outcome.batch == 2
    assert same(outcome, expected)
    vicious.backbone.module.most = 1
    with pytest.raises(RunFailed, match=r"even in batches of 2 examples; give a smaller --image-size"):
        perform(vicious, arm, stage.unit(arm))


def test_a_frozen_buffer_that_moves_fails_the_unit_and_nothing_is_kept(tmp_path: Path) -> None:
    bench = stage.bench(tmp_path, backbone=f"{__file__}:trying")
    live = replace(bench, whole={0: bench.whole[0]})
    arm = stage.arm(live, freeze=2)
    perform(live, arm, stage.unit(arm))
    live.backbone.module.get_submodule("stem.3").restless = True  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FrozenMoved, match="'arm' changed"):
        perform(live, arm, stage.unit(arm), keep=True)
    assert not kept_weights(live, stage.unit(arm)).exists()


def test_a_unit_that_diverges_is_an_outcome_that_says_so(bench: Bench) -> None:
    arm = stage.arm(bench, recipe=Recipe(epochs=40, lr=1e6, kept_lr=1.0, batch=8, clip=None))
    outcome = perform(bench, arm, stage.unit(arm))
    assert outcome.diverged
    assert outcome.epochs[-1].diverged
    assert len(outcome.epochs) < 40


def test_what_this_version_does_not_train_is_refused_also_where_the_result_has_a_closed_form(bench: Bench) -> None:
    arm = stage.arm(bench, freeze=4, adapter=Adapter())
    with pytest.raises(PlanError, match="an adapter and freezes all 4 layers"):
        perform(bench, arm, stage.unit(arm))
    for freeze, cuts, why in ((2, (2,), "and layers below it learn"), (4, (4,), "allowed are depths of")):
        arm = stage.arm(bench, freeze=freeze)
        arm = replace(arm, plan=replace(arm.plan, head=Head(cuts=cuts)))
        with pytest.raises(PlanError, match=why):
            perform(bench, arm, stage.unit(arm))


@pytest.mark.parametrize("kind", ["head", *KINDS])
def test_shifted_examples_are_predicted_from_their_pictures_as_if_they_were_stored(bench: Bench, kind: str) -> None:
    """The very validation rows, taken for shifted ones."""
    rows = bench.split.folds[0].validation
    away = replace(bench, split=replace(bench.split, shifted=rows), heads={})
    arm = stage.arm(bench, kind, recipe=RECIPE, **({"freeze": 4} if kind == "head" else KINDS[kind]))
    outcome = perform(away, arm, stage.unit(arm))
    assert outcome.shifted is not None
    np.testing.assert_allclose(outcome.shifted, outcome.log_probabilities, atol=1e-4)
    assert perform(bench, arm, stage.unit(arm)).shifted is None


def test_a_probe_over_several_cuts_is_one_over_their_features_side_by_side(bench: Bench) -> None:
    """Head2Toe without its selection (Evci et al. 2022); the kept model computes the same from pictures."""
    arm = stage.arm(bench, freeze=4)
    arm = replace(arm, plan=replace(arm.plan, head=Head(cuts=(1, 3))))
    outcome, fold = perform(bench, arm, stage.unit(arm), keep=True), bench.split.folds[0]
    joined = np.hstack([bench.pooled[depth][np.arange(len(bench.examples))] for depth in (1, 3, 4)])
    head = probes.logistic(joined[fold.train], bench.examples.targets[fold.train], classes=stage.CLASSES)
    expected = probes.log_probabilities(head, joined[fold.validation])
    np.testing.assert_allclose(outcome.log_probabilities, expected, atol=1e-5)
    split = replace(bench.split, certification=outcome.rows)
    (again,) = certify(replace(bench, split=split), [(arm, stage.unit(arm))])
    np.testing.assert_allclose(again.log_probabilities, outcome.log_probabilities, atol=1e-4)


# ------------------------------------------------------------------------------------------- the engine on itself


def tampered(bench: Bench, depth: int) -> Bench:
    """The same bench on a store in which one picture's activations at a cut are another's."""
    rows, stored = np.arange(len(bench.examples)), bench.whole[depth]
    store = Store(None, memory=10**9)
    whole = {}
    for at, held in bench.whole.items():
        arrays = bench.store.read(held, rows)
        if at == depth:
            for array in arrays:
                array[bench.split.folds[0].train[3]] = array[bench.split.folds[0].train[4]] + 1
        store.begin(held.key, held.fields, held.rows, tier="memory").append(arrays)
        kept = store.held(held.key)
        assert kept is not None
        whole[at] = kept
    assert whole.keys() == bench.whole.keys()
    assert stored.rows == len(rows)
    return replace(bench, store=store, whole=whole)


@pytest.mark.parametrize("freeze", [1, 2, 3])
def test_stored_and_live_training_do_not_differ_unless_the_store_is_wrong(bench: Bench, freeze: int) -> None:
    arm = stage.arm(bench, recipe=RECIPE, freeze=freeze)
    told = [cached_versus_live(each, arm, stage.unit(arm)) for each in (bench, tampered(bench, freeze))]
    assert told[0] is not None and told[0] < 1e-5
    assert told[1] is not None and told[1] > 1e-2
    assert cached_versus_live(replace(bench, whole={}), arm, stage.unit(arm)) is None


class Weightless(nn.Module):
    """Nothing learns in its last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 8, 3, padding=1)
        self.squash = nn.Sequential(nn.Tanh(), nn.AvgPool2d(2))
        self.fold = nn.Sequential(nn.Softplus(), nn.AvgPool2d(2))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fold(self.squash(self.body(torch.relu(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize("kind", [stage.Small, Weightless])
def test_measuring_touches_nothing_and_gives_every_layer_its_seconds(bench: Bench, kind: type[nn.Module]) -> None:
    how = Preprocessing((8, 8), None, (0.5,) * 3, (0.25,) * 3)
    backbone = Backbone("measured", kind().eval(), {"x": torch.randn(2, 3, 8, 8)}, "x", how, "none")
    anatomy = dissect(backbone)
    before, threads = fingerprint(backbone.module), torch.get_num_threads()
    try:
        tried = trial(backbone, anatomy, bench.examples, bench.device.device, batch=4)
        shares = ((1, 1), (2, 1), (1, 2))
        found = measure(tried, bench.examples, precisions=("fp32", "bf16"), shares=shares, folder=None)
    finally:
        torch.set_num_threads(threads)
    assert len(found.forward) == len(found.backward) == len(anatomy.layers)
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in (*found.forward, *found.backward))
    assert sum(found.forward) > 0
    assert (found.way.threads, found.way.at_once) in ((1, 1), (2, 1), (1, 2))
    assert found.way.slower >= 1
    assert all(0 <= carried <= both for carried, both in zip(found.carry, found.backward, strict=True))
    assert found.batch == 4
    assert fingerprint(backbone.module) == before
    assert all(p.requires_grad and p.grad is None for p in backbone.module.parameters())
