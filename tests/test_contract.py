"""The one contract of what a network reads: the same laws for pictures, texts, pairs of texts and recordings."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from scenes import scenes
from torch import Tensor

import frostline
from frostline.activations.chunks import ALIGNMENT
from frostline.activations.store import Store, Tier
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.backbones.load import load
from frostline.backbones.pooling import pool
from frostline.bench import again, resident
from frostline.bench.again import blueprints
from frostline.bench.bench import Bench, Source
from frostline.bench.finals import cached_versus_live, certify
from frostline.bench.lay import lay
from frostline.bench.levels import unpooled
from frostline.bench.passing import Network, once_through
from frostline.bench.rounding import change
from frostline.bench.task import by_length, lengths
from frostline.bench.unit import kept_weights, perform, perform_together, stackable
from frostline.data.intake import Intake, Raw, inputs_of, intake
from frostline.errors import PlanError
from frostline.formats.export import FORMATS
from frostline.formats.model import assemble, open_model, predict, probabilities, unlabelled
from frostline.formats.whole import Refused
from frostline.plan import legal_depths, plan
from frostline.run import entrants
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
    "normed_by_group": 7, "normed_by_layer": 7, "listener": 5,
    "segmenter": 7,
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
    task: str = "classification"

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
    if name == "segmenter":
        return World(spec, world.once(factory, "masks", lambda f: scenes(f / "data", COUNT)), "segmentation")
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
    resolved = settings({**wanted, "task": it.task, "batch_size": BATCH, "epochs": 2, **options})
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


def plan_of(bench: Bench, **options: Any) -> Plan:
    """A plan with a head for what is asked."""
    return entrants.headed(bench, plan(bench.anatomy.layers, RECIPE, **options))


def arm_of(bench: Bench, name: str) -> Arm:
    return Arm(name, plan_of(bench, **ARMS[name]), (RECIPE.lr,))


def head_of(bench: Bench, of: Plan) -> torch.nn.Module:
    """Fresh new layers."""
    classes, targets = len(bench.examples.classes), bench.examples.targets
    if of.head.pools:
        return heads.made(Head(), bench.pooled[top(of)].shape[1], classes, seed=1)
    height, width = bench.intake.shape[-2:]
    return unpooled(bench.anatomy, of, classes, (height, width), seed=1, answer=targets.shape[1:])


def trained(bench: Bench, of: Plan, start: int | None) -> Trained:
    """A training from what is stored at a depth, or from the examples; and what it predicts."""
    depth, precise = 0 if start is None else start, next(bench.backbone.module.parameters()).dtype == torch.float64
    targets, rows, where = bench.examples.targets, np.arange(COUNT), bench.device.device

    def read(those: NDArray[np.int64], epoch: int) -> Sequence[NDArray[Any]]:
        found = bench.read(those) if start is None else bench.stored(depth, those)
        # raw inputs are never stored in double precision
        return [array.astype(np.float64) if precise and array.dtype == np.float32 else array for array in found]

    learn = feed(read, rows, targets, BATCH, device=where, seed=2, sizes=lengths(bench, rows))
    look = by_length(bench, rows)
    head, task = head_of(bench, of), bench.task
    head = head.double() if precise else head
    device = bench.device
    with prepared(bench.backbone, bench.anatomy, of, head, start=depth, seed=4, device=device, task=task) as learner:
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
    last, whole = len(bench.anatomy.layers), bool(bench.anatomy.levels)  # a head that does not do without the top
    exact, on_disk = doubled(bench, tmp_path, "memory"), doubled(bench, tmp_path, "disk")
    for depth in sorted({0, 1, last // 2, last} & set(exact.whole)):
        for one, other in zip(exact.stored(depth, rows := np.arange(COUNT)), on_disk.stored(depth, rows), strict=True):
            np.testing.assert_array_equal(one, other)
        plans = [plan_of(bench, freeze=depth)]
        plans += [plan_of(bench, freeze=depth, keep=depth, above="drop")] if depth == last // 2 and not whole else []
        for of in plans:
            live, cached = trained(exact, of, None), trained(exact, of, depth)
            assert cached.losses == pytest.approx(live.losses, abs=1e-10)
            assert cached.losses[-1] != pytest.approx(cached.losses[0], abs=1e-6)
            for key, tensor in live.state.items():
                assert torch.allclose(cached.state[key], tensor, rtol=0, atol=1e-8), key
            torch.testing.assert_close(cached.predictions, live.predictions, rtol=0, atol=1e-6)


def test_stored_activations_of_another_example_are_noticed(bench: Bench) -> None:
    """The law above is no empty agreement."""
    of = plan_of(bench, freeze=1)
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


def readable(bench: Bench, kept: NDArray[Any]) -> NDArray[Any]:
    """Probabilities, or classes of places, of what was kept."""
    return bench.task.readable(torch.from_numpy(kept)).numpy()


def alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two predictions differ by rounding alone, which may turn the class of a place."""
    if one.dtype == np.uint8:
        return one.shape == other.shape and bool((one == other).mean() > 0.999)
    return np.allclose(one, other, rtol=1e-7, atol=1e-4)


@pytest.mark.parametrize("kind", ["freeze@2", "drop@2"])
def test_a_kept_model_predicts_from_the_inputs_what_was_told_of_it_however_they_are_batched(
    bench: Bench, kind: str
) -> None:
    arm = arm_of(bench, kind)
    unit = stage.unit(arm)
    if bench.anatomy.levels and kind == "drop@2":
        with pytest.raises(PlanError, match="head reads the cuts"):
            perform(bench, arm, unit)
        return
    outcome = perform(bench, arm, unit, keep=True)
    model = assemble(
        bench.backbone, bench.anatomy, arm.plan, kept_weights(bench, unit), bench.examples.classes, bench.task
    )
    inputs, expected = [bench.examples.inputs[row] for row in outcome.rows], readable(bench, outcome.log_probabilities)
    for batch in (1, 3, len(inputs)):
        assert alike(np.concatenate(list(probabilities(model, inputs, batch=batch))), expected)
    aside = replace(bench, split=replace(bench.split, certification=outcome.rows[::-1].copy()))
    (proof,) = certify(aside, [(arm, unit)])
    order, told = np.argsort(proof.rows), np.argsort(outcome.rows)
    assert proof.rows[order].tolist() == outcome.rows[told].tolist()
    assert alike(readable(bench, proof.log_probabilities[order]), expected[told])


@pytest.mark.parametrize(
    ("bench", "to"),
    [
        *((name, to) for name in SOME for to in ("safetensors", "transformers", "onnx")),
        ("encoder", "torch_export"),
        ("normed_by_group", "transformers"),
    ],
    indirect=["bench"],
)
def test_what_is_exported_says_the_same_of_examples_of_any_length(bench: Bench, to: str, tmp_path: Path) -> None:
    arm = arm_of(bench, "freeze@2")
    unit = stage.unit(arm)
    perform(bench, arm, unit, keep=True)
    weights, classes = kept_weights(bench, unit), bench.examples.classes
    model = assemble(bench.backbone, bench.anatomy, arm.plan, weights, classes, bench.task)
    if to == "transformers" and bench.backbone.data == "input_ids" and bench.anatomy.head == ("score",):
        with pytest.raises(Refused, match=r"no place for score\.bias"):
            FORMATS[to](model, {"spec": bench.backbone.name, "model_kwargs": {}}, tmp_path)
        return
    use, ask = FORMATS[to](model, {"spec": bench.backbone.name, "model_kwargs": {}}, tmp_path)
    rows = np.array([0, 1, 5, 7, 9])  # the shortest and the longest are among them
    expected = np.concatenate(list(probabilities(model, [bench.examples.inputs[row] for row in rows])))
    said = ask(*inputs_of(bench.intake, rows, torch.device("cpu")).values())
    np.testing.assert_allclose(said.numpy(), expected, atol=1e-4)
    if to == "transformers":  # what lies beside it prepares inputs as the run does
        again = load(f"hf/{tmp_path}", seconds=bench.settings.seconds)
        read = intake(again, bench.examples)
        for name, table in bench.intake.raw(rows).items():
            np.testing.assert_array_equal(read.raw(rows)[name], table)
        assert again.module.config.id2label == dict(enumerate(classes))
        assert "FOLDER" in use


# ------------------------------------------------------------------------------------------------ other processes


@pytest.mark.parametrize("name", ["encoder", "decoder", "normed_by_layer"])
def test_another_process_lays_the_same_bench_from_what_lies_on_disk(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    it = given(name, tmp_path_factory)
    if not isinstance(it.data, Path):
        it = World(
            it.spec, networks_of.table(tmp_path / "data.csv", dict(zip(("text", "label"), it.data, strict=True)))
        )
    bench = laid(it, tmp_path / "run", workers=2)
    assert {stored.tier for stored in bench.whole.values()} == {"disk"}
    told = pickle.loads(pickle.dumps(blueprints(bench)))
    other, arm = again.laid(told), arm_of(bench, "freeze@2")
    one, two = (perform(each, arm, stage.unit(arm)) for each in (bench, other))
    np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)
    assert [epoch.loss for epoch in one.epochs] == [epoch.loss for epoch in two.epochs]
    later = laid(it, tmp_path / "run", workers=2)  # a resumed run computes nothing anew
    assert {d: s.key for d, s in later.whole.items()} == {d: s.key for d, s in bench.whole.items()}
    third = perform(later, arm, stage.unit(arm))
    np.testing.assert_array_equal(one.log_probabilities, third.log_probabilities)


# ------------------------------------------------------------------------------------------------ whole runs


@dataclass(frozen=True)
class Ran:
    """A finished run of the command line, and more that it can be asked about."""

    folder: Path
    said: world.Said
    files: tuple[Path, ...]


@contextmanager
def measured_briefly() -> Iterator[None]:
    """Whether rates are trained faster together takes longest to measure, and is a matter of test_stacking.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frostline.bench.lay.stacking", lambda *given: None)
        yield


def test_rows_of_unequal_length_are_not_moved_to_a_device_as_one_table(
    texts: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "free_bytes", lambda where: 2**40)  # room for everything
    assert all(resident.resident(texts, depth) is None for depth in texts.whole)
    assert texts.resident == {}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A search on a table of texts, one of them empty; with shifted texts, and some of the source."""
    network = networks_of.saved(tmp_path_factory, "flat")

    def make(folder: Path) -> Ran:
        texts, labels = networks_of.texts(60)
        data = networks_of.table(folder / "data.csv", {"text": [*texts, " "], "label": [*labels, "good"]})
        texts, labels = networks_of.texts(24, seed=5)
        more = networks_of.table(folder / "more.csv", {"text": texts, "label": labels})
        few = ("--epochs", 1, "--effort", "quick", "--shifted", more, "--source", more)
        words = ("find", data, "--backbone", f"hf/{network}", *world.ONE, *few, "--out", folder / "run", "--json")
        with measured_briefly():
            said = world.tell(*words)
        assert said.code == 0, said.err
        files = list[Path]()
        for number, text in enumerate(texts[:5]):
            files.append(folder / f"{number}.txt")
            files[-1].write_text(text)
        return Ran(folder / "run", said, (more, *files))

    return world.once(tmp_path_factory, "found-texts", make)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One plan trained on recordings, one of them broken."""
    network = networks_of.saved(tmp_path_factory, "short")

    def make(folder: Path) -> Ran:
        data = networks_of.recordings(folder / "data", 20)
        (data / "high" / "broken.wav").write_bytes(b"RIFF nothing")
        plan = ("--freeze", 2, "--epochs", 1)
        with measured_briefly():
            said = world.tell(
                "train", data, "--backbone", f"hf/{network}", *world.ONE, *plan, "--out", folder / "run", "--json"
            )
        assert said.code == 0, said.err
        return Ran(folder / "run", said, tuple(sorted(data.glob("*/0*.wav"))))

    return world.once(tmp_path_factory, "heard-recordings", make)


def test_a_search_on_texts_comes_to_an_answer_and_counts_what_it_skips(found: Ran) -> None:
    summary = found.said.document
    assert summary["data"]["skipped"] == [{"id": "row-61", "reason": "the text is empty, or no UTF-8"}]
    assert summary["checks"]["frozen_unchanged"]
    assert summary["checks"]["cached_vs_live"] < 1e-4
    assert any("'row-61'" in note for note in summary["notes"])
    assert world.tell("report", found.folder).code == 0


def test_a_training_on_recordings_counts_what_it_skips(heard: Ran) -> None:
    (skipped,) = heard.said.document["data"]["skipped"]
    assert skipped == {"id": "high/broken.wav", "reason": "Format not recognised."}
    assert any("'high/broken.wav'" in note for note in heard.said.document["notes"])
    card = json.loads((heard.folder / "model" / "model.json").read_text())
    assert 0.25 < card["seconds"] < 0.46  # what the data decided is what the model hears


def test_a_run_predicts_texts_in_the_order_in_which_they_are_given(found: Ran) -> None:
    table, *files = found.files
    said = world.tell("predict", found.folder, table, *files, "--json")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == [*(f"{table}#{number}" for number in range(1, 25)), *map(str, files)]
    for row, file in zip(rows, files, strict=False):  # the files hold the first rows of the table
        (alone,) = map(json.loads, world.tell("predict", found.folder, file, "--json").out.splitlines())
        assert alone["scores"] == pytest.approx(row["scores"], abs=2e-5)
        assert alone["label"] == max(row["scores"], key=row["scores"].get)
    model, texts = open_model(found.folder), [file.read_text() for file in files]
    for batch in (1, 4):
        again = [row["scores"] for row in predict(model, texts, batch=batch)]
        assert again == [pytest.approx(row["scores"], abs=2e-5) for row in rows[24:]]


def test_a_run_predicts_recordings_in_the_order_in_which_they_are_given(heard: Ran) -> None:
    files = heard.files[::-1]
    said = world.tell("predict", heard.folder, *files, "--json")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == list(map(str, files))
    model = open_model(heard.folder)
    for batch in (1, 7):
        again = [row["scores"] for row in predict(model, files, batch=batch)]
        assert again == [pytest.approx(row["scores"], abs=2e-5) for row in rows]


def test_what_a_model_of_texts_cannot_predict_is_named(found: Ran, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("Wär' es".encode("latin-1"))
    networks_of.table(tmp_path / "holes.csv", {"text": ["a film", ""], "label": ["good", "bad"]})
    for name, *words in (
        ("blank.txt", "the text is empty"),
        ("latin.txt", "UTF-8"),
        ("none.txt", "does not exist", "Result.predict"),
        ("none.csv", "does not exist"),
        ("holes.csv", "holes.csv#2"),
    ):
        world.refused(world.tell("predict", found.folder, tmp_path / name), name, *words)


def test_a_text_of_which_the_tokenizer_knows_nothing_is_read_as_one_token(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    backbone = load(f"hf/{networks_of.saved(tmp_path_factory, 'decoder')}")
    texts = unlabelled([f"{networks_of.NOTHING} {networks_of.NOTHING}", "a film"])
    read = intake(backbone, texts)
    assert read.sizes is not None
    assert read.sizes.tolist() == [1, 2]
    with torch.no_grad():
        found = backbone.module(**inputs_of(read, np.arange(2), torch.device("cpu"))).logits
    assert bool(found.isfinite().all())


# ------------------------------------------------------------------------------------------------ the fence

ENGINE = ("activations", "bench", "training", "search", "evidence")
MODALITIES = re.compile(
    r"pictures?|images?|pixels?|texts|sentences?|tokens?|tokeni[sz]\w*|audio|recordings?|waveforms?|speech|boxes|detections?|segmentations?",
    re.IGNORECASE,
)
ALLOWED = {  # file of the engine: what it may say, and why that is no modality, or has to be said there
    "training/graphs.py": {"recording", "recordings"},  # of the steps that a GPU replays
    "bench/measure.py": {"recording"},  # whether that pays
    "bench/lay.py": {"image"},  # `image_size`: what the user said is handed to the loader by its name
    "bench/storing.py": {"sentence"},  # of a forecast, a decision or a comparison: one that is told
    "activations/afford.py": {"sentence"},
    "search/race.py": {"sentence"},
    "search/decide.py": {"sentence"},
}


def said(file: Path) -> set[str]:
    """The words of a file that name a modality: of code, comments and docstrings, also as parts of identifiers."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", file.read_text("utf-8"))
    return {part.lower() for part in parts if MODALITIES.fullmatch(part)}


def test_no_file_of_the_engine_the_race_or_the_decision_names_what_a_network_reads() -> None:
    root = Path(frostline.__file__).parent
    files = [file for folder in ENGINE for file in sorted((root / folder).rglob("*.py"))]
    assert len(files) > 40
    found = {str(file.relative_to(root)): words for file in files if (words := said(file))}
    assert found == ALLOWED


def test_the_fence_sees_words_in_code_comments_and_identifiers(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "image_size = 3  # of Pictures\nclass TokenFeed: ...\n'''tokenised recordings'''\nEvent(text=imagined)\n"
    )
    assert said(file) == {"image", "pictures", "token", "tokenised", "recordings"}
