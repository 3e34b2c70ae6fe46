"""Tiny classifiers and detectors, saved as transformers saves them, and small data for those of texts and recordings.

Their weights are random, and loaded as if they had been learned. `hf/FOLDER` names one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from world import once

from frostline.values import Kind, Text

RATE = 1000  # samples a second: few enough that a second is quick
LONG = 48  # tokens that the networks of texts read at most
GOOD, BAD = ("fine", "warm", "clear", "kind"), ("dull", "cold", "grey", "mean")
OTHER = (
    *("the", "a", "film", "was", "and", "with", "it", "his", "day", "walk"),
    *("in", "rain", "of", "wood", "stone", "house", "river", "bird"),
)
NOTHING = "~"  # of which the tokenizers make no token
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KIND: Mapping[str, Kind] = {
    "encoder": "texts",
    "flat": "texts",
    "distilled": "texts",
    "modern": "texts",
    "decoder": "texts",
    "normed_by_group": "recordings",
    "normed_by_layer": "recordings",
    "short": "recordings",
    "spectrogram": "recordings",
    "listener": "recordings",
    "segmenter": "pictures",
    "segmented": "pictures",
}


def saved(factory: pytest.TempPathFactory, name: str) -> Path:
    """The folder of one of these networks, made once a session."""
    return once(factory, f"network-{name}", lambda folder: _made(name, folder))


def _made(name: str, folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MAKE[name](folder)
    return folder


# ------------------------------------------------------------------------------------------------ texts


def tokenizer(folder: Path, *, pads: bool = True, segments: bool = True) -> int:
    """A tokenizer of whole words beside the weights, with a start and an end as BERT has; returns how many it knows."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *GOOD, *BAD, *OTHER]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Replace(NOTHING, "")
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if pads:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"} if pads else {"eos_token": "[SEP]"}
    inputs = ["input_ids", *["token_type_ids"] * segments, "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", model_max_length=LONG, model_input_names=inputs, **names
    ).save_pretrained(folder)
    return len(words)


def _encoder(folder: Path) -> None:
    _bert(folder, 3)


def _flat(folder: Path) -> None:
    """The encoder with one block, for whole runs."""
    _bert(folder, 1)


def _bert(folder: Path, blocks: int) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(
        BertConfig(
            vocab_size=tokenizer(folder),
            hidden_size=16,
            num_hidden_layers=blocks,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    ).save_pretrained(folder)


def _distilled(folder: Path) -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    words = tokenizer(folder, segments=False)
    DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=words, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64,
            initializer_range=0.2,
        )
    ).save_pretrained(folder)  # fmt: skip


def _modern(folder: Path) -> None:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    ModernBertForSequenceClassification(
        ModernBertConfig(
            vocab_size=tokenizer(folder, segments=False),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=64,
            local_attention=8,
            global_attn_every_n_layers=3,
            pad_token_id=0,
            cls_token_id=2,
            sep_token_id=3,
            bos_token_id=2,
            eos_token_id=3,
            classifier_pooling="mean",
        )
    ).save_pretrained(folder)


def _decoder(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=tokenizer(folder, pads=False, segments=False),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.2,
            bos_token_id=2,
            eos_token_id=3,
        )
    ).save_pretrained(folder)


def texts(count: int, *, seed: int = 0, longest: int = 60) -> tuple[list[str], list[str]]:
    """Texts of 2 to `longest` words, most of them short, and whether they are good or bad: one word in three tells."""
    rng = np.random.default_rng(seed)
    labels = [("bad", "good")[number % 2] for number in range(count)]
    lengths = np.minimum(longest, 2 + rng.geometric(0.12, count))
    lengths[:2] = (2, longest)
    made = list[str]()
    for label, length in zip(labels, lengths.tolist(), strict=True):
        telling = rng.random(length) < 1 / 3
        telling[0] = True
        own, other = rng.choice(GOOD if label == "good" else BAD, length), rng.choice(OTHER, length)
        made.append(" ".join(np.where(telling, own, other).tolist()))
    return made, labels


def pairs(count: int, *, seed: int = 0) -> tuple[list[Text], list[str]]:
    """Pairs of texts, and whether the two are of one mind."""
    (first, one), (second, other) = texts(count, seed=seed, longest=12), texts(count, seed=seed + 1, longest=20)
    turned = [place if place % 4 < 2 else place ^ 1 for place in range(count - count % 2)]
    made: list[Text] = [(first[place], second[turned[place]]) for place in range(len(turned))]
    return made, ["same" if one[place] == other[turned[place]] else "unlike" for place in range(len(turned))]


def table(file: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    """A CSV file, or one with tabs."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


# ------------------------------------------------------------------------------------------------ recordings


def _normed_by_group(folder: Path) -> None:
    _wav2vec2(folder, "group")


def _normed_by_layer(folder: Path) -> None:
    _wav2vec2(folder, "layer")


def _short(folder: Path) -> None:
    """One convolution and one block, for whole runs."""
    _wav2vec2(folder, "layer", convolutions=1, blocks=1)


def _wav2vec2(folder: Path, norm: str, *, convolutions: int = 2, blocks: int = 2) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=RATE, padding_value=0.0, do_normalize=True, return_attention_mask=norm == "layer"
    ).save_pretrained(folder)
    Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=blocks,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8, 8)[:convolutions],
            conv_kernel=(10, 3)[:convolutions],
            conv_stride=(5, 2)[:convolutions],
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
            classifier_proj_size=8,
            vocab_size=8,
            apply_spec_augment=True,
            mask_time_length=2,
        )
    ).save_pretrained(folder)


def _spectrogram(folder: Path) -> None:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    ASTFeatureExtractor(sampling_rate=16 * RATE, num_mel_bins=16, max_length=32).save_pretrained(folder)
    ASTForAudioClassification(
        ASTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8,
            frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16,
        )
    ).save_pretrained(folder)  # fmt: skip


def _listener(folder: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification

    # its filters reach up to 8000 hertz, whatever the rate
    WhisperFeatureExtractor(feature_size=16, sampling_rate=16 * RATE, chunk_length=1).save_pretrained(folder)
    WhisperForAudioClassification(
        WhisperConfig(
            vocab_size=20, num_mel_bins=16, encoder_layers=2, encoder_attention_heads=2, decoder_layers=1,
            decoder_attention_heads=2, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=50,
            classifier_proj_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    ).save_pretrained(folder)  # fmt: skip


# ------------------------------------------------------------------------------------------------ detectors

PIXELS, FOUND = 64, 10  # of a side, and queries
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 16], "depths": [1, 1, 1, 1]}
MAPS = ["stage2", "stage3", "stage4"]


def _detr(folder: Path) -> None:
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    DetrForObjectDetection(
        DetrConfig(
            backbone_config=ResNetConfig(**BACKBONE, layer_type="basic", out_features=["stage4"]),
            d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=FOUND, num_labels=3,
        )
    ).save_pretrained(folder)  # fmt: skip
    DetrImageProcessor(size={"shortest_edge": PIXELS, "longest_edge": 2 * PIXELS}).save_pretrained(folder)


def _of_two_stages(**more: Any) -> dict[str, Any]:
    """What RT-DETR and D-FINE have in common."""
    return {
        "encoder_hidden_dim": 16, "encoder_in_channels": [12, 16, 16], "feat_strides": [8, 16, 32],
        "encoder_ffn_dim": 24, "encoder_attention_heads": 2, "d_model": 16, "num_queries": FOUND,
        "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 24, "decoder_layers": 2, "decoder_attention_heads": 2,
        "num_labels": 3, "num_denoising": 4, "anchor_image_size": None, **more,
    }  # fmt: skip


def _squashing(folder: Path) -> None:
    from transformers import RTDetrImageProcessor

    RTDetrImageProcessor(size={"height": PIXELS, "width": PIXELS}, do_normalize=False).save_pretrained(folder)


def _rtdetr(folder: Path) -> None:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    convolutions = RTDetrResNetConfig(**BACKBONE, layer_type="basic", out_features=MAPS)
    RTDetrForObjectDetection(
        RTDetrConfig(**_of_two_stages(backbone_config=convolutions, hidden_expansion=0.5, decoder_n_points=2))
    ).save_pretrained(folder)
    _squashing(folder)


def _dfine(folder: Path) -> None:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    convolutions = HGNetV2Config(
        **BACKBONE, stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 12, 16], stage_mid_channels=[4, 4, 8, 8],
        stage_out_channels=[8, 12, 16, 16], stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
        out_features=MAPS,
    )  # fmt: skip
    DFineForObjectDetection(
        DFineConfig(
            **_of_two_stages(
                backbone_config=convolutions, hidden_size=16, decoder_n_points=[2, 2, 2], depth_mult=0.34,
            )
        )
    ).save_pretrained(folder)  # fmt: skip
    _squashing(folder)


def _yolos(folder: Path) -> None:
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    YolosForObjectDetection(
        YolosConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            image_size=[PIXELS, PIXELS], patch_size=16, num_detection_tokens=FOUND, num_labels=3,
            use_mid_position_embeddings=False,
        )
    ).save_pretrained(folder)  # fmt: skip
    YolosImageProcessor(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)


# ------------------------------------------------------------------------------------------------ pictures


def _segmenter(folder: Path) -> None:
    """SegFormer's encoder as it is trained first: below a classifier."""
    from transformers import SegformerForImageClassification

    SegformerForImageClassification(_segformer(folder)).save_pretrained(folder)


def _segmented(folder: Path) -> None:
    """The same encoder below the decoder of another data set."""
    from transformers import SegformerForSemanticSegmentation

    SegformerForSemanticSegmentation(_segformer(folder)).save_pretrained(folder)


def _segformer(folder: Path) -> Any:
    from transformers import SegformerConfig, SegformerImageProcessor

    SegformerImageProcessor(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)
    return SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 12, 12], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        mlp_ratios=[2, 2, 2, 2], num_labels=3, drop_path_rate=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip


MAKE: Mapping[str, Callable[[Path], None]] = {
    "detr": _detr,
    "rtdetr": _rtdetr,
    "dfine": _dfine,
    "yolos": _yolos,
    "encoder": _encoder,
    "flat": _flat,
    "distilled": _distilled,
    "modern": _modern,
    "decoder": _decoder,
    "normed_by_group": _normed_by_group,
    "normed_by_layer": _normed_by_layer,
    "short": _short,
    "spectrogram": _spectrogram,
    "listener": _listener,
    "segmenter": _segmenter,
    "segmented": _segmented,
}


def sound(label: str, rng: np.random.Generator, *, seconds: float = 0.25, rate: int = RATE) -> NDArray[np.float32]:
    """A low or a high tone in noise."""
    times = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * ({"high": 180.0, "low": 40.0}[label] * times + rng.random()))
    return (0.3 * tone + 0.1 * rng.normal(size=len(times))).astype(np.float32)


def recordings(folder: Path, count: int, *, seed: int = 0, spread: float = 0.2) -> Path:
    """Folders of `count` low and as many high tones, of a quarter of a second and up to `spread` more."""
    rng = np.random.default_rng(seed)
    for label in ("high", "low"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            wave = sound(label, rng, seconds=0.25 + spread * rng.random())
            soundfile.write(folder / label / f"{number:02d}.wav", wave, RATE)
    return folder
