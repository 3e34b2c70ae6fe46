"""Reading boxes: the three layouts, and an answer to everything that is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from frostline.data.boxes import Boxes, FoundBoxes, read_boxes
from frostline.errors import DataError, FrostlineError, LabelError

WIDTH, HEIGHT = 64, 40
CLASSES = ("bee", "ant", "wasp")  # in an order that is not the alphabet's
Scene = Mapping[str, Sequence[tuple[str, float, float, float, float]]]
SCENE: Scene = {
    "train/a": [("ant", 1, 2, 11, 22), ("bee", 30, 4, 63, 39)],
    "train/b": [("wasp", 8, 8, 24, 16)],
    "val/c": [("bee", 0, 0, 64, 40), ("bee", 16, 4, 18, 34)],
    "test/d": [],
}


def picture(file: Path, *, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (9, 99, 199)).save(file, exif=exif)
    return file


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def coco(
    scene: Scene, *, where: str = "{}", ids: Sequence[int] = (3, 7, 90), extra: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A COCO file of the scene; categories have ids with gaps, as COCO's own have."""
    categories = [{"id": number, "name": name, "supercategory": "x"} for number, name in zip(ids, CLASSES, strict=True)]
    images = [
        {"id": 100 + row, "file_name": where.format(name) + ".png", "width": WIDTH, "height": HEIGHT}
        for row, name in enumerate(scene)
    ]
    found = [
        {
            "image_id": 100 + row,
            "category_id": ids[CLASSES.index(label)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": 0,
        }
        for row, boxes in enumerate(scene.values())
        for label, x1, y1, x2, y2 in boxes
    ]
    annotations = [{"id": row, **one} for row, one in enumerate([*found, *extra])]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def voc(
    boxes: Sequence[tuple[str, Any, Any, Any, Any]], name: str = "x.png", *, width: int = WIDTH, more: str = ""
) -> str:
    objects = "".join(
        f"<object><name>{label}</name>{more}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in boxes
    )
    size = f"<size><width>{width}</width><height>{HEIGHT}</height></size>"
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def yolo(boxes: Sequence[tuple[str, float, float, float, float]], classes: Sequence[str] = CLASSES) -> str:
    return "".join(
        f"{classes.index(label)} {(x1 + x2) / 2 / WIDTH:.6f} {(y1 + y2) / 2 / HEIGHT:.6f} {(x2 - x1) / WIDTH:.6f} "
        f"{(y2 - y1) / HEIGHT:.6f}\n"
        for label, x1, y1, x2, y2 in boxes
    )


# ------------------------------------------------------------------------------------------------ the layouts


def by_folders(root: Path, scene: Scene) -> Scene:
    """The pictures of a scene in images/, and its own names."""
    for name in scene:
        picture(root / "images" / f"{name}.png")
    return scene


def as_coco(root: Path, scene: Scene) -> None:
    write(root / "annotations" / "all.json", coco(by_folders(root, scene)))


def as_coco_by_part(root: Path, scene: Scene) -> None:
    for part in ("train", "val", "test"):
        own = {name.split("/")[1]: boxes for name, boxes in scene.items() if name.startswith(part)}
        for name in own:
            picture(root / f"{part}2017" / f"{name}.png")
        write(root / "annotations" / f"instances_{part}2017.json", coco(own))
        write(root / "annotations" / f"person_keypoints_{part}2017.json", coco({}))


def as_roboflow_coco(root: Path, scene: Scene) -> None:
    for part in ("train", "val", "test"):
        own = {name.split("/")[1]: boxes for name, boxes in scene.items() if name.startswith(part)}
        folder = root / part.replace("val", "valid")
        for name in own:
            picture(folder / f"{name}.png")
        write(folder / "_annotations.coco.json", coco(own))


def as_voc(root: Path, scene: Scene) -> None:
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, boxes in scene.items():
        part, stem = name.split("/")
        picture(root / "JPEGImages" / f"{stem}.png")
        write(root / "Annotations" / f"{stem}.xml", voc(boxes))
        listed[part].append(stem)
    for part, stems in listed.items():
        write(root / "ImageSets" / "Main" / f"{part}.txt", "\n".join(stems))
    write(root / "ImageSets" / "Main" / "trainval.txt", "a\nb\nc\n")
    write(root / "ImageSets" / "Main" / "ant_val.txt", "a 1\nb -1\n")
    picture(root / "SegmentationClass" / "a.png")


def as_voc_beside(root: Path, scene: Scene) -> None:
    for name, boxes in scene.items():
        picture(root / f"{name}.png")
        write(root / f"{name}.xml", voc(boxes))


def as_yolo(root: Path, scene: Scene) -> None:
    for name, boxes in by_folders(root, scene).items():
        write(root / "labels" / f"{name}.txt", yolo(boxes))
    given = {"path": ".", "train": "images/train", "val": ["images/val"], "test": "images/test", "names": [*CLASSES]}
    write(root / "data.yaml", yaml.safe_dump(given))


def as_roboflow_yolo(root: Path, scene: Scene) -> None:
    for name, boxes in scene.items():
        part, stem = name.replace("val", "valid").split("/")
        picture(root / part / "images" / f"{stem}.png")
        write(root / part / "labels" / f"{stem}.txt", yolo(boxes))
    places = {part: f"../{folder}/images" for part, folder in (("train", "train"), ("val", "valid"), ("test", "test"))}
    write(root / "data.yaml", yaml.safe_dump({**places, "nc": 3, "names": dict(enumerate(CLASSES))}))


def as_yolo_lists(root: Path, scene: Scene) -> None:
    for name, boxes in by_folders(root, scene).items():
        write(root / "labels" / f"{name}.txt", yolo(boxes))
    for part in ("train", "val", "test"):
        write(root / f"{part}.txt", "".join(f"./images/{name}.png\n" for name in scene if name.startswith(part)))
    write(
        root / "data.yaml", yaml.safe_dump({**{p: f"{p}.txt" for p in ("train", "val", "test")}, "names": [*CLASSES]})
    )


def as_yolo_beside(root: Path, scene: Scene) -> None:
    for name, boxes in scene.items():
        picture(root / f"{name}.png")
        write(root / f"{name}.txt", yolo(boxes))
    write(root / "classes.txt", "\n".join(CLASSES))


Writer = Callable[[Path, Scene], None]
WRITERS: Sequence[Writer] = (
    as_coco,
    as_coco_by_part,
    as_roboflow_coco,
    as_voc,
    as_voc_beside,
    as_yolo,
    as_roboflow_yolo,
    as_yolo_lists,
    as_yolo_beside,
)


def said(found: FoundBoxes) -> dict[str, tuple[str, list[tuple[Any, ...]]]]:
    """Part and boxes of each picture, by the name of its file."""
    rows: dict[str, tuple[str, list[tuple[Any, ...]]]] = {}
    for name, part, boxes in zip(found.ids, found.parts, found.targets, strict=True):
        corners = np.asarray(boxes.corners, np.float64).round(3).tolist()
        labels = [found.classes[label] for label in boxes.labels]
        rows[Path(name).stem] = part, [(label, *box) for label, box in zip(labels, corners, strict=True)]
    return rows


def refused(kind: type[FrostlineError], root: Path, *words: str) -> None:
    with pytest.raises(kind) as caught:
        read_boxes(root)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_same_boxes_read_the_same_in_every_layout(tmp_path: Path, writer: Writer) -> None:
    writer(tmp_path, SCENE)
    found = read_boxes(tmp_path)
    parts = {"train": "train", "val": "validation", "test": "test"}
    expected = {
        name.split("/")[1]: (parts[name.split("/")[0]], [(label, *map(float, box)) for label, *box in boxes])
        for name, boxes in SCENE.items()
    }
    assert said(found) == expected
    assert found.classes == (("ant", "bee", "wasp") if "voc" in writer.__name__ else CLASSES)
    assert (found.warnings, found.skipped) == ((), ())
    assert (
        "4 pictures (train 2, validation 1, test 1) with 5 boxes of 3 classes, 1 of them without any" in found.detected
    )
    for name, file, boxes in zip(found.ids, found.inputs, found.targets, strict=True):
        assert file == tmp_path / name and file.is_file()
        assert (boxes.corners.dtype, boxes.labels.dtype) == (np.float32, np.int64)


def test_the_file_itself_can_be_given_and_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_coco(tmp_path / "coco", SCENE)
    as_yolo(tmp_path / "yolo", SCENE)
    inside = tmp_path / "coco" / "annotations"
    assert read_boxes(inside / "all.json").ids == read_boxes(tmp_path / "coco").ids == read_boxes(tmp_path / "yolo").ids
    monkeypatch.chdir(inside)
    assert said(read_boxes(Path("../../yolo/data.yaml"))) == said(read_boxes(Path("all.json")))
    assert read_boxes(Path("../../yolo")).ids == read_boxes(Path("..")).ids
    # one part's file, given alone, does not miss the pictures of the others
    as_coco_by_part(tmp_path / "parts", SCENE)
    alone = read_boxes(tmp_path / "parts" / "annotations" / "instances_train2017.json")
    assert (alone.ids, alone.warnings) == (("train2017/a.png", "train2017/b.png"), ())


def test_corners_are_those_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", orientation=6, size=(HEIGHT, WIDTH))  # stored upright, shown lying
    write(tmp_path / "labels" / "a.txt", yolo([("bee", 32, 10, 64, 40)]))
    assert said(read_boxes(tmp_path))["a"][1] == [("0", 32.0, 10.0, 64.0, 40.0)]


def test_polygons_and_turned_boxes_of_yolo_count_as_the_box_around_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "a.txt", "0 0.5 0.25 0.75 0.5 0.5 0.75\n1 0 0 0.5 0 0.5 0.5 0 0.5\n")
    assert said(read_boxes(tmp_path))["a"][1] == [("0", 32.0, 10.0, 48.0, 30.0), ("1", 0.0, 0.0, 32.0, 20.0)]


def test_pictures_of_the_same_name_belong_to_the_part_of_their_file(tmp_path: Path) -> None:
    for part, right in (("train", 20), ("val", 50)):
        picture(tmp_path / "images" / f"{part}2017" / "1.png")
        write(tmp_path / "annotations" / f"instances_{part}2017.json", coco({"1": [("ant", 1, 1, right, 9)]}))
    found = read_boxes(tmp_path)
    assert found.ids == ("images/train2017/1.png", "images/val2017/1.png")
    assert found.parts == ("train", "validation")
    assert [boxes.corners[0, 2] for boxes in found.targets] == [20, 50]


def test_a_folder_named_for_more_than_a_part_is_none(tmp_path: Path) -> None:
    as_yolo_beside(tmp_path / "blood test 3", {"a": [("ant", 1, 1, 9, 9)]})
    assert read_boxes(tmp_path).parts == ("",)


# ------------------------------------------------------------------------------------------------ faults

FAULTY: Scene = {
    "a": [("ant", 1, 1, 9, 9), ("ant", -5, 1, 9, 9), ("ant", 30, 30, 90, 90)],
    "b": [("bee", 5, 5, 5, 9), ("bee", 70, 5, 80, 9), ("bee", 1, 1, 9, 9), ("wasp", 1, 1, 64.2, 9)],
}


@pytest.mark.parametrize("writer", [as_coco, as_voc_beside, as_yolo_beside])
def test_boxes_that_leave_their_picture_are_cut_off_and_those_without_area_dropped(
    tmp_path: Path, writer: Writer
) -> None:
    writer(tmp_path, FAULTY)
    found = read_boxes(tmp_path)
    rows = said(found)
    assert rows["a"][1] == [("ant", 1, 1, 9, 9), ("ant", 0, 1, 9, 9), ("ant", 30, 30, 64, 40)]
    assert rows["b"][1] == [("bee", 1, 1, 9, 9), ("wasp", 1, 1, 64, 9)]  # a fifth of a pixel is no fault to tell
    a, b = found.ids
    assert set(found.warnings) == {
        f"2 boxes leave their picture and are cut off at its edge: {a!r}",
        f"1 boxes without area are dropped: {b!r}",
        f"1 boxes outside their picture are dropped: {b!r}",
    }


def test_the_first_few_pictures_are_named_and_all_are_counted(tmp_path: Path) -> None:
    as_voc_beside(tmp_path, {f"{n}": [("ant", 1, 1, 9, 9), ("ant", 3, 3, 3, 3), ("ant", 4, 4, 4, 9)] for n in range(8)})
    (warning,) = read_boxes(tmp_path).warnings
    assert warning == "16 boxes without area are dropped: '0.png', '1.png', '2.png', '3.png', '4.png' and 3 more"


def test_crowds_unknown_classes_and_boxes_of_no_picture_are_dropped_and_told(tmp_path: Path) -> None:
    box = {"image_id": 100, "category_id": 3, "bbox": [1, 1, 5, 5]}
    extra = [
        {**box, "iscrowd": 1, "segmentation": {"counts": [1], "size": [1, 1]}},
        {**box, "category_id": 4},
        {**box, "image_id": 7},
        {"image_id": 100, "category_id": 3, "caption": "a bee"},
        {**box, "bbox": [1, 1, "wide", 5]},
        {**box, "bbox": [1, 1, float("nan"), 5]},
    ]
    scene = {"a": [("bee", 1, 1, 9, 9)], "gone": [("ant", 1, 1, 9, 9)], "empty": []}
    for name in ("a", "empty", "unlisted"):
        picture(tmp_path / f"{name}.png")
    write(tmp_path / "boxes.json", coco(scene, extra=extra))
    found = read_boxes(tmp_path)
    assert said(found) == {"a": ("", [("bee", 1, 1, 9, 9)]), "empty": ("", [])}
    assert found.classes == ("bee",)
    assert set(found.warnings) == {
        "1 boxes around crowds are dropped; what is detected there counts as false: 'a.png'",
        "1 boxes of no known class are dropped: 'a.png'",
        "1 boxes belong to a picture that is not listed and are dropped: 'picture 7'",
        "1 annotations without a box are dropped: 'a.png'",
        "2 boxes whose corners are no finite numbers are dropped: 'a.png'",
        "1 pictures that are listed do not exist and are left out: 'gone.png'",
        "1 pictures are listed in no annotation file and are left out: 'unlisted.png'",
        "2 classes without any box are left out: 'ant', 'wasp'",
    }


def test_pictures_and_annotations_that_miss_each_other_are_told_in_voc(tmp_path: Path) -> None:
    as_voc(tmp_path, {"train/a": [("ant", 1, 1, 9, 9)], "val/b": [("bee", 1, 1, 9, 9)], "test/b": []})
    picture(tmp_path / "JPEGImages" / "lonely.png")
    notes = tmp_path / "Annotations"
    write(notes / "b.xml", voc([("bee", 1, "", 9, 9), ("", 1, 1, 9, 9), ("bee", 2, 2, 9, 9)], width=99))
    write(notes / "gone.xml", voc([("ant", 1, 1, 9, 9)], "elsewhere.png"))
    write(notes / "torn.xml", "<annotation><object>")
    write(notes / "bomb.xml", f'<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>{voc([("&b;", 1, 1, 9, 9)])}')
    (notes / "wide.xml").write_bytes(f'<?xml version="1.0"?><!DOCTYPE x>{voc([])}'.encode("utf-16"))
    # the name of the file does not say which picture it is about, but `filename` does
    picture(tmp_path / "JPEGImages" / "named.png")
    write(notes / "0001.xml", voc([("ant", 3, 3, 9, 9)], "C:\\data\\named.jpg", more="<difficult>1</difficult>"))
    found = read_boxes(tmp_path)
    assert {name: boxes for name, (_, boxes) in said(found).items()} == {
        "a": [("ant", 1, 1, 9, 9)],
        "b": [("bee", 2, 2, 9, 9)],
        "named": [("ant", 3, 3, 9, 9)],
    }
    assert set(found.warnings) == {
        "3 annotation files cannot be read and are left out: 'Annotations/bomb.xml', 'Annotations/torn.xml', "
        "'Annotations/wide.xml'",
        "1 annotation files have no picture and are left out: 'Annotations/gone.xml'",
        "1 pictures have no annotation file and are left out: 'JPEGImages/lonely.png'",
        "1 pictures are listed in several parts of ImageSets; the first counts: 'JPEGImages/b.png'",
        "1 boxes are marked difficult and count like the others: 'JPEGImages/named.png'",
        "1 boxes of no class are dropped: 'JPEGImages/b.png'",
        "1 boxes whose corners are no finite numbers are dropped: 'JPEGImages/b.png'",
        "1 pictures have another size than their annotations say (turned or resized since?); boxes stay as written: "
        "'JPEGImages/b.png'",
    }


def test_pictures_and_labels_that_miss_each_other_are_told_in_yolo(tmp_path: Path) -> None:
    as_yolo(tmp_path, {"train/a": [("ant", 1, 1, 9, 9)], "val/b": [("bee", 1, 1, 9, 9)], "test/c": []})
    with (tmp_path / "labels" / "train" / "a.txt").open("a") as lines:
        lines.write(
            "7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n0 0.5 0.5 0.1 0.1 0.9\nant 0.5 0.5 0.1 0.1\n\n1 nan 0.5 0.1 0.1\n"
        )
    (tmp_path / "labels" / "val" / "b.txt").rename(tmp_path / "labels" / "val" / "other.txt")
    found = read_boxes(tmp_path)
    assert {name: boxes for name, (_, boxes) in said(found).items()} == {"a": [("ant", 1, 1, 9, 9)], "b": [], "c": []}
    assert set(found.warnings) == {
        "1 boxes of no known class are dropped: 'images/train/a.png'",
        "3 lines are no box and are dropped: 'images/train/a.png'",
        "1 boxes whose corners are no finite numbers are dropped: 'images/train/a.png'",
        "1 pictures have no label file and count as showing nothing: 'images/val/b.png'",
        "1 label files have no picture and are left out: 'labels/val/other.txt'",
        "2 classes without any box are left out: 'bee', 'wasp'",
    }


def test_unreadable_pictures_are_skipped_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_yolo_beside(tmp_path, {name: [("ant", 1, 1, 9, 9)] for name in "abc"})
    write(tmp_path / "b.png", "no picture")
    picture(tmp_path / "c.png", size=(300, 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    found = read_boxes(tmp_path)
    assert found.ids == ("a.png",)
    assert found.skipped[0] == ("b.png", "the content is not a picture")
    assert "decompression bomb" in found.skipped[1][1]
    assert "2 of 3 pictures cannot be read and are skipped: 'b.png', 'c.png'" in found.warnings


def test_a_second_layout_in_the_folder_is_passed_over_and_told(tmp_path: Path) -> None:
    as_coco(tmp_path, SCENE)
    write(tmp_path / "labels" / "train" / "a.txt", yolo(SCENE["train/a"]))
    assert read_boxes(tmp_path).warnings == (
        "1 files of YOLO beside those of COCO are passed over: 'labels/train/a.txt'",
    )


def test_a_picture_that_is_listed_twice_counts_the_first_time(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "one.json", coco({"a": [("ant", 1, 1, 9, 9)]}))
    write(tmp_path / "two.json", coco({"a": [("wasp", 1, 1, 9, 9)]}))
    found = read_boxes(tmp_path)
    assert said(found)["a"][1] == [("ant", 1, 1, 9, 9)]
    assert "1 pictures are listed more than once; the first time counts: 'a.png'" in found.warnings


def test_a_data_yaml_whose_folders_are_elsewhere_says_where_it_looked(tmp_path: Path) -> None:
    as_yolo(tmp_path, SCENE)
    config = tmp_path / "data.yaml"
    names = {"names": [*CLASSES]}
    write(config, yaml.safe_dump({"train": "images/train", "val": "pictures", **names}))
    assert "1 folders of the data.yaml do not exist and are passed over: 'pictures'" in read_boxes(tmp_path).warnings
    write(config, yaml.safe_dump({"path": "/no/where", "train": "pictures", **names}))
    refused(DataError, tmp_path, "'pictures'", "'/no/where'", "correct `path`")
    write(tmp_path / "more.yaml", yaml.safe_dump({"train": "images/train", **names}))
    refused(DataError, tmp_path, "2 files that name classes", "more.yaml", "give that one itself")


def test_folders_without_boxes_are_refused_with_the_layouts_that_are_known(tmp_path: Path) -> None:
    refused(DataError, tmp_path / "gone", "does not exist")
    picture(tmp_path / "pictures" / "a.png")
    write(tmp_path / "pictures" / "notes.txt", "five words and no box\n")
    write(tmp_path / "pictures" / "settings.json", "{}")
    refused(DataError, tmp_path / "pictures", "no boxes that are known", "COCO", "Pascal VOC", "YOLO", "data.yaml")
    write(tmp_path / "torn" / "boxes.json", '{"images": [], "annotations": [], "categories": [')
    refused(DataError, tmp_path / "torn", "boxes.json", "cannot be read as JSON")
    write(tmp_path / "odd" / "boxes.json", '{"images": [], "annotations": {}, "categories": []}')
    refused(DataError, tmp_path / "odd", "no list 'annotations'")
    write(tmp_path / "alone" / "boxes.json", coco(SCENE))
    refused(DataError, tmp_path / "alone", "no picture", "4 pictures that are listed do not exist", "'train/a.png'")
    as_voc_beside(tmp_path / "empty", {"a": [], "b": [("ant", 3, 3, 3, 3)]})
    refused(LabelError, tmp_path / "empty", "2 pictures and no box", "1 boxes without area are dropped: 'b.png'")


def test_boxes_are_checked_where_they_are_made() -> None:
    corners = np.array([[1, 1, 5, 5], [2, 2, 3, 9]], np.float32)
    assert len(Boxes(corners, np.array([0, 1]))) == 2
    assert len(Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))) == 0
    with pytest.raises(DataError, match=r"\(2, 4\).*\(1,\)"):
        Boxes(corners, np.array([0]))
    for wrong in ([5, 1, 5, 5], [1, 1, np.nan, 5], [1, 1, np.inf, 5]):
        with pytest.raises(DataError, match="area"):
            Boxes(np.array([wrong], np.float32), np.array([0]))


# ------------------------------------------------------------------------------------------------ real data

PLACE = os.environ.get("FROSTLINE_ASSETS")


@pytest.mark.skipif(PLACE is None, reason="FROSTLINE_ASSETS names no folder with networks and data sets")
def test_the_blood_cells_are_all_there_but_for_the_two_without_area() -> None:
    found = read_boxes(Path(PLACE or "/nowhere") / "datasets" / "bccd")
    counts = np.bincount(np.concatenate([boxes.labels for boxes in found.targets]))
    assert dict(zip(found.classes, counts.tolist(), strict=True)) == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}
    assert [found.parts.count(part) for part in ("train", "validation", "test")] == [205, 87, 72]
    (warning,) = found.warnings
    assert warning.startswith("2 boxes without area are dropped: 'JPEGImages/BloodImage_00338.jpg'")
