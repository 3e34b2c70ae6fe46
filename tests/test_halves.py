"""Prefix and suffix of every architecture are the network; nothing stays patched."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from architectures import TIMM, TRANSFORMERS
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect
from frostline.backbones.graph import results_of
from frostline.backbones.halves import Halves
from frostline.backbones.patch import without_cache
from frostline.backbones.pooling import pool
from frostline.backbones.proof import prove
from frostline.backbones.steps import still
from frostline.errors import CutError
from frostline.values import Backbone

TINY = {
    "mlp": lambda: tiny.backbone(tiny.seeded(tiny.Mlp), 8),
    "sequential": lambda: tiny.backbone(tiny.seeded(tiny.PlainConvolutions), (3, 8, 8)),
    "functional_residual": lambda: tiny.backbone(tiny.seeded(tiny.FunctionalResidual), (3, 8, 8)),
    "called_twice": lambda: tiny.backbone(tiny.seeded(tiny.CalledTwice), 8),
    "in_place": lambda: tiny.backbone(tiny.seeded(tiny.InPlace), 8),
    "scaled_bypass": lambda: tiny.backbone(tiny.seeded(tiny.ScaledBypass), 8),
    "dictionary": tiny.dictionary,
}
EVERY = {**TIMM, **TRANSFORMERS, **TINY}
CLOSE = 1e-8  # relative, in float64


@cache
def sawn(name: str) -> tuple[Backbone, Anatomy]:
    """A network in float64 with its anatomy."""
    backbone = EVERY[name]()
    example = {k: v.double() if v.is_floating_point() else v for k, v in backbone.example.items()}
    backbone = replace(backbone, module=backbone.module.double(), example=example)
    return backbone, dissect(backbone)


def depths(anatomy: Anatomy) -> list[int]:
    return [cut.depth for cut in anatomy.cuts[1:]]


def others(example: Mapping[str, Tensor], data: str, count: int) -> dict[str, Tensor]:
    """Another batch of another size: examples turned round and, where they are real numbers, changed."""
    places = torch.arange(count) % 2
    batch = {name: value[places].clone() for name, value in example.items()}
    if batch[data].is_floating_point():
        noise = torch.randn(batch[data].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        batch[data] = batch[data] + 0.1 * noise
    else:
        batch[data][-1] = batch[data][-1].roll(1)
    return batch


def whole(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with without_cache(module):
        return results_of(module(**inputs))


def agree(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and expected
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=CLOSE, atol=CLOSE * float(tensor.detach().abs().max()))


def given(anatomy: Anatomy, inputs: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    return {name: inputs[name] for name in anatomy.needs[depth - 1]}


@pytest.mark.parametrize("name", EVERY)
def test_prefix_then_suffix_equals_the_whole_network_at_every_cut(name: str) -> None:
    backbone, anatomy = sawn(name)
    halves = Halves(backbone.module, anatomy)
    assert depths(anatomy)
    for count in (3, 1):
        inputs = others(backbone.example, backbone.data, count)
        with torch.no_grad():
            expected = whole(backbone.module, inputs)
            taps = halves.taps(inputs, depths(anatomy))
            if count > 1:  # a law about constant outputs would say nothing
                assert any(float((t[0] - t[1]).abs().max()) > 1e-6 for t in expected.values())
            for depth in depths(anatomy):
                agree(results_of(halves.suffix(taps[depth], depth, inputs=given(anatomy, inputs, depth))), expected)
            middle = depths(anatomy)[len(taps) // 2]
            assert all(torch.equal(a, b) for a, b in zip(halves.prefix(inputs, middle), taps[middle], strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_the_suffix_are_those_of_the_whole_network(name: str) -> None:
    backbone, anatomy = sawn(name)
    halves = Halves(backbone.module, anatomy)
    inputs = others(backbone.example, backbone.data, 2)
    chosen = depths(anatomy)
    for depth in {chosen[0], chosen[len(chosen) // 2], chosen[-1]}:
        below = {member for layer in anatomy.layers[:depth] for member in layer.members}
        named = {n: p for n, p in backbone.module.named_parameters() if n not in below and p.requires_grad}
        expected = gradients(whole(backbone.module, inputs), named)
        frontier = halves.prefix(inputs, depth)
        found = gradients(results_of(halves.suffix(frontier, depth, inputs=given(anatomy, inputs, depth))), named)
        largest = max(float(g.abs().max()) for g in expected.values())
        assert largest > 0
        for key, gradient in expected.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-7, atol=CLOSE * largest)


def gradients(results: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    total = sum((t * torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in results.values())
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, list(named.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "bert", "dictionary", "called_twice"])
def test_a_suffix_can_stop_at_any_cut_above(name: str) -> None:
    backbone, anatomy = sawn(name)
    halves = Halves(backbone.module, anatomy)
    inputs = others(backbone.example, backbone.data, 3)
    chosen = [0, *depths(anatomy)]
    taps = halves.taps(inputs, chosen)
    with torch.no_grad():
        for low, high in pairwise(chosen):
            found = halves.suffix(taps[low], low, inputs=inputs, until=high)
            for a, b in zip(found, taps[high], strict=True):
                torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE)
    with pytest.raises(CutError, match="until is 1"):
        halves.suffix(taps[chosen[1]], chosen[1], until=1)


def test_masks_are_right_above_the_cut_for_lengths_never_seen() -> None:
    for name in ("bert", "distilbert", "modernbert", "llama", "albert"):
        backbone, anatomy = sawn(name)
        halves = Halves(backbone.module, anatomy)
        rng = torch.Generator().manual_seed(7)
        for length, kept in ((12, (12, 7, 1)), (5, (5, 5, 5))):
            mask = torch.tensor([[1] * k + [0] * (length - k) for k in kept])
            tokens = torch.randint(5, 50, (3, length), generator=rng) * mask
            inputs = {"input_ids": tokens, "attention_mask": mask}
            with torch.no_grad():
                expected = whole(backbone.module, inputs)
                for depth, frontier in halves.taps(inputs, depths(anatomy)).items():
                    agree(results_of(halves.suffix(frontier, depth, inputs=inputs)), expected)


def state(module: nn.Module) -> list[Any]:
    """Everything that a patch or a hook would change."""
    return [
        (
            name,
            part.training,
            sorted(key for key in part.__dict__ if not key.startswith("_")),
            {key: len(value) for key, value in part.__dict__.items() if "hooks" in key and value is not None},
        )
        for name, part in module.named_modules()
    ]


@pytest.mark.parametrize("name", ["resnet18", "bert", "called_twice"])
def test_nothing_stays_patched_after_success_or_after_an_exception(name: str) -> None:
    backbone, anatomy = sawn(name)
    module = copy.deepcopy(backbone.module).train()
    before = state(module)
    halves = Halves(module, anatomy)
    depth = depths(anatomy)[1]
    frontier = halves.prefix(backbone.example, depth)
    halves.suffix(frontier, depth, inputs=backbone.example)
    halves.suffix(frontier, depth, inputs=backbone.example, until=depths(anatomy)[2])
    prove(module, anatomy, backbone.example)
    assert state(module) == before
    wrong = tuple(tensor[..., :-1] for tensor in frontier)
    with pytest.raises(CutError, match="frontier at depth"):
        halves.suffix(wrong, depth, inputs=backbone.example)
    assert state(module) == before
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)):
        halves.taps({backbone.data: torch.zeros(2, 1, 1, 1, 1)}, depths(anatomy))
    assert state(module) == before
    with pytest.raises(ZeroDivisionError), halves.sawn(depth):
        raise ZeroDivisionError
    assert state(module) == before


def test_the_stored_activation_survives_an_in_place_operation_above() -> None:
    for name in ("in_place", "sequential", "resnet18"):
        backbone, anatomy = sawn(name)
        halves = Halves(backbone.module, anatomy)
        for depth in depths(anatomy):
            frontier = halves.prefix(backbone.example, depth)
            kept = [tensor.clone() for tensor in frontier]
            halves.suffix(frontier, depth)
            halves.suffix(frontier, depth)
            assert all(torch.equal(a, b) for a, b in zip(frontier, kept, strict=True))


def test_only_modules_above_the_cut_train() -> None:
    backbone, anatomy = sawn("bert")
    module = copy.deepcopy(backbone.module)
    halves = Halves(module, anatomy)
    depth = depths(anatomy)[1]
    frontier = halves.prefix(backbone.example, depth)
    seen: list[str] = []
    for name, part in module.named_modules():
        part.register_forward_hook(lambda part, args, out, name=name: seen.append(name) if part.training else None)
    with halves.sawn(depth) as run:
        for _ in range(2):
            module.train()  # as a training loop does after every validation
            run(frontier, backbone.example)
    assert seen and not set(seen) & set(still(anatomy, depth))
    assert any(name.startswith("bert.encoder.layer.2") for name in seen)
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0")) for name in seen)


def test_training_a_suffix_ends_where_training_with_a_frozen_prefix_ends() -> None:
    backbone, anatomy = sawn("resnet18")
    depth = depths(anatomy)[-3]
    below = {member for layer in anatomy.layers[:depth] for member in layer.members}
    ends: list[dict[str, Tensor]] = []
    for live in (True, False):
        module = copy.deepcopy(backbone.module)
        halves = Halves(module, anatomy)
        frontier = halves.prefix(backbone.example, depth)
        learned = [p for n, p in module.named_parameters() if n not in below]
        optimiser = torch.optim.SGD(learned, lr=0.01)
        with halves.sawn(0 if live else depth) as run:
            for _ in range(3):
                module.train()
                if live:
                    for name in {n for n, _ in module.named_modules()} - above(anatomy, depth):
                        module.get_submodule(name).training = False
                loss = run((backbone.example["x"],) if live else frontier, None).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        ends.append(module.state_dict())
    moved = 0.0
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=CLOSE, atol=CLOSE)
        moved = max(moved, float((tensor - backbone.module.state_dict()[name]).abs().max()))
    assert moved > 1e-6


def test_a_suffix_runs_under_autocast() -> None:
    backbone = EVERY["vit"]()
    anatomy = dissect(backbone)
    halves = Halves(backbone.module, anatomy)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = backbone.module(**backbone.example).logits
        frontier = halves.prefix(backbone.example, 2)
        found = halves.suffix(frontier, 2).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


def test_an_anatomy_serves_a_copy_with_other_weights() -> None:
    backbone, anatomy = sawn("resnet18")
    module = copy.deepcopy(backbone.module)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.mul_(1.1)
        expected = module(**backbone.example)
        halves = Halves(module, anatomy)
        found = halves.suffix(halves.prefix(backbone.example, 3), 3)
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)


def test_a_place_that_is_no_cut_is_refused_with_the_reason() -> None:
    backbone, anatomy = sawn("albert")
    with pytest.raises(CutError, match="shares"):
        Halves(backbone.module, anatomy).prefix(backbone.example, 2)
    with pytest.raises(CutError, match="outside 0"):
        Halves(backbone.module, anatomy).prefix(backbone.example, 99)


def test_a_proof_finds_a_cut_that_is_none() -> None:
    backbone, anatomy = sawn("scaled_bypass")
    wrong = next(call.index for call in anatomy.calls if call.name == "third")
    port = anatomy.ports[0]
    assert port is not None
    forged = replace(anatomy, ports=(replace(port, call=wrong), *anatomy.ports[1:]))
    (proof,) = prove(backbone.module, forged, backbone.example, depths=[1]).values()
    assert proof.why.startswith("the proof failed")


@pytest.mark.parametrize("name", EVERY)
def test_pooled_features_are_one_row_an_example_that_depends_on_it_alone(name: str) -> None:
    backbone, anatomy = sawn(name)
    halves = Halves(backbone.module, anatomy)
    three = others(backbone.example, backbone.data, 3)
    one = {key: value[1:2] for key, value in three.items()}
    together, alone = halves.taps(three, depths(anatomy)), halves.taps(one, depths(anatomy))
    for depth in depths(anatomy):
        rows = pool(anatomy, depth, together[depth], three)
        assert rows.ndim == 2 and rows.shape[0] == 3
        torch.testing.assert_close(pool(anatomy, depth, alone[depth], one), rows[1:2], rtol=1e-6, atol=1e-6)


def test_padding_does_not_change_pooled_features() -> None:
    for name in ("bert", "llama", "dictionary"):
        backbone, anatomy = sawn(name)
        halves = Halves(backbone.module, anatomy)
        second = {key: value[1:2] for key, value in backbone.example.items()}
        mask = next(value for key, value in second.items() if "mask" in key)
        short = {key: value[:, : int(mask.sum())] for key, value in second.items()}
        for depth in depths(anatomy):
            long_row = pool(anatomy, depth, halves.prefix(second, depth), second)
            short_row = pool(anatomy, depth, halves.prefix(short, depth), short)
            torch.testing.assert_close(long_row, short_row, rtol=1e-6, atol=1e-6)


def test_dropout_before_the_head_goes_with_the_head_and_dropout_between_layers_with_the_layer_above() -> None:
    backbone = tiny.backbone(tiny.seeded(tiny.DropoutBeforeHead), (3, 8, 8))
    anatomy = dissect(backbone)
    stem, block = anatomy.layers
    assert "dropout" not in {*stem.modules, *block.modules} and "between" in block.modules
    halves, (x,) = Halves(backbone.module, anatomy), halves_input(backbone)
    still = halves.prefix({anatomy.data: x}, 2)[0]
    with halves.sawn(0, until=2) as run:
        for name in block.modules:
            backbone.module.get_submodule(name).training = name != "between"
        assert torch.equal(run((x,))[0], still)  # the head's dropout is not reached
        backbone.module.get_submodule("between").training = True
        assert not torch.equal(run((x,))[0], still)  # that of the learning layer is


def above(anatomy: Anatomy, depth: int) -> set[str]:
    """Modules that run above the cut alone."""
    return {call.name for call in anatomy.calls} - set(still(anatomy, depth))


def halves_input(backbone: Backbone) -> tuple[Tensor]:
    return (backbone.example[backbone.data],)
