"""Pascal VOC: an XML file a picture, in Annotations/ beside JPEGImages/, or beside the picture itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from frostline.data.annotated import (
    Annotated,
    Annotations,
    Corners,
    Faults,
    annotated,
    below,
    by_stem,
    files_below,
    is_picture,
    left_out,
    number,
    part_above,
    size_written,
)
from frostline.data.found import PARTS, ordered, plain
from frostline.values import Part

PICTURES = ("JPEGImages", "images", "Images", "img", "imgs")  # folders beside Annotations/
SIDES = ("xmin", "ymin", "xmax", "ymax")
_Row = tuple[Path, Part, list[tuple[Corners, str]], tuple[int, int] | None]  # as in Annotated, labels by name
HEAD = 2000  # bytes in which an annotation says what it is


def claims_voc(root: Path, files: Sequence[Path]) -> list[Path]:
    """The XML files among them that begin as annotations do."""
    return [file for file in files if root.is_dir() and file.suffix.lower() == ".xml" and _is_annotation(file)]


def _is_annotation(file: Path) -> bool:
    with file.open("rb") as content:
        return b"<annotation" in content.read(HEAD).replace(b"\0", b"")  # zeros: UTF-16


def read_voc(root: Path, files: Sequence[Path]) -> Annotations:
    """Each annotation with its picture: the one of the same name, else the one that `filename` names.

    The part is that of ImageSets/Main/{train,val,test}.txt, else that of a folder above. Objects that are marked
    difficult stay: few tools set the mark, and fewer heed it. What cannot be parsed, or holds a document type (which
    is how an XML file can name other files or grow without bound), is left out.
    """
    faults, rows = Faults(list), list[_Row]()
    pictures = by_stem(files_below(root))
    listed_in = {home: listed_parts(home, "Main") for home in {file.parent.parent for file in files}}
    for file in files:
        try:
            tree = parsed(file.read_bytes())
        except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError):
            faults["annotation files cannot be read and are left out"].append(below(file, root))
            continue
        picture = _picture(file, tree.findtext("filename") or "", pictures)
        if picture is None:
            faults["annotation files have no picture and are left out"].append(below(file, root))
            continue
        name = below(picture, root)
        parts = listed_in[file.parent.parent].get(plain(file.stem), [])
        if len(parts) > 1:
            faults["pictures are listed in several parts of ImageSets; the first counts"].append(name)
        boxes = list(_boxes(tree, name, faults))
        rows.append(
            (
                picture,
                parts[0] if parts else part_above(picture, root),
                boxes,
                size_written(tree.findtext("size/height"), tree.findtext("size/width")),
            )
        )
    without = left_out(pictures.values(), {picture for picture, *_ in rows}, root)
    faults["pictures have no annotation file and are left out"] += without
    classes = ordered([label for _, _, boxes, _ in rows for _, label in boxes])
    return Annotations("Pascal VOC", root, tuple(_numbered(rows, classes)), classes, faults)


def _numbered(rows: Iterable[_Row], classes: Sequence[str]) -> Iterable[Annotated]:
    numbers = {name: number for number, name in enumerate(classes)}
    for picture, part, boxes, size in rows:
        yield annotated(picture, part, [(corners, numbers[label]) for corners, label in boxes], size)


def parsed(content: bytes) -> ElementTree.Element:
    """The tree of an XML file. Raises ValueError where it holds a document type, ParseError or ExpatError if damaged.

    ElementTree fetches no external entity; a document type is refused before any entity of it is put in.
    """

    def refuse(*_: object) -> None:
        raise ValueError("it holds a document type")

    scout = expat.ParserCreate()
    scout.StartDoctypeDeclHandler = refuse
    scout.Parse(content, True)
    return ElementTree.fromstring(content)


def _picture(file: Path, named: str, pictures: Mapping[tuple[Path, str], Path]) -> Path | None:
    home = file.parent.parent
    folders = [file.parent, *(home / name for name in PICTURES), home]
    stems = [file.stem, Path(named.replace("\\", "/")).stem]
    return next((pictures[folder, stem] for stem in stems for folder in folders if (folder, stem) in pictures), None)


def _boxes(tree: ElementTree.Element, name: str, faults: Faults) -> Iterable[tuple[Corners, str]]:
    for thing in tree.iter("object"):
        label = plain((thing.findtext("name") or "").strip())
        if not label:
            faults["boxes of no class are dropped"].append(name)
            continue
        if (thing.findtext("difficult") or "").strip() == "1":
            faults["boxes are marked difficult and count like the others"].append(name)
        # a person's parts have boxes of their own, deeper in the tree
        x1, y1, x2, y2 = (number(thing.findtext(f"bndbox/{side}")) for side in SIDES)
        yield (x1, y1, x2, y2), label


def listed_parts(home: Path, kind: str) -> dict[str, list[Part]]:
    """The parts that list each name, in ImageSets/KIND; lists of one class (dog_train.txt) and trainval are others."""
    parts: dict[str, list[Part]] = {}
    for file in sorted((home / "ImageSets" / kind).glob("*.txt"), key=lambda file: _rank(file.stem)):
        if file.stem.lower() in PARTS:
            for line in filter(None, map(str.strip, file.read_text("utf-8", "replace").splitlines())):
                name = Path(line).stem if is_picture(Path(line)) else line
                parts.setdefault(plain(name), []).append(PARTS[file.stem.lower()])
    return parts


def _rank(stem: str) -> int:
    return ("train", "validation", "test", "").index(PARTS.get(stem.lower(), ""))
