"""Laws of the race, played on planted predictions."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.errors import OptionError, RunError
from frostline.search.arms import exact, propose
from frostline.search.race import (
    Race,
    ask,
    finalists,
    over,
    rounds,
    stages,
    start,
    tell,
    training_of_the_choice,
)
from frostline.search.schedule import Schedule, forecast, scale, schedule
from frostline.values import Arm, Outcome
from tests.planted import RECIPE, World, arms, evidence, layers, run

PROPOSED = propose(
    layers(10),
    evidence({d: 0.9 - 0.05 * abs(d - 6) for d in range(1, 11)}),
    recipe=RECIPE,
    classes=10,
    examples=500,
)


def world(of: tuple[Arm, ...], *, seed: int = 0, best: str = "", by: float = 0.05, examples: int = 400) -> World:
    return World(
        {a.id: 0.7 + by * (a.id == best) for a in of}, examples, seed, seed_sd=0.005, rate_penalty=0.02, folds=2
    )


def state(race: Race) -> tuple[object, ...]:
    return ask(race), tuple((t.onward, t.worse, dict(t.means), dict(t.rates)) for t in rounds(race)), dict(stages(race))


@given(order=st.randoms(use_true_random=False), effort=st.sampled_from(["quick", "default", "thorough"]))
@settings(max_examples=12)
def test_outcomes_told_in_any_order_make_the_same_race(order: object, effort: str) -> None:
    few = PROPOSED[:6]
    race, outcomes = run(start(few, schedule(effort, 6, folds=2)), world(few))  # pyright: ignore[reportArgumentType]
    shuffled = list(outcomes)
    order.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    other = start(few, race.schedule)
    for outcome in shuffled:
        other = tell(other, outcome, world(few).targets())
    assert state(other) == state(race)


def test_where_classes_count_alike_the_arm_that_knows_the_rare_one_is_ahead() -> None:
    targets = np.array([0] * 190 + [1] * 10)
    common, rare = arms(2, rates=1)
    often = np.where(np.arange(200) % 6 > 0, 0.9, 0.2)  # every sixth is wrong
    sure = {common.id: np.where(targets == 0, 0.9, 0.2), rare.id: np.where(targets == 0, often, 0.9)}
    ahead: dict[str, str] = {}
    for metric in ("accuracy", "macro_f1"):
        race = start((common, rare), schedule("quick", 6), metric=metric)
        while race.told == () or rounds(race)[0].missing:
            for unit in ask(race):
                table = np.where(np.eye(2)[targets] > 0, sure[unit.arm][:, None], 1 - sure[unit.arm][:, None])
                said = Outcome(unit, np.arange(200), np.log(table).astype(np.float32), 1.0, 0)
                race = tell(race, said, targets)
        means = rounds(race)[0].means
        ahead[metric] = min(means, key=lambda name: means[name])
    assert ahead == {"accuracy": common.id, "macro_f1": rare.id}


def test_where_log_loss_is_asked_for_overconfidence_counts_on_the_way_too() -> None:
    targets = np.arange(200) % 2
    loud, calm = arms(2, rates=1)
    right = {loud.id: np.arange(200) % 10 > 0, calm.id: np.arange(200) % 8 > 0}
    sure = {loud.id: 0.9999, calm.id: 0.87}
    ahead: dict[str, str] = {}
    for metric in ("accuracy", "log_loss"):
        race = start((loud, calm), schedule("quick", 6), metric=metric)
        for unit in ask(race):
            chosen = np.where(right[unit.arm], targets, 1 - targets)
            table = np.where(np.eye(2)[chosen] > 0, sure[unit.arm], 1 - sure[unit.arm])
            race = tell(race, Outcome(unit, np.arange(200), np.log(table).astype(np.float32), 1.0, 0), targets)
        means = rounds(race)[0].means
        ahead[metric] = min(means, key=lambda name: means[name])
    assert ahead == {"accuracy": loud.id, "log_loss": calm.id}


@given(cut=st.floats(0, 1))
@settings(max_examples=12)
def test_a_race_interrupted_anywhere_ends_as_if_it_never_was(cut: float) -> None:
    few, here = PROPOSED[:6], world(PROPOSED[:6])
    whole, outcomes = run(start(few, schedule("default", 6)), here)
    resumed = start(few, schedule("default", 6))
    for outcome in outcomes[: round(cut * len(outcomes))]:
        resumed = tell(resumed, outcome, here.targets())
    assert state(run(resumed, here)[0]) == state(whole)


def test_an_outcome_told_twice_changes_nothing() -> None:
    few, here = PROPOSED[:4], world(PROPOSED[:4])
    race = start(few, schedule("default", 6))
    once = tell(race, here.play(ask(race)[0]), here.targets())
    assert tell(once, here.play(ask(race)[0]), here.targets()).told == once.told


def test_an_outcome_of_another_run_is_refused_by_name() -> None:
    few = PROPOSED[:4]
    other = world(PROPOSED).play(replace(ask(start(PROPOSED, schedule("default", 6)))[-1], arm=PROPOSED[-1].id))
    with pytest.raises(RunError, match=PROPOSED[-1].id):
        tell(start(few, schedule("default", 6)), other, world(few).targets())


@pytest.mark.parametrize("effort", ["quick", "default", "thorough"])
def test_all_arms_of_a_rung_meet_on_the_same_folds_and_seeds_and_no_seed_serves_two_rungs(effort: str) -> None:
    race, _ = run(start(PROPOSED, schedule(effort, 12, folds=2)), world(PROPOSED))  # pyright: ignore[reportArgumentType]
    seeds: list[set[int]] = []
    for turn in rounds(race):
        pairs = {a.id: {(u.fold, u.seed) for u in turn.units if u.arm == a.id} for a in turn.entrants}
        trained = {a.id for a in turn.entrants if not exact(a)}
        assert {frozenset(pairs[name]) for name in trained} == {frozenset(turn.rung.pairs)}
        assert all(pairs[a.id] <= set(turn.rung.pairs) for a in turn.entrants)
        seeds.append({seed for _, seed in turn.rung.pairs})
    assert all(not a & b for i, a in enumerate(seeds) for b in seeds[:i])


def test_the_default_effort_spends_what_the_design_says() -> None:
    of = schedule("default", 12)
    assert [(r.epochs, len(r.pairs), r.rates, r.most) for r in of.rungs] == [
        (2, 1, "grid", None),
        (4, 2, "best", 4),
        (12, 2, "best", 2),
    ]
    race, _ = run(start(PROPOSED, of), world(PROPOSED))
    trained = [[a for a in turn.entrants if not exact(a)] for turn in rounds(race)]
    assert [len(t) for t in trained] == [len([a for a in PROPOSED if not exact(a)]), 4, 2]


@pytest.mark.parametrize("seed", range(4))
def test_protected_arms_reach_the_second_rung_however_bad_they_are(seed: int) -> None:
    worst = World({a.id: 0.3 if a.protected else 0.8 for a in PROPOSED}, 400, seed)
    race, _ = run(start(PROPOSED, schedule("default", 12)), worst)
    second = {a.id for a in rounds(race)[1].entrants}
    assert {a.id for a in PROPOSED if a.protected} <= second
    assert not any(arm.protected and not exact(arm) for arm, _, _ in finalists(race))


def test_a_clearly_better_arm_wins() -> None:
    for seed in range(8):
        race, _ = run(start(PROPOSED, schedule("default", 12)), world(PROPOSED, seed=seed, best="freeze@5", by=0.1))
        last = rounds(race)[-1]
        assert min(last.means, key=lambda name: last.means[name]) == "freeze@5"


class Edge(World):
    """The best learning rate lies beyond every grid."""

    def truth(self, unit: object, middle: float = RECIPE.lr) -> float:
        return super().truth(unit, middle=9 * RECIPE.lr)  # pyright: ignore[reportArgumentType]


def test_a_grid_whose_best_lies_at_its_edge_gains_one_rate_in_the_same_rung() -> None:
    few = arms(5)
    race, outcomes = run(
        start(few, schedule("default", 12)), Edge({a.id: 0.8 for a in few}, 2000, 0, rate_penalty=0.05)
    )
    first = [o.unit for o in outcomes if o.unit.rung == 1]
    assert all(len({u.rate for u in first if u.arm == a.id}) == 4 for a in few)
    assert all(rate == pytest.approx(9 * RECIPE.lr) for rate in rounds(race)[0].rates.values())


def test_an_arm_that_diverged_everywhere_is_out_with_the_reason_and_a_diverged_rate_is_not_taken() -> None:
    few, here = arms(6), world(arms(6), best="freeze@1", by=0.1)
    race = start(few, schedule("default", 12))
    while units := ask(race):
        for unit in units:
            bad = unit.arm == "freeze@0" or (unit.arm == "freeze@1" and unit.rate > 2e-3)
            race = tell(race, replace(here.play(unit), diverged=bad), here.targets())
    assert stages(race)["freeze@0"] == ("dropped@1", "its training diverged at every learning rate")
    assert rounds(race)[0].rates["freeze@1"] < 2e-3
    assert stages(race)["freeze@1"][0] == "finalist"


def test_predictions_that_are_not_numbers_count_as_diverged() -> None:
    few, here = arms(5), world(arms(5))
    race = start(few, schedule("default", 12))
    while units := ask(race):
        for unit in units:
            o = here.play(unit)
            if unit.arm == "freeze@0":
                o = replace(o, log_probabilities=np.full_like(o.log_probabilities, np.nan))
            race = tell(race, o, here.targets())
    assert "diverged" in stages(race)["freeze@0"][1]


def test_exact_probes_take_no_place_and_are_computed_once_a_fold() -> None:
    race, outcomes = run(start(PROPOSED, schedule("default", 12)), world(PROPOSED))
    probes = [a.id for a in PROPOSED if exact(a)]
    assert probes
    for name in probes:
        units = [o.unit for o in outcomes if o.unit.arm == name]
        assert len({(u.rung, u.fold) for u in units}) == len(units)
    assert sum(not exact(a) for a, _, _ in finalists(race)) == 2


def test_quick_stops_after_the_second_rung_and_trains_the_choice_once() -> None:
    race, _ = run(start(PROPOSED, schedule("quick", 12)), world(PROPOSED))
    assert len(rounds(race)) == 2
    (unit,) = training_of_the_choice(race, "lp_ft")
    assert (unit.epochs, unit.rung, unit.rate) == (12, 3, rounds(race)[-1].rates["lp_ft"])
    full, _ = run(start(PROPOSED, schedule("default", 12)), world(PROPOSED))
    assert training_of_the_choice(full, finalists(full)[0][0].id) == ()


def test_a_race_that_is_not_over_has_no_finalists() -> None:
    race = start(PROPOSED, schedule("default", 12))
    assert not over(race)
    with pytest.raises(RunError, match="--resume"):
        finalists(race)


@given(factor=st.floats(0.01, 5), epochs=st.integers(1, 90), effort=st.sampled_from(["quick", "default", "thorough"]))
@settings(max_examples=100)
def test_a_scaled_schedule_never_has_a_rung_longer_than_the_full_one_or_empty(
    factor: float, epochs: int, effort: str
) -> None:
    of = schedule(effort, epochs)  # pyright: ignore[reportArgumentType]
    scaled = scale(of, factor)
    lengths = [r.epochs for r in scaled.rungs]
    assert lengths == sorted(lengths)
    assert 1 <= lengths[0] <= lengths[-1] <= scaled.epochs
    assert scaled.arms is None or scaled.arms >= 4
    assert scale(of, 1.0) == of


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_a_schedule_scaled_by_a_factor_costs_about_that_factor(factor: float) -> None:
    fourteen = arms(14)
    seconds = {a.id: 1.0 for a in fourteen}
    of = schedule("default", 60)
    assert forecast(fourteen, scale(of, factor), seconds) == pytest.approx(
        factor * forecast(fourteen, of, seconds), rel=0.1
    )


@pytest.mark.parametrize("widened", [False, True])
def test_a_forecast_is_what_a_race_takes_at_most(widened: bool) -> None:
    few = arms(6)
    of = schedule("default", 12)
    world = (Edge if widened else World)({a.id: 0.8 for a in few}, 3000, 0, rate_penalty=0.05)
    race, outcomes = run(start(few, of), world)
    assert over(race)
    spent = sum(o.unit.epochs for o in outcomes if not exact(next(a for a in few if a.id == o.unit.arm)))
    at_most = forecast(few, of, {a.id: 1.0 for a in few})
    assert spent == at_most if widened else spent < at_most


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf")])
def test_a_budget_of_nothing_is_refused(bad: float) -> None:
    with pytest.raises(OptionError, match="--budget"):
        scale(schedule("default", 6), bad)


def test_few_arms_of_a_tight_budget_are_the_protected_ones_first() -> None:
    of: Schedule = replace(schedule("default", 12), arms=4)
    kept = start(PROPOSED, of).arms
    assert {a.id for a in PROPOSED if a.protected} <= {a.id for a in kept}
    assert sum(not exact(a) for a in kept) == 4


def test_equal_arms_are_dropped_for_want_of_room_and_not_called_worse() -> None:
    """Twelve equal arms with seeds that matter: at most 2.5% of races may call one worse before the final."""
    called, races = 0, 80
    twelve = arms(12)
    for seed in range(races):
        here = World({a.id: 0.8 for a in twelve}, 300, seed, seed_sd=0.01)
        race, _ = run(start(twelve, schedule("default", 12)), here)
        called += any(turn.worse for turn in rounds(race)[:2])
    assert called <= 7  # P(more) < 0.1% at 2.5% of 80


def test_a_hopeless_arm_is_called_worse() -> None:
    twelve = arms(12)
    found: list[bool] = []
    for seed in range(5):
        here = World({a.id: 0.55 if a.id == "freeze@3" else 0.8 for a in twelve}, 2000, seed, seed_sd=0.003)
        race, _ = run(start(twelve, schedule("default", 12)), here)
        found.append(rounds(race)[0].worse == ("freeze@3",))
    assert mean(found) >= 0.8


def test_few_validation_rows_a_fold_bring_more_folds_into_the_later_rungs() -> None:
    few, many = schedule("default", 12, folds=5, rows=60), schedule("default", 12, folds=5, rows=400)
    assert [len(rung.pairs) for rung in few.rungs] == [1, 4, 5]
    assert [len(rung.pairs) for rung in many.rungs] == [1, 2, 2]
    seeds = [seed for rung in few.rungs for _, seed in rung.pairs]
    assert len(seeds) == len(set(seeds))  # a lucky seed is not counted again
    assert {fold for fold, _ in few.rungs[-1].pairs} == set(range(5))
