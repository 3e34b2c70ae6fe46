"""The choice among the finalists, and what may be claimed of it.

Two sets are reported and never mixed. Let E be the errors of the estimated scores, S the standard errors of their
differences, and k the arm that is truly best. With c_k as the one-sided Dunnett quantile with control k, the event

    true(k) - true(i) <= seen(k) - seen(i) + c_k S(k, i)   for all i at once

holds at the stated confidence. On it no arm i is further from the best than U(i) = max over j of seen(j) - seen(i) +
c_j S(j, i), whichever k is: arms with U(i) <= epsilon are `proven` (Hsu 1981, multiple comparisons with the best).
`plausible` holds the arms that no other beats by more than its bound; it uses the larger quantile for all pairs at
once, so that among equal arms a loser is declared no more often than the error allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frostline.errors import OptionError, RunFailed
from frostline.plan import with_rate
from frostline.search.arms import exact
from frostline.search.compare import control_quantiles, range_quantile, standard_errors
from frostline.search.resample import Sample, sample
from frostline.search.scores import METRICS, Floats, Metric, Own
from frostline.values import Arm, Cost, Decision, Outcome

SHARE = 0.5  # of the error budget is the decision's: the rungs before it spent 0.2 and 0.3
REALISTIC = 10  # times the examples at hand; nobody collects more than that to settle a point
Prefer = Literal["training", "inference", "memory"]


@dataclass(frozen=True, slots=True)
class Aim:
    """What the user wants of the answer."""

    metric: Metric = "accuracy"
    epsilon: float = 0.01  # in units of the metric: 0.01 is one point
    confidence: float = 0.95
    prefer: Prefer = "training"

    def __post_init__(self) -> None:
        allowed = {name: None for known in METRICS.values() for name in known}
        if isinstance(self.metric, str) and self.metric not in allowed:
            raise OptionError(f"metric is {self.metric!r}; allowed are {', '.join(allowed)}")
        if not 0 < self.confidence < 1 or not 0 <= self.epsilon < float("inf"):
            raise OptionError(
                f"epsilon is {self.epsilon} and confidence {self.confidence}; epsilon is at least 0, "
                "and confidence lies between 0 and 1, for example 0.01 and 0.95"
            )
        if self.prefer not in ("training", "inference", "memory"):
            raise OptionError(f"prefer is {self.prefer!r}; allowed are training, inference, memory")


@dataclass(frozen=True, slots=True, eq=False)
class Finalist:
    """An arm that came to the end, with what each of its trainings predicted."""

    arm: Arm
    cost: Cost
    validation: tuple[Outcome, ...]  # the same folds and seeds for every finalist
    certification: tuple[Outcome, ...] = ()  # on rows that nothing was selected on; best one: the model handed back


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The finalists against each other on one body of data, in the finalists' order."""

    scores: Floats  # higher is better: a log-loss stands here with a minus
    behind: Floats  # the most that each may lie behind the best, at the confidence; 0 where there is only one
    beaten: NDArray[np.bool_]  # [i, j]: j is ahead of i by more than the bound for all pairs at once
    regret: Floats  # expected distance from the best over the bootstrap
    needed: tuple[int | None, ...]  # further examples that would bring `behind` to epsilon if all were equal
    examples: int  # that the comparison rests on
    apart: bool = False  # examples that decided nothing

    @property
    def plausible(self) -> tuple[bool, ...]:
        """Which finalists no other one beats."""
        return tuple(not row.any() for row in self.beaten)


def decide(
    finalists: Sequence[Finalist],
    targets: NDArray[np.int64],
    aim: Aim,
    *,
    replicates: Sequence[Sequence[Sequence[Outcome]]] = (),
    seed: int = 0,
) -> Decision:
    """The choice among finalists and its standing; `targets` are those of all examples.

    The arm is chosen on the validation predictions alone: the cheapest proven one by `aim.prefer`; where none is, the
    cheapest whose expected regret is at most epsilon; else the one of least expected regret. Costs that agree to three
    digits are equal, and then the simpler plan goes first: more layers frozen, fewer learnable parameters.

    Where every finalist has certification predictions, `plausible`, `proven` and `certified` are stated on those: no
    selection touched them, and since the choice was not made on them either, the plain score of the chosen model there
    is honest too. Without them the sets come from validation rows that also served to select learning rates and
    finalists, so they are a little too narrow; the score to report is then `corrected_score`. "Best" means the best of
    the finalists: arms that the schedule had no room for are not judged.

    The plan has the learning rate that the finalist was trained with. A lone finalist is compared with nothing and
    proves nothing. `replicates` holds earlier groups of trainings (rungs of arms of trainings) that help to tell how
    much a seed matters. Outcomes that diverged take their finalist out. Raises RunFailed where no finalist is left.
    """
    running = [f for f in finalists if not any(o.diverged for o in (*f.validation, *f.certification))]
    if not running:
        raise RunFailed("every finalist diverged; lower the learning rate in the recipe, or give more epochs")
    still = tuple(exact(f.arm) for f in running)
    alpha = SHARE * (1 - aim.confidence)
    seen = compare(
        sample([f.validation for f in running], targets, aim.metric, still, replicates, seed=seed), aim, alpha
    )
    at, rule = _choose(running, seen, aim)
    certain = seen
    if all(f.certification for f in running):
        drawn = sample([f.certification for f in running], targets, aim.metric, still, (), seed=seed + 1)
        certain = replace(compare(drawn, aim, alpha), apart=True)
    return _decision(running, certain, at, rule, aim)


def compare(drawn: Sample, aim: Aim, alpha: float) -> Comparison:
    """Bounds of every finalist's distance from the best, wrong for any of them at `alpha`."""
    scores, errors = drawn.scores, drawn.errors
    se = standard_errors(errors)
    control = control_quantiles(errors, se, alpha)
    ahead = scores[None, :] - scores[:, None]  # how far column j is ahead of row i
    behind = np.maximum(0.0, (ahead + control[None, :] * se).max(axis=1))
    beaten = ahead > range_quantile(errors, se, alpha) * se + 1e-12
    draws = scores + errors
    regret = (draws.max(axis=1, keepdims=True) - draws).mean(axis=0)
    by_examples = standard_errors(drawn.by_examples)
    # m = z^2 var / epsilon^2, with the variance of a paired difference seen on n examples as n se^2
    enough = drawn.examples * (control[None, :] * by_examples).max(axis=1) ** 2 / max(aim.epsilon, 1e-9) ** 2
    needed = tuple(int(np.ceil(m)) - drawn.examples if m > drawn.examples else None for m in enough)
    return Comparison(scores, behind, beaten, regret, needed, drawn.examples)


def preference(finalist: Finalist, prefer: Prefer) -> tuple[float, int, int, str]:
    """What sorts the cheapest and simplest first: cost to three digits, frozen layers, learnable parameters, name."""
    costs: Mapping[str, Callable[[Cost], float]] = {
        "training": lambda c: c.training,
        "inference": lambda c: c.inference,
        "memory": lambda c: c.memory,
    }
    cost = float(f"{costs[prefer](finalist.cost):.2e}")
    return cost, -finalist.arm.plan.freeze, finalist.cost.parameters, finalist.arm.id


def _choose(running: Sequence[Finalist], seen: Comparison, aim: Aim) -> tuple[int, str]:
    order = sorted(range(len(running)), key=lambda i: preference(running[i], aim.prefer))
    proven = [i for i in order if seen.behind[i] <= aim.epsilon]
    if proven:
        return proven[0], "proven"
    modest = [i for i in order if seen.regret[i] <= aim.epsilon]
    if modest:
        return modest[0], "regret"
    return min(order, key=lambda i: float(seen.regret[i])), "least"


def _decision(running: Sequence[Finalist], certain: Comparison, at: int, rule: str, aim: Aim) -> Decision:
    names = [f.arm.id for f in running]
    alone = len(names) == 1  # compared with nothing, which proves nothing
    within = zip(names, certain.behind, strict=True)
    proven = tuple(name for name, behind in within if behind <= aim.epsilon and not alone)
    certified = names[at] in proven
    better = tuple(name for name, ahead in zip(names, certain.beaten[at], strict=True) if ahead)
    needed = None if certified or better else certain.needed[at]  # no number of examples makes a worse arm the best
    return Decision(
        arm=names[at],
        plan=with_rate(running[at].arm.plan, running[at].validation[0].unit.rate),
        epsilon=aim.epsilon,
        confidence=aim.confidence,
        certified=certified,
        plausible=tuple(n for n, holds in zip(names, certain.plausible, strict=True) if holds),
        proven=proven,
        better=better,
        expected_regret=float(certain.regret[at]),
        reason=_because(names[at], rule, len(names), aim)
        + _standing(certified, needed, better, certain, float(certain.behind[at]), aim),
        needed=needed,
        certifiable=None if alone else float(certain.behind[at]),
    )


def further(needed: int, present: int) -> str:
    """How many more examples would certify a choice, to two figures; past ten times the `present` ones, that none do.

    >>> further(19_730, 5_000)
    'about 20,000 more examples would show it if the finalists are equally good'
    >>> further(19_730, 153)
    'no realistic number of further examples would show it, even if the finalists are equally good'
    """
    if needed > REALISTIC * present:
        return "no realistic number of further examples would show it, even if the finalists are equally good"
    return f"about {int(float(f'{needed:.2g}')):,} more examples would show it if the finalists are equally good"


def _because(name: str, rule: str, count: int, aim: Aim) -> str:
    cost = {"training": "cheapest to train", "inference": "cheapest to run", "memory": "least in memory"}[aim.prefer]
    if count == 1:
        return f"{name} is the only finalist, so there was nothing to compare it with."
    size = _size(aim, aim.epsilon)
    return {
        "proven": f"{name} is the {cost} of the finalists that validation shows to be within {size} of the best",
        "regret": f"{name} is the {cost} of the finalists that validation expects at most {size} behind the best",
        "least": f"{name} is the one of the {count} finalists that validation expects to lie least behind the best",
    }[rule]


def _standing(
    certified: bool, needed: int | None, better: Sequence[str], certain: Comparison, behind: float, aim: Aim
) -> str:
    """What may be claimed of the choice, as the second half of a sentence; it lies at most so far `behind` the best."""
    where = "on the examples set aside, which did not decide," if certain.apart else "on this data"
    count = len(certain.scores)
    if count == 1:
        return ""
    percent = f"{100 * aim.confidence:g}%"
    if certified:
        return f"; at {percent} confidence it is within {_size(aim, aim.epsilon)} of the best of {count} finalists."
    if better:
        names = " and ".join(filter(None, (", ".join(better[:-1]), better[-1])))
        return f". Not certified: {where} {names} did better than it by more than chance."
    size, least = _size(aim, aim.epsilon), _size(aim, _up(behind))
    lacking = f". Not certified: at {percent} confidence it is shown to lie within {least} of the best, not {size}"
    if needed is None:
        return f"{lacking}, and more examples alone would not show it: the seeds or true differences are too large."
    return f"{lacking}; {further(needed, certain.examples)}."


def _up(value: float) -> float:
    """To two figures, never less: a bound stays one."""
    step = 10.0 ** (np.floor(np.log10(value)) - 1) if value > 0 else 1.0
    return float(np.ceil(value / step - 1e-9) * step)


def _size(aim: Aim, epsilon: float) -> str:
    if isinstance(aim.metric, Own):
        return f"{epsilon:g}"
    value, unit = (epsilon, "nat") if aim.metric == "log_loss" else (100 * epsilon, "point")
    return f"{value:g} {unit}" + ("" if f"{value:g}" == "1" else "s")
