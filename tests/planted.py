"""Arms whose true worth is known, and predictions drawn accordingly: a race is played without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from frostline.plan import plan
from frostline.search.arms import grid
from frostline.search.decide import Finalist
from frostline.search.race import Race, ask, tell
from frostline.values import Arm, Cost, Cut, Estimate, Evidence, Layer, Outcome, Recipe, Unit

RECIPE = Recipe(epochs=12, lr=1e-3)


def layers(count: int, *, sealed: Sequence[int] = ()) -> tuple[Layer, ...]:
    return tuple(
        Layer(i, f"blocks.{i}", 1000, 10_000, (8, 4, 4), 512, cut=i not in sealed, legal=i not in sealed)
        for i in range(count)
    )


def evidence(scores: Mapping[int, float], half: float = 0.01) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(Cut(d, f"blocks.{d - 1}"), Estimate(s, s - half, s + half), 1 - s, 8) for d, s in scores.items()
    )


def arms(count: int, *, protected: int = 0, rates: int = 3) -> tuple[Arm, ...]:
    """Trained arms alike in everything but the depth that they freeze."""
    deep = layers(count + 1)
    return tuple(
        Arm(
            f"freeze@{f}",
            plan(deep, RECIPE, freeze=f),
            grid(RECIPE.lr) if rates == 3 else (RECIPE.lr,),
            protected=f < protected,
        )
        for f in range(count)
    )


def cost(training: float = 1.0, inference: float = 1.0, memory: float = 1.0, parameters: int = 1) -> Cost:
    return Cost(training, inference, memory, parameters)


@dataclass(frozen=True)
class World:
    """How predictions come about: each example has a difficulty that all arms share, each training noise of its own."""

    accuracy: Mapping[str, float]
    examples: int
    seed: int
    seed_sd: float = 0.0  # of a training's true accuracy around its arm's
    disagreement: float = 0.05  # of two equal arms
    lasting: float = 0.0  # share of an arm's own noise that all its trainings have in common
    rate_penalty: float = 0.0  # accuracy lost one step of the grid away from the middle
    folds: int = 1

    def truth(self, unit: Unit, middle: float = RECIPE.lr) -> float:
        """The accuracy of this very training on infinitely many examples."""
        steps = abs(round(float(np.log(unit.rate / middle) / np.log(3.0))))
        own = np.random.default_rng([self.seed, 7, *_letters(unit)]).standard_normal()
        return self.accuracy[unit.arm] - self.rate_penalty * steps + self.seed_sd * own

    def rows(self, fold: int) -> np.ndarray:
        return np.arange(self.examples) + fold * self.examples

    def targets(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 1]).integers(0, 2, self.examples * self.folds)

    def play(self, unit: Unit) -> Outcome:
        """Right where a latent normal lies below the quantile of the accuracy; most of the latent is shared."""
        from statistics import NormalDist

        shared = np.random.default_rng([self.seed, 2, unit.fold]).standard_normal(self.examples)
        own = np.random.default_rng([self.seed, 3, *_letters(unit)]).standard_normal(self.examples)
        if self.lasting:
            arm = np.random.default_rng([self.seed, 4, unit.fold, _letters(unit)[0]]).standard_normal(self.examples)
            own = np.sqrt(self.lasting) * arm + np.sqrt(1 - self.lasting) * own
        # two normals of correlation r disagree about the sign (at a half) with arccos(r)/pi
        r = float(np.cos(np.pi * self.disagreement))
        latent = np.sqrt(r) * shared + np.sqrt(1 - r) * own
        level = NormalDist().inv_cdf(min(max(self.truth(unit), 1e-6), 1 - 1e-6))
        right = latent < level
        rows = self.rows(unit.fold)
        target = self.targets()[rows]
        sure = np.clip(0.5 + 0.45 * np.tanh(np.abs(latent - level)), 0.5, 0.97)
        chosen = np.where(right, target, 1 - target)
        table = np.empty((len(rows), 2), np.float32)
        table[np.arange(len(rows)), chosen] = np.log(sure)
        table[np.arange(len(rows)), 1 - chosen] = np.log(1 - sure)
        return Outcome(unit, rows, table, seconds=float(unit.epochs), peak_bytes=100)


def run(race: Race, world: World) -> tuple[Race, tuple[Outcome, ...]]:
    """The race played to its end, with every outcome on the way."""
    targets, outcomes = world.targets(), list[Outcome]()
    while units := ask(race):
        for unit in units:
            outcomes.append(world.play(unit))
            race = tell(race, outcomes[-1], targets)
    return race, tuple(outcomes)


def ended(world: World, of: Sequence[Arm], costs: Mapping[str, Cost] | None = None) -> list[Finalist]:
    """Two seeds of every arm, as in a final."""
    units = {a.id: [Unit(a.id, RECIPE.lr, 3, 0, seed, 12) for seed in (3, 4)] for a in of}
    known = costs or {a.id: cost(training=10.0 - a.plan.freeze) for a in of}
    return [Finalist(a, known[a.id], tuple(world.play(u) for u in units[a.id])) for a in of]


def _letters(unit: Unit) -> tuple[int, ...]:
    arm = int.from_bytes(unit.arm.encode()[-4:], "big")
    return arm, round(1e9 * unit.rate), unit.rung, unit.fold, unit.seed
