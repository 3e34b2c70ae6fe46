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

from frostline.data.intake import kind_of
from frostline.errors import OptionError, StoreError
from frostline.formats.card import card
from frostline.formats.keras import write_keras
from frostline.formats.model import Model
from frostline.formats.whole import CLOSE, Naming, Refused, Serving, whole
from frostline.training.prepare import predictor
from frostline.values import Preprocessing

ASKED = 3  # pictures that the exported model is asked about: not as many as it was traced with


@dataclass(frozen=True, slots=True)
class Exported:
    """A model in another format."""

    folder: Path
    files: tuple[str, ...]
    off: float  # the largest difference of a probability from the run's own prediction
    use: str  # how it is loaded, as Python


Writer = Callable[[Model, Mapping[str, Any], Path], tuple[str, Callable[[Tensor], Tensor]]]


def export(model: Model, summary: Mapping[str, Any], card_of: Mapping[str, Any], to: str, folder: Path) -> Exported:
    """Write the model of a run in a format, with a card of its evidence; the folder appears whole.

    `card_of` is the run's model.json. Raises Refused where the format cannot hold the model, OptionError for an unknown
    format or a library that is not installed, StoreError where the folder is taken or the disk is full.
    """
    if to not in FORMATS:
        raise OptionError(f"the format is {to!r}; allowed are {', '.join(FORMATS)}")
    if model.pictures is None or model.task.name != "classification":
        raise Refused(
            f"the model answers {model.task.name} on {kind_of(model.backbone)}, and classifiers of pictures alone can "
            "be exported; use the run's own model: frostline predict, or the weights in RUN/model"
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
                f"read back from {to}, the model says something else (probabilities differ by {off:.2g}, {CLOSE:g} is "
                "allowed); nothing was written: please report this, and use another format"
            )
        (partial / "README.md").write_text(card(model, summary, use), encoding="utf-8")
        (partial / "classes.json").write_text(json.dumps(list(model.classes), ensure_ascii=False), encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; make room or give another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(folder, tuple(sorted(file.name for file in folder.iterdir())), off, use)


def _difference(model: Model, ask: Callable[[Tensor], Tensor]) -> float:
    """Of the probabilities of some pictures, from the run's own."""
    shape = torch.as_tensor(model.anatomy.example[model.anatomy.data]).shape[1:]
    pictures = torch.randn(ASKED, *shape, generator=torch.Generator().manual_seed(7))
    ours = predictor(model.network, model.head, model.anatomy, model.plan)({model.anatomy.data: pictures}).exp()
    return float((ours - ask(pictures)).abs().max())


def _asked(network: nn.Module, data: str) -> Callable[[Tensor], Tensor]:
    def ask(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return Naming(network.eval(), data)(pictures)

    return ask


# ------------------------------------------------------------------------------------------------ formats


def _safetensors(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
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
        return use, _asked(network, model.anatomy.data)
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
    return use, _asked(again, model.anatomy.data)


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


def _transformers(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """A folder of `save_pretrained`, with the preprocessing beside it."""
    from transformers import AutoModelForImageClassification, PreTrainedModel

    network = whole(model)
    if not isinstance(network, PreTrainedModel):
        raise Refused(
            f"the network is a {type(network).__name__} of {of['spec']!r} and none of transformers; use "
            "--to safetensors, onnx or torch_export"
        )
    network.save_pretrained(folder)
    if model.pictures is not None:
        _processor(model.pictures).save_pretrained(folder)
    again = AutoModelForImageClassification.from_pretrained(folder)
    use = (
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        'network = AutoModelForImageClassification.from_pretrained("FOLDER")\n'
        'processor = AutoImageProcessor.from_pretrained("FOLDER")'
    )
    return use, _asked(again, model.anatomy.data)


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


def _onnx(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """An ONNX graph from pictures to probabilities, for any number of them."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise OptionError(f"the format 'onnx' needs the library {error.name}: pip install 'frostline[onnx]'") from None
    file, serving = folder / "model.onnx", _serving(model)
    example = torch.as_tensor(model.anatomy.example[model.anatomy.data])
    with warnings.catch_warnings():
        # by running it once: what a drop runs, and many networks' own Python, the newer way does not trace
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        try:
            torch.onnx.export(
                serving, (example,), file, input_names=["pixels"], output_names=["probabilities"], dynamo=False,
                dynamic_axes={"pixels": {0: "pictures"}, "probabilities": {0: "pictures"}},
            )  # fmt: skip
        except (RuntimeError, ValueError, NotImplementedError) as error:  # torch.onnx's own are runtime errors
            told = str(error).splitlines()[0]
            raise Refused(f"ONNX cannot hold this network: {told}; use --to torch_export or safetensors") from error
    onnx.checker.check_model(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def ask(pictures: Tensor) -> Tensor:
        found: Any = session.run(None, {"pixels": pictures.numpy()})[0]
        return torch.from_numpy(np.asarray(found))

    use = (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("model.onnx")\n'
        'probabilities = session.run(None, {"pixels": pictures})[0]  # (n, channels, height, width), preprocessed'
    )
    return use, ask


def _torch_export(model: Model, of: Mapping[str, Any], folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """A program of torch.export from pictures to probabilities, for any number of them."""
    file, serving = folder / "model.pt2", _serving(model)
    example = torch.as_tensor(model.anatomy.example[model.anatomy.data])
    try:
        program = torch.export.export(
            serving, (example,), dynamic_shapes=({0: torch.export.Dim("pictures", min=1)},), strict=False
        )
    except Exception as error:  # what a tracer says of a network is of many kinds
        raise Refused(f"torch.export cannot trace this network: {error}; use --to onnx or safetensors") from error
    torch.export.save(program, file)
    again = torch.export.load(file).module()
    use = 'import torch\n\nprogram = torch.export.load("model.pt2").module()\nprobabilities = program(pictures)'

    def ask(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return again(pictures)

    return use, ask


def _serving(model: Model) -> nn.Module:
    """Pictures to probabilities: as a plain network where the model is one, else as the run itself predicts."""
    try:
        return Naming(whole(model), model.anatomy.data).eval()
    except Refused:
        return Serving(model).eval()


FORMATS: Mapping[str, Writer] = {
    "safetensors": _safetensors,
    "transformers": _transformers,
    "onnx": _onnx,
    "torch_export": _torch_export,
    "keras": write_keras,
}
