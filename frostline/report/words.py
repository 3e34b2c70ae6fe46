"""What the terminal and the page both say: the answer in one sentence, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from frostline.search.scores import BALANCED
from frostline.settings import METRICS as TASK_METRICS
from frostline.values import Evidence, Kind, Plan, Profile

# measured as shares of a whole, so shown in per cent; any other metric is shown as it is
SHARES = (
    *("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "roc_auc", "ece"),
    *("average_precision", "micro_f1", "exact_match", "map", "map50"),
    *("mean_iou", "pixel_accuracy"),
)

ONES = ("r2", "pearson")  # at most one, and below zero where nothing is known: shown with two places

METRICS: Mapping[str, str] = {
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "roc_auc": "ROC-AUC",
    "log_loss": "log-loss",
    "ece": "calibration error (ECE)",
    "micro_f1": "micro F1",
    "r2": "R²",
    "map": "mAP",
    "map50": "mAP@50",
    "mean_iou": "mean IoU",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "pearson": "correlation",
}

MANY = 100  # times; beyond, a number says less about the plans than about how short the shorter one is


def called(metric: str) -> str:
    """A metric as people write it; of FILE.py:NAME, the name."""
    return METRICS.get(metric, metric.rpartition(":")[2].replace("_", " "))


def heading(metric: str) -> str:
    """A metric with a capital in front, unless it is spelt with one within.

    >>> heading("roc_auc"), heading("balanced_accuracy"), heading("map50")
    ('ROC-AUC', 'Balanced accuracy', 'mAP@50')
    """
    name = called(metric)
    return name if name[1:2].isupper() else name[:1].upper() + name[1:]


def in_nats(metric: str) -> bool:
    """Whether the loss that leads to a metric is a log-loss; of numbers and of boxes it is not."""
    return metric not in (*TASK_METRICS["regression"], *TASK_METRICS["detection"])


def score(value: float | None, metric: str) -> str:
    """A score with its unit; a dash where there is none."""
    if value is None:
        return "–"
    if metric in SHARES:
        return f"{100 * value:.1f}%"
    return f"{value:.2f}" if metric in ONES else number(value)


def probability(value: float) -> str:
    """In per cent, never quite none or all: it comes from a thousand resamples.

    >>> [probability(value) for value in (0.0, 0.031, 0.5, 0.9999)]
    ['less than 0.2%', '3%', '50%', 'more than 99.8%']
    """
    if value < 0.002:
        return "less than 0.2%"
    if value > 0.998:
        return "more than 99.8%"
    return f"{100 * value:.0f}%" if 0.01 <= value <= 0.99 else f"{100 * value:.1f}%"


def saved(share: float | None) -> str:
    """A share of time that is saved, as what is left or added.

    >>> [saved(share) for share in (0.314, 0.999, 0.0, -0.1, -4.2, None)]
    ['−31%', '−99%', '0%', '+10%', '5.2x', '–']
    """
    if share is None:
        return "–"
    if share < -1:
        return f"{1 - share:.2g}x"
    points = min(round(100 * abs(share)), 99)  # nothing is for nothing
    return f"{'' if not points else '−' if share > 0 else '+'}{points}%"


def count(value: int) -> str:
    """A count in three digits at most.

    >>> [count(value) for value in (12, 12_345, 4_500_000, 2_300_000_000)]
    ['12', '12 k', '4.5 M', '2.3 G']
    """
    for size, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.2g}{name}" if value < 10 * size else f"{value / size:.0f}{name}"
    return str(value)


def number(value: float) -> str:
    """To three digits, those before the point all shown.

    >>> [number(value) for value in (0.21345, 12.345, 123456.7)]
    ['0.213', '12.3', '123,457']
    """
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def interval(low: float, high: float, metric: str) -> str:
    """Both ends of an interval, the unit said once."""
    if metric in SHARES:
        return f"{100 * low:.1f} to {100 * high:.1f}%"
    return f"{low:.2f} to {high:.2f}" if metric in ONES else f"{number(low)} to {number(high)}"


def ranged(mean: float, low: float, high: float, metric: str) -> str:
    """A score with its interval in one cell.

    >>> ranged(0.93, 0.9, 0.951, "accuracy")
    '93.0% (90.0 to 95.1%)'
    """
    return f"{score(mean, metric)} ({interval(low, high, metric)})"


def seconds(value: float | None) -> str:
    """A time span, in the unit that keeps it short; a dash where there is none."""
    if value is None:
        return "–"
    if value < 0.95:
        return f"{1000 * value:.0f} ms"
    if value < 120:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def size(value: float | None) -> str:
    """Bytes in binary units; a dash where there are none."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def advice(plan: Plan) -> str:
    """What to do, as an order: "Freeze the first 4 of 7 layers and train the other 3"."""
    depth, kept, frozen = len(plan.layers), plan.keep, plan.freeze
    if kept == 0:
        return f"Transfer nothing: train all {depth} layers from scratch"
    last = "the last layer" if depth - kept == 1 else f"the last {depth - kept} layers"
    above = {"tune": "", "drop": f", drop {last}", "reinit": f", start {last} afresh"}[plan.above]
    transferred = f"all {depth} layers" if kept == depth else f"the first {kept} of {depth} layers"
    learning = sum(plan.train)
    if plan.adapter:
        return f"Keep {transferred}{above} and train a LoRA of rank {plan.adapter.rank} beside them"
    if frozen == kept:
        beside = "" if not plan.head.cuts else f", on depths {listed([*map(str, plan.head.cuts), str(kept)])}"
        return f"Freeze {transferred}{above}" + ("" if plan.above == "reinit" else f" and train the head alone{beside}")
    if learning == kept:
        return f"Keep {transferred}{above} and train every one of them"
    if learning == kept - frozen:
        count = "one" if learning == 1 else str(learning)
        which = f"last {count}" if kept == depth else f"{count} between"
        return f"Freeze the first {frozen} of {depth} layers{above} and train the {which}"
    return f"Keep {transferred}{above} and train {learning} of them"


def answer(summary: Mapping[str, Any], plan: Plan) -> str:
    """The whole result in one sentence."""
    found, metric = summary["score"], summary["score"]["metric"]
    held_out = found["kind"] == "held_out"
    where = f"on {found['n']:,} held-out examples" if held_out else f"cross-validated over {found['n']:,} examples"
    if not held_out and summary["data"].get("folds") == 1:
        where = f"on {found['n']:,} validation examples, corrected for having been chosen on them"
    percent = f"{100 * summary['decision']['confidence']:.0f}%"
    return (
        f"{advice(plan)}: {score(found['value'], metric)} {called(metric)} {where} "
        f"({percent} interval {interval(found['low'], found['high'], metric)})."
    )


def procedure(found: Mapping[str, Any]) -> str:
    """What a score means where the model handed back was trained anew after it was taken; "" where it was not."""
    if not found.get("refit"):
        return ""
    return "The score is an estimate of the procedure: the model was trained once more on all data."


def sentence(said: str) -> str:
    """A sentence that stands alone: a capital in front, a full stop behind.

    >>> sentence("the loss falls")
    'The loss falls.'
    """
    said = said.strip()
    ended = said if said.endswith((".", "!", "?")) or not said else f"{said}."
    return ended[:1].upper() + ended[1:]


def place(name: str) -> str:
    """A backbone's name without the folders of this machine; what a model hub calls a network stays whole.

    >>> place("/home/me/nets/tiny.py:small"), place("hf//data/mobilenet/hf"), place("timm/vit_tiny_patch16_224")
    ('tiny.py:small', 'mobilenet/hf', 'timm/vit_tiny_patch16_224')
    """
    scheme, _, rest = name.partition("/")
    path = rest if scheme in ("hf", "timm", "torchvision") else name
    if not path.startswith(("/", "~", "./", "../")):
        return name
    parts = [part for part in path.split("/") if part]
    # a folder's own name is often "model" or "hf": the one above it says more
    return "/".join(parts[-1:] if ":" in parts[-1] or "." in parts[-1] else parts[-2:]) if parts else name


def middle(name: str, limit: int) -> str:
    """A dotted name of at most `limit` characters: its start and its last parts, for layers differ at the end.

    >>> middle("mobilenet_v1.layer.24", 19), middle("stem", 19)
    ('mobilenet_…layer.24', 'stem')
    """
    if len(name) <= limit:
        return name
    tails = [name[i + 1 :] for i, letter in enumerate(name) if letter == "." and 0 < len(name) - i - 1 <= 0.7 * limit]
    tail = tails[0] if tails else name[-(limit // 2) :]
    return f"{name[: limit - 1 - len(tail)]}…{tail}"


def sets(summary: Mapping[str, Any]) -> str:
    """The two sets in words: who cannot be told from the best, and who is proven to be near it.

    Who is proven to be better than the choice is part of the decision's reason.
    """
    decision = summary["decision"]
    chosen, plausible, proven = decision["arm"], decision["plausible"], decision["proven"]
    said: list[str] = []
    outside = bool(plausible) and chosen not in plausible
    if len(plausible) > 1 or outside:
        said.append(f"This data cannot tell these from the best: {listed(plausible)}.")
    if outside:
        said.append("The choice is not among them.")
    if set(proven) - {chosen}:
        points = f"{100 * decision['epsilon']:g}"
        near = f"{points} point{'' if points == '1' else 's'}" if summary["score"]["metric"] in SHARES else "epsilon"
        said.append(f"Proven to be within {near} of the best: {listed(proven)}.")
    return " ".join(said)


def probed(metric: str, curve: Sequence[Evidence] = ()) -> str:
    """What the linear probes' score is called where a run asks for a metric: classes count alike in both or in none.

    Probes of labels and of numbers say themselves what they are scored by.

    >>> probed("macro_f1"), probed("log_loss")
    ('balanced_accuracy', 'accuracy')
    """
    if curve and curve[0].metric != "accuracy":
        return curve[0].metric
    return "balanced_accuracy" if metric in BALANCED else "accuracy"


def listed(names: Sequence[str]) -> str:
    """Names with an "and" before the last one.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def saving(cost: Mapping[str, Any], chosen: float | None, other: float | None) -> float | None:
    """Trainings of the chosen plan after which the search has paid for itself against `other` seconds each.

    None where the chosen plan is not faster, so that no number of trainings would pay.
    """
    if chosen is None or other is None or other <= chosen:
        return None
    return float(cost["total_seconds"]) / (other - chosen)


def ratio(slow: float | None, fast: float | None) -> str:
    """How many times faster; "–" where one of them is unknown.

    >>> ratio(6.0, 2.0), ratio(85.0, 0.02)
    ('3.0x', 'more than 100x')
    """
    if not slow or not fast:
        return "–"
    times = slow / fast
    if times > MANY:
        return f"more than {MANY}x"
    return f"{times:.2g}x" if times < 0.95 else f"{times:.1f}x" if times < 10 else f"{times:.0f}x"


def gap(value: float, metric: str) -> str:
    """A difference of two scores with its unit."""
    return f"{100 * value:.2f} points" if metric in SHARES else number(value)


def stage(value: str) -> str:
    """What became of an arm, in a word; the number is the round after which it was out."""
    if value.startswith("dropped@"):
        return f"out ({value.removeprefix('dropped@')})"
    return {"finalist": "finalist", "probe": "closed form"}.get(value, value)


Side = Literal["chosen", "finalist", "out"]


def side(arm: Mapping[str, Any], chosen: str) -> Side:
    """How much weight an arm has in a picture."""
    if arm["id"] == chosen:
        return "chosen"
    return "finalist" if arm["stage"] == "finalist" else "out"


ONE: Mapping[Kind, str] = {"pictures": "picture", "texts": "text", "recordings": "recording"}


def amount(task: str, kind: Kind | None, examples: int, classes: int) -> str:
    """How many examples there are, and of what.

    >>> amount("classification", "texts", 1200, 2), amount("regression", "pictures", 80, 1)
    ('1,200 texts of 2 classes', '80 pictures with 1 number')
    """
    of = {"multilabel": ("with", "label", "labels"), "regression": ("with", "number", "numbers")}
    link, one, many = of.get(task, ("with boxes of" if task == "detection" else "of", "class", "classes"))
    return f"{examples:,} {kind or 'examples'} {link} {classes} {one if classes == 1 else many}"


def probing(task: str) -> str:
    """What a linear probe of boxes or masks is asked instead; "" where it is asked what the model is."""
    asked = {"detection": "how many boxes of each class there are", "segmentation": "which share each class has"}
    return f"It is asked {asked[task]}. " if task in asked else ""


def extent(found: Sequence[int], kind: Kind) -> str:
    """How large an example is: "640 × 480 pixels", "112 characters", "0.43 seconds"."""
    if kind == "pictures":
        return f"{found[1]} × {found[0]} pixels"
    return f"{found[0]:,} characters" if kind == "texts" else f"{found[0] / 1000:.2f} seconds"


def profile(known: Profile) -> str:
    """What the data is like, in two or three sentences."""
    shown = [f"{name} {count:,}" for name, count in list(known.classes.items())[:12]]
    more = f" and {len(known.classes) - 12} more" if len(known.classes) > 12 else ""
    one, (_, median, _) = ONE[known.kind], known.sizes
    what = f"of {len(known.classes)} classes ({', '.join(shown)}{more})"
    if known.numbers:
        told = (
            f"{name} {number(low)} to {number(high)}, median {number(middle)}"
            for name, (low, middle, high) in known.numbers.items()
        )
        what = f"with numbers ({'; '.join(told)})"
    elif sum(known.classes.values()) != known.examples:
        what = f"with {len(known.classes)} labels ({', '.join(shown)}{more})"
    said = [
        f"{known.examples:,} {known.kind} {what}.",
        f"The median {one} has {extent(median, known.kind)}.",
    ]
    near = "" if known.near_duplicates is None else f", near-duplicate pairs: {known.near_duplicates}"
    said.append(f"Groups of identical {known.kind}: {len(known.duplicates)}{near}.")
    if known.effective_dimension is not None:
        said.append(f"The features at the last cut have an effective dimension of {known.effective_dimension:.1f}.")
    return " ".join(said)
