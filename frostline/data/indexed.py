"""A PyTorch Dataset: pairs (picture, label), fetched by number and held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.cells import labels_of
from frostline.data.found import Found, Progress, listed
from frostline.data.pictures import open_picture, pixels_of, upright
from frostline.errors import DataError

MOST = 8 * 2**30  # bytes of pictures that are held


def is_indexed(source: Any) -> bool:
    """Whether it is a map-style Dataset of PyTorch, told without loading torch."""
    bases = {(base.__module__.rpartition(".")[0], base.__name__) for base in type(source).__mro__}
    named = ("torch.utils.data", "Dataset") in bases and ("torch.utils.data", "IterableDataset") not in bases
    return named and hasattr(source, "__len__") and hasattr(source, "__getitem__")


def read_indexed(source: Any, *, progress: Progress | None = None) -> Found:
    """Pictures are PIL images, arrays (height, width[, channels]) or tensors (channels, height, width).

    They hold bytes or fractions of 0..1. Labels are numbers or texts; where the data set, or the one that it is a part
    of, has `classes`, as torchvision's have, numbers are told by those names. Raises DataError naming the item that is
    no such pair, and where an item is another picture when it is asked for again: a search needs each as it is.
    """
    pixels, labels, known, held = list[NDArray[np.uint8]](), list[Any](), _classes(source), 0
    for number in range(len(source)):
        picture, label = _item(source, number)
        if number == 0 and not np.array_equal(picture, _item(source, 0)[0]):
            raise DataError(
                "item 0 of the data set is another picture each time it is asked for; leave out transforms that draw, "
                "and let pictures vary with augment='flip' or 'flip_crop'"
            )
        pixels.append(picture)
        labels.append(_label(label, known, number))
        held += picture.nbytes
        if held > MOST:
            raise DataError(
                f"the first {number + 1} of {len(source)} pictures of the data set take {held / 2**30:.1f} GiB of "
                f"memory, and {MOST / 2**30:.0f} are allowed; give their folder, a table of their paths, or less"
            )
        if progress is not None:
            progress(number + 1, len(source))
    if not pixels:
        raise DataError("the data set is empty; at least two pictures of two classes each are needed")
    shapes = {each.shape for each in pixels}
    one = f"{pixels[0].shape[1]}x{pixels[0].shape[0]}" if len(shapes) == 1 else "several sizes"
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


def _item(source: Any, number: int) -> tuple[NDArray[np.uint8], Any]:
    try:
        item = source[number]
    except Exception as error:  # it is the user's own code
        raise DataError(f"item {number} of the data set cannot be had: {error}; mend or leave out that item") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            f"item {number} of the data set is a {type(item).__name__} and no pair (picture, label); wrap it in one "
            "that gives pairs"
        )
    return _pixels(item[0], number), item[1]


def _pixels(picture: Any, number: int) -> NDArray[np.uint8]:
    """Height x width x 3. A tensor has its channels first, as torchvision makes them; everything else has them last."""
    if isinstance(picture, Image.Image):
        return np.asarray(upright(picture))
    tensor = type(picture).__module__.startswith("torch")
    values: NDArray[Any] = picture.detach().cpu().float().numpy() if _is_inexact(picture) else np.asarray(picture)
    if tensor and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        where = "(channels, height, width) of a tensor" if tensor else "(height, width[, channels]) of an array"
        raise DataError(f"picture {number} of the data set has the shape {tuple(np.shape(picture))}; {where} is needed")
    try:
        (pixels,) = pixels_of(values[None])
    except DataError as error:
        raise DataError(
            f"picture {number} of the data set: {error}; leave out Normalize, each backbone brings its own"
        ) from None
    return open_picture(pixels)


def _is_inexact(picture: Any) -> bool:
    """A tensor of floating numbers: NumPy lacks some of their kinds."""
    asked: Callable[[], bool] | None = getattr(picture, "is_floating_point", None)
    return asked is not None and asked()


def _classes(source: Any) -> Sequence[str] | None:
    """The names of the classes, of the data set or of what it is a part of. Raises DataError where two are alike."""
    found: Any = getattr(source, "classes", None)
    if found is None:
        parts = getattr(source, "datasets", None) or [getattr(source, "dataset", None)]
        of_parts = [_classes(part) for part in parts if part is not None]
        same = bool(of_parts) and all(names == of_parts[0] for names in of_parts)
        return of_parts[0] if same else None
    names = [str(name) for name in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"the data set names two classes alike ({listed(twice)}); rename them in its `classes`")
    return names


def _label(label: Any, known: Sequence[str] | None, number: int) -> Any:
    found = label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, int) and not isinstance(found, bool) and known is not None:
        if not 0 <= found < len(known):
            raise DataError(
                f"item {number} of the data set has the label {found}, and it names {len(known)} classes; labels are "
                f"0..{len(known) - 1}"
            )
        return known[found]
    if not isinstance(found, int | str):
        raise DataError(f"item {number} of the data set has the label {label!r}; a number or a text is needed")
    return found


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Without loss."""
    into = BytesIO()
    Image.fromarray(pixels).save(into, "PNG")
    return into.getvalue()
