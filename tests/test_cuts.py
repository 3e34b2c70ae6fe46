"""Which layers and cuts are found, and what is never taken for one."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from architectures import TIMM, TRANSFORMERS
from torch import nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.cuts import dissect, thinned
from frostline.backbones.graph import results_of
from frostline.errors import CutError
from frostline.values import Backbone, Layer


def legal(anatomy: Anatomy) -> list[str]:
    return [layer.name for layer in anatomy.layers if layer.legal]


def names(backbone: Backbone) -> list[str]:
    return [layer.name for layer in dissect(backbone, most=99).layers]


GOLDEN = {
    "resnet18": ["conv1", *(f"layer{stage}.{n}" for stage in range(1, 5) for n in range(2))],
    "vit_tiny_patch16_224": ["patch_embed", *(f"blocks.{n}" for n in range(12))],
    "mixer_s32_224": ["stem", *(f"blocks.{n}" for n in range(8))],
    "densenet121": [
        "features.conv0",
        "features.denseblock1",
        "features.transition1",
        "features.denseblock2",
        "features.transition2",
        "features.denseblock3",
        "features.transition3",
        "features.denseblock4",
    ],
    "mobilenetv2_100": [
        "conv_stem",
        *(f"blocks.{stage}.{n}" for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for n in range(count)),
        "conv_head",
    ],
    "swin_tiny_patch4_window7_224": [
        "patch_embed",
        *(
            name
            for stage, count in enumerate((2, 2, 6, 2))
            for name in (
                *([f"layers.{stage}.downsample"] if stage else []),
                *(f"layers.{stage}.blocks.{n}" for n in range(count)),
            )
        ),
    ],
    "convnext_atto": [
        "stem",
        *(
            name
            for stage, count in enumerate((2, 2, 6, 2))
            for name in (
                *([f"stages.{stage}.downsample"] if stage else []),
                *(f"stages.{stage}.blocks.{n}" for n in range(count)),
            )
        ),
    ],
    "bert": ["bert.embeddings", *(f"bert.encoder.layer.{n}" for n in range(3)), "bert.pooler"],
    "llama": ["model.embed_tokens", *(f"model.layers.{n}" for n in range(3))],
    "vit": ["vit.embeddings", *(f"vit.layers.{n}" for n in range(3))],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_layers_are_the_stem_and_the_blocks_in_execution_order(name: str) -> None:
    backbone = {**TIMM, **TRANSFORMERS}[name]()
    anatomy = dissect(backbone, most=99)
    assert [layer.name for layer in anatomy.layers] == GOLDEN[name]
    assert all(layer.cut and not layer.why for layer in anatomy.layers)
    assert [layer.index for layer in anatomy.layers] == list(range(len(anatomy.layers)))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224", "wav2vec2", "rt_detr"]
)
def test_every_parameter_below_the_head_lives_in_one_layer(name: str) -> None:
    backbone = {**TIMM, **TRANSFORMERS}[name]()
    anatomy = dissect(backbone)
    members = [member for layer in anatomy.layers for member in layer.members]
    assert len(members) == len(set(members))
    shapes = {n: p.numel() for n, p in backbone.module.named_parameters()}
    above = [n for n in reached(backbone) if n not in members]
    assert above
    assert all(any(n == head or n.startswith(head + ".") for head in anatomy.head) for n in above), above
    assert sum(layer.parameters for layer in anatomy.layers) == sum(shapes[n] for n in shapes if n in members)


def reached(backbone: Backbone) -> list[str]:
    """Parameters that the result depends on, as autograd sees it."""
    named = dict(backbone.module.named_parameters())
    total = sum(t.sum() for t in results_of(backbone.module(**backbone.example)).values())
    assert isinstance(total, torch.Tensor)
    slopes = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, slope in zip(named, slopes, strict=True) if slope is not None]


def test_multiply_accumulates_of_resnet50_are_the_published_ones() -> None:
    import timm

    module = timm.create_model("resnet50")
    anatomy = dissect(tiny.backbone(module, (3, 224, 224)))
    # He et al. 2015, table 1: 3.8 billion; with the stride on the 3x3 convolutions, as here, 4.09; the head has 0.002
    assert sum(layer.macs for layer in anatomy.layers) == pytest.approx(4.09e9, rel=0.01)


def test_shared_weights_make_no_cut_and_the_reason_names_them() -> None:
    anatomy = dissect(TRANSFORMERS["albert"]())
    first, second, third = (layer for layer in anatomy.layers if "albert_layers.0" in layer.name)
    for layer in (first, second):
        assert not layer.cut and not layer.legal
        assert layer.why.startswith("shares 'albert.encoder.albert_layer_groups.0")
    assert third.cut and third.parameters == 0 and first.parameters > 0


def test_decoder_layers_that_read_the_memory_beside_them_are_no_cuts() -> None:
    anatomy = dissect(TRANSFORMERS["rt_detr"]())
    decoder = [layer for layer in anatomy.layers if layer.name.startswith("model.decoder.layers")]
    assert len(decoder) == 3 and not any(layer.legal for layer in decoder) and all(layer.why for layer in decoder)
    whole = [n for n, port in enumerate(anatomy.ports) if port is not None and len(port.leaves) == 3]
    assert [anatomy.layers[n].name for n in whole] == [
        "model.backbone.model.encoder.stages.3",
        "model.encoder.pan_blocks.1",
    ]


@pytest.mark.parametrize("kind", [tiny.ScaledBypass, tiny.DetachedBypass, tiny.UngradedBypass, tiny.IntegerBypass])
def test_a_bypass_is_seen_whatever_hides_it(kind: type[nn.Module]) -> None:
    anatomy = dissect(tiny.backbone(tiny.seeded(kind), 8))
    # `second` and `third` do their work while what `first` computed waits beside them: all of it is one layer's or none
    assert legal(anatomy)[0] == "first"
    cuts = {anatomy.calls[port.call].name for port in anatomy.ports if port is not None}
    assert not cuts & {"second", "third"}


def test_a_number_that_python_saw_is_a_bypass() -> None:
    anatomy = dissect(tiny.backbone(tiny.seeded(tiny.PythonBypass), 8))
    cuts = {anatomy.calls[port.call].name for port in anatomy.ports if port is not None}
    assert cuts == {"first"}


def test_a_second_path_from_the_raw_input_with_weights_of_its_own_is_a_bypass() -> None:
    with pytest.raises(CutError, match="no layer was found"):
        dissect(tiny.backbone(tiny.seeded(tiny.RawBypass), 8))


def test_inside_a_functional_residual_there_is_no_cut() -> None:
    anatomy = dissect(tiny.backbone(tiny.seeded(tiny.FunctionalResidual), (3, 8, 8)))
    cuts = [anatomy.calls[port.call].name for port in anatomy.ports if port is not None]
    assert cuts == ["stem", "norm", "top"]
    assert [layer.name for layer in anatomy.layers] == ["stem", "inner", "top"]


def test_a_plain_sequential_has_one_layer_for_each_convolution() -> None:
    assert names(tiny.backbone(tiny.seeded(tiny.PlainConvolutions), (3, 8, 8))) == ["0", "4", "6"]


def test_what_the_checkpoint_did_not_bring_belongs_to_the_head() -> None:
    backbone = TRANSFORMERS["distilbert"]()
    fresh = Backbone(
        backbone.name, backbone.module, backbone.example, backbone.data, None, "none", None, ("pre_classifier.weight",)
    )
    assert names(backbone)[-1] == "pre_classifier"
    assert names(fresh)[-1] == "distilbert.transformer.layer.2"
    assert dissect(fresh).head == ("classifier", "pre_classifier")


def test_thinning_keeps_the_stem_the_last_two_and_about_equal_costs() -> None:
    layers = tuple(
        Layer(index=n, name=f"b{n}", parameters=1, macs=10, shape=(1,), bytes=4, cut=True) for n in range(40)
    )
    thin = thinned(layers, 8)
    kept = [layer.index for layer in thin if layer.cut]
    assert len(kept) == 8 and kept[0] == 0 and kept[-2:] == [38, 39]
    gaps = [b - a for a, b in pairwise(kept)]
    assert max(gaps[:-1]) - min(gaps[:-1]) <= 2  # the last two stand side by side
    left = [layer for layer in thin if not layer.cut]
    assert all(layer.legal and layer.why.startswith("left out") for layer in left)
    assert thinned(layers, 40) == layers


def test_no_more_cuts_are_offered_than_asked_for() -> None:
    anatomy = dissect(TIMM["mobilenetv2_100"](), most=5)
    assert len(anatomy.cuts) == 1 + 5 and anatomy.cuts[0].name == "input"
    with pytest.raises(CutError, match="at least 3"):
        dissect(TIMM["resnet18"](), most=2)


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


def test_dissection_leaves_the_module_as_it_was() -> None:
    backbone = TIMM["resnet18"]()
    backbone.module.train()
    backbone.module.layer2.eval()
    before, weights = state(backbone.module), copy.deepcopy(backbone.module.state_dict())
    dissect(backbone)
    assert state(backbone.module) == before
    after = backbone.module.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)


def test_dissection_that_fails_leaves_the_module_as_it_was() -> None:
    backbone = tiny.backbone(tiny.seeded(tiny.Mlp), 9)  # the first layer reads 8 numbers
    before = state(backbone.module)
    with pytest.raises(RuntimeError, match="shapes"):
        dissect(backbone)
    assert state(backbone.module) == before


def test_text_pools_as_the_network_itself_does() -> None:
    takes = {
        name: {p.take for row in dissect(TRANSFORMERS[name]()).pools for p in row if p.channel == 2} for name in TEXT
    }
    assert takes == TEXT


TEXT = {"bert": {"first"}, "distilbert": {"first"}, "llama": {"last"}, "wav2vec2": {"mean"}, "vit": {"first"}}


def test_channels_are_found_in_both_orders() -> None:
    swin = dissect(TIMM["swin_tiny_patch4_window7_224"]())
    assert {pool.channel for row in swin.pools[:-1] for pool in row} == {3}
    resnet = dissect(TIMM["resnet18"]())
    assert {pool.channel for row in resnet.pools for pool in row} == {1}
