"""What trainings predicted, example by example, as one small file: a row a training, a column an example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.plan import from_json, to_json
from frostline.search.scores import LEAST_LOG, losses
from frostline.values import Arm, Cost, Layer, Outcome, Unit

FORMAT = "frostline.predictions/1"
FIELDS = ("arm", "rate", "seed", "seconds", "diverged", "label", "coded", "target", "truth")


@dataclass(frozen=True, eq=False)
class Predictions:
    """A table of trainings; `facts` say what they are of, and hold the plan and the cost of every arm."""

    facts: Mapping[str, Any]
    arm: NDArray[np.str_]  # of each training
    rate: NDArray[np.float64]  # peak learning rate
    seed: NDArray[np.int64]
    seconds: NDArray[np.float32]
    diverged: NDArray[np.bool_]
    label: NDArray[np.uint8]  # trainings x examples: the class that was thought most probable
    coded: NDArray[np.uint8]  # trainings x examples: c stands for a log-loss of 15.94 (c / 255)^2 nats
    target: NDArray[np.uint8]  # of each example
    truth: NDArray[np.bool_]  # whether an example says the truth; the others are there to select by

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Trainings x examples."""
        return self.label == self.target

    @cached_property
    def loss(self) -> NDArray[np.float64]:
        """Trainings x examples, in nats."""
        return -LEAST_LOG * (self.coded / 255.0) ** 2

    @cached_property
    def chosen(self) -> NDArray[np.float64]:
        """Accuracy of each training on the examples to select by."""
        return self.right[:, ~self.truth].mean(axis=1)

    @cached_property
    def true(self) -> NDArray[np.float64]:
        """Accuracy of each training on the examples that say the truth."""
        return self.right[:, self.truth].mean(axis=1)

    @cached_property
    def unsure(self) -> NDArray[np.float64]:
        """Mean log-loss of each training on the examples to select by: it breaks ties."""
        return self.loss[:, ~self.truth].mean(axis=1)

    @property
    def arms(self) -> tuple[str, ...]:
        """Their names, in the order in which they were trained."""
        return tuple(self.facts["arms"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that some arm was trained with."""
        return tuple(map(int, np.unique(self.seed)))

    def tuned(self, arm: str) -> NDArray[np.float64]:
        """The truth of an arm at the rate that selects best, seed by seed; what has no seed belongs to every one."""
        return np.array([self.true[self.first(self.arm == arm, seed)] for seed in self.seeds])

    def first(self, of: NDArray[np.bool_], seed: int) -> int:
        """The training that selects best of some, for one seed."""
        single = np.isin(self.arm, [name for name in self.arms if np.sum(self.arm == name) == 1])
        mine = np.flatnonzero(of & ((self.seed == seed) | single))
        return int(min(mine, key=lambda row: (-self.chosen[row], self.unsure[row])))

    def entry(self, arm: str) -> Arm:
        """An arm as it entered."""
        known = self.facts["arms"][arm]
        plan = from_json({**known["plan"], "layers": self.facts["layers"]})
        return Arm(arm, plan, tuple(known["rates"]))

    def cost(self, arm: str) -> Cost:
        """What an arm costs, modelled."""
        return Cost(**self.facts["arms"][arm]["cost"])

    def outcome(self, row: int, examples: NDArray[np.int64], unit: Unit, rows: NDArray[np.int64]) -> Outcome:
        """What a training predicted for some examples, as that of `unit` for `rows`: its losses and its classes.

        The mass besides the target's is spread over the other classes where the prediction is right, and lies on the
        predicted class where it is wrong: accuracy and log-loss are those of the training.
        """
        classes, n = len(self.facts["classes"]), len(examples)
        right, at = self.right[row, examples], np.arange(n)
        sure = np.exp(-self.loss[row, examples])
        # rounded codes may turn a close prediction round; its class is what counts
        sure = np.where(right, np.maximum(sure, 1.001 / classes), np.minimum(sure, 0.4999))
        table = np.where(right, (1 - sure) / (classes - 1), 0.0)[:, None].repeat(classes, axis=1)
        wrong = np.flatnonzero(~right)
        table[wrong, self.label[row, examples[wrong]]] = 1 - sure[wrong]
        table[at, self.target[examples]] = sure
        logs = np.log(np.maximum(table, np.exp(LEAST_LOG))).astype(np.float32)
        return Outcome(unit, rows, logs, float(self.seconds[row]), 0, diverged=bool(self.diverged[row]))

    def write(self, file: Path) -> None:
        """As one file, which appears whole or not at all."""
        partial = file.with_suffix(".partial")
        with partial.open("wb") as opened:
            facts = np.frombuffer(json.dumps({"format": FORMAT, **self.facts}).encode(), np.uint8)
            np.savez_compressed(opened, facts=facts, **{name: getattr(self, name) for name in FIELDS})
        partial.replace(file)


def read(file: Path) -> Predictions:
    """Predictions from their file."""
    with np.load(file, allow_pickle=False) as found:
        facts = json.loads(found["facts"].tobytes())
        if facts.get("format") != FORMAT:
            raise ValueError(f"{file} is of the format {facts.get('format')!r}, not {FORMAT!r}; make it anew")
        return Predictions(facts, **{name: found[name] for name in FIELDS})


def concatenated(parts: Sequence[Predictions]) -> Predictions:
    """Tables of the same examples, one below the other; the facts are those of the first, the arms those of all."""
    first = parts[0]
    for part in parts[1:]:
        if not (np.array_equal(part.target, first.target) and np.array_equal(part.truth, first.truth)):
            raise ValueError("the parts were judged by different examples")
    arms = {name: known for part in parts for name, known in part.facts["arms"].items()}
    rows = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS[:-2]}
    return replace(first, facts={**first.facts, "arms": arms}, **rows)


def gathered(
    arms: Mapping[str, tuple[Arm, Cost]],
    layers: Sequence[Layer],
    outcomes: Sequence[Outcome],
    targets: NDArray[np.int64],
    truth: NDArray[np.bool_],
    facts: Mapping[str, Any],
) -> Predictions:
    """The outcomes as a table; all predicted the same rows, whose `targets` and kind (`truth`) are given."""
    blank = [replace(layer, members=(), modules=()) for layer in layers]
    known = {
        name: {"plan": {**to_json(arm.plan), "layers": []}, "rates": arm.rates, "cost": asdict(cost)}
        for name, (arm, cost) in arms.items()
    }
    rows = outcomes[0].rows
    if any(not np.array_equal(outcome.rows, rows) for outcome in outcomes):
        raise ValueError("the trainings predicted different examples; a table is of the same ones")
    coded = [_coded(losses(outcome.log_probabilities, targets)) for outcome in outcomes]
    return Predictions(
        {**facts, "layers": [asdict(layer) for layer in blank], "arms": known},
        np.array([outcome.unit.arm for outcome in outcomes]),
        np.array([outcome.unit.rate for outcome in outcomes]),
        np.array([outcome.unit.seed for outcome in outcomes]),
        np.array([outcome.seconds for outcome in outcomes], np.float32),
        np.array([outcome.diverged for outcome in outcomes]),
        np.array([outcome.log_probabilities.argmax(axis=1) for outcome in outcomes], np.uint8),
        np.array(coded, np.uint8),
        targets.astype(np.uint8),
        truth,
    )


def _coded(nats: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(255 * np.sqrt(nats / -LEAST_LOG)).astype(np.uint8)
