"""One picture: opened whatever its file holds, varied, and turned into what a network reads."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from frostline.errors import DataError
from frostline.values import Augment, Preprocessing

Picture = Path | bytes | NDArray[np.uint8]

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# what PIL raises on files that are damaged, foreign or hostile
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, MemoryError)
SMALL = 40  # pixels: below it a resized crop throws away too much, so pictures are padded and shifted instead
AREA = (0.6, 1.0)  # share of the picture that a random crop keeps
STRETCH = 4 / 3  # the crop's sides may differ by this from the picture's own proportions


def open_picture(picture: Picture) -> NDArray[np.uint8]:
    """The pixels as height x width x 3, red green blue, 0..255.

    A file is turned as its EXIF tag says; CMYK and palettes become RGB; 16-bit values are divided by 257, so that
    65535 is white; what is transparent shows white; of an animation the first frame counts.
    Raises DataError where the file cannot be decoded to its last byte, naming it and the cause.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    try:
        with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            image.load()
            return np.asarray(upright(image))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        name = "a picture stored in the data set" if isinstance(picture, bytes) else str(picture)
        raise DataError(
            f"{name} cannot be read as a picture: {explain(error)}; any format that Pillow reads is allowed; "
            "replace or remove the file"
        ) from error


def upright(image: Image.Image) -> Image.Image:
    """Red, green and blue, turned as its EXIF tag says."""
    return _rgb(ImageOps.exif_transpose(image))


def pixels_of(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    """0..255, whole; raises DataError for a shape or a range that leaves room for doubt."""
    channels = pictures.shape[3] if pictures.ndim == 4 else 1
    if pictures.ndim not in (3, 4) or channels not in (1, 3, 4) or 0 in pictures.shape:
        raise DataError(
            f"pictures have the shape {pictures.shape}; (n, height, width) or (n, height, width, channels) with "
            "1, 3 or 4 channels is needed; np.moveaxis(pictures, 1, -1) moves channels to the end"
        )
    if pictures.dtype == bool:
        return pictures.astype(np.uint8) * np.uint8(255)
    if pictures.dtype.kind not in "iuf" or not np.isfinite(pictures).all():
        raise DataError(
            f"pictures are {pictures.dtype} with values that are no finite numbers; 0..255 or 0..1 is needed"
        )
    low, high = pictures.min(), pictures.max()
    top = 1 if pictures.dtype.kind == "f" else 255
    if low < 0 or high > top:
        raise DataError(
            f"pictures are {pictures.dtype} between {low} and {high}; whole numbers of 0..255 or fractions of 0..1 are "
            "needed; scale them"
        )
    return np.round(pictures * 255).astype(np.uint8) if top == 1 else pictures.astype(np.uint8)


def explain(error: Exception) -> str:
    """The cause in a reader's words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "the content is not a picture"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return str(error) or type(error).__name__


def _from_array(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 4:
        return np.asarray(_rgb(Image.fromarray(pixels)))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layers)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips 16-bit values at 255, which turns nearly every such picture white."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" and values.size and values.max() <= 1:
        values = values * 65535
    elif image.mode == "I" and values.size and values.max() <= 255:
        values = values * 257  # an 8-bit picture in a wide container
    return Image.fromarray(np.clip(np.round(values / 257), 0, 255).astype(np.uint8))


def preprocess(pixels: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """What the network reads: channels x height x width, as `how` says."""
    return normalised(framed(pixels, how), how)


def normalised(frames: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """The numbers that the network reads, of one frame or of many."""
    values = frames.astype(np.float32)
    mean, std = (np.asarray(v, dtype=np.float32).reshape(-1, 1, 1) for v in (how.mean, how.std))
    values /= np.float32(how.scale)
    values -= mean
    values /= std
    return values


def framed(pixels: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.uint8]:
    """The part of the picture that the network reads, in its size: channels x height x width, still as bytes.

    The shorter side is resized and the centre cut out, or the whole picture squashed where `how.resize` is None.
    Rounding is torchvision's, and Pillow's filters widen when they shrink, so a transform of timm, torchvision or
    transformers over the same picture gives the same numbers; only where an odd margin is cut off may transformers
    have cut one pixel beside (it rounds down, the others to even).
    """
    image = Image.fromarray(pixels)
    if len(how.mean) == 1:
        image = image.convert("L")
    height, width = how.size
    if how.resize is None:
        image = image.resize((width, height), FILTERS[how.interpolation])
    else:
        image = image.resize(_cover(image.size, how), FILTERS[how.interpolation])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    # laid out as the network reads it while it is bytes: strided floats took four times as long
    return np.ascontiguousarray(np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1))


def _cover(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """Width and height after the shorter side became `how.resize`, or more where the crop would not fit."""
    assert how.resize is not None
    short, long = min(size), max(size)
    target = max(how.resize, *how.size) if how.size[0] == how.size[1] else how.resize
    resized = (target, int(target * long / short))
    width, height = resized if size[0] <= size[1] else resized[::-1]
    return max(width, how.size[1]), max(height, how.size[0])


def augment(pixels: NDArray[np.uint8], kind: Augment, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A variation of the picture that keeps its label: mirrored half of the time, cut out at random, or both.

    A cut-out keeps 60 to 100 percent of the area; a picture of at most 40 pixels is shifted by up to an eighth of
    its size instead, with its border mirrored outwards. `none` returns the picture as it is.
    """
    if kind in ("crop", "flip_crop"):
        pixels = _shifted(pixels, rng) if max(pixels.shape[:2]) <= SMALL else _cut_out(pixels, rng)
    if kind in ("flip", "flip_crop") and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _shifted(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    down, right = height // 8, width // 8
    padded = np.pad(pixels, ((down, down), (right, right), (0, 0)), mode="symmetric")
    top, left = rng.integers(0, 2 * down + 1), rng.integers(0, 2 * right + 1)
    return padded[top : top + height, left : left + width]


def _cut_out(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    area = rng.uniform(*AREA)
    stretch = np.exp(rng.uniform(-np.log(STRETCH), np.log(STRETCH)) / 2)
    # neither side may leave the picture, so the stretch gives way where the area is nearly all of it
    stretch = float(np.clip(stretch, np.sqrt(area), 1 / np.sqrt(area)))
    tall = max(1, min(height, round(height * np.sqrt(area) * stretch)))
    wide = max(1, min(width, round(width * np.sqrt(area) / stretch)))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    return pixels[top : top + tall, left : left + wide]


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width as the picture will be shown, from the head of the file alone."""
    if isinstance(picture, np.ndarray):
        return int(picture.shape[0]), int(picture.shape[1])
    with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        width, height = image.size
        turned: Any = image.getexif().get(0x0112)  # the orientation tag; 5 to 8 lie on their side
    return (width, height) if turned in (5, 6, 7, 8) else (height, width)
