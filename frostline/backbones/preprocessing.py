"""What a backbone's own configuration says about the pictures it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from frostline.errors import BackboneError, OptionError
from frostline.values import Preprocessing

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos")
BY_NUMBER: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
ASSUMED: Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((0.5,), (0.5,)),
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's, as torchvision and timm use them
}

Read = tuple[Preprocessing, tuple[str, ...]]  # with notes on what could not be taken over as it stands


def from_timm(config: Mapping[str, Any], *, channels: int = 3) -> Read:
    """timm's `pretrained_cfg`, or a `default_cfg` in the same words that a user's own module carries.

    Where `crop_pct` is not said the whole picture is used: small networks are trained so, and it throws nothing away.
    Raises BackboneError where `input_size` is missing or no (channels, height, width).
    """
    size = config.get("input_size")
    if not isinstance(size, Sequence) or len(cast("Sequence[int]", size)) != 3:
        raise BackboneError(
            f"default_cfg has input_size {size!r}; (channels, height, width) is needed, such as (3, 224, 224)"
        )
    _, height, width = (int(n) for n in cast("Sequence[int]", size))
    share = float(config.get("crop_pct") or 1.0)
    mode = str(config.get("crop_mode") or "center")
    mean, std = (tuple(float(v) for v in config.get(key) or ASSUMED[3][n]) for n, key in enumerate(("mean", "std")))
    notes: tuple[str, ...] = ()
    if channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    if mode == "border" or (mode == "squash" and share != 1):
        notes = (f"its evaluation crop is {mode!r} at {share}, which is approximated by {_approximated(mode)}",)
    resize = None if mode == "squash" else math.floor(min(height, width) / share)
    return Preprocessing((height, width), resize, mean, std, _interpolation(config.get("interpolation"))), notes


def _approximated(mode: str) -> str:
    return "squashing the whole picture" if mode == "squash" else "a centre crop"


def from_torchvision(transforms: Any) -> Read:
    """The preset that comes with torchvision's weights."""
    crop, resize = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    mean, std = tuple(map(float, transforms.mean)), tuple(map(float, transforms.std))
    return Preprocessing((crop, crop), resize, mean, std, _interpolation(transforms.interpolation.value)), ()


def from_processor(config: Mapping[str, Any]) -> Read:
    """A transformers image processor as a dictionary (its class defaults filled in).

    Raises BackboneError for a processor that swaps colour channels, which cannot be expressed here.
    """
    if config.get("do_flip_channel_order"):
        raise BackboneError(
            "its processor wants blue-green-red pictures, which are not supported; take the same network from timm"
        )
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    notes: tuple[str, ...] = ()
    resize: int | None = None
    if "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        # ConvNeXt's way of saying it: below 384 the picture is resized beyond `size` and `size` is cut out
        share = config.get("crop_pct")
        squashed = share is not None and edge >= 384
        resize = None if squashed else int(edge / share) if share is not None else edge
        shape = _pair(crop, edge) if config.get("do_center_crop") and share is None else (edge, edge)
        if not config.get("do_center_crop") and share is None:
            notes = ("its processor keeps oblong pictures; their centre is cut out here, since a batch has one size",)
    else:
        whole = _pair(size, 224)
        shape = _pair(crop, whole[0]) if config.get("do_center_crop") else whole
        if shape != whole:
            resize = min(whole)
            notes = (f"its processor squashes to {whole} before the crop; the shorter side is resized here instead",)
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config.get("do_normalize", True):
        mean, std = (tuple(float(v) for v in config.get(key) or ASSUMED[3][n]) for n, key in _MOMENTS)
    factor = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
    # 0.00392156862745098 is 1/255 as a rounded decimal: turned over it misses 255 in the last bits
    scale = 255.0 if math.isclose(factor, 1 / 255) else 1 / factor
    return Preprocessing(shape, resize, mean, std, _interpolation(config.get("resample")), scale), notes


_MOMENTS = tuple(enumerate(("image_mean", "image_std")))


def _pair(size: Mapping[str, Any] | int, default: int) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return int(size.get("height", default)), int(size.get("width", default))


def _interpolation(said: Any) -> Interpolation:
    """By Pillow's number or by name; "random", and what is not offered here, becomes bilinear as timm has it."""
    if isinstance(said, int):
        return BY_NUMBER.get(int(said), "bilinear")
    for name in INTERPOLATIONS:
        if name == said:
            return name
    return "bilinear"


def overridden(
    known: Preprocessing | None,
    *,
    image_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    interpolation: str | None,
    channels: int,
) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """What the backbone says, with what the user says in its place; notes tell what had to be assumed.

    Another image size keeps the share that the crop takes of the resized picture. None where nothing is known.
    Raises OptionError for values that fit no picture.
    """
    _allowed(image_size, mean, std, interpolation)
    if channels == 3:  # one value for a network that reads colour is meant for each channel
        mean, std = (tuple(v) * 3 if v is not None and len(v) == 1 else v for v in (mean, std))
    notes: tuple[str, ...] = ()
    if known is None:
        if image_size is None:
            return None, ()
        if mean is None or std is None:
            assumed = ASSUMED[len(mean or std or (0,) * channels)]
            notes = (f"no configuration says how pictures are normalised; mean and std {assumed} are assumed",)
            mean, std = mean or assumed[0], std or assumed[1]
        known = Preprocessing((image_size, image_size), image_size, tuple(mean), tuple(std))
    if image_size is not None and known.size != (image_size, image_size):
        resize = None if known.resize is None else round(known.resize * image_size / min(known.size))
        known = replace(known, size=(image_size, image_size), resize=resize)
    changed = replace(
        known,
        mean=tuple(map(float, mean)) if mean else known.mean,
        std=tuple(map(float, std)) if std else known.std,
        interpolation=_interpolation(interpolation) if interpolation else known.interpolation,
    )
    if len(changed.mean) != len(changed.std):
        raise OptionError(
            f"mean has {len(changed.mean)} values and std {len(changed.std)}; one for each channel is needed in both"
        )
    return changed, notes


def _allowed(
    image_size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None, interpolation: str | None
) -> None:
    if image_size is not None and image_size < 2:
        raise OptionError(f"image_size is {image_size}; a number of pixels of at least 2 is needed")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, 3):
            raise OptionError(f"{name} has {len(values)} values; 3 are needed for colour or 1 for grey")
        if values is not None and not all(map(math.isfinite, values)):
            raise OptionError(f"{name} is {tuple(values)}; each value must be a finite number, such as 0.485")
    if std is not None and min(std) <= 0:
        raise OptionError(f"std is {tuple(std)}; pixels are divided by it, so each value must be above 0")
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise OptionError(f"interpolation {interpolation!r} is unknown; allowed are {', '.join(INTERPOLATIONS)}")
