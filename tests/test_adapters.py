"""LoRA through PEFT: its arithmetic against plain PyTorch, what it leaves out, and that the handed model is whole."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from world import draw, refused, small, tell

import frostline
from frostline.bench import finals
from frostline.bench.bench import Bench
from frostline.bench.unit import kept_weights, perform
from frostline.errors import PlanError
from frostline.plan import plan, to_json
from frostline.tasks import heads
from frostline.training import adapters, checkpoint, loop
from frostline.training.feed import feed, steps
from frostline.training.prepare import prepared
from frostline.values import Adapter, Head, Plan, Recipe

ROWS, BATCH, RANK = 22, 6, 2
RECIPE = Recipe(epochs=3, lr=2e-2, batch=BATCH, schedule="constant", warmup=0.0, clip=None)


def data() -> tuple[Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
    inputs = torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return inputs, np.random.default_rng(3).integers(0, stage.CLASSES, ROWS)


def given(freeze: int, **more: Any) -> Plan:
    backbone = stage.network(torch.float64)
    return plan(stage.anatomy(backbone).layers, RECIPE, freeze=freeze, adapter=Adapter(rank=RANK, **more))


def by_hand(start: dict[str, Tensor], frozen: int) -> dict[str, Tensor]:
    """Weights plus products, from the same first factors: one optimiser, a loop over the same batches."""
    model = copy.deepcopy(stage.network(torch.float64).module).requires_grad_(False)
    model.head = heads.made(Head(), stage.WIDTH, stage.CLASSES, seed=1).double()
    first = {n: t.clone().requires_grad_() for n, t in start.items() if ".lora_A." in n}
    second = {n: t.clone().requires_grad_() for n, t in start.items() if ".lora_B." in n}
    names = {n: n.replace(".lora_A.default.weight", "") for n in first}
    optimiser = torch.optim.AdamW(
        [
            {"params": [*first.values(), *second.values()], "lr": RECIPE.lr, "weight_decay": 0.0},
            {"params": [model.head.weight], "lr": RECIPE.lr, "weight_decay": RECIPE.weight_decay},
            {"params": [model.head.bias], "lr": RECIPE.lr, "weight_decay": 0.0},
        ]
    )
    inputs, targets = data()
    source = dict(model.named_parameters())

    def tuned() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, module in names.items():
            product = torch.einsum("or,rikl->oikl", second[name.replace("lora_A", "lora_B")][:, :, 0, 0], first[name])
            found[f"{module}.weight"] = source[f"{module}.weight"] + product
        return found

    model.eval()
    for epoch in range(RECIPE.epochs):
        for rows in np.array_split(np.random.default_rng((2, epoch)).permutation(ROWS), 4):
            out = functional_call(model, tuned(), (inputs[rows],))
            optimiser.zero_grad()
            functional.cross_entropy(out, torch.from_numpy(targets[rows])).backward()
            optimiser.step()
    assert len(names) == 2 * (4 - frozen) - (frozen == 0)  # two convolutions a block, one in the stem
    return {**{n: t.detach() for n, t in source.items()}, **{n: t.detach() for n, t in tuned().items()}}


@pytest.mark.parametrize("frozen", [0, 2])
def test_it_is_a_product_of_two_small_matrices_that_is_added_to_the_weights(frozen: int) -> None:
    backbone = stage.network(torch.float64)
    inputs, targets = data()
    learn = feed(
        lambda rows, epoch: [inputs.numpy()[rows]], np.arange(ROWS), targets, BATCH, device=torch.device("cpu"), seed=2
    )
    head = heads.made(Head(), stage.WIDTH, stage.CLASSES, seed=1).double()
    of = given(frozen)
    with prepared(backbone, stage.anatomy(backbone), of, head, start=0, seed=4, device=stage.cpu()) as learner:
        network = learner.module.get_submodule("network")
        start = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
        list(loop.train(learner, learn, of, steps(ROWS, BATCH), stage.cpu()))
        apart = loop.predict(learner, learn, stage.cpu())
        adapters.merge(network)
        torch.testing.assert_close(loop.predict(learner, learn, stage.cpu()), apart, rtol=1e-5, atol=1e-5)
        adapters.remove(network)
    expected = by_hand(start, frozen)
    assert network.state_dict().keys() == backbone.module.state_dict().keys()
    for name, parameter in network.named_parameters():
        if not name.startswith("head."):
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(head.weight.detach(), expected["head.weight"], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return stage.bench(tmp_path_factory.mktemp("adapters"))


def test_a_unit_with_an_adapter_predicts_what_its_kept_model_does_and_nothing_frozen_moves(bench: Bench) -> None:
    arm = stage.arm(bench, freeze=2, adapter=Adapter(rank=RANK), recipe=Recipe(epochs=2, lr=1e-2, batch=8))
    unit = stage.unit(arm)
    outcome = perform(bench, arm, unit, keep=True)
    assert not outcome.diverged
    assert finals.frozen_unchanged(bench, arm.plan, unit)
    (again,) = finals.certify(replace(bench, split=replace(bench.split, certification=outcome.rows)), [(arm, unit)])
    np.testing.assert_allclose(again.log_probabilities, outcome.log_probabilities, atol=1e-4)
    network = copy.deepcopy(bench.backbone.module)
    checkpoint.read(kept_weights(bench, unit), network)
    moved = {n for n, t in network.state_dict().items() if not torch.equal(t, bench.backbone.module.state_dict()[n])}
    assert moved == {f"blocks.{block}.conv{number}.weight" for block in (1, 2) for number in (1, 2)}


def test_named_modules_alone_get_one_and_a_name_that_is_none_is_refused() -> None:
    network = stage.network().module
    chosen, left = adapters.targets(network, given(1, targets=("blocks.1.conv2",)))
    assert (chosen, dict(left)) == (("blocks.1.conv2",), {})
    with pytest.raises(PlanError, match=r"'blocks\.9\.conv2', which is no module of the kept layers"):
        adapters.targets(network, given(1, targets=("blocks.9.conv2",)))
    with pytest.raises(PlanError, match="neither linear nor a convolution"):
        adapters.targets(network, given(1, targets=("blocks.1.norm1",)))


def test_depthwise_convolutions_are_left_out_and_told() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1))
    of = given(0)
    layers = (replace(of.layers[0], modules=("0", "1")), *(replace(layer, modules=()) for layer in of.layers[1:]))
    chosen, left = adapters.targets(network, replace(of, layers=layers))
    assert chosen == ("1",)
    assert "depthwise" in left["0"]


class Standardised(nn.Conv2d):
    """Computes with other weights than it holds, as in BiT and NFNet."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Conv2d(4, 8, 3, dilation=2), "dilated"),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), "borders of its own"),
        (Standardised(4, 8, 3), "other weights than it holds"),
    ],
)
def test_a_convolution_that_the_library_does_not_repeat_gets_no_adapter(module: nn.Module, why: str) -> None:
    network, of = nn.Sequential(module, nn.Conv2d(8, 8, 1)), given(0)
    layers = (replace(of.layers[0], modules=("0", "1")), *(replace(layer, modules=()) for layer in of.layers[1:]))
    chosen, left = adapters.targets(network, replace(of, layers=layers))
    assert chosen == ("1",)
    assert why in left["0"]
    assert adapters.possible(network, layers)
    assert not adapters.possible(network, [replace(of.layers[0], modules=("0",))])


def test_a_plan_with_an_adapter_is_trained_from_the_command_line(tmp_path: Path) -> None:
    data, network = draw(tmp_path / "data", 8), small(tmp_path)
    layers = frostline.layers(network[1])
    of = plan(layers, Recipe(epochs=2, lr=1e-2, batch=8), adapter=Adapter(rank=RANK))
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(to_json(of)))
    out = tmp_path / "run"
    said = tell("train", data, *network, "--plan", file, "--out", out)
    assert said.code == 0, said.err
    assert "adapters of rank 2 apart" in " ".join(said.out.split())
    assert tell("predict", out, *sorted(data.rglob("*.png"))[:3]).code == 0
    frozen = tmp_path / "frozen.json"
    frozen.write_text(json.dumps(to_json(plan(layers, of.recipe, freeze=2, adapter=Adapter()))))
    refused(tell("train", data, *network, "--plan", frozen, "--out", tmp_path / "no"), "freezes all 2 layers")


def test_what_the_user_froze_gets_no_adapter() -> None:
    backbone = stage.network()
    backbone.module.get_parameter("blocks.1.conv2.weight").requires_grad_(False)
    anatomy = stage.anatomy(backbone)
    chosen, left = adapters.targets(backbone.module, plan(anatomy.layers, Recipe(1, 1e-3), adapter=Adapter(rank=2)))
    assert "blocks.1.conv2" not in chosen and "blocks.1.conv1" in chosen
    assert left["blocks.1.conv2"] == "the user froze it"
