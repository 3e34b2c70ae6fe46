"""Networks of Keras: what they compute, how they are cut and trained, and that TensorFlow opens what comes out."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras_networks
import numpy as np
import pytest
import test_exactness
import torch
from PIL import Image, ImageOps
from test_load import contract, refused
from torch import Tensor
from world import ONE, draw, tell

import frostline
from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.backbones.keras_library import library
from frostline.backbones.keras_models import own_classes
from frostline.backbones.keras_network import KerasNetwork, plain
from frostline.backbones.load import load
from frostline.backbones.pooling import pool
from frostline.data import pictures
from frostline.errors import BackboneError, WeightsError
from frostline.formats.export import FORMATS
from frostline.formats.keras import write_keras
from frostline.formats.model import Model, open_model
from frostline.formats.whole import Refused, whole
from frostline.plan import plan
from frostline.report.snippet import snippets
from frostline.tasks import heads
from frostline.training.prepare import predictor, read_at
from frostline.values import Backbone, Head, Plan, Recipe

# Keras asks NumPy for arrays in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning", "ignore:`build..` was called on layer:UserWarning"
)
FILE = keras_networks.__file__
HERE = str(Path(FILE).parent)
KINDS = {
    "chain": ["conv2d", "conv2d_1", "dense"],
    "residual": ["stem", "first0", "first1", "first2"],
    "nested": ["base.low", "base.high"],
    "subclassed": ["stem", "blocks_0", "blocks_1"],
    "attention": ["patches", "attention0", "mlp0", "attention1", "mlp1"],
    "adapted": ["stem", "one", "own", "twice", "spectral"],
}


@pytest.fixture(scope="module", autouse=True)
def keras() -> Any:
    """The library on its torch backend, before anybody else loads it with another."""
    return library()


def made(kind: str) -> Backbone:
    return load(f"{FILE}:{kind}", weights="none")


def varied(network: torch.nn.Module) -> None:
    """Statistics and scales that make every path count."""
    rng = torch.Generator().manual_seed(1)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        with torch.no_grad():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=rng)
            elif tensor.ndim < 2 and tensor.is_floating_point():
                tensor.add_(torch.empty_like(tensor).normal_(0, 0.1, generator=rng))


# ------------------------------------------------------------------------------------------------ as networks


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_keras_does_and_every_weight_is_a_parameter_of_the_layer_that_holds_it(kind: str) -> None:
    model, rng = getattr(keras_networks, kind)(), np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0, 0.1, w.shape).astype(w.dtype) for w in model.get_weights()])
    network = load(model).module
    assert isinstance(network, KerasNetwork)
    inputs = torch.rand(3, 3, 16, 16) * 255
    with torch.no_grad():
        theirs = model(inputs.permute(0, 2, 3, 1))
        assert torch.equal(network(inputs), theirs)
        assert torch.equal(copy.deepcopy(network)(inputs), theirs)
    held = [tensor.detach().numpy() for tensor in (*network.parameters(), *network.buffers())]
    weights = {weight.tobytes() for weight in model.get_weights()}
    assert {array.tobytes() for array in held} == weights
    network.train()
    network(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("kind", "names"), KINDS.items())
def test_its_layers_are_cut_where_one_tensor_crosses_and_each_suffix_gives_the_whole_result(
    kind: str, names: list[str]
) -> None:
    backbone = made(kind)
    varied(backbone.module)
    anatomy = dissect(backbone)
    assert [layer.name for layer in anatomy.layers] == names
    assert all(layer.cut and layer.error == 0 for layer in anatomy.layers), [layer.why for layer in anatomy.layers]
    owned = [name for layer in anatomy.layers for name in layer.members]
    weights = backbone.module.named_parameters(remove_duplicate=False)  # some stand in two layers
    every = [name for name, _ in (*weights, *backbone.module.named_buffers())]
    behind = [name for name in every if name.startswith(tuple(f"{head}." for head in anatomy.head))]
    assert sorted((*owned, *behind)) == sorted(every)
    if kind in ("residual", "nested"):
        assert {pool.channel for pools in anatomy.pools[:-1] for pool in pools} == {3}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_network_and_shares_nothing(kind: str) -> None:
    network = made(kind).module
    varied(network)
    network.train()
    next(network.parameters()).requires_grad_(False)
    again = copy.deepcopy(network)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in network.parameters()]
    assert all(part.training for part in again.modules())
    pictures = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = network.eval()(pictures)
        assert torch.equal(again.eval()(pictures), before)
        for tensor in (*again.parameters(), *again.buffers()):
            tensor.zero_()
        assert torch.equal(network(pictures), before)


def test_each_part_follows_its_own_mode_and_dropout_draws_from_the_generator_that_is_kept() -> None:
    network = made("residual").module
    pictures = torch.rand(4, 3, 16, 16) * 255
    names = [name for name, _ in network.named_buffers() if name.endswith("running_mean")]
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    moving = network.get_submodule(names[2].rpartition(".")[0])
    moving.train()
    network(pictures)
    moved = [name for name, tensor in network.named_buffers() if not torch.equal(tensor, before[name])]
    assert moved == [names[2], names[2].replace("mean", "var")]
    network.train()
    runs = list[Tensor]()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            runs.append(copy.deepcopy(network)(pictures))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def of_keras(dtype: torch.dtype) -> tuple[Backbone, Any]:
    backbone = made("residual")
    varied(backbone.module)
    return backbone, dissect(backbone)


@pytest.mark.parametrize("name", ["freeze@2", "reinit@2", "gradual", "batch", "reestimate"])
def test_training_from_stored_activations_is_training_live_and_nothing_frozen_moves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = of_keras(torch.float32)
    rng = torch.Generator().manual_seed(7)
    pictures = torch.rand(test_exactness.ROWS, 3, 16, 16, generator=rng) * 255
    targets = test_exactness.data(torch.float32)[1]
    monkeypatch.setattr(test_exactness, "network", lambda dtype: pair)
    monkeypatch.setattr(test_exactness, "data", lambda dtype: (pictures, targets))
    test_exactness.test_in_float32_the_loss_traces_of_stored_and_live_training_agree_and_nothing_frozen_moves(name)


def test_rates_that_train_together_end_where_each_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = of_keras(torch.float32)
    pictures = torch.rand(test_exactness.ROWS, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 255
    targets = test_exactness.data(torch.float32)[1]
    monkeypatch.setattr(test_exactness, "network", lambda dtype: pair)
    monkeypatch.setattr(test_exactness, "data", lambda dtype: (pictures, targets))
    of = test_exactness.of("head_alone", torch.float32)
    several = tuple(test_exactness.with_rate(of, rate) for rate in (1e-3, 1e-2))
    together = test_exactness.trained_together(several, 4, torch.float32)
    for given, found in zip(several, together, strict=True):
        alone = test_exactness.trained(given, 4, torch.float32)
        assert found.losses == pytest.approx(alone.losses, abs=1e-4)


# ------------------------------------------------------------------------------------------------ from where they come


def test_files_factories_and_models_keep_the_contract_of_every_source(tmp_path: Path) -> None:
    model = keras_networks.learned()
    model.save(tmp_path / "network.keras")
    contract(str(tmp_path / "network.keras"))
    contract(f"keras/{tmp_path / 'network.keras'}", image_size=24)
    contract(f"{FILE}:learned")
    contract(f"{FILE}:subclassed", weights="none")
    contract(model)


def test_a_models_own_layers_are_never_touched(tmp_path: Path) -> None:
    model = keras_networks.nested()
    model.get_layer("base").get_layer("low").trainable = False
    before, names = model.get_weights(), list(model._modules)
    network = load(model).module
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert list(model._modules) == names
    assert not model.get_layer("base").get_layer("low").trainable
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_a_class_keeps_outside_of_its_weights_is_refused() -> None:
    keras = library()

    class Hidden(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.scale = torch.rand(3)

        def call(self, x: Any) -> Any:
            return x * self.scale

    given = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Conv2D(3, 1)(Hidden()(given)))
    model = keras.Model(given, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    refused(BackboneError, "computes something else", "add_weight", spec=model)


def test_pixels_are_read_as_the_application_has_them(tmp_path: Path) -> None:
    keras = library()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype("float32")
    for name, options in (("ResNet50", {}), ("MobileNet", {"alpha": 0.25})):
        backbone = load(f"keras/{name}", weights="none", image_size=32, model_kwargs=options)
        how, network = backbone.preprocessing, backbone.module
        assert how is not None and isinstance(network, KerasNetwork)
        mean, std = (np.array(values, "float32")[:, None, None] for values in (how.mean, how.std))
        package = sys.modules[getattr(keras.applications, name).__module__]
        theirs = package.preprocess_input(pictures.transpose(0, 2, 3, 1).copy())
        with torch.no_grad():
            ours = network(torch.from_numpy((pictures / how.scale - mean) / std))
            said = network.model(torch.from_numpy(np.ascontiguousarray(theirs)))
        torch.testing.assert_close(ours, said, rtol=1e-4, atol=1e-6)


def test_a_preset_of_kerashub_is_read_with_its_own_preprocessing(tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub", reason="presets need KerasHub, which is not installed")
    sizes: dict[str, Any] = {"input_conv_filters": [64], "input_conv_kernel_sizes": [3], "block_type": "basic_block"}
    stack: dict[str, Any] = {"stackwise_num_filters": [64], "stackwise_num_blocks": [1], "stackwise_num_strides": [1]}
    body = hub.models.ResNetBackbone(**sizes, **stack, image_shape=(None, None, 3))
    scale, offset = [1 / 50, 1 / 60, 1 / 70], [-2.0, -1.5, -1.0]
    converter = hub.layers.ResNetImageConverter(image_size=(32, 32), scale=scale, offset=offset)
    reads = hub.models.ResNetImageClassifierPreprocessor(image_converter=converter)
    model = hub.models.ResNetImageClassifier(backbone=body, preprocessor=reads, num_classes=4)
    model.save_to_preset(str(tmp_path / "mine"))
    backbone = load(f"keras/{tmp_path / 'mine'}")
    how = backbone.preprocessing
    assert how is not None
    assert (how.size, how.resize, how.scale) == ((32, 32), 32, 1.0)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    ours = torch.from_numpy(pictures.preprocess(picture, how))[None]
    with torch.no_grad():
        said = backbone.module(ours)
        theirs = model(torch.as_tensor(np.asarray(converter(picture[None].astype("float32")))))
    torch.testing.assert_close(said, theirs, rtol=1e-4, atol=1e-4)
    assert load(f"keras/{tmp_path / 'mine'}", weights="none").weights == "none"
    refused(BackboneError, "resnet_50_imagenet", spec="keras/resnet_50_imagenets")


def test_weights_that_keras_saved_fit_the_network_or_are_refused(tmp_path: Path) -> None:
    model, other = keras_networks.learned(), keras_networks.chain()
    model.save_weights(tmp_path / "my.weights.h5")
    model.save(tmp_path / "whole.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    pictures = torch.rand(2, 3, 16, 16) * 255
    for file in ("my.weights.h5", "whole.keras"):
        backbone = load(f"{FILE}:residual", weights=str(tmp_path / file))
        with torch.no_grad():
            assert torch.equal(backbone.module(pictures), model(pictures.permute(0, 2, 3, 1)))
    refused(WeightsError, "residual", spec=f"{FILE}:residual", weights=str(tmp_path / "other.weights.h5"))
    refused(WeightsError, "no file", spec=f"{FILE}:residual", weights=str(tmp_path / "absent.weights.h5"))


def test_what_cannot_be_taken_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = library()
    refused(BackboneError, "no network 'MobilNet'", "keras/MobileNet", spec="keras/MobilNet", weights="none")
    refused(BackboneError, "alpha", spec="keras/ResNet50", weights="none", model_kwargs={"alpha": 2})
    refused(BackboneError, "does not exist", "model.save", spec=str(tmp_path / "absent.keras"))
    (tmp_path / "broken.keras").write_bytes(b"nonsense")
    refused(BackboneError, "no model that Keras can open", spec=str(tmp_path / "broken.keras"))
    words = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)])
    refused(BackboneError, "one batch of pictures", "(None, 12)", spec=words)
    deep = keras.Sequential([keras.Input((8, 8, 5)), keras.layers.Conv2D(3, 3)])
    refused(BackboneError, "5 channels", spec=deep)
    fixed = keras_networks.chain()
    refused(BackboneError, "does not read 24 x 24 pixels", "16 x 16", spec=fixed, image_size=24)
    free = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    )
    refused(BackboneError, "--image-size", spec=free)
    hidden = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Conv2D(2, 3)])
    hidden.save(tmp_path / "code.keras")
    refused(BackboneError, "code of its own", "FILE.py:FACTORY", spec=str(tmp_path / "code.keras"))
    keras_networks.adapted().save(tmp_path / "own.keras")
    refused(BackboneError, "a class that Keras does not know", "FILE.py:FACTORY", spec=str(tmp_path / "own.keras"))
    (tmp_path / "folder.keras").mkdir()
    refused(BackboneError, "is a folder", spec=str(tmp_path / "folder.keras"))
    refused(BackboneError, "does not read 64 x 64", spec="keras/VGG16", weights="none", image_size=64)
    monkeypatch.setattr(
        keras.applications, "MobileNetV2", unreachable := lambda **given: _unfetched(**given), raising=True
    )
    unreachable.__module__ = "keras.src.applications.mobilenet_v2"
    refused(WeightsError, "URL fetch failure", "--weights", spec="keras/MobileNetV2")


def _unfetched(weights: str | None = None, **options: Any) -> Any:
    if weights is not None:
        raise Exception("URL fetch failure on https://storage.googleapis.com/..: None -- no route to host")
    return keras_networks.residual()


def test_keras_on_another_backend_and_without_keras_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = library()
    model = keras_networks.chain()
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "tensorflow")
        refused(BackboneError, "'tensorflow'", "KERAS_BACKEND=torch", "model.save('network.keras')", spec=model)
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "keras")
        patch.setattr("importlib.util.find_spec", lambda name: None)
        refused(BackboneError, "pip install 'frostline[keras]'", spec="keras/MobileNetV2", weights="none")


# ------------------------------------------------------------------------------------------------ and back


PAGE = Path(__file__).parents[1] / "docs/runs/keras.md"  # its code is what is tested
BACK = """
import os, sys
import keras, numpy as np
sys.path.insert(0, sys.argv[1])
import keras_networks

assert keras.backend.backend() == "tensorflow"
own = {kind.__name__: kind for kind in keras_networks.classes()}
for place in sys.argv[2:]:
    os.chdir(place)
    scope = {}
    with keras.saving.custom_object_scope(own):
        exec(open("use.py").read(), scope)
    network, pictures, ours = scope["network"], np.load("pictures.npy"), np.load("said.npy")
    off = np.abs(network.predict(pictures, verbose=0) - ours).max()
    leaves = [layer for layer in network._flatten_layers() if layer.weights and not layer._layers]
    still = {layer.name: layer.get_weights() for layer in leaves if not layer.trainable}
    free = {layer.name: layer.get_weights() for layer in leaves if layer.trainable}
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(pictures, ours.argmin(1), epochs=1, verbose=0)  # labels that teach it something
    after = {layer.name: layer.get_weights() for layer in leaves}
    same = lambda held: [n for n, w in held.items() if all(map(np.array_equal, w, after[n]))]
    print(place, off, ",".join(sorted(still)), ",".join(sorted(same({**still, **free}))), sep="|")
"""


def in_tensorflow(code: str, *words: str, cwd: Path | None = None) -> str:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow opens what is exported; it is not installed")
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-c", code, *words]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(kind: str, head: Head | None = None, **given: Any) -> Model:
    """A network with a random head on it, as a run would hand it back."""
    backbone = made(kind)
    varied(backbone.module)
    anatomy = dissect(backbone)
    of = plan(anatomy.layers, Recipe(1, 1e-2), head=head, **given)
    example = backbone.example["pixels"]
    found = Halves(backbone.module, anatomy).taps({"pixels": example}, read_at(of))
    features = sum(pool(anatomy, depth, tensors).shape[1] for depth, tensors in found.items())
    new = heads.made(of.head, features, 3, seed=0)
    for name, tensor in new.named_parameters():
        if not name.startswith("linear"):  # what goes beyond a linear head begins silent
            torch.nn.init.normal_(tensor, 0, 0.3, generator=torch.Generator().manual_seed(1))
    return Model(backbone.module, new, anatomy, of, backbone, ("a", "b", "c"))


def said(model: Model, inputs: Tensor) -> Tensor:
    return predictor(model.network, model.head, model.anatomy, model.plan)({model.anatomy.data: inputs}).exp()


def kept(place: Path, use: str, inputs: Tensor, answers: Tensor) -> str:
    """Beside an exported network how it is opened, pictures as Keras reads them, and what we say of them."""
    (place / "use.py").write_text(use)
    np.save(place / "pictures.npy", inputs.permute(0, 2, 3, 1).numpy())
    np.save(place / "said.npy", answers.numpy())
    return str(place)


def same_in_tensorflow(pairs: list[tuple[Plan, str]]) -> None:
    """What stands in these folders says the same there, and goes on learning with the same layers frozen."""
    for (of, place), line in zip(
        pairs, in_tensorflow(BACK, HERE, *(place for _, place in pairs)).splitlines(), strict=True
    ):
        where, off, still, unmoved = line.split("|")
        assert where == place
        assert float(off) <= 1e-4
        rates = zip(of.layers, of.rates(), strict=True)
        frozen = [layer for layer, rate in rates if rate is None and layer.index < of.keep]
        names = {member.rpartition(".")[0].rpartition(".")[2] for layer in frozen for member in layer.members}
        assert set(filter(None, still.split(","))) == names
        assert set(filter(None, unmoved.split(","))) == names


SEARCHED, FROZEN, TUNED = ("find", "--effort", "quick"), ("train", "--freeze", 2), ("train", "--strategy", "lp_ft")


def found(data: Path, backbone: object, out: Path, how: tuple[object, ...] = SEARCHED) -> tuple[Plan, str]:
    """A short search or training, and its model as a file of Keras."""
    verb, *more = how
    told = tell(verb, data, "--backbone", backbone, "--epochs", 1, "--out", out, *ONE, *more)
    assert told.code == 0, told.err
    run = frostline.load(out)
    written = frostline.export(out, "keras")
    model, files = open_model(out), sorted(data.rglob("*.*g"))[::9]
    assert model.preprocessing is not None
    seen = [pictures.preprocess(pictures.open_picture(file), model.preprocessing) for file in files]
    answers = torch.tensor([list(row["scores"].values()) for row in run.predict(files)])
    return run.plan, kept(written.folder, written.use, torch.from_numpy(np.stack(seen)), answers)


def test_the_page_of_keras_does_what_it_says_with_a_network_that_tensorflow_trained(tmp_path: Path) -> None:
    source, back = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    draw(tmp_path / "five_things", 20)
    draw(tmp_path / "five_others", 12, seed=1)
    in_tensorflow(source, cwd=tmp_path)
    plan, place = found(tmp_path / "five_others", tmp_path / "five_things.keras", tmp_path / "runs" / "others")
    pairs = [(plan, place)]
    inputs = torch.rand(9, 3, 16, 16) * 255
    for kind, given in BACKS.items():
        model, folder = held(kind, **given), tmp_path / kind
        folder.mkdir()
        use, _ = write_keras(model, {}, folder)
        pairs.append((model.plan, kept(folder, use, inputs, said(model, inputs))))
    same_in_tensorflow(pairs)
    frozen = in_tensorflow(back, cwd=tmp_path).splitlines()[0]
    assert all(repr(name) in frozen for layer in plan.layers[: plan.freeze] for name in [layer.name])


BACKS: dict[str, dict[str, Any]] = {
    "chain": {"freeze": 2},
    "nested": {"freeze": 1, "keep": 1, "above": "drop"},
    "attention": {"freeze": 1, "head": Head("mlp")},
    "residual": {"freeze": 0, "train": (False, True, False, False)},
    "adapted": {"freeze": 2},
}
ASSETS = os.environ.get("FROSTLINE_ASSETS")


@pytest.mark.skipif(ASSETS is None, reason="FROSTLINE_ASSETS names no folder with networks and data sets")
def test_a_real_network_of_tensorflow_is_tuned_to_two_real_tasks_and_goes_back(tmp_path: Path) -> None:
    network, sets = Path(str(ASSETS)) / "weights/mlperf_tiny/pretrainedResnet.h5", Path(str(ASSETS)) / "datasets"
    backbone = load(str(network))
    assert isinstance(backbone.module, KerasNetwork)
    assert [layer.name for layer in dissect(backbone).layers] == ["conv2d", "conv2d_1", "conv2d_4", "conv2d_7"]
    turned = tmp_path / "turned"  # a shifted task: inverted and turned
    for label in ("airplane", "cat", "ship"):
        (turned / label).mkdir(parents=True)
        for file in sorted((sets / "cifar10_jpeg/train" / label).iterdir())[:12]:
            picture = ImageOps.invert(Image.open(file).convert("RGB")).rotate(90)
            picture.save(turned / label / f"{file.stem}.png")
    flowers = tmp_path / "flowers"
    for folder in sorted((sets / "flowers5/train").iterdir()):
        (flowers / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:8]:
            shutil.copy(file, flowers / folder.name)
    ways = ((turned, FROZEN), (flowers, TUNED))
    same_in_tensorflow([found(data, network, tmp_path / f"run_{data.name}", how) for data, how in ways])


def frozen_weights(model: Any) -> set[bytes]:
    return {weight.numpy().tobytes() for weight in model.non_trainable_weights if weight.dtype == "float32"}


def expected(model: Model) -> set[bytes]:
    """The weights of layers that the plan freezes, and statistics, which Keras never counts as trainable."""
    frozen = {name for layer in model.plan.layers[: model.plan.freeze] for name in layer.members}
    tensors = {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
    still = {name for name in tensors if name in frozen or name in dict(model.network.named_buffers())}
    return {tensors[name].detach().numpy().tobytes() for name in still if tensors[name].dtype == torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_in_the_report_freezes_the_same_weights_in_keras(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = held(kind, freeze=2)
    kinds = own_classes(model.network.model)
    plain(model.network)[0].save(tmp_path / "network.keras")
    monkeypatch.chdir(tmp_path)
    ((title, code),) = snippets(model.plan)
    assert title == "The same freezing in Keras"
    scope: dict[str, Any] = {}
    with library().saving.custom_object_scope(kinds):
        exec(code, scope)  # what a reader would paste
    assert frozen_weights(scope["network"]) == expected(model)


@pytest.mark.parametrize("kind", ["subclassed", "adapted"])
def test_what_classes_of_ones_own_forget_is_said_again_beside_the_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = held(kind, freeze=3 if kind == "adapted" else 2)
    kinds = own_classes(model.network.model)
    use, _ = write_keras(model, {}, tmp_path)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    with library().saving.custom_object_scope(kinds):
        exec(use, scope)
    assert frozen_weights(scope["network"]) == expected(model)
    still = [layer for layer in scope["network"]._flatten_layers() if type(layer).__name__ == "BatchNormalization"]
    assert not still[0].trainable


@pytest.mark.skipif(ASSETS is None, reason="FROSTLINE_ASSETS names no folder with networks and data sets")
def test_a_file_of_keras_2_that_keras_3_refuses_is_told_of_with_the_remedy() -> None:
    refused(BackboneError, "Keras 2", "groups", "tf_keras", spec=f"{ASSETS}/weights/mlperf_tiny/vww_96.h5")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        *BACKS.items(),
        ("attention", {"freeze": 1, "keep": 3, "above": "drop"}),
        ("subclassed", {"freeze": 1}),
        ("residual", {"freeze": 4, "head": Head(cuts=(1, 3))}),
    ],
)
def test_every_kind_of_network_and_head_is_read_back_from_its_file(
    kind: str, given: dict[str, Any], tmp_path: Path
) -> None:
    model = held(kind, **given)
    inputs = torch.rand(5, 3, 16, 16) * 255
    use, ask = write_keras(model, {}, tmp_path)
    torch.testing.assert_close(ask(inputs), said(model, inputs), rtol=0, atol=1e-6)
    assert 'load_model("model.keras")' in use
    assert ("# define or import Block, Net first" in use) == (kind == "subclassed")


def test_what_is_added_to_a_network_takes_no_name_that_a_layer_of_it_has(tmp_path: Path) -> None:
    model = held("residual", freeze=4, head=Head(cuts=(1, 3)))
    keras_networks.forget_names()  # as in a process that opens the network from its file
    write_keras(model, {}, tmp_path)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("residual", {"freeze": 4, "head": Head("attention")}, "Attention"),
        ("subclassed", {"freeze": 1, "keep": 2, "above": "drop"}, "cannot take apart"),
    ],
)
def test_what_keras_cannot_hold_is_refused_and_goes_by_onnx(
    kind: str, given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model = held(kind, **given)
    with pytest.raises(Refused, match=rf"{words}.*--to onnx"):
        write_keras(model, {}, tmp_path)
    with pytest.raises(Refused, match="one of Keras"):
        whole(model)
    inputs = torch.rand(5, 3, 16, 16) * 255
    _, ask = FORMATS["onnx"](model, {}, tmp_path)
    torch.testing.assert_close(ask(inputs), said(model, inputs), rtol=0, atol=1e-4)
