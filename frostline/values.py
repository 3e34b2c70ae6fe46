"""Every noun of Frostline, frozen. A noun checks itself where it is born; nothing later re-checks it.

Nothing here loads torch: the search, the study and the report live on these nouns and on NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frostline.errors import PlanError

Above = Literal["tune", "reinit", "drop"]
Statistics = Literal["eval", "batch", "reestimate"]
Part = Literal["", "train", "validation", "test", "shifted"]
Layout = Literal["contiguous", "channels_last"]
Precision = Literal["fp32", "bf16", "fp16"]
Augment = Literal["none", "flip", "crop", "flip_crop"]  # how examples vary


# ------------------------------------------------------------------------------------------------ the network


@dataclass(frozen=True, slots=True)
class Layer:
    """One named step of the backbone, in execution order; the stem is number 0."""

    index: int
    name: str  # the step as the backbone spells it, "blocks.7"
    parameters: int  # learnable numbers that are first used here
    macs: int  # multiply-accumulates for one example
    shape: tuple[int, ...]  # of what it hands on, for one example
    bytes: int  # of what it hands on, for one example, at the network's own dtype
    cut: bool  # the network may be sawn after this layer, and Frostline considers it
    why: str = ""  # the reason where it is no cut
    error: float | None = None  # largest |suffix(prefix(x)) - network(x)|, once proven
    legal: bool = True  # sawing here is right, even where `cut` is False because there are enough cuts
    members: tuple[str, ...] = ()  # names of its parameters and buffers in the whole network
    modules: tuple[str, ...] = ()  # names of the modules that run in it
    held: tuple[
        str, ...
    ] = ()  # parameters that were frozen when the network was given: no plan that keeps it thaws them


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """Where a backbone is sawn: layers[:depth] below, layers[depth:] above."""

    depth: int  # 0 is the raw input; the number of layers leaves the head alone
    name: str  # the last layer below, "input" for depth 0


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a decoded RGB picture (0..255) to what the backbone reads."""

    size: tuple[int, int]  # height, width in pixels
    resize: int | None  # shorter side before the centre crop, in pixels; None squashes to `size` instead
    mean: tuple[float, ...]  # of pixels / scale, one per channel: one value reads the picture as grey
    std: tuple[float, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    scale: float = 255.0  # pixels are divided by it before mean and std


@dataclass(frozen=True, slots=True)
class Tokens:
    """From a text, or a pair of texts, to the numbers that the backbone reads."""

    tokenizer: str  # where it lies: a folder, or a name on a hub
    length: int  # tokens of a text at most; the rest is cut off
    padding: Mapping[str, int]  # each argument of the forward, the tokens' first, and what fills it behind a text


@dataclass(frozen=True, slots=True)
class Waves:
    """From a recording to what the backbone reads."""

    extractor: str  # where its configuration lies: a folder, or a name on a hub
    rate: int  # samples a second
    seconds: float  # of a recording: longer ones are cut, shorter ones end in silence
    names: tuple[str, ...]  # arguments of the forward, the recording's first
    fixed: bool = False  # whether the backbone hears this many and no others


Prepared = Preprocessing | Tokens | Waves  # how the inputs of a backbone are made

# ------------------------------------------------------------------------------------------------ the data


Kind = Literal["pictures", "texts", "recordings"]
VOID = 255  # the class id of a place of which nothing is asked
Question = Literal["classification", "multilabel", "regression", "detection", "segmentation"]
# of n examples: class ids (n), labels of 0 and 1 (n, labels), numbers (n, k), boxes (n, most, 5): x1 y1 x2 y2 as
# shares of the sides and a class id, nan where an example has fewer; or class ids of places (n, h, w), `VOID` for some
Targets = NDArray[Any]
Text = str | tuple[str, str]  # a pair is read as two segments
# files or their bytes; texts; or n,h,w or n,h,w,c arrays of 0..255
Inputs = tuple[Path | bytes, ...] | tuple[Text, ...] | NDArray[np.uint8]


def asked(targets: Targets) -> Question:
    """Which question targets answer, told from what they are."""
    if targets.dtype.kind == "f":
        return "detection" if targets.ndim == 3 else "regression"
    if targets.ndim == 3:
        return "segmentation"
    return "classification" if targets.ndim == 1 else "multilabel"


def picked(inputs: Inputs, rows: NDArray[np.int64]) -> Inputs:
    """These rows of the inputs, in that order."""
    return tuple(inputs[row] for row in rows) if isinstance(inputs, tuple) else inputs[rows]


@dataclass(frozen=True, slots=True)
class Examples:
    """What was read: row i is inputs[i] with targets[i]."""

    ids: tuple[str, ...]  # a stable name of each example: its path below the data folder, or "row-17"
    inputs: Inputs
    targets: Targets
    classes: tuple[str, ...]  # or the names of labels, or of numbers
    parts: tuple[Part, ...]  # the user's own folder or split column; "" where there is none
    groups: tuple[str, ...] | None  # examples of one group never stand on both sides of a split
    skipped: tuple[tuple[str, str], ...] = ()  # (id, reason) of what could not be read
    detected: str = ""  # what the reader found, in one sentence
    warnings: tuple[str, ...] = ()
    values: NDArray[np.float64] | None = None  # what a metric of the user's own wants to know of each example
    kind: Kind = "pictures"

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: NDArray[np.int64]) -> Examples:
        """These rows alone, in that order."""
        groups = self.groups
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            inputs=picked(self.inputs, rows),
            targets=self.targets[rows],
            parts=tuple(self.parts[row] for row in rows),
            groups=None if groups is None else tuple(groups[row] for row in rows),
            values=None if self.values is None else self.values[rows],
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """An example as a page shows it; what its kind has none of is empty."""

    size: tuple[int, ...] = ()  # height and width in pixels, characters, or milliseconds; empty: it could not be opened
    picture: str = ""  # a small one, as a data URI
    texts: tuple[str, ...] = ()  # how it begins; of a pair both
    wave: tuple[float, ...] = ()  # the loudest of each stretch of it, as a share of full scale


@dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers into Examples; no row is in both."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Who may see what: the race sees the folds, and the certification rows are read once, at the end."""

    folds: tuple[Fold, ...]
    certification: NDArray[np.int64]  # empty where the data is too small to set any aside
    how: str  # in one sentence, for the report
    shifted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # from elsewhere: decides nothing

    @property
    def kind(self) -> Literal["held_out", "cross_validated"]:
        """What the score of the model handed back is: `summary.json` calls it score.kind."""
        return "held_out" if len(self.certification) else "cross_validated"


@dataclass(frozen=True, slots=True)
class Profile:
    """What the data is like, without any training."""

    examples: int
    classes: Mapping[str, int]  # examples a class, or that have a label; nothing of numbers
    imbalance: float  # largest class over smallest
    # smallest, median, largest: height and width in pixels, characters of a text, or milliseconds
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    duplicates: tuple[tuple[str, ...], ...]  # ids of examples that are the same, class by class or across classes
    skipped: int
    effective_dimension: float | None = None  # participation ratio of the last cut's features
    near_duplicates: int | None = None  # pairs found among the features
    kind: Kind = "pictures"
    numbers: Mapping[str, tuple[float, float, float]] = field(default_factory=dict[str, tuple[float, float, float]])


# ------------------------------------------------------------------------------------------------ plans and arms

QUERIES = 4  # of a head that pools by attention


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the learning layers learn."""

    epochs: int
    lr: float  # of new layers, and of the topmost kept layer times `kept_lr`
    batch: int = 32
    optimiser: Literal["adamw", "sgd"] = "adamw"
    kept_lr: float = 0.1  # kept layers learn at lr * kept_lr * layer_decay ** (kept layers above them)
    layer_decay: float = 1.0
    weight_decay: float = 0.01  # of matrices; vectors (norms, biases) have none
    anchor: float = 0.0  # strength of the pull of kept layers to their source weights (L2-SP), 1/step at lr 1
    schedule: Literal["one_cycle", "cosine", "constant"] = "cosine"
    warmup: float = 0.1  # share of the steps; begun anew for layers that thaw
    clip: float | None = 1.0  # largest norm of the gradient; None does not clip
    smoothing: float = 0.0  # label smoothing
    balance: bool = False  # classes weigh alike in the loss and in the probe that a head starts from
    augment: Augment = "none"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "kept_lr", "layer_decay"):
            if not 0 < getattr(self, name) < float("inf"):
                raise PlanError(f"{name} is {getattr(self, name)}; it must be a positive number")
        if not 0 <= self.warmup < 1:
            raise PlanError(f"warmup is {self.warmup}; it is a share of the steps, at least 0 and less than 1")
        for name in ("weight_decay", "anchor"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise PlanError(f"{name} is {getattr(self, name)}; it must not be negative, and 0 is none")
        if self.clip is not None and not self.clip > 0:
            raise PlanError(f"clip is {self.clip}; it is the largest norm of the gradient, or None to clip nothing")
        if not 0 <= self.smoothing < 1:
            raise PlanError(f"smoothing is {self.smoothing}; it is a share of the label, at least 0 and less than 1")


HeadKind = Literal["linear", "mlp", "attention", "pyramid", "anchors", "proposals", "queries", "decoder"]


@dataclass(frozen=True, slots=True)
class Head:
    """The new layers on top, output layer included."""

    # the first three hold a linear head; a pyramid reads maps at its cuts, and finds boxes as FCOS does, with
    # anchors as RetinaNet, with proposals as Faster R-CNN; queries found them already, and are told what they found; a
    # decoder says of every place what it belongs to. `tasks/heads.py` says how
    kind: HeadKind = "linear"
    cuts: tuple[int, ...] = ()  # depths it reads besides the top one: a multi-layer probe
    start: Literal["probe", "random"] = "probe"  # the linear part has the closed-form probe's weights, or fresh ones
    hidden: int = 256  # units of the hidden layer of an "mlp"

    def __post_init__(self) -> None:
        if self.hidden < 1 or (self.kind != "mlp" and self.hidden != 256):
            raise PlanError(
                f"hidden is {self.hidden} with a head of kind {self.kind!r}; it is the units of the hidden layer of an "
                "'mlp', at least 1, and left away elsewhere"
            )

    @property
    def pools(self) -> bool:
        """Whether it reads features that are pooled; else it reads what crosses as it is, and knows its own loss."""
        return self.kind not in ("pyramid", "anchors", "proposals", "queries", "decoder")

    def numbers(self, features: int, classes: int) -> int:
        """How many numbers learn in it, on so many features."""
        linear = (features + 1) * classes
        if self.kind == "mlp":
            return linear + (features + 1) * self.hidden + (self.hidden + 1) * classes
        return linear + QUERIES * features + (QUERIES * features + 1) * classes if self.kind == "attention" else linear

    def macs(self, features: int, classes: int, positions: int) -> int:
        """Multiply-accumulates for one example; attention scores every position, and means over all of them."""
        beyond = 2 * QUERIES * features * (positions - 1) if self.kind == "attention" else 0
        return self.numbers(features, classes) + beyond


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank learnable matrices beside kept, frozen ones."""

    kind: Literal["lora"] = "lora"
    rank: int = 8
    targets: tuple[str, ...] = ()  # module names; none means every linear and convolution of the kept layers


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of every layer of one network. The verbs on it are in plan.py."""

    layers: tuple[Layer, ...]
    keep: int  # the first k layers come from the pre-trained network
    freeze: int  # the first f of them never change
    above: Above  # what becomes of the layers above k
    train: tuple[bool, ...]  # which kept layers learn; all False below `freeze`
    recipe: Recipe
    head: Head = Head()
    thaw: tuple[tuple[int, tuple[bool, ...]], ...] = ()  # (epoch, flags), rising: gradual unfreezing
    adapter: Adapter | None = None
    statistics: Statistics = "eval"  # what batch norms above the frozen prefix use
    blend: float = 1.0  # weight of the tuned parameters against the source's after training (WiSE-FT)

    def __post_init__(self) -> None:
        depth = len(self.layers)
        if not depth:
            raise PlanError("the plan has no layers; it needs those of the network that it is for")
        if not 0 <= self.keep <= depth:
            raise PlanError(f"keep is {self.keep}; this network has {depth} layers, so 0..{depth} is allowed")
        if not 0 <= self.freeze <= self.keep:
            raise PlanError(f"freeze is {self.freeze}; only kept layers can be frozen, so 0..{self.keep} is allowed")
        if (self.above == "tune") != (self.keep == depth):
            raise PlanError(
                f"above is {self.above!r} with keep {self.keep} of {depth} layers; 'tune' means that all are kept, "
                "'reinit' or 'drop' says what becomes of the rest"
            )
        if self.above == "drop" and self.keep == 0:
            raise PlanError("above is 'drop' with keep 0, which leaves no network; use 'reinit' to train from scratch")
        if len(self.train) != self.keep or any(self.train[: self.freeze]):
            raise PlanError(
                f"train is {self.train}; it needs one flag for each of the {self.keep} kept layers, "
                f"False for the {self.freeze} frozen ones"
            )
        for epoch, flags in self.thaw:
            if epoch < 0 or len(flags) != self.keep or any(flags[: self.freeze]):
                raise PlanError(
                    f"thaw at epoch {epoch} has flags {flags}; an epoch counts from 0, and there is one flag for each "
                    f"of the {self.keep} kept layers, False for the {self.freeze} frozen ones"
                )
        if [epoch for epoch, _ in self.thaw] != sorted({epoch for epoch, _ in self.thaw}):
            raise PlanError(f"thaw names the epochs {[e for e, _ in self.thaw]}; each may stand once, in rising order")
        if not 0 <= self.blend <= 1:
            raise PlanError(f"blend is {self.blend}; it is a weight between 0 (source) and 1 (tuned)")

    @property
    def closed(self) -> bool:
        """Nothing below a linear head learns or is new, so the closed-form probe is the plan's result."""
        probed = self.head.start == "probe" and self.head.kind == "linear"
        return probed and self.freeze == self.keep and self.above != "reinit"

    def learning(self, epoch: int) -> tuple[bool, ...]:
        """Which of all layers learn in an epoch (from 0): a pure function, so that a resumed run is the same run."""
        flags = self.train
        for start, later in self.thaw:
            if start <= epoch:
                flags = later
        return flags + (self.above == "reinit",) * (len(self.layers) - self.keep)

    def freeze_at(self, epoch: int) -> int:
        """How many of the first layers stand still in an epoch (from 0): `freeze`, and more before they thaw."""
        return next((number for number, learns in enumerate(self.learning(epoch)) if learns), self.keep)

    def rates(self) -> tuple[float | None, ...]:
        """The peak learning rate of every layer, None for one that never learns.

        New layers learn at `lr`; kept layer i at `lr * kept_lr * layer_decay ** (keep - 1 - i)`
        (discriminative fine-tuning: Howard and Ruder, ACL 2018, arXiv:1801.06146).
        """
        ever = [any(flags) for flags in zip(*(self.learning(e) for e in (0, *(e for e, _ in self.thaw))), strict=True)]
        top = self.recipe.lr * self.recipe.kept_lr
        kept = [top * self.recipe.layer_decay ** (self.keep - 1 - i) for i in range(self.keep)]
        new = [self.recipe.lr] * (len(self.layers) - self.keep)
        return tuple(rate if learns else None for rate, learns in zip(kept + new, ever, strict=True))

    def apply(self, module: Any, epoch: int = 0) -> int:
        """Freeze and unfreeze the layers of `module` for an epoch, in place; returns how many numbers now learn.

        Call it after `module.train()` and before each epoch: layers that do not learn are put in inference mode, and
        so are the batch norms of kept layers unless `statistics` is "batch". What no layer names, the head, learns.
        Parameters that were frozen when the network was taken apart stay so.
        Works on any module with `named_parameters`, `named_buffers` and `named_modules`; raises PlanError where
        layers of the plan are not in it. Re-initialising or dropping layers is not done here.
        """
        parameters, modules = self._members_of(module), dict(module.named_modules())
        still = [layer for layer, learns in zip(self.layers, self.learning(epoch), strict=True) if not learns]
        frozen = {name for layer in still for name in layer.members} | self._held()
        for name, parameter in parameters.items():
            parameter.requires_grad_(name not in frozen)
        quiet = {name for layer in still for name in layer.modules}
        if self.statistics != "batch":
            norms = {name.rpartition(".")[0] for name, _ in module.named_buffers() if name.endswith("running_mean")}
            quiet |= norms - {name for layer in self.layers[self.keep :] for name in layer.modules}
        for name in quiet & modules.keys():
            modules[name].eval()
        return sum(parameter.numel() for name, parameter in parameters.items() if name not in frozen)

    def parameter_groups(self, module: Any) -> list[dict[str, Any]]:
        """Static optimiser groups of `module`, one or two for each layer that ever learns and for the head.

        Each is a dict with `name` ("blocks.7", "head/no_decay"), `params`, `lr` (the peak) and `weight_decay`:
        `torch.optim.AdamW(plan.parameter_groups(module))`. Unfreezing never edits groups.
        """
        parameters = self._members_of(module)
        owner = {name: layer.index for layer in self.layers for name in layer.members}
        rates = (*self.rates(), self.recipe.lr)
        groups: dict[tuple[int, bool], list[Any]] = {}
        held = self._held()
        for name, parameter in parameters.items():
            index = owner.get(name, len(self.layers))
            if rates[index] is not None and name not in held:
                groups.setdefault((index, parameter.ndim < 2), []).append(parameter)
        names = [*(layer.name for layer in self.layers), "head"]
        return [
            {
                "name": names[index] + ("/no_decay" if vectors else ""),
                "params": members,
                "lr": rates[index],
                "weight_decay": 0.0 if vectors else self.recipe.weight_decay,
            }
            for (index, vectors), members in sorted(groups.items(), key=lambda item: item[0])
        ]

    def _held(self) -> set[str]:
        """What was frozen before any plan, in layers that are kept: those that begin anew have nothing to hold."""
        return {name for layer in self.layers[: self.keep] for name in layer.held}

    def _members_of(self, module: Any) -> dict[str, Any]:
        parameters = dict(module.named_parameters())
        every = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        present = {name for name, _ in every}  # a tied weight has several names
        kept = self.layers[: self.keep] if self.above == "drop" else self.layers
        absent = [name for layer in kept for name in layer.members if name not in present]
        if absent:
            raise PlanError(
                f"the plan names {absent[0]!r} and {len(absent) - 1} others that this module lacks; a plan fits the "
                "network it was made for: apply it before the network is wrapped or renamed"
            )
        return parameters


@dataclass(frozen=True, slots=True)
class Arm:
    """A plan in the race, with the learning rates it may choose from."""

    id: str  # "linear_probe@12", "freeze@3", "full_finetune"
    plan: Plan
    rates: tuple[float, ...]  # rising; the plan's own rate is one of them
    protected: bool = False  # never eliminated before the final
    baseline: str | None = None  # the known strategy it is: "lp_ft", "full_finetune", ...


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """The smallest resumable piece of a search: one training."""

    arm: str
    rate: float
    rung: int  # 1, 2, 3 for the final; 0 for what is no race (probes, baselines)
    fold: int
    seed: int
    epochs: int

    @property
    def key(self) -> str:
        """A name for files and the study: no two units of a run share it."""
        return f"{self.arm}-lr{self.rate:.3g}-r{self.rung}-f{self.fold}-s{self.seed}-e{self.epochs}"


# ------------------------------------------------------------------------------------------------ what was seen


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of_share(cls, share: float, n: float, confidence: float = 0.95) -> Estimate:
        """A share of `n` examples (need not be whole: weighted ones count for fewer) with Wilson's interval (1927)."""
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        centre, scale = share + z * z / (2 * n), 1 + z * z / n
        half = z * (share * (1 - share) / n + (z / (2 * n)) ** 2) ** 0.5
        # rounding may not put a share of 0 or 1 outside its own interval
        return cls(share, min(share, max(0.0, (centre - half) / scale)), max(share, min(1.0, (centre + half) / scale)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a cut before any training: a linear probe on its pooled features."""

    cut: Cut
    score: Estimate  # accuracy of the leave-one-out ridge probe on the training fold, at the confidence asked for
    log_loss: float  # nats an example, of the logistic head on the validation fold
    features: int  # dimension of the pooled vector
    random: float | None = None  # the same score with a randomly initialised network
    permuted: float | None = None  # the same score with permuted labels: chance, if nothing leaks
    shift: float | None = None  # nats a channel from what the batch norms just below remember of the source
    shifted: Estimate | None = None  # accuracy of the logistic head on the shifted examples
    unshifted: Estimate | None = None  # the same head's on the validation fold, to compare with
    untaught: float | None = None  # likeness (CKA) to a randomly initialised network's features of the same examples
    metric: str = "accuracy"  # what `score` and the controls are: accuracy, or average_precision or r2 of other tasks
    distance: float | None = None  # from examples of the source (proxy A-distance): 0 like them, 2 always told apart


@dataclass(frozen=True, slots=True)
class Way:
    """How this machine takes the training steps of a network fastest: the same numbers, but for rounding."""

    threads: int = 1  # of a training: small networks want one
    layout: Layout = "contiguous"  # of the convolutions' weights, and so of what they compute
    precision: Precision = "fp32"  # of what autocast computes; weights and optimiser stay in float32
    at_once: int = 1  # trainings side by side, each in a process of its own
    slower: float = 1.0  # times as long that a step takes while the others run
    stacked: int | None = None  # plans that freeze as much train at all their rates together; None: none does
    graphs: bool = False  # steps are recorded and replayed (CUDA graphs)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a linear probe at a cut scores as the number of examples that it learns from grows."""

    depth: int
    sizes: tuple[int, ...]  # examples, rising
    scores: tuple[Estimate, ...]  # on the validation rows, a size each
    twice: Estimate  # extrapolated to twice the largest size


@dataclass(frozen=True, slots=True)
class Topping:
    """What new layers of a task's own take, for which the work of a linear head says nothing; seconds an example."""

    step: float  # of a training: forward, loss, backward and the optimiser, on what frozen layers hand them
    answer: float  # from what the network hands them to what is kept of a prediction
    judging: float  # of how good a prediction is
    parameters: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What this machine measured for this network at the real batch size; a resumed run uses the stored one."""

    forward: tuple[float, ...]  # seconds an example, layer by layer
    backward: tuple[float, ...]  # seconds an example, layer by layer, input and weight gradients
    carry: tuple[float, ...]  # seconds an example, layer by layer, input gradients alone: what a frozen layer takes
    read: Mapping[str, float]  # bytes a second: "memory", "disk"
    write: Mapping[str, float]
    decode: float  # seconds an example to open and preprocess
    batch: int
    device: str
    macs_per_second: float  # of the whole forward pass
    update: float = 0.0  # seconds a learnable parameter and step that the optimiser takes
    way: Way = Way()
    topping: Topping | None = None  # None: a linear head, or one beside it, whose work is counted


@dataclass(frozen=True, slots=True)
class Cost:
    """Modelled from MACs and bytes with the stored calibration, so that timing noise changes no answer."""

    training: float  # seconds of one full training of the arm
    inference: float  # seconds an example
    memory: float  # bytes at the peak of training
    parameters: int  # learnable


@dataclass(frozen=True, slots=True)
class Flow:
    """What reached one learning layer in the last step of an epoch, and how far it moved."""

    layer: str  # its name, or that of the head or the adapters
    gradient: float  # norm over its parameters, before clipping
    update: float  # norm of the step over the norm of the parameters


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training rows."""

    number: int  # from 0
    loss: float  # mean over the examples
    score: float | None  # on the validation rows, where asked for
    seconds: float
    diverged: bool = False
    gradient: float = 0.0  # mean norm of the gradient before clipping
    learning: int = 0  # parameters that learned in it
    error: float = 0.0  # standard error of the loss over the batches
    flows: tuple[Flow, ...] = ()  # layer by layer, from the stem on


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one unit came to."""

    unit: Unit
    rows: NDArray[np.int64]  # row numbers of Examples that were predicted
    log_probabilities: NDArray[np.float32]  # rows x classes; of other tasks what they keep
    seconds: float
    peak_bytes: int
    epochs: tuple[Epoch, ...] = ()
    diverged: bool = False
    batch: int = 0  # the batch size that was used: smaller than asked for after running out of memory
    together: int = 1  # how many units were trained at once; seconds and peak memory are this one's share
    shifted: NDArray[np.float32] | None = None  # log-probabilities of the shifted examples, where there are any


@dataclass(frozen=True, slots=True)
class Standing:
    """How one arm came out of the race."""

    arm: Arm
    stage: str  # "dropped@1", "dropped@2", "finalist", "probe"
    score: Estimate  # validation
    rate: float  # the learning rate that did best
    seconds: float  # spent on it
    peak_bytes: int
    cost: Cost
    shifted: Estimate | None = None  # the same score on the shifted examples, where there are any


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice, and what is known about it."""

    arm: str
    plan: Plan
    epsilon: float
    confidence: float
    certified: bool
    plausible: tuple[str, ...]  # cannot be told apart from the best
    proven: tuple[str, ...]  # shown to be within epsilon of the best
    better: tuple[str, ...]  # shown to be better than the choice, which was made on other examples
    expected_regret: float
    reason: str
    needed: int | None = None  # further examples that would certify the choice, where it is not certified
    certifiable: float | None = None  # the smallest epsilon at which this data certifies the choice


@dataclass(frozen=True, slots=True)
class Verdict:
    """A warning or a clearance, with its evidence."""

    kind: str  # "negative_transfer", "overfitting", ...
    holds: bool
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class Score:
    """Of the very model that is handed back."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    kind: Literal["held_out", "cross_validated"]
    refit: bool = False  # the model was trained once more on all data: the score is an estimate of the procedure


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network ready to be cut. `module` is a torch.nn.Module; this file does not load torch to say so."""

    name: str
    module: Any
    example: Mapping[str, Any]  # keyword arguments of its forward for a batch of two
    data: str  # which of them carries the data
    preprocessing: Prepared | None
    weights: str  # where they came from, "none" for random
    fresh: Callable[[int], Any] | None = None  # seed -> the same architecture with new random weights
    unloaded: tuple[str, ...] = ()  # parameters that the checkpoint did not bring: they belong to the head
    notes: tuple[str, ...] = field(default=())  # what was replaced or assumed, to be said in every output
    # what was opened -> arguments of the forward, examples first; None where `preprocessing` says it all
    encode: Callable[[Sequence[Any]], Mapping[str, NDArray[np.generic]]] | None = None
    # whether it finds things itself: its result is a row for each of its queries, and no output layer stands behind it
    queries: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Progress, for whoever watches: `done` of `total` in a stage, or a sentence to be read."""

    stage: str  # "read", "fill", "race", ...
    done: int = 0
    total: int = 0  # 0 where `text` is all there is
    text: str = ""


Show = Callable[[Event], None]


def silent(event: Event) -> None:
    """Shows nothing."""
