"""What is known of transfer learning, asked of the engine and of the decision: a tool that fails here is wrong.

Some worlds are trained live; of the others the predictions are stored (`python -m benchmarks.truth` makes them), and
the race and the decision are played on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.predictions import Predictions, read
from benchmarks.replay import equal, replayed, worse
from benchmarks.truth.crossover import EPOCHS as EXAMPLES
from benchmarks.truth.crowd import DEPTH as DEEP
from benchmarks.truth.crowd import SPOILT
from benchmarks.truth.outside import accuracies
from benchmarks.truth.planted import PLANTED, searched
from benchmarks.truth.transfer import BLOCKS
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


@pytest.mark.parametrize("depth", PLANTED[::2])
def test_a_planted_depth_is_found(depth: int) -> None:
    """`python -m benchmarks.truth.planted` asks for twenty tasks of each; here is one of the ends, with less effort."""
    found = searched(depth, 0, threads=1, workers=1, precision="fp32", batch_size=32, effort="quick")
    assert found["freeze"] == depth, found
    assert found["score"] > found["baselines"]["full_finetune"] + 0.02
    assert found["score"] > found["baselines"]["linear_probe"] + 0.02


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_outside_of_what_it_saw_fine_tuning_from_a_new_head_bends_what_a_probe_keeps(error: float) -> None:
    found = [accuracies(error, seed) for seed in range(2)]
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


# ------------------------------------------------------------------------------------------ near, far, and nothing


def frozen(target: str, prefix: str = "", tuned: bool = False) -> np.ndarray:
    """Of the first k blocks kept under new ones: seeds x k."""
    name, table = "tuned" if tuned else "frozen", stored(f"transfer-{target}")
    return np.stack([table.tuned(f"{prefix}{name}@{k}") for k in range(1, BLOCKS + 1)], axis=1)


def test_frozen_under_new_layers_the_last_blocks_are_too_much_of_what_they_were_learned_for() -> None:
    """Yosinski et al. (2014), figure 2: the first layers lose nothing, the last more than 3 points."""
    curve, base = frozen("similar"), stored("transfer-similar").tuned("scratch")
    assert abs((curve[:, 0] - base).mean()) < 0.015
    assert better(curve[:, 0], curve[:, -1], by=0.03)
    assert curve[:, : BLOCKS - 1].min() > curve[:, -1].max() - 0.02


def test_transferred_and_learning_on_no_depth_loses_and_scratch_stays_behind() -> None:
    """The boost: not for longer training, and not for weights of the same task."""
    table, curve = stored("transfer-similar"), frozen("similar", tuned=True)
    own = frozen("similar", prefix="self-", tuned=True)
    for others in (table.tuned("scratch"), table.tuned("scratch-longer"), own.mean(axis=1)):
        assert better(curve[:, 1:].mean(axis=1), others)
    assert np.ptp(curve.mean(axis=0)) < 0.02 < np.ptp(frozen("similar").mean(axis=0))


def test_the_farther_the_target_the_more_depth_costs_and_the_less_the_search_freezes() -> None:
    drops = {target: frozen(target)[:, :1] - frozen(target) for target in ("similar", "dissimilar")}
    apart = drops["dissimilar"] - drops["similar"]
    for k in range(2, BLOCKS):
        assert better(drops["dissimilar"][:, k], drops["similar"][:, k], by=0.05)
    assert all(more > less for less, more in pairwise(apart.mean(axis=0)))
    names = {f"freeze@{f}": f"freeze@{f}" for f in range(BLOCKS)}
    near, far = (
        [
            replayed(stored(f"transfer-{target}"), schedule("default", 30), examples=800, seed=seed, arms=names)
            .decision.plan.freeze for seed in range(6)
        ]
        for target in drops
    )  # fmt: skip
    assert np.mean(far) < 1 < 2 < np.mean(near), (near, far)


def test_of_a_network_that_learned_nothing_frozen_blocks_are_worth_less_from_the_second_on() -> None:
    """Where both look alike, there is a leak, or the labels are trivial."""
    known, nothing = frozen("similar"), frozen("similar", prefix="random-")
    for k in range(1, BLOCKS):
        assert better(known[:, k], nothing[:, k], by=0.05)
    assert better(nothing[:, 0], nothing[:, -1], by=0.5)
    assert all(more < less for less, more in pairwise(nothing.mean(axis=0)))


# ---------------------------------------------------------------------------------- few and many, examples and classes


def crowd(source: str) -> Predictions:
    return stored(f"crowd-{source}")


def probes(table: Predictions) -> np.ndarray:
    """Seeds x depths."""
    return np.stack([table.tuned(f"probe@{k}") for k in range(1, DEEP + 1)], axis=1)


def test_the_last_layers_of_a_network_that_saw_few_classes_serve_no_others() -> None:
    """The tunnel: of its own classes the probes know ever more with depth, of others ever less."""
    own, others = probes(crowd("few-own")), probes(crowd("few"))
    assert better(own[:, -1], own[:, 0], by=0.05)
    assert better(others[:, 0], others[:, -1], by=0.1)
    assert others.mean(axis=0).argmax() < 3
    assert own.mean(axis=0).argmax() >= 4


def test_of_one_that_saw_many_classes_they_do() -> None:
    few, many = probes(crowd("few")), probes(crowd("many"))
    assert better(many[:, -1], few[:, -1], by=0.1)
    assert better(many[:, -1], many[:, 0])
    assert many.mean(axis=0).argmax() >= DEEP - 4


def test_the_search_keeps_all_of_what_serves_and_less_of_what_does_not() -> None:
    names = {f"probe@{k}": f"probe@{k}" for k in range(1, DEEP + 1)}
    for source, whole in (("few", False), ("many", True)):
        for seed in range(4):
            found = replayed(crowd(source), schedule("default", 30), examples=800, seed=seed, arms=names)
            assert (f"probe@{DEEP}" in found.decision.plausible) == whole, (source, seed, found.decision)


def test_what_learned_by_heart_is_better_left_behind_above_its_first_layers() -> None:
    table = crowd("random")
    curve = probes(table)
    assert better(curve[:, 0], curve[:, -1], by=0.1)
    assert better(table.tuned("drop@1"), table.tuned("full_finetune"))
    for seed in range(4):
        found = replayed(table, schedule("default", 30), examples=800, seed=seed, arms=searched_arms(table))
        assert found.decision.plan.keep < DEEP, (seed, found.decision)


def test_last_layers_that_were_spoilt_are_left_behind() -> None:
    spoilt, whole = probes(crowd("shuffled")), probes(crowd("many"))
    assert (spoilt[:, :-SPOILT] == whole[:, :-SPOILT]).all()  # below, they are the same networks
    assert better(whole[:, -1], spoilt[:, -1], by=0.02)
    names = {f"probe@{k}": f"probe@{k}" for k in range(1, DEEP + 1)}
    for seed in range(4):
        found = replayed(crowd("shuffled"), schedule("default", 30), examples=800, seed=seed, arms=names)
        assert found.decision.plan.keep <= DEEP - SPOILT, (seed, found.decision)
        assert f"probe@{DEEP}" not in found.decision.plausible


def searched_arms(table: Predictions) -> dict[str, str]:
    return {name: name for name in table.arms if name != "scratch"}


def test_with_more_examples_what_was_learned_elsewhere_is_worth_less() -> None:
    tables = [stored(f"crossover-{count}") for count in EXAMPLES]
    kept = ["probe", *(f"freeze@{f}" for f in range(3))]
    gaps = [max(table.tuned(name).mean() for name in kept) - table.tuned("scratch").mean() for table in tables]
    assert gaps[0] > 0.1 > 0.05 > gaps[-1], gaps
    assert all(more < fewer + 0.02 for fewer, more in pairwise(gaps)), gaps


def test_with_more_examples_less_is_frozen() -> None:
    tables = [stored(f"crossover-{count}") for count in EXAMPLES]
    prices = [table.tuned("freeze@0").mean() - table.tuned("freeze@2").mean() for table in tables]
    assert all(more > fewer - 0.01 for fewer, more in pairwise(prices)), prices
    names = {name: name for name in ("probe", "freeze@0", "freeze@1", "freeze@2")}
    depths = [
        np.mean([
            replayed(table, schedule("default", 30), examples=800, seed=seed, arms=names).decision.plan.freeze
            for seed in range(4)
        ])
        for table in tables
    ]  # fmt: skip
    assert all(more <= fewer for fewer, more in pairwise(depths)), depths
    assert depths[-1] == 0 < depths[0]


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


def test_four_times_the_examples_certify_about_half_the_difference(bank: Predictions) -> None:
    """Of models that are alike, the smallest epsilon that can be certified shrinks like the root of the examples."""
    arms, widths = equal(bank, "equal", 4), list[float]()
    for count in (100, 400, 1600):
        found = [
            replayed(bank, schedule("default", 36), examples=count, seed=seed, arms=arms, certification=count).decision
            for seed in range(12)
        ]
        widths.append(float(np.median([decision.certifiable for decision in found if decision.certifiable])))
    for fewer, more in pairwise(widths):
        assert 0.3 < more / fewer < 0.8, widths


def test_tables_are_small_enough_to_be_kept_with_the_code() -> None:
    sizes = {file.name: file.stat().st_size for file in Path(TABLES).glob("*.npz")}
    assert sizes and sum(sizes.values()) < 8e6, sizes
