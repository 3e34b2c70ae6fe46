"""Everything a run can be told, as one noun: from Python, from flags, or from a TOML file with the same keys."""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from frostline.errors import OptionError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "task": ("classification", "multilabel", "regression", "detection", "segmentation"),
    "detector": ("fasterrcnn", "fcos", "retinanet"),
    "effort": ("quick", "default", "thorough"),
    "strategies": ("searched", "known"),
    "prefer": ("training", "inference", "memory"),
    "augment": ("none", "flip", "crop", "flip_crop"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "storage_precision": ("auto", "fp32", "fp16", "bf16"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "data_format": ("auto", "folder", "table", "huggingface", "arrays"),
}
METRICS: Mapping[str, tuple[str, ...]] = {  # by task, what it is chosen by where nothing is said first
    "classification": ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "roc_auc", "log_loss"),
    "multilabel": ("average_precision", "macro_f1", "micro_f1", "exact_match", "log_loss"),
    "regression": ("r2", "rmse", "mae", "pearson"),
    "detection": ("map50", "map"),
    "segmentation": ("mean_iou", "pixel_accuracy"),
}
UNITS_OF_THE_DATA = ("rmse", "mae")  # metrics in the units of what is predicted
LOGS = ("tensorboard", "mlflow")  # libraries that a run can be logged for, besides what it always keeps
KINDS: Mapping[type, tuple[str, ...]] = {
    str: (
        *("data", "backbone", "weights", "label", "path", "group", "values", "shifted", "source", "device", "out"),
        "metric",
        *CHOICES,
    ),
    int: (
        "image_size",
        "max_length",
        "epochs",
        "batch_size",
        "views",
        "storage",
        "seed",
        "workers",
        "threads",
        "gallery",
    ),
    float: ("epsilon", "confidence", "budget", "seconds"),
    bool: ("recalibrate", "resume", "refit_all"),
    Mapping: ("model_kwargs",),
    tuple: ("rivals", "rival_weights", "log"),
}
ONE_POINT = 0.01
GALLERY = 200  # examples that a report shows at most: pictures of them are in it
LONGEST = 3600.0  # seconds of a recording
LARGEST = 8192  # pixels of a side: beyond, a batch of pictures alone fills a machine
UNREAD: Mapping[str, tuple[str, ...]] = {  # what a verb has no use for
    "train": ("rivals", "effort", "strategies", "budget", "prefer", "epsilon", "workers", "views", "source", "gallery"),
    "probe": ("out", "resume", "refit_all", "prefer", "epsilon", "log", "gallery"),
}
SWITCHES = ("dry_run", "json")  # of the command line: what it does with a run, and how it prints it
CALLED = {
    tuple: "a list of texts",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Mapping: "a table of keys",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One run, resolved. What is None is decided from the data or the backbone, and then said."""

    data: str
    backbone: str
    weights: str | None = None  # a file, "none" for random weights, None for the backbone's own
    rivals: tuple[str, ...] = ()  # further backbones, which race with it
    rival_weights: tuple[str | None, ...] = ()  # of each of them
    model_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])  # straight to the model's constructor
    image_size: int | None = None  # pixels
    max_length: int | None = None  # tokens of a text
    seconds: float | None = None  # of a recording
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    data_format: str = "auto"
    label: str | None = None  # column
    values: str | None = None  # column: a number an example, for a metric of the user's own
    path: str | None = None  # column
    group: str | None = None  # column: examples of one group stay on one side of a split
    shifted: str | None = None  # further examples from where the model may be used: looked at, never decided by
    source: str | None = None  # labelled examples of what the backbone was trained on: looked at alone
    task: str = "classification"
    detector: str | None = None  # the head that finds boxes on a classifier; None takes fasterrcnn
    metric: str = ""  # the first of its task where it is empty; or FILE.py:NAME, a function of the user's own
    epsilon: float | None = None  # how much worse than the best still counts as as good; one point where not said
    confidence: float = 0.95
    effort: Literal["quick", "default", "thorough"] = "default"
    strategies: Literal["searched", "known"] = "searched"  # a race for the best, or all the known ones side by side
    epochs: int | None = None  # of the full schedule
    budget: float | None = None  # seconds; scales the schedule once, at the start
    prefer: Literal["training", "inference", "memory"] = "training"  # by which the cheapest arm is chosen
    augment: Literal["none", "flip", "crop", "flip_crop"] | None = None  # how examples vary; a plan brings its own
    views: int | None = None  # of each example, where they vary, that short trainings learn from; None: up to 4
    batch_size: int | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 where calibration finds it faster
    storage: int = 8 * 2**30  # bytes of activations
    storage_precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  # auto: half where fp32 lacks the room
    out: str | None = None
    seed: int = 0
    workers: int | None = None  # processes that train at the same time; None takes as many as pay
    threads: int = 0  # of each process; 0 shares this machine's cores among the workers
    recalibrate: bool = False  # measure this machine anew, whatever it remembers
    resume: bool = False
    refit_all: bool = False
    gallery: int = 24  # examples that the report shows, pictures of them in it; 0 shows none
    log: tuple[str, ...] = ()  # of `LOGS`: the run is logged for these too, in files of its directory

    def __post_init__(self) -> None:
        self._refuse_wrong_types()
        for name, allowed in CHOICES.items():
            self._refuse_other(name, allowed)
        if not self.metric:
            object.__setattr__(self, "metric", METRICS[self.task][0])
        if not is_own(self.metric):
            self._refuse_other("metric", METRICS[self.task], ", or a function of yours, FILE.py:NAME")
        elif self.task != "classification":
            raise OptionError(
                f"metric is {self.metric}, and a function of yours judges class ids; with the task "
                f"{self.task} allowed are {', '.join(METRICS[self.task])}"
            )
        if self.metric in UNITS_OF_THE_DATA and self.epsilon is None:
            raise OptionError(
                f"epsilon is not given with the metric {self.metric}; say how much more of it still counts as equally "
                "good, in the units of what is predicted: --epsilon"
            )
        for name, low, usual in (("epsilon", 0.0, "one point is 0.01"), ("confidence", 0.5, "95 percent is 0.95")):
            value = getattr(self, name)
            if value is not None and not low < value < 1.0 and not (name == "epsilon" and self._in_units()):
                raise OptionError(f"{name} is {value}; it lies above {low:g} and below 1: {usual}")
        for name in self.log:
            if name not in LOGS or self.log.count(name) > 1:
                close = difflib.get_close_matches(str(name), LOGS, n=1) if name not in LOGS else []
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise OptionError(f"log is {name!r}; allowed are {', '.join(LOGS)}, each of them once{hint}")
        self._refuse_half_a_metric()
        if self.epsilon is None:
            object.__setattr__(self, "epsilon", ONE_POINT)
        ones, twos = ("epochs", "batch_size", "views", "workers"), ("max_length", "image_size")
        for name, least in (*((name, 1) for name in ones), *((name, 2) for name in twos)):
            value = getattr(self, name)  # a picture of one pixel has no shapes in it
            if value is not None and value < least:
                raise OptionError(f"{name} is {value}; it must be at least {least}")
        if self.detector is not None and self.task != "detection":
            raise OptionError(
                f"detector is {self.detector!r} and the task {self.task}, in which no boxes are found; leave it away, "
                "or give --task detection"
            )
        if self.out == "":
            raise OptionError("out is empty; give the name of a folder for the run, or leave it away")
        if self.seconds is not None and not 0.01 <= self.seconds <= LONGEST:
            raise OptionError(f"seconds is {self.seconds:g}; a recording has between 0.01 and {LONGEST:g} of them here")
        if self.image_size is not None and self.image_size > LARGEST:
            raise OptionError(f"image_size is {self.image_size} pixels; at most {LARGEST} are allowed")
        if self.seed < 0 or self.storage < 0:
            raise OptionError(f"seed is {self.seed} and storage {self.storage}; neither may be negative")
        refuse_gallery(self.gallery)
        if self.budget is not None and not 0 < self.budget < float("inf"):
            raise OptionError(f"budget is {self.budget} s; give a time such as 90s, 30m or 1.5h")
        if self.views is not None and self.augment in (None, "none"):
            raise OptionError(f"views is {self.views}, and no example varies; add --augment, or leave views away")
        if self.budget is not None and self.epochs is not None:
            raise OptionError(
                f"budget {self.budget:.0f} s and epochs {self.epochs} both say how long; give one of them"
            )
        if len(self.rivals) != len(self.rival_weights):
            raise OptionError(f"there are {len(self.rivals)} rivals and weights for {len(self.rival_weights)} of them")
        if (self.mean is None) != (self.std is None):
            raise OptionError("mean and std belong together: give both or neither")
        if self.rivals and self.strategies == "known":
            raise OptionError(
                f"backbone is {', '.join((self.backbone, *self.rivals))}; a comparison sets the strategies of one side "
                "by side: give one, or use find, in which several race"
            )

    def _in_units(self) -> bool:
        """Whether what is judged by is no share of one."""
        return is_own(self.metric) or self.metric in UNITS_OF_THE_DATA

    def _refuse_other(self, name: str, allowed: Sequence[str], more: str = "") -> None:
        """Raise OptionError where a setting is none of what is allowed."""
        value = getattr(self, name)
        if value is not None and value not in allowed:
            close = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise OptionError(f"{name} is {value!r}; allowed are {', '.join(allowed)}{more}{hint}")

    def _refuse_half_a_metric(self) -> None:
        """A function of the user's own has units of its own; what it knows of examples is of use to it alone."""
        if is_own(self.metric) and (self.epsilon is None or not 0 < self.epsilon < float("inf")):
            raise OptionError(
                f"epsilon is {self.epsilon} with the metric {self.metric}; say how much less of it still counts as "
                "equally good, in its own units and above 0: --epsilon"
            )
        if self.values is not None and not is_own(self.metric):
            raise OptionError(
                f"values is {self.values!r}, and {self.metric} has no use for it; it is for a function of yours: "
                "--metric FILE.py:NAME"
            )

    def _refuse_wrong_types(self) -> None:
        """A TOML file and Python can give anything; flags cannot."""
        for kind, names in KINDS.items():
            fits = (int, float) if kind is float else kind
            for name in names:
                value = getattr(self, name)
                wrong = not isinstance(value, fits) or (isinstance(value, bool) and kind is not bool)
                if value is not None and wrong:
                    raise OptionError(f"{name} is {value!r}, a {type(value).__name__}; it must be {CALLED[kind]}")

    def document(self) -> dict[str, Any]:
        """Plain JSON values, for config.json."""
        return asdict(self)


def refuse_gallery(count: int) -> None:
    """Raise OptionError for a number of examples that no report shows."""
    if not 0 <= count <= GALLERY:
        raise OptionError(f"gallery is {count}; a report shows up to {GALLERY} examples, and 0 shows none")


def is_own(metric: str) -> bool:
    """Whether a metric is a function of the user's own, FILE.py:NAME."""
    return ".py:" in metric


def settings(given: Mapping[str, Any], *, config: Path | None = None) -> Settings:
    """Settings from what was given and, below it, a TOML file. Raises OptionError naming an unknown key."""
    below = {name: value for name, value in (_toml(config) if config else {}).items() if name not in SWITCHES}
    merged = {**below, **{name: value for name, value in given.items() if value is not None}}
    known = [f.name for f in fields(Settings)]
    for name in merged:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
            raise OptionError(f"{name!r} is no setting; {hint}")
    _part_rivals(merged)
    for name in ("data", "backbone"):
        if name not in merged:
            example = "photos/" if name == "data" else "--backbone timm/resnet18.a1_in1k"
            raise OptionError(f"{name} is missing; give it, for example {example}, or name it in the --config file")
    for name in ("data", "weights", "shifted", "source", "out"):
        if isinstance(merged.get(name), os.PathLike):
            merged[name] = os.fspath(merged[name])
    for name in ("rivals", "rival_weights", "log"):
        if isinstance(merged.get(name), list):  # as a config.json has them
            merged[name] = tuple(merged[name])
    for name in ("mean", "std"):
        if merged.get(name) is not None:
            merged[name] = numbers(name, merged[name])
    if isinstance(merged.get("budget"), str):
        merged["budget"] = seconds(merged["budget"])
    if isinstance(merged.get("storage"), str):
        merged["storage"] = size(merged["storage"])
    return Settings(**merged)


def _part_rivals(merged: dict[str, Any]) -> None:
    """Several backbones, and the weights of each in the same order, as the first one and its rivals. In place."""
    names = merged.get("backbone")
    if not isinstance(names, (list, tuple)):
        return
    files = merged.get("weights")
    files = list(files) if isinstance(files, (list, tuple)) else [] if files is None else [files]
    if not names or (files and len(files) != len(names)) or (len(files) == 1 < len(names)):
        raise OptionError(
            f"there are {len(names)} backbones and weights for {len(files)}; give none, or those of each in the same "
            'order ("own" stands for a backbone\'s own)'
        )
    files = [None if file in (None, "own") else os.fspath(file) for file in files or ["own"] * len(names)]
    merged["backbone"], merged["weights"] = names[0], files[0]
    if len(names) > 1:
        merged["rivals"], merged["rival_weights"] = tuple(names[1:]), tuple(files[1:])


def tags(given: Settings) -> tuple[str, ...]:
    """A short name of each backbone of a race of several; "" where there is one.

    The end of the backbone's name, or of its weights' where that tells them apart, or it is numbered.
    """
    if not given.rivals:
        return ("",)
    names = [Path(name).name for name in (given.backbone, *given.rivals)]
    names = [name.rpartition(":")[2] if ".py:" in name else name for name in names]
    files = [Path(file or name) for file, name in zip((given.weights, *given.rival_weights), names, strict=True)]
    for found in (names, [file.stem for file in files], [file.parent.name for file in files]):
        plain = tuple(map(_plain, found))
        if len(set(plain)) == len(plain) and all(plain):
            return _shortened(plain)
    return tuple(f"{_plain(name)}-{number}" for number, name in enumerate(names, 1))


def _shortened(names: tuple[str, ...]) -> tuple[str, ...]:
    """Without the words that all begin with: an arm's name begins with its network's."""
    same = next((at for at, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    word = max(names[0].rfind(mark, 0, same) for mark in "_-.") + 1  # behind the last one that ends within it
    short = tuple(name[word:] for name in names)
    return short if all(short) else names


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def apart(given: Settings) -> tuple[Settings, ...]:
    """The settings of each backbone by itself, with its part of the storage."""
    alone = replace(given, rivals=(), rival_weights=(), storage=given.storage // (1 + len(given.rivals)))
    more = zip(given.rivals, given.rival_weights, strict=True)
    return (alone, *(replace(alone, backbone=name, weights=file) for name, file in more))


def unread(verb: str, given: Settings) -> tuple[str, ...]:
    """Settings that differ from their defaults and that this verb has no use for."""
    plain = Settings(given.data, given.backbone)
    return tuple(name for name in UNREAD[verb] if getattr(given, name) != getattr(plain, name))


def switched_on(name: str, config: Path | None) -> bool:
    """Whether a TOML file sets a switch of the command line that is no setting of a run. Raises OptionError."""
    value = _toml(config).get(name, False) if config else False
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {value!r} in {str(config)!r}; it is true or false")
    return value


def numbers(name: str, given: Any) -> tuple[float, ...]:
    """One finite number a channel, above 0 for "std", from "0.5,0.5,0.5" or a sequence. Raises OptionError."""
    parts = given.split(",") if isinstance(given, str) else given
    try:
        found = tuple(float(part) for part in parts)
    except (ValueError, TypeError):
        raise OptionError(f"{name} is {given!r}; give one number a channel, such as 0.485,0.456,0.406") from None
    if not all(map(math.isfinite, found)):
        raise OptionError(f"{name} is {given!r}; give one finite number a channel, such as 0.485,0.456,0.406")
    if name == "std" and min(found, default=1.0) <= 0:
        raise OptionError(f"std is {given!r}; pixels are divided by it, so each value must be above 0")
    return found


def seconds(text: str) -> float:
    """ "90s", "30m", "1.5h" or a bare number of seconds. Raises OptionError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not found or float(found[1]) == 0:
        raise OptionError(f"budget is {text!r}; give a time such as 90s, 30m or 1.5h")
    return float(found[1]) * UNITS[found[2] or "s"]


def size(text: str) -> int:
    """Bytes from "8GiB", "500MB" or a bare number. Raises OptionError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?\s*", text, flags=re.IGNORECASE)
    if not found:
        raise OptionError(f"storage is {text!r}; give bytes, such as 8GiB, 500MB or 0")
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return round(float(found[1]) * (1024 if found[3] else 1000) ** power)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return {name.replace("-", "_"): value for name, value in tomllib.loads(path.read_text("utf-8")).items()}
    except OSError as error:
        raise OptionError(f"the configuration {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"the configuration {str(path)!r} is no TOML: {error}") from None
