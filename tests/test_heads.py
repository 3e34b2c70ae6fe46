"""New layers on top: each begins as the probe, is kept as it is, and is told where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stage
import tiny
import torch

from frostline.backbones.cuts import dissect
from frostline.backbones.halves import Halves
from frostline.bench.bench import Bench
from frostline.bench.finals import cached_versus_live, certify
from frostline.bench.fisher import fisher
from frostline.bench.task import plan_training
from frostline.bench.unit import features_at, learner, perform, starting_head
from frostline.errors import PlanError
from frostline.evidence import probes
from frostline.plan import from_json, plan, to_json
from frostline.tasks import heads
from frostline.training import checkpoint
from frostline.training.prepare import headed, refuse_untrained
from frostline.values import Arm, Head, Recipe, Unit

RECIPE = Recipe(epochs=2, lr=1e-2, batch=8)
KINDS = ("linear", "mlp", "attention")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return stage.bench(tmp_path_factory.mktemp("heads") / "run", count=60, strategies="known")


def armed(bench: Bench, head: Head, recipe: Recipe = RECIPE) -> Arm:
    return Arm(head.kind, plan(bench.anatomy.layers, recipe, freeze=4, head=head), (recipe.lr,))


@pytest.mark.parametrize("kind", KINDS)
def test_before_it_learns_every_head_says_what_the_probe_says(bench: Bench, kind: str) -> None:
    arm = armed(bench, Head(kind))  # type: ignore[arg-type]
    training = plan_training(bench, arm, stage.unit(arm))
    rows = training.predict
    with learner(bench, training) as taught, torch.no_grad():
        taught.mode(None)
        said = taught.forward(tuple(map(torch.from_numpy, bench.stored(training.start, rows))))
    expected = probes.log_probabilities(starting_head(bench, 0, (4,), balance=False), features_at(bench, (4,), rows))
    np.testing.assert_allclose(torch.log_softmax(said, 1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_on_frozen_features_it_learns_reads_the_store_and_is_kept_as_it_is(bench: Bench, kind: str) -> None:
    arm = armed(bench, Head(kind), replace(RECIPE, epochs=6))  # type: ignore[arg-type]
    unit = stage.unit(arm)
    outcome = perform(bench, arm, unit, keep=True)
    assert outcome.epochs[-1].loss < outcome.epochs[0].loss
    assert outcome.epochs[0].learning == arm.plan.head.numbers(stage.WIDTH, stage.CLASSES)
    assert plan_training(bench, arm, unit).start == 4
    gap = cached_versus_live(bench, arm, unit)
    assert gap is not None and gap < 1e-5
    judged = certify(replace(bench, split=replace(bench.split, certification=outcome.rows)), [(arm, unit)])[0]
    np.testing.assert_allclose(judged.log_probabilities, outcome.log_probabilities, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_its_weights_tell_what_kind_it_is(bench: Bench, kind: str) -> None:
    given = Head(kind, hidden=7) if kind == "mlp" else Head(kind)  # type: ignore[arg-type]
    made = heads.made(given, 5, 3, seed=2)
    again = heads.rebuilt(made.state_dict())
    assert type(again) is type(made)
    assert sum(p.numel() for p in again.parameters()) == given.numbers(5, 3)
    for one, other in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    of = plan(bench.anatomy.layers, RECIPE, freeze=4, head=given)
    assert from_json(to_json(of)) == of


def test_positions_that_do_not_count_are_not_attended_to() -> None:
    head = heads.made(Head("attention"), 6, 3, seed=0)
    torch.nn.init.normal_(head.get_parameter("output.weight"))
    positions = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    pooled = torch.zeros(2, 6)
    short = head(pooled[:1], positions[:1, :3])
    torch.testing.assert_close(head(pooled, positions, counts)[:1], short)
    assert not torch.allclose(head(pooled, positions)[:1], short)


def test_attention_has_no_positions_where_several_tensors_cross() -> None:
    backbone = tiny.backbone(tiny.seeded(tiny.TwoStreams), 8)
    anatomy = dissect(backbone)
    depth = next(d for d, port in enumerate(anatomy.ports, 1) if port is not None and len(port.shapes) > 1)
    frontier = Halves(backbone.module, anatomy).prefix({"x": backbone.example["x"]}, depth)
    head = heads.made(Head("attention"), 16, 3, seed=0)
    with pytest.raises(PlanError, match="2 tensors cross depth"):
        headed(head, anatomy, depth, frontier)


def test_what_a_head_cannot_be_is_refused(bench: Bench) -> None:
    with pytest.raises(PlanError, match="hidden is 0"):
        Head("mlp", hidden=0)
    with pytest.raises(PlanError, match="hidden is 8 with a head of kind 'linear'"):
        Head(hidden=8)
    with pytest.raises(PlanError, match="`kind` be 'linear'"):
        refuse_untrained(plan(bench.anatomy.layers, RECIPE, freeze=4, head=Head("mlp", cuts=(1,))))


def test_a_checkpoint_whose_head_is_none_is_refused(bench: Bench, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from frostline.errors import RunError

    save_file({checkpoint.HEAD + "strange": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="the head"):
        checkpoint.read(tmp_path / "model.safetensors", stage.network().module)


def test_fisher_information_is_the_mean_square_of_the_slopes_of_what_the_network_says(bench: Bench) -> None:
    """Against the sum over all classes, each with its probability, which the drawn ones estimate."""
    arm = Arm("full_finetune", plan(bench.anatomy.layers, RECIPE, head=Head(start="random")), (RECIPE.lr,))
    found = np.array(fisher(bench, arm))
    training = plan_training(bench, arm, Unit(arm.id, RECIPE.lr, 0, 0, 0, 2))
    expected = np.zeros(4)
    with learner(bench, replace(training, start=0)) as taught:
        network = taught.module.get_submodule("network")
        taught.mode(None)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        for row in training.rows:
            said = torch.log_softmax(taught.forward(tuple(map(torch.from_numpy, bench.stored(0, np.array([row]))))), 1)
            for label in range(stage.CLASSES):
                network.zero_grad()
                said[0, label].backward(retain_graph=True)
                for layer in bench.anatomy.layers:
                    slopes = [network.get_submodule(layer.name).get_parameter(n).grad for n, _ in named(network, layer)]
                    total = sum(float(slope.square().sum()) for slope in slopes if slope is not None)
                    expected[layer.index] += float(said[0, label].detach().exp()) * total / len(training.rows)
    np.testing.assert_allclose(found, expected, rtol=0.35)
    assert fisher(bench, arm) == tuple(found)


def named(network: torch.nn.Module, layer: object) -> list[tuple[str, torch.nn.Parameter]]:
    return list(network.get_submodule(getattr(layer, "name")).named_parameters())  # noqa: B009
