"""What is known of transfer learning, asked of the engine and of the decision: a tool that fails here is wrong.

Some worlds are trained live; of the others the predictions are stored (`python -m benchmarks.truth` makes them), and
the race and the decision are played on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.predictions import Predictions, read
from benchmarks.replay import equal, replayed, worse
from benchmarks.truth.outside import accuracies
from benchmarks.truth.planted import PLANTED, searched
from benchmarks.truth.world import TABLES
from frostline.search.arms import propose
from frostline.search.decide import Aim, Finalist, decide
from frostline.search.race import finalists, start
from frostline.search.schedule import schedule
from tests.planted import RECIPE, World, cost, evidence, layers, run
from tests.published import CASES, Case

DRAWS = 4000


def better(ours: np.ndarray, theirs: np.ndarray, by: float = 0.0) -> bool:
    """Ours is above theirs by more than `by`: in the mean, and in 95% of paired resamples of the seeds."""
    gaps = ours - theirs - by
    rng = np.random.default_rng(0)
    means = gaps[rng.integers(0, len(gaps), (DRAWS, len(gaps)))].mean(axis=1)
    return bool(gaps.mean() > 0 and np.mean(means > 0) >= 0.95)


def stored(name: str) -> Predictions:
    return read(TABLES / f"{name}.npz")


# ------------------------------------------------------------------------------------------------------ live


@pytest.mark.parametrize("depth", PLANTED)
def test_a_planted_depth_is_found(depth: int) -> None:
    """`python -m benchmarks.truth.planted` asks for twenty tasks of each; here is one."""
    found = searched(depth, 0, threads=1, workers=1)
    assert found["freeze"] == depth, found
    assert found["score"] > found["baselines"]["full_finetune"] + 0.02
    assert found["score"] > found["baselines"]["linear_probe"] + 0.02


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_outside_of_what_it_saw_fine_tuning_from_a_new_head_bends_what_a_probe_keeps(error: float) -> None:
    found = [accuracies(error, seed) for seed in range(3)]
    inside, outside = ({name: np.array([row[name][place] for row in found]) for name in found[0]} for place in (0, 1))
    assert (outside["fine-tuning"] < outside["probe"] - 0.1).all(), outside
    assert (outside["fine-tuning"] < outside["probe, then fine-tuning"] - 0.1).all(), outside
    assert abs(outside["probe, then fine-tuning"].mean() - outside["probe"].mean()) < 0.1, outside
    assert inside["fine-tuning"].mean() > 0.75


# ----------------------------------------------------------------------------------------------- as published


def gap(case: Case, place: int) -> float:
    """Points behind the best depth."""
    return 100 * (max(case.accuracy) - case.accuracy[place])


@pytest.mark.parametrize(("score", "mean"), [("lfc", 0.55), ("h_score", 0.74), ("logme", 0.74)])
def test_a_score_alone_is_a_worse_guide_than_keeping_everything_and_the_race_is_better(score: str, mean: float) -> None:
    alone, kept, raced = [], [], []
    for number, case in enumerate(CASES):
        known = getattr(case, score)
        alone.append(gap(case, int(np.argmax(known))))
        kept.append(gap(case, 0))
        raced.append(gap(case, _raced(case, known, number)))
    assert np.mean(alone) == pytest.approx(mean, abs=0.01)
    assert np.mean(kept) == pytest.approx(0.36, abs=0.01)
    assert np.mean(raced) <= np.mean(kept)


def _raced(case: Case, known: Sequence[float], seed: int) -> int:
    """How many blocks are dropped where the score is what the probes say, and CIFAR-100's test pictures decide."""
    depth = len(known)
    scaled = np.array(known) / (2 * max(known))
    told = evidence({depth - place: float(value) for place, value in enumerate(scaled)})
    arms = [
        arm
        for arm in propose(layers(depth), told, recipe=RECIPE, classes=100, examples=50_000)
        if arm.id == "lp_ft" or arm.id.startswith("drop@")
    ]
    here = World({arm.id: case.accuracy[depth - arm.plan.keep] for arm in arms}, 10_000, seed, seed_sd=0.001)
    race, outcomes = run(start(arms, schedule("default", 12)), here)
    by = {outcome.unit: outcome for outcome in outcomes}
    last = [Finalist(arm, cost(), tuple(by[unit] for unit in units)) for arm, _, units in finalists(race)]
    decision = decide(last, here.targets(), Aim())
    return depth - decision.plan.keep


# ------------------------------------------------------------------------------------- surgery, rates, optimisers


def test_where_classes_changed_places_the_head_alone_is_to_learn() -> None:
    table = stored("surgical-permuted")
    assert better(table.tuned("head"), table.tuned("all, new head"), by=0.05)
    assert better(table.tuned("head"), table.tuned("all"))


def test_where_inputs_moved_the_first_layer_is_to_learn() -> None:
    table = stored("surgical-moved")
    assert better(table.tuned("only@0"), table.tuned("only@2"))
    assert better(table.tuned("only@0"), table.tuned("head"), by=0.02)
    assert better(table.tuned("only@0"), table.tuned("all"), by=-0.005)


@pytest.mark.parametrize("at", range(3))
def test_a_spoilt_layer_is_mended_where_it_is_spoilt_or_beside(at: int) -> None:
    table = stored(f"surgical-spoilt-{at}")
    alone = {layer: float(table.tuned(f"only@{layer}").mean()) for layer in range(3)}
    assert alone[at] > max(alone.values()) - 0.01, alone
    assert better(table.tuned(f"only@{at}"), table.tuned("all"), by=-0.012)


def test_under_sgd_a_stem_with_outsized_gradients_is_better_frozen_and_adam_does_not_mind() -> None:
    table = stored("surgical-steep")
    assert better(table.tuned("sgd, freeze@1"), table.tuned("sgd, freeze@0"))
    lost = {
        name: (table.tuned(f"{name}, freeze@1") - table.tuned(f"{name}, freeze@0")).mean() for name in ("sgd", "adamw")
    }
    assert lost["adamw"] < lost["sgd"] / 2, lost


def test_at_one_learning_rate_for_all_another_depth_looks_best() -> None:
    """Each depth at its own rate finds the planted one."""
    strayed = 0
    for depth in PLANTED:
        table = stored(f"planted-{depth}")
        names = [f"freeze@{f}" for f in range(4)]
        own = {name: float(table.tuned(name).mean()) for name in names}
        assert max(own, key=lambda name: own[name]) == f"freeze@{depth}", own
        for rate in (table.rate.min(), table.rate.max()):
            at = {name: float(table.true[(table.arm == name) & (table.rate == rate)].mean()) for name in names}
            strayed += max(at, key=lambda name: at[name]) != f"freeze@{depth}"
    assert strayed > 0


# ---------------------------------------------------------------------------------------------------- calibration


@pytest.fixture(scope="module")
def bank() -> Predictions:
    return stored("bank")


def test_among_twelve_equal_strategies_a_loser_is_rarely_declared(bank: Predictions) -> None:
    races = 40
    found = [
        bool(worse(replayed(bank, schedule("default", 36), examples=600, seed=s, arms=equal(bank, "equal", 12))))
        for s in range(races)
    ]
    assert sum(found) <= stats.binom.ppf(0.999, races, 0.05)


def test_what_is_certified_is_true(bank: Predictions) -> None:
    """Of real trainings whose truth is known: claims at a generous epsilon, and few where hardly any can be made."""
    wrong, claims, bold, races, aim = 0, 0, 0, 24, Aim(epsilon=0.03)
    arms = {name: name for name in bank.arms if name != "equal"}
    for seed in range(races):
        found = replayed(bank, schedule("default", 36), examples=600, seed=seed, arms=arms, aim=aim)
        claims += found.decision.certified
        wrong += found.decision.certified and found.behind > aim.epsilon
        bold += decide(found.finalists, found.targets, Aim(epsilon=0.002)).certified
    assert claims >= races / 3
    assert wrong <= stats.binom.ppf(0.999, claims, 0.05)
    assert bold < claims / 2


def test_tables_are_small_enough_to_be_kept_with_the_code() -> None:
    sizes = {file.name: file.stat().st_size for file in Path(TABLES).glob("*.npz")}
    assert sizes and sum(sizes.values()) < 8e6, sizes
