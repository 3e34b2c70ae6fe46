"""How often the decision is wrong: thousands of races on stored predictions, where the truth is known.

    python -m benchmarks.calibration [--races N] [--bank FILE.npz] [--seed S] [--out FILE.md]

Equal arms: twelve copies of one arm race; a loser among them is a false alarm. Beside it stands what is often done, a
signed-rank test against the leader after every tenth of the examples, each at 5%. Power: one of twelve is two points
better, and should be singled out at 5,000 examples. Claims: how often a choice that is certified lies further behind
the best finalist than epsilon. Scores: what the winner seems to be worth, what the corrected score says, what is true.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.predictions import Predictions, read
from benchmarks.replay import Replay, equal, replayed, worse
from frostline.search.decide import Aim
from frostline.search.schedule import Schedule, schedule
from frostline.search.scores import score
from frostline.search.standing import corrected_score
from frostline.values import Outcome

BANK = Path(__file__).parent / "truth" / "tables" / "bank.npz"
TWELVE, LOOKS = 12, 10
STEADY = "reinit@3"  # at its best rate two of its trainings disagree about one example in eighteen
CODE = 64  # about one nat: what an example that was made right costs


@dataclass(frozen=True)
class Share:
    """How many of so many."""

    hits: int
    of: int

    def __str__(self) -> str:
        found = stats.binomtest(self.hits, self.of).proportion_ci(0.95, "wilson") if self.of else None
        between = f", {100 * found.low:.1f} to {100 * found.high:.1f}%" if found else ""
        return f"{self.hits} of {self.of} ({100 * self.hits / max(1, self.of):.1f}%{between})"


def null(bank: Predictions, seed: int, examples: int) -> Mapping[str, Any]:
    """A race among equals: was any called a loser, was one singled out, and what the naive test would say."""
    found = replayed(bank, default(), examples=examples, seed=seed, arms=equal(bank, "equal", TWELVE))
    first = [outcome for outcome in found.outcomes if outcome.unit.rung == 1 and outcome.unit.rate == middle(found)]
    return {
        "loser": bool(worse(found)),
        "single": len(found.decision.plausible) == 1,
        "naive": naive(first, found.targets, np.random.default_rng([seed, 5])),
    }


def power(bank: Predictions, seed: int, examples: int) -> Mapping[str, Any]:
    """A race of eleven equal arms and one that is two points better."""
    twelve = {**equal(bank, STEADY, TWELVE - 1), "better": "better"}
    found = replayed(improved(bank, STEADY, 0.02), default(), examples=examples, seed=seed, arms=twelve)
    spent = sum(outcome.unit.epochs for outcome in found.outcomes)
    # every arm and rate to the end with two seeds
    whole = found.race.schedule.epochs * 2 * sum(len(arm.rates) for arm in found.race.arms)
    return {"single": found.decision.plausible == ("better",), "spent": spent / whole}


def claim(bank: Predictions, seed: int, examples: int, *, epsilon: float, apart: bool) -> Mapping[str, Any]:
    """A race of all arms: was its choice certified, and is it truly that near to the best finalist?

    With examples set `apart` for certification, the claim is about the very models; without, about the strategies.
    """
    aim = Aim(epsilon=epsilon)
    arms = {name: name for name in bank.arms if name != "equal"}
    found = replayed(
        bank, default(), examples=examples, seed=seed, arms=arms, certification=examples if apart else 0, aim=aim
    )
    true = {f.arm.id: found.models[f.validation[0].unit] if apart else found.worth[f.arm.id] for f in found.finalists}
    behind = max(true.values()) - true[found.decision.arm]
    overall = max(found.worth[name] for name in arms) - found.worth[found.decision.arm]
    return {"certified": found.decision.certified, "behind": behind, "overall": overall}


def worth(bank: Predictions, seed: int, examples: int, *, among: str) -> Mapping[str, Any]:
    """A race of equal arms or of all: the winner's plain score and the corrected one, each less the truth."""
    arms = equal(bank, "equal", TWELVE) if among == "equal" else {name: name for name in bank.arms if name != "equal"}
    found = replayed(bank, default(), examples=examples, seed=seed, arms=arms)
    chosen = next(f for f in found.finalists if f.arm.id == found.decision.arm)
    corrected = corrected_score(found.outcomes, chosen.validation, found.targets, Aim(), seed=seed)
    plain, best = max((accuracy(o, found.targets), o.unit) for o in found.outcomes)
    inside = corrected.low <= found.worth[chosen.arm.id] <= corrected.high
    return {
        "naive": plain - found.models[best],
        "corrected": corrected.value - found.worth[chosen.arm.id],
        "covered": inside,
    }


def accuracy(outcome: Outcome, targets: NDArray[np.int64]) -> float:
    """Of one training."""
    return score("accuracy", outcome.log_probabilities, targets[outcome.rows])


def default() -> Schedule:
    """What `find` races by at default effort, on one fold."""
    return schedule("default", 36)


def middle(found: Replay) -> float:
    """The learning rate that all arms have in common."""
    return found.race.arms[0].plan.recipe.lr


def naive(outcomes: list[Outcome], targets: NDArray[np.int64], rng: np.random.Generator) -> bool:
    """Whether a signed-rank test of any arm against the leader says 5% at any of ten looks."""
    table = np.stack([-o.log_probabilities[np.arange(len(o.rows)), targets[o.rows]] for o in outcomes])
    table = table[:, rng.permutation(table.shape[1])].astype(np.float64)
    for look in range(1, LOOKS + 1):
        part = table[:, : table.shape[1] * look // LOOKS]
        leader = int(part.mean(axis=1).argmin())
        others = (arm for arm in range(len(part)) if arm != leader)
        if any(stats.wilcoxon(part[leader], part[arm], alternative="less").pvalue < 0.05 for arm in others):
            return True
    return False


def improved(bank: Predictions, arm: str, points: float, seed: int = 0) -> Predictions:
    """The bank with one more arm, "better": the trainings of another, right on some more examples."""
    rows, rng = np.flatnonzero(bank.arm == arm), np.random.default_rng(seed)
    wrong = (~bank.right[rows]).mean(axis=0)
    order = rng.permutation(len(wrong))
    mended = order[: int(np.searchsorted(np.cumsum(wrong[order]), points * len(wrong)))]
    label, coded = bank.label[rows], bank.coded[rows]
    label[:, mended] = bank.target[mended]
    coded[:, mended] = np.minimum(coded[:, mended], CODE)
    known = bank.facts["arms"]
    return replace(
        bank,
        facts={**bank.facts, "arms": {**known, "better": known[arm]}},
        arm=np.concatenate([bank.arm, np.full(len(rows), "better")]),
        label=np.concatenate([bank.label, label]),
        coded=np.concatenate([bank.coded, coded]),
        **{name: np.concatenate([getattr(bank, name), getattr(bank, name)[rows]])
           for name in ("rate", "seed", "seconds", "diverged")},
    )  # fmt: skip


def played(
    what: Callable[..., Mapping[str, Any]], bank: Predictions, races: int, first: int, jobs: int, **given: Any
) -> dict[str, NDArray[Any]]:
    """What many races came to, a column each."""
    rows = joblib.Parallel(jobs)(joblib.delayed(partial(what, **given))(bank, first + race) for race in range(races))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def share(of: NDArray[Any]) -> Share:
    return Share(int(of.sum()), len(of))


def table(bank: Predictions, races: int, first: int, jobs: int) -> list[str]:
    """All measurements, a line each."""
    lines = ["| question | mark | measured |", "|---|---|---|"]

    def say(question: str, mark: str, measured: object) -> None:
        lines.append(f"| {question} | {mark} | {measured} |")
        print(lines[-1], flush=True)

    equals = played(null, bank, races, first, jobs, examples=1000)
    say("12 equal arms, 1,000 examples: a loser is declared", "at most 5%", share(equals["loser"]))
    say("the same: one arm is singled out", "at most 5%", share(equals["single"]))
    say("the same: a signed-rank test at ten looks declares a loser", "shown beside", share(equals["naive"]))
    strong = played(power, bank, max(20, races // 10), first, jobs, examples=5000)
    say("one of 12 is 2 points better, 5,000 examples: singled out", "at least 80%", share(strong["single"]))
    say(
        "the same: epochs spent, of all arms and rates to the end",
        "at most 40%",
        f"{100 * strong['spent'].mean():.0f}%",
    )
    for apart, about in ((False, "validation alone"), (True, "as many examples set aside")):
        for epsilon in (0.01, 0.02):
            found = played(claim, bank, races, first, jobs, examples=1000, epsilon=epsilon, apart=apart)
            sure = found["certified"]
            right = share(found["behind"][sure] <= epsilon)
            say(f"certified within {100 * epsilon:g} points, {about}: true", "at least 95%", right)
            say("the same: mean distance from the best of all arms, certified or not", "", points(found["overall"]))
    for among, called in (("equal", "12 equal arms"), ("all", "all arms")):
        found = played(worth, bank, races, first, jobs, examples=1000, among=among)
        say(f"{called}: best score seen, less its truth", "shown beside", points(found["naive"]))
        say(f"{called}: corrected score, less its truth", "within 0.3 points", points(found["corrected"]))
        say("the same: its interval holds the truth", "about 95%", share(found["covered"]))
    return lines


def points(values: NDArray[np.float64]) -> str:
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{100 * values.mean():+.2f} points (standard error {100 * error:.2f})"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--bank", type=Path, default=BANK)
    parser.add_argument("--seed", type=int, default=0, help="of the first race; others follow")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = table(read(given.bank), given.races, given.seed, given.jobs)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
