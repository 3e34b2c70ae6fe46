"""Data sets of boxes: COCO JSON, Pascal VOC and YOLO, found out by what lies in the folder.

Read with the standard library's JSON and XML and with PyYAML, which loads plain values only: `supervision` and
`fiftyone` would bring OpenCV, pycocotools and torchvision keep what is wrong with a data set to themselves.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.annotated import Annotated, Annotations, Faults, below, files_below
from frostline.data.coco import claims_coco, read_coco
from frostline.data.found import NAMED, listed
from frostline.data.pictures import UNREADABLE, explain, size_of
from frostline.data.voc import claims_voc, read_voc
from frostline.data.yolo import claims_yolo, read_yolo
from frostline.errors import DataError, LabelError
from frostline.values import Part

ROUNDING = 0.5  # pixels: what a box may leave the picture by because it was written with few digits
OTHER_SIZE = "pictures have another size than their annotations say (turned or resized since?); boxes stay as written"
LAYOUTS = (
    "COCO (annotations/instances_train.json, or _annotations.coco.json in the folders of the pictures), Pascal VOC "
    "(Annotations/1.xml beside JPEGImages/1.jpg) and YOLO (labels/1.txt beside images/1.jpg, names in data.yaml)"
)


@dataclass(frozen=True, slots=True)
class Boxes:
    """What is on one picture. Raises DataError for boxes that are none."""

    corners: NDArray[np.float32]  # boxes x (x1 y1 x2 y2), in pixels of the original, upright picture
    labels: NDArray[np.int64]  # class ids, one a box

    def __post_init__(self) -> None:
        if self.corners.shape != (len(self.labels), 4) or self.labels.ndim != 1:
            raise DataError(
                f"boxes of the shape {self.corners.shape} with labels of the shape {self.labels.shape}; (k, 4) and "
                "(k,) are needed: x1 y1 x2 y2 and one label for each box"
            )
        sound = np.isfinite(self.corners).all(axis=1) & (self.corners[:, 2:] > self.corners[:, :2]).all(axis=1)
        if not sound.all():
            wrong = self.corners[~sound][0].tolist()
            raise DataError(f"the box {wrong} has no finite area; x1 < x2 and y1 < y2 is needed; drop or mend it")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class FoundBoxes:
    """Pictures and the boxes on them; row i of each field belongs together."""

    source: str  # how messages call the data
    ids: tuple[str, ...]
    inputs: tuple[Path, ...]
    targets: NDArray[np.object_]  # Boxes; one that holds none is a picture known to show nothing
    parts: tuple[Part, ...]
    classes: tuple[str, ...]  # those that have boxes, in the data set's own order
    skipped: tuple[tuple[str, str], ...]  # (id, reason) of pictures that cannot be read
    detected: str
    warnings: tuple[str, ...] = ()


Reader = Callable[[Path, Sequence[Path]], Annotations]
# claims: the files among them that are annotations of the format. The first that finds some reads the folder
READERS: Mapping[str, tuple[Callable[[Path, Sequence[Path]], Sequence[Path]], Reader]] = {
    "COCO": (claims_coco, read_coco),
    "Pascal VOC": (claims_voc, read_voc),
    "YOLO": (claims_yolo, read_yolo),
}


def read_boxes(root: Path) -> FoundBoxes:
    """The pictures of a folder with their boxes; or of a COCO file or the data.yaml of YOLO, given itself.

    Corners are kept as written, in pixels as the picture is shown (turned as its EXIF tag says), and cut off where
    they leave it: those of Pascal VOC are counted from 1 in the original and from 0 by most tools, which no file tells.
    Boxes without area, of unknown classes or around crowds are dropped; whatever is dropped, cut off, kept in spite of
    something or left out is counted in a warning that names the first few pictures.
    A picture without boxes is an example of nothing where its annotation says so.
    Raises DataError where no layout is known or nothing can be read, LabelError where no box is left.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist; a folder with pictures and boxes is needed; check the spelling")
    source, root = str(root), Path(os.path.abspath(root))  # so that what a data.yaml names with ".." has the same path
    files = files_below(root) if root.is_dir() else (root,)
    claimed = {kind: claims(root, files) for kind, (claims, _) in READERS.items()}
    kinds = [kind for kind, some in claimed.items() if some]
    if not kinds:
        raise DataError(
            f"{source} holds no boxes that are known to be such; allowed are {LAYOUTS}; convert or move them"
        )
    found = READERS[kinds[0]][1](root, claimed[kinds[0]])
    others = [
        f"{len(claimed[kind])} files of {kind} beside those of {kinds[0]} are passed over: "
        f"{listed([below(file, found.home) for file in claimed[kind]])}"
        for kind in kinds[1:]
    ]
    return _checked(source, found, others)


def _checked(source: str, found: Annotations, warnings: Sequence[str]) -> FoundBoxes:
    faults = Faults(list, {fault: list(names) for fault, names in found.faults.items()})
    kept: list[tuple[str, Annotated, NDArray[np.float32], NDArray[np.int64]]] = []
    skipped: list[tuple[str, str]] = []
    for name, one in sorted(((below(one.picture, found.home), one) for one in found.pictures), key=lambda row: row[0]):
        try:
            size = size_of(one.picture)
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            skipped.append((name, explain(error)))
            continue
        if one.size not in (None, size):
            faults[OTHER_SIZE].append(name)
        corners = one.corners * np.array([*size[::-1]] * 2) if found.shares else one.corners
        kept.append((name, one, *_sound(corners, one.labels, size, name, faults)))
    if not kept:
        raise DataError(
            f"{source} holds annotations of {found.kind} but no picture that goes with them and can be read"
            f"{_first(faults, skipped)}; the pictures themselves are needed; put them where the annotations say"
        )
    numbers = np.concatenate([labels for *_, labels in kept])
    if not len(numbers):
        raise LabelError(
            f"{source} holds {len(kept)} pictures and no box on any of them{_first(faults, skipped)}; boxes to learn "
            "from are needed; check the annotations"
        )
    used = np.unique(numbers)
    faults["classes without any box are left out"] = [name for c, name in enumerate(found.classes) if c not in used]
    targets = np.empty(len(kept), dtype=object)
    for row, (_, _, corners, labels) in enumerate(kept):
        targets[row] = Boxes(corners, np.searchsorted(used, labels))
    parts: tuple[Part, ...] = tuple(one.part for _, one, _, _ in kept)
    return FoundBoxes(
        source=source,
        ids=tuple(name for name, *_ in kept),
        inputs=tuple(one.picture for _, one, _, _ in kept),
        targets=targets,
        parts=parts,
        classes=tuple(found.classes[number] for number in used),
        skipped=tuple(skipped),
        detected=_detected(found.kind, parts, [len(labels) for *_, labels in kept], len(used)),
        warnings=(*warnings, *_told(faults, skipped, len(found.pictures))),
    )


def _sound(
    corners: NDArray[np.float64],
    labels: NDArray[np.int64],
    size: tuple[int, int],
    name: str,
    faults: Faults,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The boxes that can be learned from, within a picture of that height and width; the others go to the faults."""
    finite = np.isfinite(corners).all(axis=1)
    faults["boxes whose corners are no finite numbers are dropped"] += [name] * int((~finite).sum())
    corners, labels = corners[finite], labels[finite]
    far = np.array([size[1], size[0]] * 2, np.float64)
    area = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    within = np.clip(corners, 0.0, far).astype(np.float32)
    inside = (within[:, 2:] > within[:, :2]).all(axis=1)
    out = np.maximum(-corners, corners - far).max(axis=1, initial=0.0) > ROUNDING
    faults["boxes without area are dropped"] += [name] * int((~area).sum())
    faults["boxes outside their picture are dropped"] += [name] * int((area & ~inside).sum())
    faults["boxes leave their picture and are cut off at its edge"] += [name] * int((area & inside & out).sum())
    return within[area & inside], labels[area & inside]


def _told(faults: Mapping[str, Sequence[str]], skipped: Sequence[tuple[str, str]], pictures: int) -> list[str]:
    told = [f"{len(names)} {fault}: {listed(list(dict.fromkeys(names)))}" for fault, names in faults.items() if names]
    if skipped:
        names = listed([name for name, _ in skipped])
        told.append(f"{len(skipped)} of {pictures} pictures cannot be read and are skipped: {names}")
    return told


def _first(faults: Mapping[str, Sequence[str]], skipped: Sequence[tuple[str, str]]) -> str:
    """What went wrong, for a message that ends the reading."""
    told = _told(faults, skipped, len(skipped))[:NAMED]
    return f" ({'; '.join(told)})" if told else ""


def _detected(kind: str, parts: Sequence[Part], counts: Sequence[int], classes: int) -> str:
    held = Counter(parts)
    shares = ", ".join(f"{part} {held[part]}" for part in ("train", "validation", "test") if held[part])
    empty = counts.count(0)
    without = f", {empty} of them without any" if empty else ""
    return (
        f"boxes of {kind}: {len(parts)} pictures{f' ({shares})' if shares else ''} with {sum(counts)} boxes of "
        f"{classes} {'class' if classes == 1 else 'classes'}{without}"
    )
