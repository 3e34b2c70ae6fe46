"""A trained model in the formats of other libraries; each is read back and asked before it is handed over."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from frostline.backbones.hugging_face import beside
from frostline.data.intake import kind_of
from frostline.errors import OptionError, StoreError
from frostline.formats.card import card
from frostline.formats.keras import write_keras
from frostline.formats.model import Model
from frostline.formats.whole import CLOSE, PROBLEMS, Naming, Refused, Serving, apart, other_inputs, said, whole
from frostline.values import Kind, Preprocessing, Tokens

ASKED = 3  # inputs that the exported model is asked about: not as many as it was traced with


@dataclass(frozen=True, slots=True)
class Exported:
    """A model in another format."""

    folder: Path
    files: tuple[str, ...]
    off: float  # the largest difference of a probability from the run's own, of numbers in units of what they spread by
    use: str  # how it is loaded, as Python


Ask = Callable[..., Tensor]  # inputs in the order of the forward's arguments -> probabilities, or numbers
Writer = Callable[[Model, Mapping[str, Any], Path], tuple[str, Ask]]


def export(model: Model, summary: Mapping[str, Any], card_of: Mapping[str, Any], to: str, folder: Path) -> Exported:
    """Write the model of a run in a format, with a card of its evidence; the folder appears whole.

    `card_of` is the run's model.json. Raises Refused where the format cannot hold the model, OptionError for an unknown
    format or a library that is not installed, StoreError where the folder is taken or the disk is full.
    """
    if to not in FORMATS:
        raise OptionError(f"the format is {to!r}; allowed are {', '.join(FORMATS)}")
    if model.task.name not in PROBLEMS:
        raise Refused(
            f"the task of the model is {model.task.name}, and no library has its network with these new layers; those "
            f"that are exported are {', '.join(PROBLEMS)}; use frostline predict, or the weights in RUN/model"
        )
    if folder.exists():
        raise StoreError(f"{str(folder)!r} exists already; give another --out, or remove it")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        use, ask = FORMATS[to](model, card_of, partial)
        off = _difference(model, ask)
        if not off <= CLOSE:
            raise Refused(
                f"read back from {to}, the model says something else (by {off:.2g}, {CLOSE:g} is allowed); nothing was "
                "written: please report this, and use another format"
            )
        (partial / "README.md").write_text(card(model, summary, use), encoding="utf-8")
        (partial / "classes.json").write_text(json.dumps(list(model.classes), ensure_ascii=False), encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; make room or give another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(folder, tuple(sorted(file.name for file in folder.iterdir())), off, use)


def _difference(model: Model, ask: Ask) -> float:
    """What is said of some inputs, from what the run's own model says."""
    inputs = other_inputs(model, ASKED)
    return apart(model, said(model, inputs), ask(*inputs.values()))


def _asked(network: nn.Module, model: Model) -> Ask:
    def ask(*inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return Naming(network.eval(), model.anatomy.names, model.task)(*inputs)

    return ask


# ------------------------------------------------------------------------------------------------ formats


def _safetensors(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Ask]:
    """A state dictionary under the source's own names; for a network of timm the folder that `create_model` reads."""
    network = whole(model)
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    spec, options = str(of["spec"]), dict(of["model_kwargs"])
    source, _, name = spec.partition("/")
    if source != "timm":
        use = (
            "from safetensors.torch import load_file\n\n"
            f"# `network` is {spec} with {len(model.classes)} classes, built as its library builds it\n"
            'network.load_state_dict(load_file("model.safetensors"))'
        )
        network.load_state_dict(_read(folder / "model.safetensors"))
        return use, _asked(network, model)
    import timm

    architecture, options = name.partition(".")[0], {k: v for k, v in options.items() if k != "num_classes"}
    config = {
        "architecture": architecture,
        "num_classes": len(model.classes),
        "label_names": list(model.classes),
        "model_args": options,
        "pretrained_cfg": _timm_config(network, model),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    use = f'import timm\n\nnetwork = timm.create_model("local-dir:FOLDER", pretrained=True)  # {architecture}'
    return use, _asked(again, model)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def _timm_config(network: nn.Module, model: Model) -> dict[str, Any]:
    own: Any = getattr(network, "pretrained_cfg", None) or {}
    kept = {name: own[name] for name in ("pool_size", "first_conv", "classifier", "fixed_input_size") if own.get(name)}
    how = model.pictures
    if how is None:
        return {**kept, "num_classes": len(model.classes)}
    crop = 1.0 if how.resize is None else max(how.size) / max(how.resize, *how.size)
    return {
        **kept,
        "num_classes": len(model.classes),
        "input_size": [len(how.mean), *how.size],
        "crop_pct": crop,
        "crop_mode": "squash" if how.resize is None else "center",
        "interpolation": how.interpolation,
        "mean": list(how.mean),
        "std": list(how.std),
    }


AUTO: Mapping[Kind, tuple[str, str]] = {  # the classes of transformers that open a classifier, and what is beside it
    "pictures": ("AutoModelForImageClassification", "AutoImageProcessor"),
    "texts": ("AutoModelForSequenceClassification", "AutoTokenizer"),
    "recordings": ("AutoModelForAudioClassification", "AutoFeatureExtractor"),
}


def _transformers(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Ask]:
    """A folder of `save_pretrained`, with the preprocessing beside it."""
    import transformers

    network = whole(model)
    if not isinstance(network, transformers.PreTrainedModel):
        raise Refused(
            f"the network is a {type(network).__name__} of {of['spec']!r} and none of transformers; use "
            "--to safetensors, onnx or torch_export"
        )
    network.save_pretrained(folder)
    how = model.preprocessing
    if how is not None:
        (_processor(how) if isinstance(how, Preprocessing) else beside(how)).save_pretrained(folder)
    opens, prepares = AUTO[kind_of(model.backbone)]
    again = getattr(transformers, opens).from_pretrained(folder)
    strange = sorted(network.state_dict().keys() - again.state_dict().keys())
    if strange:  # the output layers of some have no bias, and the head has one
        raise Refused(
            f"{type(network).__name__} of transformers has no place for {', '.join(strange)}; use --to onnx or "
            "--to torch_export, or safetensors for code of your own"
        )
    called = prepares.removeprefix("Auto").lower().removeprefix("image").removeprefix("feature")
    use = (
        f"from transformers import {', '.join(sorted((opens, prepares)))}\n\n"
        f'network = {opens}.from_pretrained("FOLDER")\n'
        f'{called} = {prepares}.from_pretrained("FOLDER")'
    )
    return use, _asked(again, model)


def _processor(how: Preprocessing) -> Any:
    """The picture processor of transformers that does the same."""
    from PIL import Image
    from transformers import BitImageProcessor, ViTImageProcessor

    height, width = how.size
    same: dict[str, Any] = {
        "resample": int(getattr(Image.Resampling, how.interpolation.upper())),
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "rescale_factor": 1 / how.scale,
    }
    if how.resize is None:
        return ViTImageProcessor(size={"height": height, "width": width}, **same)
    cut = {"height": height, "width": width}
    return BitImageProcessor(size={"shortest_edge": how.resize}, crop_size=cut, do_convert_rgb=True, **same)


def _onnx(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Ask]:
    """An ONNX graph from prepared inputs to probabilities, or numbers, for any number of them."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise OptionError(f"the format 'onnx' needs the library {error.name}: pip install 'frostline[onnx]'") from None
    file, serving, example = folder / "model.onnx", _serving(model), _example(model)
    names, told = ["pixels"] if model.pictures is not None else list(example), _told(model)
    with warnings.catch_warnings():
        # by running it once: what a drop runs, and many networks' own Python, the newer way does not trace
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        warnings.filterwarnings("ignore", message="Exporting aten::index")  # whether it is right, is asked below
        try:
            torch.onnx.export(
                serving, tuple(example.values()), file, input_names=names, output_names=[told], dynamo=False,
                dynamic_axes={**dict.fromkeys(names, _grows(model)), told: {0: "examples"}},
            )  # fmt: skip
        except Exception as error:  # what a tracer says of a network is of many kinds
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Refused(f"ONNX cannot hold this network: {why}; use --to torch_export or safetensors") from error
    onnx.checker.check_model(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    read = {entry.name for entry in session.get_inputs()}  # what the graph has no use for, it drops

    def ask(*inputs: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True) if name in read}
        try:
            found: Any = session.run(None, given)[0]
        except Exception as error:  # onnxruntime's own errors have no class of theirs in common
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Refused(
                f"ONNX holds this network for inputs of one size alone ({why}); use --to torch_export or safetensors"
            ) from error
        return torch.from_numpy(np.asarray(found))

    called = {name: "pictures" if model.pictures is not None else name for name in names if name in read}
    what = "preprocessed" if model.pictures is None else "(n, channels, height, width), preprocessed"
    given = ", ".join(f'"{name}": {value}' for name, value in called.items())
    use = (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("model.onnx")\n'
        f"{told} = session.run(None, {{{given}}})[0]  # {what}"
    )
    return use, ask


def _torch_export(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Ask]:
    """A program of torch.export from prepared inputs to probabilities, or numbers, for any number of them."""
    file, serving, example = folder / "model.pt2", _serving(model), _example(model)
    most = model.preprocessing.length if isinstance(model.preprocessing, Tokens) else None
    ends = {0: {"min": 1}, 1: {"min": 2, "max": most}}  # one position is a case of its own to many networks
    sizes = {axis: torch.export.Dim(name, **ends[axis]) for axis, name in _grows(model).items()}
    try:
        program = torch.export.export(
            serving, tuple(example.values()), dynamic_shapes=((sizes,) * len(example),), strict=False
        )
    except Exception as error:
        raise Refused(f"torch.export cannot trace this network: {error}; use --to onnx or safetensors") from error
    torch.export.save(program, file)
    again = torch.export.load(file).module()
    called = "pictures" if model.pictures is not None else ", ".join(example)
    use = f'import torch\n\nprogram = torch.export.load("model.pt2").module()\n{_told(model)} = program({called})'

    def ask(*inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return again(*inputs)

    return use, ask


def _told(model: Model) -> str:
    """What a graph hands out is called."""
    return "values" if model.task.name == "regression" else "probabilities"


def _example(model: Model) -> dict[str, Tensor]:
    """What a model is traced with, in the order of its forward's arguments."""
    return {name: torch.as_tensor(model.anatomy.example[name]) for name in model.anatomy.names}


def _grows(model: Model) -> dict[int, str]:
    """The dimensions of inputs that may have any size, and what they are of."""
    return {0: "examples", 1: "positions"} if isinstance(model.preprocessing, Tokens) else {0: "examples"}


def _serving(model: Model) -> nn.Module:
    """Prepared inputs to answers: as a plain network where the model is one, else as the run itself predicts."""
    try:
        return Naming(whole(model), model.anatomy.names, model.task).eval()
    except Refused:
        return Serving(model).eval()


FORMATS: Mapping[str, Writer] = {
    "safetensors": _safetensors,
    "transformers": _transformers,
    "onnx": _onnx,
    "torch_export": _torch_export,
    "keras": write_keras,
}
