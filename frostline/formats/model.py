"""The model that is handed back: written beside its plan, opened again, and asked for predictions."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter
from torch import nn

from frostline.backbones import cuts, load
from frostline.backbones.anatomy import Anatomy
from frostline.data.folders import TABLES
from frostline.data.found import existing
from frostline.data.intake import inputs_of, intake
from frostline.data.kinds import KINDS
from frostline.data.pictures import size_of
from frostline.data.tables import texts_in
from frostline.errors import DataError, RunError, StoreError
from frostline.plan import read as read_plan
from frostline.plan import to_json
from frostline.tasks.table import TASKS
from frostline.tasks.task import Task
from frostline.training import checkpoint
from frostline.training.prepare import predictor
from frostline.values import Backbone, Examples, Plan, Prepared, Preprocessing, Text, Tokens

FORMAT = "frostline.model/1"
SHOWN = 0.3  # score from which a box is told


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network, ready to predict."""

    network: nn.Module
    head: nn.Module
    anatomy: Anatomy
    plan: Plan
    backbone: Backbone  # as it was before: what it reads, and how that is made
    classes: tuple[str, ...]
    task: Task = TASKS["classification"]

    @property
    def preprocessing(self) -> Prepared | None:
        """How inputs are made."""
        return self.backbone.preprocessing

    @property
    def pictures(self) -> Preprocessing | None:
        """The same where inputs are pictures; None elsewhere."""
        how = self.backbone.preprocessing
        return how if isinstance(how, Preprocessing) else None


def assemble(
    backbone: Backbone, anatomy: Anatomy, plan: Plan, weights: Path, classes: tuple[str, ...], task: Task
) -> Model:
    """The model whose weights `checkpoint.write` saved. The backbone itself is not touched."""
    network = copy.deepcopy(backbone.module).cpu()
    head = checkpoint.read(weights, network)
    lasting = replace(backbone, fresh=None)  # a model may be pickled, and builds nothing anew
    return Model(network.eval(), head.eval(), anatomy, plan, lasting, classes, task)


def predict(model: Model, given: Sequence[Path | Text], *, batch: int = 32) -> Iterator[dict[str, Any]]:
    """For each input its label and the probability of every class, as `frostline predict --json` prints them.

    Inputs are files; a model of texts reads texts, and of a table every row. Raises DataError naming what cannot be
    read.
    """
    if isinstance(model.preprocessing, Tokens):
        names, inputs = texts_of(given)
    else:
        names, inputs = [str(item) for item in given], [Path(str(item)) for item in given]
    if model.task.name in PLACED:
        yield from PLACED[model.task.name](model, [Path(item) for item in names], batch)
        return
    rows = (row for found in probabilities(model, inputs, batch=batch) for row in found)
    for name, row in zip(names, rows, strict=True):
        scores = {name: round(float(p), 6) for name, p in zip(model.classes, row, strict=True)}
        yield {"input": name, **_answer(model, scores)}


def _detected(model: Model, files: Sequence[Path], batch: int) -> Iterator[dict[str, Any]]:
    """The boxes on every picture that are rather right than not, in its own pixels, strongest first."""
    rows = (row for found in probabilities(model, files, batch=batch) for row in found)
    for file, row in zip(files, rows, strict=True):
        height, width = size_of(file)
        sure = row[np.nan_to_num(row[:, 4]) >= SHOWN]
        corners = sure[:, :4] * np.array([width, height, width, height], np.float32)
        yield {
            "input": str(file),
            "boxes": np.round(corners.astype(float), 1).tolist(),
            "labels": [model.classes[int(label)] for label in sure[:, 5]],
            "scores": np.round(sure[:, 4].astype(float), 4).tolist(),
        }


def _segmented(model: Model, files: Sequence[Path], batch: int) -> Iterator[dict[str, Any]]:
    """The class of every place of each picture, as large as it is shown, and the share of each class."""
    rows = (row for found in probabilities(model, files, batch=batch) for row in found)
    for file, row in zip(files, rows, strict=True):
        height, width = size_of(file)
        mask = np.asarray(Image.fromarray(row).resize((width, height), Image.Resampling.NEAREST))
        counts = np.bincount(mask.ravel(), minlength=len(model.classes)) / mask.size
        shares = {name: round(float(share), 6) for name, share in zip(model.classes, counts, strict=True)}
        yield {"input": str(file), "mask": mask, "shares": shares}


# of tasks that say where things are
PLACED: Mapping[str, Callable[[Model, Sequence[Path], int], Iterator[dict[str, Any]]]] = {
    "detection": _detected,
    "segmentation": _segmented,
}


def _answer(model: Model, scores: Mapping[str, float]) -> dict[str, Any]:
    """What is told of one input: its likeliest class, the labels that are rather there, or the numbers."""
    if model.task.name == "regression":
        return {"values": dict(scores)}
    if model.task.name == "multilabel":
        return {"labels": [name for name, p in scores.items() if p > 0.5], "scores": dict(scores)}
    return {"label": max(scores, key=lambda name: scores[name]), "scores": dict(scores)}


def probabilities(model: Model, given: Sequence[Any], *, batch: int = 32) -> Iterator[NDArray[Any]]:
    """What is read of outputs, batch by batch of the inputs: the probability of every class or label, (examples,
    outputs), numbers, or boxes or classes of places.
    """
    forward = predictor(model.network, model.head, model.anatomy, model.plan, model.task)
    if model.preprocessing is None:
        raise RunError("this model's backbone came without preprocessing, so it cannot read files; give it arrays")
    for first in range(0, len(given), batch):
        found = intake(model.backbone, unlabelled(given[first : first + batch]))
        rows = np.arange(min(batch, len(given) - first))
        yield model.task.readable(forward(inputs_of(found, rows, torch.device("cpu")))).numpy()


def unlabelled(given: Sequence[Any]) -> Examples:
    """Inputs without anything that is known of them."""
    count = len(given)
    return Examples(tuple(map(str, range(count))), tuple(given), np.zeros(count, np.int64), (), ("",) * count, None)


def texts_of(given: Sequence[Path | Text]) -> tuple[list[str], list[Text]]:
    """Names and texts: of a table every row, of another file all that it says, of anything else itself.

    Raises DataError for a file that cannot be read and for what holds no text.
    """
    names, texts = list[str](), list[Text]()
    for item in given:
        if isinstance(item, Path) and item.suffix.lower() in TABLES:
            found = texts_in(existing(item))
            names += [f"{item}#{number}" for number in range(1, len(found) + 1)]
            texts += found
        else:
            names.append(str(item))
            texts.append(_written(item) if isinstance(item, Path) else item)
    for name, text in zip(names, texts, strict=True):
        reason, _ = KINDS["texts"].check(text)
        if reason is not None:
            raise DataError(f"{name!r} cannot be predicted: {reason}; give it a text, or leave it away")
    return names, texts


def _written(file: Path) -> str:
    """What a file of text says."""
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = "the file does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(
            f"{file} cannot be read as a text: {cause}; give a file of UTF-8 text or a table of texts; in Python, "
            "Result.predict takes the texts themselves"
        ) from error


def write(folder: Path, backbone: Backbone, plan: Plan, weights: Path, how: Mapping[str, Any]) -> None:
    """The folder `model/` of a run: weights, plan, and what it takes to build the network again.

    `how` holds the backbone's specification ("spec", "model_kwargs") and the classes. The folder appears whole.
    Raises StoreError.
    """
    card = {
        "format": FORMAT,
        **how,
        "preprocessing": None if backbone.preprocessing is None else asdict(backbone.preprocessing),
    }
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        shutil.copyfile(weights, partial / "model.safetensors")
        (partial / "plan.json").write_text(json.dumps(to_json(plan), indent=1), encoding="utf-8")
        (partial / "model.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(
            f"the model cannot be written to {folder}: {error.strerror}; make room, then continue with --resume"
        ) from error


def open_model(folder: Path, module: nn.Module | None = None) -> Model:
    """The model of a run's directory. `module` is needed where the run was given a module instead of a name.

    Raises RunError where there is none, and BackboneError where its network cannot be built here.
    """
    place = folder / "model"
    found: Any = None
    with suppress(OSError, ValueError):
        found = json.loads((place / "model.json").read_text(encoding="utf-8"))
    card: dict[str, Any] = found if isinstance(found, dict) else {}
    if card.get("format") != FORMAT:
        raise RunError(
            f"{str(folder)!r} holds no trained model; give the directory of a finished `frostline find` or `train`"
        )
    spec = card["spec"] if module is None else module
    if spec is None:
        raise RunError(
            f"the run in {str(folder)!r} was given a module; give the same one: Result.predict(files, module=...)"
        )
    backbone = load.load(
        spec,
        weights=None if module is not None else "none",
        image_size=card["image_size"],
        max_length=card.get("max_length"),
        seconds=card.get("seconds"),
        model_kwargs=card["model_kwargs"],
    )
    how = card["preprocessing"]
    if how is not None:
        backbone = replace(backbone, preprocessing=TypeAdapter[Prepared](Prepared).validate_python(how))
    anatomy = cuts.dissect(backbone)  # what else a head reads, its plan says
    plan = read_plan(place / "plan.json")
    return assemble(
        backbone,
        anatomy,
        plan,
        place / "model.safetensors",
        tuple(card["classes"]),
        TASKS[card.get("task", "classification")],
    )
