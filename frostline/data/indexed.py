"""A PyTorch Dataset: pairs (picture, label), fetched by number and held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.found import Found
from frostline.data.pictures import open_picture
from frostline.data.tables import labels_of
from frostline.errors import DataError


def is_indexed(source: Any) -> bool:
    """Whether it is a map-style Dataset of PyTorch, told without loading torch."""
    bases = [(base.__module__.rpartition(".")[0], base.__name__) for base in type(source).__mro__]
    return ("torch.utils.data", "Dataset") in bases and hasattr(source, "__len__") and hasattr(source, "__getitem__")


def read_indexed(source: Any) -> Found:
    """Pictures are PIL images, arrays (height, width[, channels]) or tensors (channels, height, width).

    They hold bytes or fractions of 0..1. Labels are numbers or texts; where the data set has `classes`, as
    torchvision's have, numbers are told by those names. Raises DataError naming the item that is no such pair.
    """
    pixels, labels, known = list[NDArray[np.uint8]](), list[Any](), getattr(source, "classes", None)
    for number in range(len(source)):
        item = source[number]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"item {number} of the data set is a {type(item).__name__} and no pair (picture, label); wrap it in "
                "one that gives pairs"
            )
        pixels.append(_pixels(item[0], number))
        labels.append(_label(item[1], known, number))
    if not pixels:
        raise DataError("the data set is empty; at least two pictures of two classes each are needed")
    shapes = {each.shape for each in pixels}
    one = f"{next(iter(shapes))[1]}x{next(iter(shapes))[0]}" if len(shapes) == 1 else "several sizes"
    names = labels_of(labels, "the data set")
    return Found(
        source="the data set",
        ids=tuple(f"item-{number}" for number in range(len(pixels))),
        inputs=np.stack(pixels) if len(shapes) == 1 else tuple(map(_encoded, pixels)),
        labels=names,
        parts=("",) * len(pixels),
        groups=None,
        detected=f"a PyTorch data set: {len(pixels)} pictures of {one}, {len(set(names))} classes",
    )


def _pixels(picture: Any, number: int) -> NDArray[np.uint8]:
    """Height x width x 3. A tensor has its channels first, as torchvision makes them; everything else has them last."""
    if isinstance(picture, Image.Image):
        return open_picture(_encoded(np.asarray(picture)) if picture.mode in ("L", "RGB", "RGBA") else _saved(picture))
    values = np.asarray(picture)
    tensor = type(picture).__module__.startswith("torch")
    if tensor and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        where = "(channels, height, width) of a tensor" if tensor else "(height, width[, channels]) of an array"
        raise DataError(f"picture {number} of the data set has the shape {np.shape(picture)}; {where} is needed")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise DataError(
                f"picture {number} of the data set holds numbers from {values.min():.3g} to {values.max():.3g}; bytes "
                "or fractions of 0..1 are needed: leave out Normalize, each backbone brings its own"
            )
        values = np.round(values * 255)
    return open_picture(values.astype(np.uint8))


def _label(label: Any, known: Sequence[Any] | None, number: int) -> Any:
    found = label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, int) and not isinstance(found, bool) and known is not None:
        if not 0 <= found < len(known):
            raise DataError(f"item {number} of the data set has the label {found}; it names {len(known)} classes")
        return str(known[found])
    if not isinstance(found, int | str):
        raise DataError(f"item {number} of the data set has the label {label!r}; a number or a text is needed")
    return found


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    return _saved(Image.fromarray(pixels))


def _saved(picture: Image.Image) -> bytes:
    """Without loss."""
    into = BytesIO()
    picture.save(into, "PNG")
    return into.getvalue()
