"""Data sets of masks: what is read of them, and what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scenes import KINDS, scenes

from frostline.data.profile import profile
from frostline.data.read import read
from frostline.data.split import split
from frostline.errors import DataError, LabelError, OptionError
from frostline.values import VOID, Examples

Plane = NDArray[np.integer]


def made(folder: Path, masks: Mapping[str, Plane]) -> Path:
    """A data set of grey pictures, by the paths of their masks below masks/."""
    for number, (name, values) in enumerate(masks.items()):
        for kind, plane in (("images", np.full(values.shape, number)), ("masks", values)):
            file = folder / kind / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane.astype(values.dtype if kind == "masks" else np.uint8)).save(file)
    return folder


def plane(*values: int, side: int = 4, kind: str = "uint8") -> Plane:
    """A mask with columns of these values."""
    return np.tile(np.repeat(np.array(values, kind), side // len(values)), (side, 1))


def masks_of(source: Path, size: tuple[int, int] = (4, 4)) -> Examples:
    return read(source, question="segmentation", size=size)


def test_masks_are_read_at_the_size_that_is_asked_for_with_the_nearest_value(tmp_path: Path) -> None:
    found = masks_of(scenes(tmp_path, 12), (20, 24))
    assert found.classes == KINDS
    assert found.targets.shape == (12, 20, 24)
    for name, mask in zip(found.ids, found.targets, strict=True):
        with Image.open(tmp_path / name.replace("images", "masks")) as image:
            np.testing.assert_array_equal(mask, np.asarray(image.resize((24, 20), Image.Resampling.NEAREST)))
    counts = profile(found).classes
    assert counts == {name: int((found.targets == n).any((1, 2)).sum()) for n, name in enumerate(KINDS)}
    kinds = [frozenset(np.unique(mask).tolist()) for mask in found.targets]
    for fold in split(found, seed=0, folds=2, least=10**6).folds:  # sets of classes are dealt out evenly
        assert {kinds[row] for row in fold.validation} >= {kind for kind in kinds if kinds.count(kind) > 5}


def test_without_names_classes_are_the_values_that_occur_and_255_is_none(tmp_path: Path) -> None:
    found = masks_of(made(tmp_path, {"a": plane(7, 40), "b": plane(7, 255)}))
    assert found.classes == ("7", "40")
    np.testing.assert_array_equal(found.targets, [plane(0, 1), plane(0, VOID)])


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    found = masks_of(made(tmp_path, {"a": plane(0, 255), "b": plane(0)}))
    assert found.classes == ("0", "255")
    np.testing.assert_array_equal(found.targets, [plane(0, 1), plane(0)])


@pytest.mark.parametrize("layout", ["below", "above", "voc"])
def test_parts_are_those_of_folders_or_of_lists(layout: str, tmp_path: Path) -> None:
    named = {"1": "train", "2": "train", "3": "val", "4": "test"}
    flat = made(tmp_path / "flat", {name: plane(0, 1) for name in named})
    home = tmp_path / "data"
    for name, part in named.items():
        for kind, other in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
            to = {"below": home / kind / part, "above": home / part / kind, "voc": home / "VOC2012" / other}[layout]
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(flat / kind / f"{name}.png", to)
    if layout == "voc":
        lists = home / "VOC2012" / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        for part in set(named.values()):
            (lists / f"{part}.txt").write_text("\n".join(name for name, own in named.items() if own == part))
    found = masks_of(home)
    parts = {Path(name).stem: part for name, part in zip(found.ids, found.parts, strict=True)}
    assert parts == {"1": "train", "2": "train", "3": "validation", "4": "test"}


def test_palettes_are_read_by_their_values(tmp_path: Path) -> None:
    made(tmp_path, {"a": plane(0, 1)})
    image = Image.fromarray(plane(0, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(masks_of(tmp_path).targets[0], plane(0, 1))


def test_what_is_wrong_is_counted_and_left_out(tmp_path: Path) -> None:
    good = {f"good{n}": plane(0, 1, 2, 255) for n in range(3)}
    bad = {
        "beyond": plane(0, 9),
        "wide": plane(0, 300, kind="uint16"),
        "small": plane(0, 1),
        "colour": plane(0, 1),
        "broken": plane(0, 1),
        "alone": plane(0, 1),
    }
    made(tmp_path, {**good, **bad})
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\nbus\n")
    Image.fromarray(plane(0, 1, side=6)).save(tmp_path / "masks" / "small.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "masks" / "colour.png")
    (tmp_path / "masks" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "masks" / "alone.png").unlink()
    Image.fromarray(plane(0)).save(tmp_path / "masks" / "other.png")
    found = masks_of(tmp_path)
    assert [Path(name).stem for name in found.ids] == sorted(good)
    assert found.classes == ("sky", "road", "car", "bus")
    told = " | ".join(found.warnings)
    for parts in (
        "1 pictures have no mask and are left out: 'images/alone.png'",
        "1 masks have no picture and are left out: 'masks/other.png'",
        "2 masks hold values beyond 3, and their pictures are left out: 'images/beyond.png', 'images/wide.png'",
        "1 masks have another size than their pictures, which are left out: 'images/small.png'",
        "1 masks are in colour",
        "1 masks cannot be read (the content is not a picture)",
        "1 classes are on no picture to learn from: 'bus'",
    ):
        assert parts in told


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no picture with a mask; allowed are images/1.jpg beside masks/1.png"):
        masks_of(tmp_path / "empty")
    with pytest.raises(LabelError, match="hold 1 class, '4'; at least two"):
        masks_of(made(tmp_path / "one", {"a": plane(4), "b": plane(4, 255)}))
    twice = made(tmp_path / "twice", {"a": plane(0, 1)})
    (twice / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(LabelError, match="holds 2 lines, of which 'sky' stand several times"):
        masks_of(twice)
    with pytest.raises(DataError, match="from a folder with images and masks"):
        read((np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]), question="segmentation")
    with pytest.raises(OptionError, match="segmentation has no use for it yet"):
        read(twice, question="segmentation", shifted=str(twice))
