"""Networks of transformers: classifiers and detectors, with what stands beside their weights."""

from __future__ import annotations

import logging as logs
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline.backbones.preprocessing import from_processor, from_timm
from frostline.backbones.queries import CLASSES, Queried, fixed
from frostline.backbones.sources import REMEDY, Built, Options, unreachable
from frostline.backbones.weights import last_learning
from frostline.errors import BackboneError, WeightsError
from frostline.values import Kind, Prepared, Preprocessing, Tokens, Waves

Encode = Callable[[Sequence[Any]], Mapping[str, NDArray[np.generic]]]
LONGEST = 512  # tokens of a text, where neither the user nor the network says less
UNTOLD = 10**6  # tokens: a tokenizer that allows more knows no limit
SECOND = 1.0  # of an example recording, before the data's own are known


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large inputs are where that is the user's to say; None leaves it to the backbone and the data."""

    image: int | None = None  # pixels of a side
    tokens: int | None = None  # of a text, at most
    seconds: float | None = None  # of a recording


def transformers_network(name: str, pretrained: bool, sizes: Sizes, options: Options) -> Built:
    """A classifier or a detector, from a folder or by name, with what prepares its inputs.

    `options` are fields of its configuration. Raises BackboneError for what is neither, WeightsError where files cannot
    be had or leave more than half of the network without weights.
    """
    from transformers import AutoConfig

    local = _hugging_face_place(name)
    place = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        config = AutoConfig.from_pretrained(place, local_files_only=local, **options)
        kind, builder, finds = _kind_of(config)
        known, encode, more = PREPARED[kind](name, place, local, config, sizes)
        if finds and isinstance(known, Preprocessing) and known.resize is not None:
            known = replace(known, resize=None)  # nothing may be cut off
            more = (f"its processor keeps oblong pictures; they are squashed to {known.size} here, whole",)
        plain = builder.from_config(config)
    except BackboneError:
        raise
    except Exception as error:  # a configuration of anybody's, whose fields transformers checks in many ways
        raise BackboneError(
            f"hf/{name} is no classifier of pictures, texts or recordings and no detector that transformers can build: "
            f"{_first(error)}"
        ) from error

    still = fixed(plain) if finds else frozenset[str]()

    def make() -> nn.Module:
        return Queried(builder.from_config(config), still) if finds else builder.from_config(config)

    module, unloaded, notes = plain, (), ()
    if pretrained:
        try:
            with _quiet():
                module, told = builder.from_pretrained(
                    place, config=config, local_files_only=local, output_loading_info=True
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"the weights of hf/{name} cannot be had: {_first(error)}; {REMEDY}") from error
        unloaded, notes = _unloaded(name, module, told)
    weights, module = f"hf/{name}" if pretrained else "none", module.float()
    heads = (CLASSES,) if finds else (last_learning(module),)
    whole = Queried(module, still) if finds else module
    return Built(whole, make, known, weights, heads, unloaded, (*notes, *more), encode, queries=finds)


def _builders() -> tuple[tuple[Kind, Any, bool], ...]:
    """What a network reads, who builds it, and whether it finds things instead of classifying."""
    from transformers import (
        AutoModelForAudioClassification,
        AutoModelForImageClassification,
        AutoModelForObjectDetection,
        AutoModelForSequenceClassification,
    )

    return (
        ("pictures", AutoModelForImageClassification, False),
        ("texts", AutoModelForSequenceClassification, False),
        ("recordings", AutoModelForAudioClassification, False),
        ("pictures", AutoModelForObjectDetection, True),
    )


def _kind_of(config: Any) -> tuple[Kind, Any, bool]:
    """The first of the `_builders` for this configuration. Raises BackboneError where there is none."""
    for kind, builder, finds in _builders():
        if type(config) in builder._model_mapping:  # transformers has no public way to ask
            return kind, builder, finds
    *names, last = (builder.__name__ for _, builder, _ in _builders())
    raise BackboneError(
        f"a network of the type {config.model_type!r} classifies neither pictures nor texts nor recordings in "
        f"transformers, and detects nothing; give one that {', '.join(names)} or {last} builds"
    )


Read = tuple[Prepared | None, Encode | None, tuple[str, ...]]


def _of_pictures(name: str, place: str, local: bool, config: Any, sizes: Sizes) -> Read:
    known, notes = _processor(place, local)
    if known is None and sizes.image is None and isinstance(getattr(config, "image_size", None), int):
        known, notes = from_timm({"input_size": (3, config.image_size, config.image_size)})
        notes += (f"hf/{name} has no processor: {config.image_size} pixels and ImageNet's mean and std are assumed",)
    return known, None, notes


def _of_texts(name: str, place: str, local: bool, config: Any, sizes: Sizes) -> Read:
    """The tokenizer beside the weights; texts are padded behind their end, whatever it does by itself."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=local)
    except Exception as error:  # each kind of tokenizer misses its files in its own way
        raise BackboneError(
            f"hf/{name} comes without a tokenizer that transformers can read ({_first(error)}); save it into the same "
            "folder with tokenizer.save_pretrained"
        ) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # made of a configuration alone
        raise BackboneError(
            f"hf/{name} comes without a vocabulary, so every word is unknown to its tokenizer; save the tokenizer "
            "that it was trained with into the same folder with tokenizer.save_pretrained"
        )
    notes: tuple[str, ...] = ()
    if _padded(tokenizer):
        notes = (f"its tokenizer has no token for padding; {tokenizer.pad_token!r} is used, and masked",)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or UNTOLD]
    own = min([limit for limit in limits if 0 < limit < UNTOLD], default=LONGEST)
    if sizes.tokens is not None and sizes.tokens > own:
        raise BackboneError(f"max_length is {sizes.tokens}, and hf/{name} reads {own} tokens at most; give less")
    pad: Any = tokenizer.pad_token_id
    fills = {"input_ids": int(pad), "token_type_ids": int(tokenizer.pad_token_type_id), "attention_mask": 0}
    padding = {each: fills[each] for each in ("input_ids", *fills) if each in tokenizer.model_input_names}
    known = Tokens(place, sizes.tokens or min(own, LONGEST), padding)
    # of a text that holds nothing the tokenizer knows: networks read at least one token
    alone = {**padding, "attention_mask": 1}

    def encode(given: Sequence[Any]) -> Mapping[str, Any]:
        pairs = not isinstance(given[0], str)
        firsts = [text[0] for text in given] if pairs else list(given)
        found = tokenizer(
            firsts, [text[1] for text in given] if pairs else None,
            truncation=True, max_length=known.length, padding=False,
        )  # fmt: skip
        return {each: [row or [alone[each]] for row in found[each]] for each in padding}

    return known, encode, notes


def _padded(tokenizer: Any) -> bool:
    """Let a tokenizer fill texts up behind their end; whether it had no token for that."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is not None:
        return False
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return True


def beside(how: Tokens | Waves) -> Any:
    """What transformers keeps beside a network whose inputs are made like this: its tokenizer or feature extractor."""
    from transformers import AutoFeatureExtractor, AutoTokenizer

    if isinstance(how, Waves):
        return AutoFeatureExtractor.from_pretrained(how.extractor)
    tokenizer: Any = AutoTokenizer.from_pretrained(how.tokenizer)
    _padded(tokenizer)
    tokenizer.model_max_length = how.length
    return tokenizer


def _of_recordings(name: str, place: str, local: bool, config: Any, sizes: Sizes) -> Read:
    """The feature extractor beside the weights."""
    from transformers import AutoFeatureExtractor

    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(place, local_files_only=local)
    except Exception as error:
        raise BackboneError(
            f"hf/{name} comes without a feature extractor that transformers can read ({_first(error)}); save it into "
            "the same folder with extractor.save_pretrained"
        ) from error
    rate = int(extractor.sampling_rate)
    own = _window(extractor)
    if own is not None and sizes.seconds is not None and sizes.seconds > own:
        raise BackboneError(f"seconds is {sizes.seconds:g}, and hf/{name} hears {own:g} seconds; give no more")
    seconds = sizes.seconds or own or SECOND
    masked = own is None and bool(getattr(extractor, "return_attention_mask", False))
    names = (extractor.model_input_names[0], *(("attention_mask",) if masked else ()))

    def encode(given: Sequence[Any]) -> Mapping[str, NDArray[np.generic]]:
        length = round(seconds * rate)
        filled = {"padding": "max_length", "max_length": length, "truncation": True, "return_attention_mask": masked}
        filled = filled if own is None else {}
        found = extractor(
            [wave[:length] for wave in given],
            sampling_rate=rate,
            return_tensors="np",
            **filled,
        )
        return {each: np.asarray(found[each]) for each in names}

    return Waves(place, rate, float(seconds), names, own is not None), encode, ()


def _window(extractor: Any) -> float | None:
    """Seconds that an extractor fills every recording up to by itself; None for one that reads any length."""
    if getattr(extractor, "chunk_length", None):  # Whisper's
        return float(extractor.chunk_length)
    if extractor.model_input_names[0] == "input_values" and hasattr(extractor, "num_mel_bins"):  # AST: frames of 10 ms
        return extractor.max_length * 0.01
    return None


PREPARED: Mapping[Kind, Callable[[str, str, bool, Any, Sizes], Read]] = {
    "pictures": _of_pictures,
    "texts": _of_texts,
    "recordings": _of_recordings,
}


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _hugging_face_place(name: str) -> bool:
    """True where the files lie on this machine; raises where they neither do nor can be fetched."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
            raise BackboneError(f"{folder} has no config.json (it holds {held}); give a folder saved by transformers")
        return True
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise BackboneError(
            f"the folder {name!r} does not exist; give hf/FOLDER, or hf/NAME as on the Hugging Face hub"
        )
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return True
    cause = unreachable(hf_hub_url(name, "config.json"))
    if cause is not None:
        raise WeightsError(
            f"hf/{name} is neither a folder nor on this machine, and the hub cannot be reached ({cause}); give a "
            "folder that holds config.json and the weights as hf/FOLDER"
        )
    return False


def _unloaded(name: str, module: nn.Module, told: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    absent = sorted({*told["missing_keys"], *(key[0] for key in told["mismatched_keys"])})
    if 2 * len(absent) > len(module.state_dict()):
        raise WeightsError(
            f"the weights of hf/{name} belong to another network: {len(absent)} of {len(module.state_dict())} tensors "
            f"are missing ({', '.join(absent[:4])}, ..); {REMEDY}"
        )
    note = f"the checkpoint does not bring {', '.join(absent[:4])}: fresh weights are used there"
    return tuple(absent), ((note,) if absent else ())


def _processor(place: str, local: bool) -> tuple[Preprocessing | None, tuple[str, ...]]:
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(place, local_files_only=local)
    except (OSError, ValueError, KeyError):
        return None, ()
    return from_processor(processor.to_dict())


@contextmanager
def _quiet() -> Generator[None]:
    """transformers draws a bar of its own while it loads, through ours, and a table of what `_unloaded` says."""
    from transformers import modeling_utils
    from transformers.utils import logging

    def untold(record: logs.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    log, shown = logs.getLogger(modeling_utils.__name__), logging.is_progress_bar_enabled()
    log.addFilter(untold)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        log.removeFilter(untold)
        if shown:
            logging.enable_progress_bar()
