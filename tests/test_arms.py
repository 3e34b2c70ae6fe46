"""Laws of the proposed arms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.plan import legal_depths, with_epochs
from frostline.search.arms import FEWEST, MOST, PER_CLASS, STEP, baselines, exact, for_as_long, propose, widen
from frostline.values import Arm, Plan, Recipe
from tests.planted import RECIPE, evidence, layers


@st.composite
def networks(draw: st.DrawFn) -> tuple[Arm, ...]:
    count = draw(st.integers(1, 20))
    sealed = draw(st.sets(st.integers(0, count - 1), max_size=count // 2)) - {count - 1}
    deep = layers(count, sealed=tuple(sealed))
    depths = [f for f in legal_depths(deep) if f]
    scores = draw(st.lists(st.floats(0.1, 0.9), min_size=len(depths), max_size=len(depths)))
    recipe = replace(RECIPE, epochs=draw(st.integers(1, 40)))
    return propose(
        deep,
        evidence(dict(zip(depths, scores, strict=True)), half=draw(st.floats(0.0, 0.2))),
        recipe=recipe,
        classes=draw(st.integers(2, 50)),
        examples=draw(st.integers(10, 2000)),
        batch_norms=draw(st.booleans()),
    )


@given(networks())
@settings(max_examples=150)
def test_no_two_arms_share_a_plan_or_a_name(arms: tuple[Arm, ...]) -> None:
    assert len({arm.id for arm in arms}) == len(arms) <= MOST
    for i, arm in enumerate(arms):
        assert all(arm.plan != other.plan for other in arms[:i])


@given(networks())
@settings(max_examples=150)
def test_every_arm_freezes_at_a_legal_cut_and_trained_arms_have_equally_many_rates(arms: tuple[Arm, ...]) -> None:
    for arm in arms:
        assert arm.plan.freeze in legal_depths(arm.plan.layers)
        assert len(arm.rates) == (1 if exact(arm) else 3)
        assert arm.plan.recipe.lr in arm.rates
        assert tuple(sorted(arm.rates)) == arm.rates


@given(networks())
@settings(max_examples=150)
def test_the_arms_that_users_trust_are_always_there_and_protected(arms: tuple[Arm, ...]) -> None:
    protected = [arm.id for arm in arms if arm.protected]
    assert protected[1:] == ["lp_ft", "full_finetune"]
    assert protected[0].startswith("linear_probe@")
    by = {arm.baseline: arm for arm in arms}
    assert by["lp_ft"].plan.head.start == "probe"
    assert by["full_finetune"].plan.head.start == "random"
    assert by["linear_probe"].plan.freeze == len(by["lp_ft"].plan.layers)


@pytest.mark.parametrize("count", [9, 12, 17])
def test_a_network_of_usual_length_gets_eight_to_fourteen_arms(count: int) -> None:
    rising = evidence({d: 0.5 + 0.01 * d for d in range(1, count + 1)})
    arms = propose(layers(count), rising, recipe=RECIPE, classes=10, examples=500, batch_norms=True)
    assert FEWEST <= len(arms) <= MOST


def test_one_arm_is_a_plain_training_loop_where_there_are_batch_norms_and_examples_enough() -> None:
    rising = evidence({d: 0.5 + 0.01 * d for d in range(1, 10)})

    def named(examples: int, *, batch_norms: bool) -> dict[str, Plan]:
        proposed = propose(layers(9), rising, recipe=RECIPE, classes=10, examples=examples, batch_norms=batch_norms)
        return {arm.id: arm.plan for arm in proposed}

    plain = named(160, batch_norms=True)["batch_statistics"]
    assert (plain.keep, plain.freeze, plain.statistics, plain.head.start) == (9, 0, "batch", "random")
    assert set(plain.rates()) == {plain.recipe.lr}
    assert "batch_statistics" not in named(159, batch_norms=True)
    assert "batch_statistics" not in named(160, batch_norms=False)


def test_where_the_probe_peaks_below_the_top_dropping_and_beginning_anew_are_tried() -> None:
    peaked = evidence({d: 0.9 - 0.05 * abs(d - 6) for d in range(1, 11)})
    arms = {a.id: a.plan for a in propose(layers(10), peaked, recipe=RECIPE, classes=10, examples=500)}
    assert (arms["linear_probe@6"].keep, arms["linear_probe@6"].above) == (6, "drop")
    assert arms["drop@6-tune"].keep == 6 > arms["drop@6-tune"].freeze > 0
    assert arms["reinit@6"].above == "reinit"
    rising = evidence({d: 0.5 + 0.03 * d for d in range(1, 11)})
    assert all(a.plan.keep == 10 for a in propose(layers(10), rising, recipe=RECIPE, classes=10, examples=500))


@pytest.mark.parametrize(("examples", "norms", "there"), [(160, True, True), (159, True, False), (500, False, False)])
def test_statistics_of_the_batch_are_tried_only_with_batch_norms_and_enough_examples(
    examples: int, norms: bool, there: bool
) -> None:
    assert PER_CLASS == 16
    rising = evidence({d: 0.5 + 0.03 * d for d in range(1, 11)})
    arms = propose(layers(10), rising, recipe=RECIPE, classes=10, examples=examples, batch_norms=norms)
    assert any(a.plan.statistics == "batch" for a in arms) == there


@given(count=st.integers(1, 20), epochs=st.integers(1, 60), shorter=st.integers(1, 60))
@settings(max_examples=150)
def test_gradual_unfreezing_goes_top_down_and_reaches_all_layers_in_every_schedule(
    count: int, epochs: int, shorter: int
) -> None:
    rising = evidence({d: 0.5 + 0.01 * d for d in range(1, count + 1)})
    arms = propose(layers(count), rising, recipe=replace(RECIPE, epochs=epochs), classes=2, examples=50)
    found = [a.plan for a in arms if a.id == "gradual"]
    for plan in (*found, *(with_epochs(p, shorter) for p in found)):
        learning = [sum(flags) for _, flags in plan.thaw]
        assert learning == sorted(learning)
        assert learning[-1] == count
        assert plan.thaw[-1][0] < plan.recipe.epochs
        assert all(tuple(sorted(flags)) == flags for _, flags in plan.thaw)  # what learns lies on top


def test_a_grid_is_widened_beyond_its_edge_once_and_never_in_the_middle() -> None:
    rising = evidence({d: 0.5 + 0.03 * d for d in range(1, 11)})
    arms = {a.id: a for a in propose(layers(10), rising, recipe=RECIPE, classes=10, examples=500)}
    arm = arms["lp_ft"]
    assert widen(arm, arm.rates[1]) is None
    lower, higher = widen(arm, arm.rates[0]), widen(arm, arm.rates[2])
    assert lower is not None
    assert higher is not None
    assert lower.rates == (arm.rates[0] / STEP, *arm.rates)
    assert higher.rates == (*arm.rates, arm.rates[2] * STEP)
    assert widen(lower, lower.rates[0]) is None
    assert widen(arms["linear_probe@10"], RECIPE.lr) is None


def test_scratch_has_no_source_weights_and_three_times_the_epochs() -> None:
    (arm,) = baselines(layers(6), recipe=Recipe(epochs=5, lr=1e-3), batch_norms=True)
    assert (arm.plan.keep, arm.plan.above, arm.plan.statistics) == (0, "reinit", "batch")
    assert (arm.plan.recipe.epochs, arm.plan.head.start) == (15, "random")
    equal = for_as_long(arm, 5)
    assert (equal.id, equal.baseline) == ("scratch_equal", "scratch_equal")
    assert equal.plan == replace(arm.plan, recipe=replace(arm.plan.recipe, epochs=5))
