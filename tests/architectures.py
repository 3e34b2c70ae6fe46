"""Real architectures with random weights, small enough for tests. No weights are read and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
import transformers as tf
from torch import Tensor, nn

from frostline.values import Backbone


def varied(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that make every path count: no zero scales, no constant outputs, no two statistics alike."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=rng)
            elif name.endswith("running_mean"):
                tensor.normal_(0.0, 0.1, generator=rng)
            elif isinstance(tensor, nn.Parameter) and tensor.ndim < 2:
                scale = 1.0 if name.endswith("weight") or "gamma" in name else 0.0
                tensor.normal_(0.0, 0.1, generator=rng).add_(scale)
            elif isinstance(tensor, nn.Parameter):
                spread = max(0.05, (1.5 / tensor[0].numel()) ** 0.5)
                tensor.normal_(0.0, spread, generator=rng)
    return module.eval()


def backbone(name: str, module: nn.Module, example: Mapping[str, Any], data: str) -> Backbone:
    return Backbone(name, module, dict(example), data, None, "none")


def pictures(size: int, seed: int = 1) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def ids(length: int = 9, vocabulary: int = 50, padded: int = 3) -> dict[str, Tensor]:
    """Two texts, the second of them padded on the right."""
    rng = torch.Generator().manual_seed(2)
    tokens = torch.randint(5, vocabulary, (2, length), generator=rng)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, length - padded :] = 0
    tokens[mask == 0] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def _timm(name: str, size: int = 64, **options: Any) -> Backbone:
    torch.manual_seed(0)
    module = varied(timm.create_model(name, num_classes=7, **options))
    return backbone(f"timm/{name}", module, {"x": pictures(size)}, "x")


TIMM: Mapping[str, Callable[[], Backbone]] = {
    "resnet18": lambda: _timm("resnet18"),
    "resnet50": lambda: _timm("resnet50", size=32),
    "densenet121": lambda: _timm("densenet121", size=32),
    "mobilenetv2_100": lambda: _timm("mobilenetv2_100", size=32),
    "mobilenetv3_small_050": lambda: _timm("mobilenetv3_small_050"),
    "efficientnet_b0": lambda: _timm("efficientnet_b0", size=32),
    "regnety_002": lambda: _timm("regnety_002"),
    "convnext_atto": lambda: _timm("convnext_atto", size=32),
    "vit_tiny_patch16_224": lambda: _timm("vit_tiny_patch16_224", img_size=64),
    "swin_tiny_patch4_window7_224": lambda: _timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2),
    "mixer_s32_224": lambda: _timm("mixer_s32_224", img_size=96, size=96),
}

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "num_labels": 4,
}


def bert() -> Backbone:
    module = varied(tf.BertForSequenceClassification(tf.BertConfig(**SMALL)))
    types = {"token_type_ids": torch.tensor([[0] * 4 + [1] * 5, [0] * 9])}
    return backbone("hf/bert", module, ids() | types, "input_ids")


def distilbert() -> Backbone:
    config = tf.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=24, max_position_embeddings=32, num_labels=4
    )
    return backbone("hf/distilbert", varied(tf.DistilBertForSequenceClassification(config)), ids(), "input_ids")


def modernbert() -> Backbone:
    config = tf.ModernBertConfig(
        **(SMALL | {"num_hidden_layers": 4}),
        local_attention=4,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return backbone("hf/modernbert", varied(tf.ModernBertForSequenceClassification(config)), ids(), "input_ids")


def llama() -> Backbone:
    module = varied(tf.LlamaForSequenceClassification(tf.LlamaConfig(**SMALL, num_key_value_heads=1)))
    return backbone("hf/llama", module, ids(), "input_ids")


def albert() -> Backbone:
    module = varied(tf.AlbertForSequenceClassification(tf.AlbertConfig(**SMALL, embedding_size=8)))
    return backbone("hf/albert", module, ids(), "input_ids")


def vit() -> Backbone:
    config = tf.ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    module = varied(tf.ViTForImageClassification(config))
    return backbone("hf/vit", module, {"pixel_values": pictures(32)}, "pixel_values")


def wav2vec2() -> Backbone:
    config = tf.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8, 8),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        num_labels=4,
        feat_extract_norm="layer",
    )
    module = varied(tf.Wav2Vec2ForSequenceClassification(config))
    wave = torch.randn(2, 640, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 640, dtype=torch.long)
    mask[1, 400:] = 0
    return backbone("hf/wav2vec2", module, {"input_values": wave * mask, "attention_mask": mask}, "input_values")


def rt_detr() -> Backbone:
    inner = tf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 2, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = tf.RTDetrConfig(
        backbone_config=inner,
        encoder_hidden_dim=16,
        encoder_in_channels=[12, 16, 20],
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_layers=3,
        num_queries=10,
        num_denoising=0,
        num_labels=3,
        disable_custom_kernels=True,
    )
    module = varied(tf.RTDetrForObjectDetection(config))
    return backbone("hf/rt_detr", module, {"pixel_values": pictures(96)}, "pixel_values")


TRANSFORMERS: Mapping[str, Callable[[], Backbone]] = {
    "bert": bert,
    "distilbert": distilbert,
    "modernbert": modernbert,
    "llama": llama,
    "vit": vit,
    "wav2vec2": wav2vec2,
    "rt_detr": rt_detr,
    "albert": albert,
}
