"""Laws of the decision, on planted predictions."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from frostline.errors import OptionError, RunFailed
from frostline.plan import plan
from frostline.search.compare import Spread, add_seeds, control_quantiles, gaussian, range_quantile, standard_errors
from frostline.search.decide import Aim, Finalist, decide, further
from frostline.search.race import finalists, rounds, start
from frostline.search.resample import sample
from frostline.search.schedule import schedule
from frostline.search.scores import METRICS, correct, score
from frostline.search.standing import corrected_score, estimate, held_out_score, in_every_metric, probability, standings
from frostline.settings import METRICS as ALLOWED
from frostline.values import Arm, Outcome, Unit
from tests.planted import RECIPE, World, arms, cost, ended, layers, run


def test_simultaneous_quantiles_are_those_of_dunnett_and_tukey_for_independent_arms() -> None:
    errors = np.random.default_rng(0).standard_normal((200_000, 4))
    se = standard_errors(errors)
    assert se[0, 1] == pytest.approx(np.sqrt(2), rel=0.02)
    tukey = stats.studentized_range.ppf(0.95, 4, 10**6) / np.sqrt(2)
    assert range_quantile(errors, se, 0.05) == pytest.approx(tukey, rel=0.02)
    assert control_quantiles(errors, se, 0.05) == pytest.approx([2.062] * 4, rel=0.02)  # Dunnett's table: 3 arms, inf


def test_a_variance_from_few_seeds_gives_the_tails_of_students_t() -> None:
    rng = np.random.default_rng(0)
    errors = add_seeds(np.zeros((200_000, 2)), Spread(0.5, 3.0), np.array([1.0, 1.0]), rng)
    difference = errors[:, 0] - errors[:, 1]
    assert np.quantile(difference, 0.975) == pytest.approx(stats.t.ppf(0.975, 3), rel=0.03)
    still = add_seeds(np.zeros((1000, 2)), Spread(0.5, 3.0), np.array([np.inf, np.inf]), rng)
    assert not still.any()


def test_the_gaussian_errors_have_the_covariance_of_the_means() -> None:
    table = np.random.default_rng(1).standard_normal((50, 3)) @ np.array([[1, 0.9, 0], [0, 0.3, 0], [0, 0, 2]])
    errors = gaussian(table, np.random.default_rng(2), draws=200_000)
    assert np.cov(errors.T) == pytest.approx(np.cov(table.T) / 50, rel=0.03, abs=3e-4)


def test_an_aim_that_means_nothing_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match="epsilon is -1"):
        Aim(epsilon=-1)
    with pytest.raises(OptionError, match=r"'auc'.*accuracy"):
        Aim(metric="auc")


def test_among_equal_finalists_a_loser_is_declared_at_most_5_times_in_100() -> None:
    declared, races, four = 0, 150, arms(4, rates=1)
    for seed in range(races):
        here = World({a.id: 0.8 for a in four}, 400, seed, seed_sd=0.01)
        declared += len(decide(ended(here, four), here.targets(), Aim()).plausible) < 4
    assert declared <= stats.binom.ppf(0.999, races, 0.05)


def test_what_is_called_proven_is_within_epsilon_of_the_best() -> None:
    """Wrong in at most 5% of decisions, with true scores 0, 1.5 or 3 points apart from arm to arm."""
    wrong, claims, races, four = 0, 0, 150, arms(4, rates=1)
    aim = Aim(epsilon=0.025)
    for seed in range(races):
        truth = {a.id: 0.75 + 0.015 * i * (seed % 3) for i, a in enumerate(four)}
        here = World(truth, 800, seed, seed_sd=0.002)
        decision = decide(ended(here, four), here.targets(), aim)
        best = max(truth.values())
        claims += len(decision.proven)
        wrong += any(truth[name] < best - aim.epsilon for name in decision.proven)
    assert claims > races / 2
    assert wrong <= stats.binom.ppf(0.999, races, 0.05)


def test_two_points_at_five_thousand_examples_are_mostly_singled_out() -> None:
    single, spent, races, twelve = 0, 0, 12, arms(12)
    for seed in range(races):
        here = World({a.id: 0.82 if a.id == "freeze@7" else 0.8 for a in twelve}, 5000, seed, seed_sd=0.001)
        race, outcomes = run(start(twelve, schedule("default", 12)), here)
        spent += sum(o.unit.epochs for o in outcomes)
        by = {o.unit: o for o in outcomes}
        last = [Finalist(arm, cost(), tuple(by[u] for u in units)) for arm, _, units in finalists(race)]
        earlier = [[by[u] for u in rounds(race)[1].units if u.arm == a.id] for a in rounds(race)[1].entrants]
        single += decide(last, here.targets(), Aim(), replicates=[earlier]).plausible == ("freeze@7",)
    assert single >= 0.8 * races
    assert spent <= 0.4 * races * 12 * 3 * 2 * 12  # every arm and rate to the end with two seeds


def test_the_choice_on_yosinskis_curve_is_on_its_plateaus_and_not_in_the_dip_between() -> None:
    """Frozen self-transfer, 2014: the best layers are the first two and the last, layers 4 and 5 dip."""
    published = [62.6, 62.3, 62.0, 60.4, 59.3, 61.9, 62.3]
    eight = arms(8)[1:]
    truth = {a.id: value / 100 for a, value in zip(eight, published, strict=True)}
    for seed in range(5):
        here = World(truth, 6000, seed, seed_sd=0.001, disagreement=0.03)
        race, outcomes = run(start(eight, schedule("default", 12)), here)
        by = {o.unit: o for o in outcomes}
        costs = {a.id: cost(training=10.0 - a.plan.freeze) for a in eight}
        last = [Finalist(arm, costs[arm.id], tuple(by[u] for u in units)) for arm, _, units in finalists(race)]
        assert decide(last, here.targets(), Aim(epsilon=0.005)).arm in {"freeze@1", "freeze@2", "freeze@7"}


def test_the_cheapest_proven_arm_is_chosen_by_what_the_user_prefers() -> None:
    three = arms(3, rates=1)
    costs = {"freeze@0": cost(1, 3, 3), "freeze@1": cost(3, 1, 3), "freeze@2": cost(3, 3, 1)}
    here = World({a.id: 0.8 for a in three}, 20_000, 0, disagreement=0.01)
    for prefer, name in [("training", "freeze@0"), ("inference", "freeze@1"), ("memory", "freeze@2")]:
        decision = decide(ended(here, three, costs), here.targets(), Aim(epsilon=0.02, prefer=prefer))  # pyright: ignore[reportArgumentType]
        assert (decision.arm, decision.certified, decision.needed) == (name, True, None)
        assert len(decision.proven) == 3


def test_costs_that_agree_to_three_digits_go_to_the_deeper_freeze() -> None:
    three = arms(3, rates=1)
    costs = {a.id: cost(training=1 + 1e-6 * a.plan.freeze) for a in three}
    here = World({a.id: 0.8 for a in three}, 20_000, 0, disagreement=0.01)
    assert decide(ended(here, three, costs), here.targets(), Aim(epsilon=0.02)).arm == "freeze@2"


@pytest.mark.parametrize(("count", "said"), [(1000, "about "), (60, "no realistic number")])
def test_little_data_is_not_certified_and_says_how_much_more_would_do(count: int, said: str) -> None:
    three = arms(3, rates=1)
    here = World({a.id: 0.8 for a in three}, count, 0)
    decision = decide(ended(here, three), here.targets(), Aim())
    assert not decision.certified
    assert decision.needed is not None
    assert (decision.needed > 10 * count) == said.startswith("no")
    assert "Not certified: " in decision.reason
    assert f"; {said}" in decision.reason
    assert decision.reason.endswith(f"{further(decision.needed, count)}.")
    least = decision.certifiable
    assert least is not None and least > 0.01
    for epsilon, certified in ((1.001 * least, True), (0.999 * least, False)):
        again = decide(ended(here, three), here.targets(), Aim(epsilon=epsilon))
        assert (decision.arm in again.proven) == certified
    shown = float(re.findall(r"within ([\d.]+) points", decision.reason)[-1]) / 100
    assert least <= shown <= 1.1 * least


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_further_examples_are_said_to_two_figures_and_only_where_they_could_be_had(needed: int, present: int) -> None:
    numbers = [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", further(needed, present))]
    assert len(numbers) == (needed <= 10 * present)
    for number in numbers:
        assert abs(number - needed) <= 0.05 * needed
        assert len(str(number).rstrip("0")) <= 2


def test_equal_predictions_of_few_examples_prove_nothing() -> None:
    two = arms(2, rates=1)
    here = World({a.id: 0.8 for a in two}, 50, 0)
    first = ended(here, two)[0]
    same = [replace(first, arm=a, cost=cost(), validation=first.validation[:1]) for a in two]
    assert not decide(same, here.targets(), Aim(epsilon=0.01)).proven
    assert len(decide(same, here.targets(), Aim(epsilon=0.2)).proven) == 2


def test_what_certifies_does_not_choose() -> None:
    """Validation prefers one arm, certification the other: the choice follows the first, the sets the second."""
    two = arms(2, rates=1)
    valid = World({"freeze@0": 0.9, "freeze@1": 0.7}, 4000, 0)
    last = World({"freeze@0": 0.7, "freeze@1": 0.9}, 4000, 1)
    both: list[Finalist] = []
    for f in ended(valid, two):
        certain = last.play(f.validation[0].unit)
        moved = replace(certain, rows=certain.rows + 4000)
        both.append(replace(f, certification=(moved,)))
    targets = np.concatenate([valid.targets(), last.targets()])
    decision = decide(both, targets, Aim())
    assert decision.arm == "freeze@0"
    assert not decision.certified
    assert decision.plausible == decision.proven == decision.better == ("freeze@1",)
    assert decision.needed is None  # no number of examples makes a worse arm the best
    assert "freeze@1 did better than it by more than chance" in decision.reason
    assert decision.expected_regret == pytest.approx(0.2, abs=0.03)


def test_an_arm_that_nobody_beats_need_not_beat_the_choice() -> None:
    three = arms(3, rates=1)
    valid = World({"freeze@0": 0.9, "freeze@1": 0.7, "freeze@2": 0.7}, 4000, 0)
    last = World({"freeze@0": 0.80, "freeze@1": 0.85, "freeze@2": 0.825}, 500, 2, disagreement=0.1)
    moved = [
        replace(f, certification=(replace(certain, rows=certain.rows + 4000),))
        for f in ended(valid, three)
        for certain in [last.play(f.validation[0].unit)]
    ]
    decision = decide(moved, np.concatenate([valid.targets(), last.targets()]), Aim())
    assert decision.arm == "freeze@0"
    assert decision.better == ("freeze@1",)
    assert set(decision.plausible) == {"freeze@1", "freeze@2"}
    assert "freeze@1 did better" in decision.reason


def test_nothing_is_better_than_a_choice_that_is_plausible() -> None:
    two = arms(2, rates=1)
    here = World({a.id: 0.8 for a in two}, 300, 0)
    decision = decide(ended(here, two), here.targets(), Aim())
    assert decision.arm in decision.plausible
    assert decision.better == ()


def test_a_finalist_that_diverged_takes_no_part_and_none_left_is_a_failed_run() -> None:
    two = arms(2, rates=1)
    here = World({a.id: 0.8 for a in two}, 200, 0)
    first, second = ended(here, two)
    bad = replace(first, validation=tuple(replace(o, diverged=True) for o in first.validation))
    assert decide([bad, second], here.targets(), Aim()).arm == second.arm.id
    with pytest.raises(RunFailed, match="diverged"):
        decide([bad], here.targets(), Aim())


@pytest.mark.parametrize("metric", ALLOWED["classification"])
def test_a_clear_winner_is_chosen_by_every_metric(metric: str) -> None:
    two = arms(2, rates=1)
    here = World({"freeze@0": 0.95, "freeze@1": 0.6}, 2000, 0)
    decision = decide(ended(here, two), here.targets(), Aim(metric=metric))
    assert (decision.arm, decision.plausible, decision.certified) == ("freeze@0", ("freeze@0",), True)


def test_the_same_outcomes_make_the_same_decision_in_any_order_of_rows() -> None:
    three = arms(3, rates=1)
    here = World({a.id: 0.8 for a in three}, 300, 0, seed_sd=0.01)
    straight = ended(here, three)
    turned = [replace(f, validation=tuple(_turned(o) for o in f.validation)) for f in straight]
    a, b = (decide(f, here.targets(), Aim()) for f in (straight, turned))
    assert (a.arm, a.plausible, a.proven, a.reason) == (b.arm, b.plausible, b.proven, b.reason)
    assert a.expected_regret == pytest.approx(b.expected_regret)


def _turned(o: Outcome) -> Outcome:
    return replace(o, rows=o.rows[::-1], log_probabilities=o.log_probabilities[::-1])


def configurations(world: World, count: int) -> list[Outcome]:
    return [world.play(Unit(name, RECIPE.lr, 1, 0, 0, 2)) for name in list(world.accuracy)[:count]]


def test_the_corrected_score_is_unbiased_where_the_naive_winner_is_optimistic() -> None:
    """Twelve equal arms: the truth is 80%."""
    naive, corrected, covered, races = [], [], 0, 40
    for seed in range(races):
        here = World({f"arm{i:02d}": 0.8 for i in range(12)}, 500, seed, disagreement=0.1)
        outcomes, targets = configurations(here, 12), here.targets()
        best = max(outcomes, key=lambda o: score("accuracy", o.log_probabilities, targets[o.rows]))
        naive.append(score("accuracy", best.log_probabilities, targets[best.rows]))
        found = corrected_score(outcomes, [best], targets, Aim())
        corrected.append(found.value)
        covered += found.low <= 0.8 <= found.high
        assert found.kind == "cross_validated"
    assert np.mean(naive) - 0.8 > 0.008
    assert abs(np.mean(corrected) - 0.8) < 0.005
    assert covered >= stats.binom.ppf(0.001, races, 0.95)


def test_the_corrected_score_of_a_whole_race_is_true_to_half_a_point() -> None:
    """Arms are equal, and half of an arm's own mistakes stay with it from seed to seed."""
    off, covered, races, twelve = [], 0, 40, arms(12)
    for seed in range(races):
        here = World({a.id: 0.8 for a in twelve}, 400, seed, seed_sd=0.005, disagreement=0.1, lasting=0.5)
        race, outcomes = run(start(twelve, schedule("default", 12)), here)
        by = {o.unit: o for o in outcomes}
        last = [Finalist(arm, cost(), tuple(by[u] for u in units)) for arm, _, units in finalists(race)]
        name = decide(last, here.targets(), Aim()).arm
        chosen = next(f.validation for f in last if f.arm.id == name)
        found = corrected_score(outcomes, chosen, here.targets(), Aim())
        truth = float(np.mean([here.truth(o.unit) for o in chosen]))
        off.append(found.value - truth)
        covered += found.low <= truth <= found.high
    assert abs(np.mean(off)) < 0.005
    assert covered >= stats.binom.ppf(0.001, races, 0.95)


def test_a_single_configuration_needs_no_correction() -> None:
    here = World({"arm00": 0.8}, 3000, 0)
    (outcome,) = configurations(here, 1)
    plain = score("accuracy", outcome.log_probabilities, here.targets())
    assert corrected_score([outcome], [outcome], here.targets(), Aim()).value == pytest.approx(plain, abs=0.002)


def test_a_held_out_score_is_the_plain_one_of_that_model() -> None:
    here = World({"arm00": 0.8}, 400, 0)
    (outcome,) = configurations(here, 1)
    for metric in METRICS["classification"]:
        found = held_out_score(outcome, here.targets(), Aim(metric=metric))
        assert found.value == score(metric, outcome.log_probabilities, here.targets())
        assert found.low < found.value < found.high
        assert (found.n, found.kind, found.metric) == (400, "held_out", metric)


def test_resamples_that_define_no_score_leave_intervals_and_probabilities_whole() -> None:
    """Two of forty are of the rare class: one resample in eight has none of them, and no area under a curve."""
    rng, targets = np.random.default_rng(0), np.array([0] * 38 + [1] * 2)
    aim = Aim(metric="roc_auc")

    def said(arm: str, knows: float) -> Outcome:
        logits = rng.normal(size=(40, 2)) + knows * np.eye(2)[targets]
        table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return Outcome(Unit(arm, 1e-3, 1, 0, 0, 2), np.arange(40), table.astype(np.float32), 1.0, 0)

    ours, theirs = said("freeze@0", 0.5), said("freeze@1", 0.5)  # neither is perfect: that has a width of its own
    found = corrected_score([ours, theirs], [ours], targets, aim)
    assert np.isfinite([found.value, found.low, found.high]).all()
    both = probability([ours], [theirs], targets, aim), probability([theirs], [ours], targets, aim)
    assert sum(both) == pytest.approx(1.0)
    two = [Finalist(arm, cost(), (outcome,)) for arm, outcome in zip(arms(2, rates=1), (ours, theirs), strict=True)]
    drawn = sample([f.validation for f in two], targets, "roc_auc", [False, False], (), seed=0)
    areas = estimate([ours], targets, aim)
    assert np.quantile(drawn.by_examples[:, 0] + drawn.scores[0], 0.025) == pytest.approx(areas.low, abs=0.05)


def test_a_metric_that_examples_of_one_class_do_not_define_is_not_told() -> None:
    here = World({"arm00": 0.8}, 40, 0)
    (outcome,) = configurations(here, 1)
    assert set(in_every_metric([outcome], here.targets(), Aim())) == set(METRICS["classification"])
    assert set(in_every_metric([outcome], np.zeros(40, np.int64), Aim())) == set(METRICS["classification"]) - {
        "roc_auc"
    }


def test_the_probability_of_being_better_is_that_of_the_normal_law_and_says_half_of_equals() -> None:
    here = World({"arm00": 0.82, "arm01": 0.8}, 1000, 0)
    ours, theirs = configurations(here, 2)
    targets = here.targets()
    assert probability([ours], [ours], targets, Aim()) == 0.5
    found = probability([ours], [theirs], targets, Aim())
    assert found == pytest.approx(1 - probability([theirs], [ours], targets, Aim()))
    gaps = correct(ours.log_probabilities, targets) - correct(theirs.log_probabilities, targets)
    assert found == pytest.approx(stats.norm.cdf(gaps.mean() / (gaps.std() / 1000**0.5)), abs=0.03)
    assert probability([ours], [theirs], targets, Aim(metric="log_loss")) > 0.5


def test_the_interval_of_two_seeds_on_the_same_rows_is_not_that_of_twice_the_examples() -> None:
    here = World({"arm00": 0.8}, 400, 0)
    (outcome,) = configurations(here, 1)
    one = estimate([outcome], here.targets(), Aim())
    two = estimate([outcome, outcome], here.targets(), Aim())
    assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.1)


def test_standings_name_every_arm_with_its_stage_and_what_it_cost() -> None:
    six = (*arms(5), Arm("linear_probe@6", plan(layers(6), RECIPE, freeze=6), (RECIPE.lr,), True, "linear_probe"))
    here = World({a.id: 0.8 for a in six}, 300, 0, seed_sd=0.01)
    race, outcomes = run(start(six, schedule("default", 12)), here)
    found = standings(race, outcomes, here.targets(), {a.id: cost() for a in six}, Aim(), shifted=np.empty(0, np.int64))
    assert [s.arm.id for s in found] == [a.id for a in six]
    assert {s.stage for s in found} == {"dropped@1", "dropped@2", "finalist"}
    for s in found:
        assert s.seconds == sum(o.seconds for o in outcomes if o.unit.arm == s.arm.id)
        assert s.score.low < s.score.mean < s.score.high
        assert s.rate in s.arm.rates
