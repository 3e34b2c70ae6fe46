"""Every strategy of a comparison against a loop written by hand, and what all of them together promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import stage
import torch
from test_adapters import BATCH, ROWS, data
from torch import Tensor, nn
from torch.nn import functional

from frostline.plan import with_epochs
from frostline.report import glossary
from frostline.search.arms import STEP
from frostline.search.schedule import comparison, whole
from frostline.search.strategies import ANCHOR, BLEND, KNOWN, compared, left_out
from frostline.tasks import heads
from frostline.training import loop
from frostline.training.feed import feed, steps
from frostline.training.prepare import prepared, reestimate
from frostline.values import Arm, Cut, Estimate, Evidence, Recipe

LR, EPOCHS, SEED = 2e-2, 4, 4
RECIPE = Recipe(epochs=EPOCHS, lr=LR, batch=BATCH, schedule="constant", warmup=0.0, clip=None)
LAYERS = ("stem", "blocks.0", "blocks.1", "blocks.2")
KEPT = 0.1 * LR  # of layers that were learned before


def still_network(seed: int = 0) -> nn.Module:
    """Without dropout, whose masks a loop by hand would not draw."""
    module = stage.network(torch.float64, seed).module
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


def evidence(peak: int = 3) -> list[Evidence]:
    scores = {depth: 0.9 - 0.1 * abs(depth - peak) for depth in range(1, 5)}
    return [Evidence(Cut(d, LAYERS[d - 1]), Estimate(s, s - 0.05, s + 0.05), 0.5, 8) for d, s in scores.items()]


def arms(peak: int = 3) -> Mapping[str, Arm]:
    layers = stage.anatomy(stage.network(torch.float64)).layers
    found = compared(
        layers, evidence(peak), recipe=RECIPE, classes=3, examples=500, batch_norms=True, adaptable=True,
        fisher=(1.0, 4.0, 2.0, 3.0),
    )  # fmt: skip
    return {str(arm.baseline): arm for arm in found}


@dataclass(frozen=True)
class Hand:
    """What a strategy is, in the words of a plain loop."""

    rates: Callable[[int], Mapping[str, float]]  # epoch -> rate of each layer that learns in it
    batch_norms: tuple[str, ...] = ()  # layers whose batch norms follow the batch
    new: tuple[str, ...] = ()  # layers with fresh weights
    top: str = LAYERS[-1]  # the layer below the head
    refreshed: bool = False
    anchor: float = 0.0
    blend: float = 1.0
    ever: tuple[str, ...] = field(default=LAYERS)


def at(**rates: float) -> Callable[[int], Mapping[str, float]]:
    return lambda epoch: {name.replace("_", "."): rate for name, rate in rates.items()}


ALL = at(stem=KEPT, blocks_0=KEPT, blocks_1=KEPT, blocks_2=KEPT)
HANDS: Mapping[str, Hand] = {
    "full_finetune": Hand(ALL),
    "lp_ft": Hand(ALL),
    "gradual_unfreezing": Hand(
        lambda epoch: dict.fromkeys([(), ("blocks.1", "blocks.2"), LAYERS, LAYERS][epoch], KEPT)
    ),
    "fisher_unfreezing": Hand(
        lambda epoch: dict.fromkeys([(), ("blocks.0", "blocks.2"), LAYERS, LAYERS][epoch], KEPT)
    ),
    "mlp_probe": Hand(at()),
    "attention_probe": Hand(at()),
    "layer_decay": Hand(at(stem=KEPT * 0.7**3, blocks_0=KEPT * 0.7**2, blocks_1=KEPT * 0.7, blocks_2=KEPT)),
    "l2_sp": Hand(ALL, anchor=ANCHOR),
    "wise_ft": Hand(ALL, blend=BLEND),
    "stem_frozen": Hand(at(blocks_0=KEPT, blocks_1=KEPT, blocks_2=KEPT)),
    "half_frozen": Hand(at(blocks_1=KEPT, blocks_2=KEPT)),
    "last_block": Hand(at(blocks_2=KEPT)),
    "surgical": Hand(at(stem=KEPT, blocks_0=KEPT)),
    "truncation": Hand(at(stem=KEPT, blocks_0=KEPT, blocks_1=KEPT), top="blocks.1"),
    "reinitialisation": Hand(
        at(stem=KEPT, blocks_0=KEPT, blocks_1=KEPT, blocks_2=LR), new=("blocks.2",), batch_norms=("blocks.2",)
    ),
    "statistics_refresh": Hand(at(), refreshed=True),
    "plain_loop": Hand(at(stem=LR, blocks_0=LR, blocks_1=LR, blocks_2=LR), batch_norms=LAYERS),
}  # fmt: skip


def normalised(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def said(head: nn.Module, x: Tensor) -> Tensor:
    """What each kind of head says of a map (n, features, height, width), written out."""
    p, pooled = dict(head.named_parameters()), x.mean((2, 3))
    if "weight" in p:
        return pooled @ p["weight"].T + p["bias"]
    logits = pooled @ p["linear.weight"].T + p["linear.bias"] + p["output.bias"]
    if "queries" not in p:
        inner = functional.gelu(normalised(pooled) @ p["hidden.weight"].T + p["hidden.bias"])
        return logits + inner @ p["output.weight"].T
    positions = normalised(x.flatten(2).transpose(1, 2))
    attended = []
    for query in p["queries"]:
        weight = torch.exp(positions @ query / len(query) ** 0.5)
        attended.append((weight[..., None] * positions).sum(1) / weight.sum(1, keepdim=True))
    return logits + torch.cat(attended, dim=1) @ p["output.weight"].T


def by_hand(hand: Hand, head: nn.Module) -> tuple[nn.Module, nn.Module]:
    model, fresh = still_network(), still_network(SEED)
    for name in hand.new:
        model.get_submodule(name).load_state_dict(fresh.get_submodule(name).state_dict())
    source = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    began = [parameter.detach().clone() for parameter in head.parameters()]
    inputs, targets = data()
    batches = [np.array_split(np.random.default_rng((2, e)).permutation(ROWS), 4) for e in range(EPOCHS)]
    features = list(LAYERS[: LAYERS.index(hand.top) + 1])

    def logits(rows: np.ndarray) -> Tensor:
        x = inputs[rows]
        for name in features:
            x = model.get_submodule(name)(x)
        return said(head, x)

    model.eval()
    if hand.refreshed:
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for rows in batches[0]:
            logits(rows)
        model.eval()
    for name in hand.batch_norms:
        model.get_submodule(name).train()
    owned = {
        f"{layer}.{name}": (layer, parameter)
        for layer in features
        for name, parameter in model.get_submodule(layer).named_parameters()
    }
    optimiser = torch.optim.AdamW(
        [
            {"params": [p], "lr": 0.0, "layer": layer, "weight_decay": 0.01 if p.ndim > 1 else 0.0}
            for layer, p in owned.values()
        ]
        + [
            {"params": [p], "lr": LR, "layer": "head", "weight_decay": 0.01 if p.ndim > 1 else 0.0}
            for p in head.parameters()
        ]
    )
    for epoch in range(EPOCHS):
        rates = {**hand.rates(epoch), "head": LR}
        for group in optimiser.param_groups:
            group["lr"] = rates.get(group["layer"], 0.0)
            group["params"][0].requires_grad_(group["layer"] in rates)
        for rows in batches[epoch]:
            optimiser.zero_grad(set_to_none=True)
            functional.cross_entropy(logits(rows), torch.from_numpy(targets[rows])).backward()
            optimiser.step()
            with torch.no_grad():
                for name, (layer, parameter) in owned.items():
                    parameter += rates.get(layer, 0.0) * hand.anchor * (source[name] - parameter)
    with torch.no_grad():
        for parameter, source_of in zip(head.parameters(), began, strict=True):
            parameter.copy_(hand.blend * parameter + (1 - hand.blend) * source_of)
        for name, (_, parameter) in owned.items():
            parameter.copy_(hand.blend * parameter + (1 - hand.blend) * source[name])
    return model, head


@pytest.mark.parametrize("name", HANDS)
def test_a_strategy_is_what_a_loop_by_hand_makes_of_its_name(name: str) -> None:
    arm, inputs, targets = arms()[name], *data()
    backbone = replace(stage.network(torch.float64), module=still_network(), fresh=still_network)
    learn = feed(
        lambda rows, epoch: [inputs.numpy()[rows]], np.arange(ROWS), targets, BATCH, device=torch.device("cpu"), seed=2
    )
    head, again = (heads.made(arm.plan.head, stage.WIDTH, stage.CLASSES, seed=1).double() for _ in range(2))
    with prepared(backbone, stage.anatomy(backbone), arm.plan, head, start=0, seed=SEED, device=stage.cpu()) as learner:
        if arm.plan.statistics == "reestimate":
            reestimate(learner, learn(0), arm.plan)
        list(loop.train(learner, learn, arm.plan, steps(ROWS, BATCH), stage.cpu()))
        loop.blend(learner, arm.plan.blend)
        network = learner.module.get_submodule("network")
    expected, theirs = by_hand(HANDS[name], again)
    for key, tensor in network.state_dict().items():
        if not key.startswith("head.") and not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, expected.state_dict()[key], rtol=1e-8, atol=1e-9, msg=f"{name}: {key}")
    for key, tensor in head.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[key], rtol=1e-8, atol=1e-9, msg=f"{name}: {key}")


def test_every_strategy_has_an_oracle() -> None:
    """The probes' is in test_unit.py, that of adapters in test_adapters.py."""
    elsewhere = {"linear_probe", "best_probe", "multi_layer_probe", "lora"}
    assert set(arms()) == {*HANDS, *elsewhere} == set(KNOWN)


def test_all_come_to_the_end_with_grids_of_their_own() -> None:
    for arm in arms().values():
        assert arm.protected
        assert len(arm.rates) == (1 if arm.plan.closed else 3)
        assert arm.plan.recipe.lr in arm.rates
        assert max(arm.rates) / min(arm.rates) in (1.0, pytest.approx(STEP**2))
    plans = [arm.plan for arm in arms().values()]
    assert all(plan not in plans[:place] for place, plan in enumerate(plans))
    assert len({arm.id for arm in arms().values()}) == len(plans)
    assert "best_probe" not in arms(peak=4)  # it is the linear probe there


def test_every_strategy_is_explained_and_named_in_words() -> None:
    found = arms()
    explained = {name for name, _ in glossary.explained(arm.id for arm in found.values())}
    assert explained == {arm.id.partition("@")[0] for arm in found.values()}
    assert set(found) <= set(glossary.NAMES)


def test_what_a_comparison_does_without_is_said_with_the_reason() -> None:
    layers = stage.anatomy(stage.network(torch.float64)).layers
    assert left_out(list(arms().values()), classes=3, examples=500, batch_norms=True, adaptable=True) == ()
    few = compared(layers, evidence(4), recipe=RECIPE, classes=30, examples=90, batch_norms=True)
    told = left_out(few, classes=30, examples=90, batch_norms=True, adaptable=False)
    assert [note.partition(" is not")[0] for note in told] == ["best probe", "fisher unfreezing", "plain loop", "lora"]
    assert "90 examples of 30 classes" in told[2]
    assert "peft" in told[3]
    bare = compared(layers, evidence(), recipe=RECIPE, classes=3, examples=500)
    told = left_out(bare, classes=3, examples=500, batch_norms=False, adaptable=True)
    assert any("no batch norms" in note for note in told)


def test_attention_reads_the_deepest_cut_that_has_positions() -> None:
    layers = stage.anatomy(stage.network(torch.float64)).layers
    pooled = (*layers[:3], replace(layers[3], shape=(8,)))
    known = {arm.id: arm.plan for arm in compared(pooled, evidence(), recipe=RECIPE, classes=3, examples=500)}
    there = known["attention_probe"]
    assert (there.keep, there.freeze, there.above) == (3, 3, "drop")
    bare = tuple(replace(layer, shape=(8,)) for layer in layers)
    without = compared(bare, evidence(), recipe=RECIPE, classes=3, examples=500)
    told = left_out(without, classes=3, examples=500, batch_norms=True, adaptable=True)
    assert any("no cut has features at several positions" in note for note in told)


@pytest.mark.parametrize("epochs", [1, 2, 3, 18])
def test_on_a_schedule_of_any_length_each_strategy_still_learns_what_its_name_says(epochs: int) -> None:
    for name, arm in arms().items():
        plan = with_epochs(arm.plan, epochs)
        ever = {i for epoch in range(epochs) for i, learns in enumerate(plan.learning(epoch)) if learns}
        full = {i for epoch in range(EPOCHS) for i, learns in enumerate(arm.plan.learning(epoch)) if learns}
        assert ever == full, name


@pytest.mark.parametrize(("effort", "seeds"), [("quick", 2), ("default", 3), ("thorough", 5)])
def test_a_comparison_finds_rates_on_short_schedules_and_ends_on_whole_ones(effort: str, seeds: int) -> None:
    found = comparison(effort, 18)  # type: ignore[arg-type]
    first, last = found.rungs
    assert (first.epochs, first.rates, first.pairs) == (3, "grid", ((0, 0),))
    assert (last.epochs, last.rates, len(last.pairs), last.most) == (18, "best", seeds, None)
    assert whole(found)
    assert not set(first.pairs) & set(last.pairs)
