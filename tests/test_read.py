"""Reading: every form that data comes in, and an answer to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from frostline.data.pictures import open_picture
from frostline.data.read import read
from frostline.errors import DataError, FrostlineError, LabelError, OptionError


def picture(file: Path, seed: int, *, size: tuple[int, int] = (12, 10)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def folder(root: Path, counts: Mapping[str, int], *, suffix: str = ".png") -> Path:
    """Class folders (or part/class) with so many pictures, all of them different."""
    seed = 0
    for name, count in counts.items():
        for number in range(count):
            picture(root / name / f"{number}{suffix}", seed := seed + 1)
    return root


def refused(kind: type[FrostlineError], source: Any, *words: str, **options: Any) -> None:
    """The data is refused with exit code 2, and the message says each of these words."""
    with pytest.raises(kind) as caught:
        read(source, **options)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value), str(caught.value)


# ------------------------------------------------------------------------------------------------ image folders


def test_class_folders_become_sorted_classes(tmp_path: Path) -> None:
    examples = read(folder(tmp_path, {"wasps": 2, "ants": 3}))
    assert examples.classes == ("ants", "wasps")
    assert examples.targets.tolist() == [0, 0, 0, 1, 1]
    assert examples.ids == ("ants/0.png", "ants/1.png", "ants/2.png", "wasps/0.png", "wasps/1.png")
    assert set(examples.parts) == {""}
    assert (examples.skipped, examples.warnings) == ((), ())
    assert "5 pictures of 2 classes" in examples.detected


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_folders_of_parts_are_told_from_classes(tmp_path: Path, validation: str) -> None:
    counts = {"train/a": 2, "train/b": 2, f"{validation}/a": 1, f"{validation}/b": 1, "test/a": 1, "test/b": 1}
    examples = read(folder(tmp_path, counts))
    assert examples.parts == ("train",) * 4 + ("validation",) * 2 + ("test",) * 2
    assert examples.classes == ("a", "b")


def test_a_class_called_test_is_a_class(tmp_path: Path) -> None:
    assert read(folder(tmp_path, {"test": 2, "exam": 2})).classes == ("exam", "test")


def test_hidden_files_and_system_litter_do_not_count_and_other_files_are_told(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 2, "b": 2})
    picture(tmp_path / ".thumbnails" / "0.png", 9)
    picture(tmp_path / "a" / ".0.png", 10)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "b" / "notes.txt").write_text("x")
    examples = read(tmp_path)
    assert len(examples) == 4
    assert examples.warnings == ("files that are no pictures are passed over: 1 .txt",)


def test_pictures_in_nested_folders_belong_to_the_class_above(tmp_path: Path) -> None:
    examples = read(folder(tmp_path, {"a/monday": 2, "a/tuesday": 1, "b": 2}))
    assert examples.classes == ("a", "b")
    assert examples.targets.tolist() == [0, 0, 0, 1, 1]
    assert "3 of them in folders below their class" in examples.detected


def test_numeric_class_names_are_sorted_by_value(tmp_path: Path) -> None:
    assert read(folder(tmp_path, {"10": 2, "9": 2, "2": 2})).classes == ("2", "9", "10")


def test_names_outside_ascii_are_kept_in_one_spelling(tmp_path: Path) -> None:
    examples = read(folder(tmp_path, {"Ma\u0308use": 2, "蚂蚁": 2, "été": 2}))
    assert set(examples.classes) == {"Mäuse", "蚂蚁", "été"}
    assert all(isinstance(file, Path) and file.is_file() for file in examples.inputs)


def test_an_unreadable_picture_is_skipped_counted_and_listed(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 4, "b": 4}, suffix=".jpg")
    (tmp_path / "a" / "text.jpg").write_text("not a picture")
    whole = picture(tmp_path / "b" / "cut.jpg", 99, size=(80, 80)).read_bytes()
    (tmp_path / "b" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    seen: list[tuple[int, int]] = []
    examples = read(tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert len(examples) == 8
    assert [name for name, _ in examples.skipped] == ["a/text.jpg", "b/cut.jpg"]
    assert "not a picture" in examples.skipped[0][1]
    assert "truncated" in examples.skipped[1][1]
    assert any("2 of 10 files cannot be read" in warning for warning in examples.warnings)
    assert seen == [(number, 10) for number in range(1, 11)]


def test_more_unreadable_pictures_than_the_limit_refuse_the_data(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 6, "b": 6})
    for number in range(4):
        (tmp_path / "a" / f"text{number}.jpg").write_text("not a picture")
    refused(DataError, tmp_path, "4 of 16 pictures", "a/text0.jpg", "5%", "mend or remove")
    assert len(read(tmp_path, limit=0.3)) == 12


def test_the_same_picture_under_two_labels_is_told(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "b" / "copy.png").write_bytes((tmp_path / "a" / "0.png").read_bytes())
    (warning,) = read(tmp_path).warnings
    assert "1 pictures stand under more than one label" in warning
    assert "'a/0.png' (a) and 'b/copy.png' (b)" in warning


def test_the_same_picture_in_training_and_test_is_told(tmp_path: Path) -> None:
    folder(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    (tmp_path / "test" / "a" / "copy.png").write_bytes((tmp_path / "train" / "a" / "0.png").read_bytes())
    (warning,) = read(tmp_path).warnings
    assert "more than one part" in warning


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refused(DataError, tmp_path, str(tmp_path), "holds no pictures", "FOLDER/cats/1.jpg")


def test_a_missing_folder_is_refused_with_what_lies_beside_it(tmp_path: Path) -> None:
    folder(tmp_path, {"data/a": 1})
    refused(DataError, tmp_path / "dat", "does not exist", "'data'")


def test_pictures_without_class_folders_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "0.png", 0)
    (tmp_path / "labels.csv").write_text("path,label\n")
    refused(LabelError, tmp_path, "1 pictures but no class folders", "labels.csv")


def test_one_class_only_is_refused_and_a_wrapping_folder_pointed_at(tmp_path: Path) -> None:
    refused(LabelError, folder(tmp_path / "one", {"ants": 3}), "one class only", "'ants'", "at least two")
    inner = folder(tmp_path / "two", {"archive/a": 2, "archive/b": 2})
    refused(LabelError, inner, "its own folders are 'a', 'b'", "archive")


def test_a_class_with_one_picture_is_refused_by_name(tmp_path: Path) -> None:
    refused(LabelError, folder(tmp_path, {"ants": 3, "bees": 1}), "'bees' has 1", "at least two")


def test_a_class_with_one_picture_in_each_of_two_parts_is_enough(tmp_path: Path) -> None:
    examples = read(folder(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1}))
    assert examples.targets.tolist() == [0, 1, 0, 1]


def test_a_class_that_is_never_trained_on_is_refused(tmp_path: Path) -> None:
    counts = {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 2}
    refused(LabelError, folder(tmp_path, counts), "'c'", "never in training")


def test_a_class_that_the_test_part_lacks_is_told(tmp_path: Path) -> None:
    (warning,) = read(folder(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1})).warnings
    assert "the test part holds no picture of 'b'" in warning


# ------------------------------------------------------------------------------------------------ tables


def table(root: Path, **columns: list[Any]) -> pd.DataFrame:
    count = max(len(values) for values in columns.values())
    for number in range(count):
        picture(root / "img" / f"{number}.png", number)
    return pd.DataFrame({"path": [f"img/{number}.png" for number in range(count)], **columns})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".semicolon.csv"])
def test_every_kind_of_table_reads_the_same(tmp_path: Path, suffix: str) -> None:
    frame = table(
        tmp_path,
        label=[1, 0, 1, 0],
        split=["train", "train", "test", "test"],
        patient=[7, 8, 9, 9],
        worth=[1.5, 2, -3, 0.25],
    )
    file = tmp_path / f"data{suffix}"
    writers = {
        ".jsonl": lambda: frame.to_json(file, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(file),
    }
    separators = {".csv": ",", ".tsv": "\t", ".semicolon.csv": ";"}
    writers.get(suffix, lambda: frame.to_csv(file, sep=separators[suffix], index=False))()
    examples = read(file)
    assert examples.classes == ("0", "1")
    assert examples.targets.tolist() == [1, 0, 1, 0]
    assert examples.parts == ("train", "train", "test", "test")
    assert examples.groups == ("7", "8", "9", "9")
    assert examples.ids == ("img/0.png", "img/1.png", "img/2.png", "img/3.png")
    for column in ("'path'", "'label'", "'split'", "'patient'"):
        assert column in examples.detected
    valued = read(file, values="worth")
    assert valued.values is not None and valued.values.tolist() == [1.5, 2, -3, 0.25]
    assert "values in 'worth'" in valued.detected
    some = valued.at(np.array([3, 1])).values
    assert examples.values is None and some is not None and some.tolist() == [0.25, 2.0]


def test_columns_can_be_named_and_odd_ones_found_by_content(tmp_path: Path) -> None:
    frame = table(tmp_path, kind=["None", "NA", "None", "NA"], farm=[1, 1, 2, 2]).rename(columns={"path": "where"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    examples = read(tmp_path / "t.csv", label="kind", group="farm")
    assert examples.classes == ("NA", "None")
    assert examples.groups == ("1", "1", "2", "2")


def test_a_table_without_the_columns_lists_those_it_has(tmp_path: Path) -> None:
    table(tmp_path, colour=[1, 2]).to_csv(tmp_path / "t.csv", index=False)
    refused(DataError, tmp_path / "t.csv", "no column that is known to hold labels", "'path', 'colour'", "`label`")
    refused(DataError, tmp_path / "t.csv", "no column 'colr'", "'colour'", label="colr")


def test_missing_labels_are_refused_with_their_rows(tmp_path: Path) -> None:
    table(tmp_path, label=["a", None, "b", float("nan")]).to_csv(tmp_path / "t.csv", index=False)
    refused(LabelError, tmp_path / "t.csv", "2 of 4 labels are missing", "'row 2', 'row 4'")
    table(tmp_path, label=[1.0, None, 2.0, 1.0]).to_parquet(tmp_path / "t.parquet")
    refused(LabelError, tmp_path / "t.parquet", "1 of 4 labels are missing", "'row 2'")


def test_a_table_whose_pictures_are_elsewhere_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\nx.png,a\ny.png,b\n")
    refused(DataError, tmp_path / "t.csv", "none of the 2 pictures", str(tmp_path / "x.png"))


def test_values_that_are_no_numbers_are_refused_with_their_rows(tmp_path: Path) -> None:
    frame = table(tmp_path, label=["a", "b", "a", "b"], worth=["1.5", "much", None, "inf"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    refused(DataError, tmp_path / "t.csv", "3 cells", "'row 2: much'", "'row 3: nan'", "'row 4: inf'", values="worth")
    refused(DataError, tmp_path / "t.csv", "no column 'price'", values="price")


def test_the_values_of_skipped_pictures_go_with_them(tmp_path: Path) -> None:
    frame = table(tmp_path, label=["a", "b", "a", "b", "b"], worth=[1, 2, 3, 4, 5])
    (tmp_path / "img" / "1.png").write_text("no picture")
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = read(tmp_path / "t.csv", values="worth").values
    assert found is not None and found.tolist() == [1.0, 3.0, 4.0, 5.0]


def test_damaged_and_empty_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("not parquet")
    (tmp_path / "b.csv").write_text("path,label\n")
    (tmp_path / "c.csv").write_bytes("path,label\né.png,a\n".encode("latin-1"))
    refused(DataError, tmp_path / "a.parquet", "cannot be read as PARQUET")
    refused(DataError, tmp_path / "b.csv", "holds no rows")
    refused(DataError, tmp_path / "c.csv", "UTF-8")
    refused(DataError, picture(tmp_path / "d.png", 0), "neither a folder nor a table")


# ------------------------------------------------------------------------------------------------ in memory


def test_arrays_of_either_range_read_the_same() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (6, 8, 9), dtype=np.int64)
    labels = np.asarray([3, 5, 3, 5, 3, 5])
    one, two = read((whole, labels)), read((whole / 255, labels.astype(float)))
    assert isinstance(one.inputs, np.ndarray)
    assert isinstance(two.inputs, np.ndarray)
    assert np.array_equal(one.inputs, whole)
    assert np.array_equal(two.inputs, whole)
    assert one.classes == two.classes == ("3", "5")
    assert open_picture(one.inputs[0]).shape == (8, 9, 3)


def test_arrays_that_leave_room_for_doubt_are_refused() -> None:
    labels = np.asarray([0, 1, 0, 1])
    refused(DataError, (np.full((4, 8, 8), 16.0), labels), "between 16.0 and 16.0", "0..1")
    refused(DataError, (np.full((4, 8, 8), 300), labels), "between 300 and 300", "0..255")
    refused(DataError, (np.full((4, 8, 8), np.nan), labels), "finite")
    refused(DataError, (np.zeros((4, 3, 8, 8)), labels), "(4, 3, 8, 8)", "moveaxis")
    refused(LabelError, (np.zeros((4, 8, 8)), labels[:3]), "(3,)", "4 pictures")
    refused(LabelError, (np.zeros((4, 8, 8)), np.asarray([0, 1, np.nan, 1])), "1 of 4 labels are missing")
    refused(LabelError, (np.zeros((4, 8, 8)), np.zeros(4)), "one class only")
    refused(DataError, 17, "int", "a path")


def test_a_hugging_face_data_set_reads_the_same_from_memory_and_from_disk(tmp_path: Path) -> None:
    import datasets

    def part(count: int) -> datasets.Dataset:
        files = [
            str(picture(tmp_path / "img" / f"{count}-{number}.png", 100 * count + number)) for number in range(count)
        ]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
        features["worth"] = datasets.Value("float32")
        rows = {"image": files, "label": [n % 2 for n in range(count)], "worth": [n + count for n in range(count)]}
        return datasets.Dataset.from_dict(rows, features=features)

    both = datasets.DatasetDict({"train": part(4), "test": part(2)})
    both.save_to_disk(str(tmp_path / "saved"))
    for source in (both, tmp_path / "saved"):
        examples = read(source)
        assert examples.classes == ("ant", "bee")
        assert examples.targets.tolist() == [0, 1, 0, 1, 0, 1]
        assert examples.parts == ("train",) * 4 + ("test",) * 2
        assert open_picture(examples.inputs[0]).shape == (12, 10, 3)
        found = read(source, values="worth").values
        assert found is not None and found.tolist() == [4, 5, 6, 7, 2, 3]
    refused(DataError, both, "no column 'price'", values="price")
    assert set(read(both["train"]).parts) == {""}
    refused(
        DataError, both["train"].rename_column("label", "kind").cast_column("kind", datasets.Value("int64")), "'kind'"
    )


def test_unknown_formats_and_limits_are_refused(tmp_path: Path) -> None:
    refused(OptionError, tmp_path, "'zip'", "auto", data_format="zip")
    refused(OptionError, tmp_path, "limit is 5", limit=5)
    refused(OptionError, folder(tmp_path, {"a": 2, "b": 2}), "no columns", label="kind")
    refused(OptionError, (np.zeros((4, 8, 8)), np.arange(4) % 2), "'worth'", "arrays have no columns", values="worth")


# ------------------------------------------------------------------------------------------------ objects


class Pairs(torch.utils.data.Dataset[Any]):
    """Items as they are given, under named classes or none."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


def grid(number: int, side: int = 6) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (side, side + 1, 3), dtype=np.uint8)


AS_GIVEN = {
    "array": grid,
    "picture": lambda number: Image.fromarray(grid(number)),
    "tensor": lambda number: torch.from_numpy(grid(number)).permute(2, 0, 1),
    "fractions": lambda number: torch.from_numpy(grid(number)).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("kind", AS_GIVEN)
def test_a_data_set_of_pytorch_reads_the_same_however_its_pictures_are_given(kind: str) -> None:
    items = [(AS_GIVEN[kind](number), torch.tensor(number % 2)) for number in range(8)]
    found = read(Pairs(items, ["lily", "aster"]))
    assert found.classes == ("aster", "lily")
    assert [found.classes[t] for t in found.targets] == ["lily", "aster"] * 4
    assert found.ids[3] == "item-3"
    for number in range(8):
        assert np.array_equal(open_picture(found.inputs[number]), grid(number))
    assert found.detected == "a PyTorch data set: 8 pictures of 7x6, 2 classes"


def test_pictures_of_several_sizes_and_modes_are_kept_without_loss() -> None:
    items = [(Image.fromarray(grid(number, 5 + number)), f"class {number % 2}") for number in range(4)]
    grey = Image.fromarray(grid(9)[:, :, 0])
    found = read(Pairs([*items, (grey, "class 0"), (grey.convert("1"), "class 1")]))
    for number in range(4):
        assert np.array_equal(open_picture(found.inputs[number]), grid(number, 5 + number))
    assert np.array_equal(open_picture(found.inputs[4]), np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))
    assert "several sizes" in found.detected


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"image": grid(0)}, "item 2 of the data set is a dict and no pair"),
        ((torch.randn(3, 4, 4) * 3, 0), "leave out Normalize"),
        ((torch.zeros(5, 4, 4), 0), r"has the shape \(5, 4, 4\); \(channels, height, width\)"),
        ((grid(0), 7), r"has the label 7, and it names 2 classes; labels are 0\.\.1"),
        ((grid(0).astype(np.uint16) * 200, 0), "picture 2 of the data set: pictures are uint16"),
        ((grid(0), 0.5), "has the label 0.5; a number or a text"),
    ],
)
def test_an_item_that_is_no_picture_with_its_label_is_refused_by_its_number(item: Any, said: str) -> None:
    good = [(grid(number), number % 2) for number in range(2)]
    with pytest.raises(DataError, match=said):
        read(Pairs([*good, item], ["a", "b"]))


def test_pictures_of_pil_are_turned_as_files_are_and_of_any_mode() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    into = BytesIO()
    Image.fromarray(grid(0)).save(into, "JPEG", exif=exif)
    of_file = open_picture(into.getvalue())
    items = [(Image.open(BytesIO(into.getvalue())), "a"), (Image.fromarray(grid(1)).convert("CMYK"), "a")]
    items += [(grid(2)[:, :, 0] > 100, "b"), (torch.zeros(3, 6, 7, dtype=torch.bfloat16), "b")]
    found = read(Pairs(items))
    assert np.array_equal(open_picture(found.inputs[0]), of_file)
    assert of_file.shape == (7, 6, 3)
    assert set(np.unique(open_picture(found.inputs[2]))) == {0, 255}


def test_a_part_of_a_data_set_knows_its_classes() -> None:
    whole = Pairs([(grid(number), number % 2) for number in range(8)], ["lily", "aster"])
    part = torch.utils.data.Subset(whole, range(6))
    assert read(part).classes == ("aster", "lily")
    assert read(torch.utils.data.ConcatDataset([part, whole])).classes == ("aster", "lily")
    other = Pairs([(grid(9), 0), (grid(10), 1)], ["rose", "tulip"])
    assert read(torch.utils.data.ConcatDataset([whole, other])).classes == ("0", "1")
    with pytest.raises(DataError, match="names two classes alike"):
        read(Pairs(whole.items, ["crane", "crane"]))


def test_what_a_search_cannot_look_at_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(Pairs):
        def __getitem__(self, number: int) -> Any:
            return np.random.default_rng().integers(0, 256, (4, 4, 3), dtype=np.uint8), number % 2

    class Broken(Pairs):
        def __getitem__(self, number: int) -> Any:
            if number == 3:
                raise OSError("truncated")
            return grid(number), number % 2

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Iterator[Any]:
            yield from ()

    with pytest.raises(DataError, match=r"another picture each time .*leave out transforms that draw"):
        read(Drawn([0] * 4))
    with pytest.raises(DataError, match="item 3 of the data set cannot be had: truncated"):
        read(Broken([0] * 4))
    with pytest.raises(DataError, match="data of type Stream cannot be read"):
        read(Stream())
    monkeypatch.setattr("frostline.data.indexed.MOST", 200)
    with pytest.raises(DataError, match=r"the first 2 of 4 pictures .* give their folder"):
        read(Pairs([(grid(number), number % 2) for number in range(4)]))


def test_a_data_frame_reads_as_its_table_does_from_where_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"image": f"{number}.png", "species": "ab"[number % 2], "split": "train"} for number in range(6)]
    for number in range(6):
        Image.fromarray(grid(number)).save(tmp_path / f"{number}.png")
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "table.csv", index=False)
    monkeypatch.chdir(tmp_path)
    one, other = read(frame), read(tmp_path / "table.csv")
    assert one.ids == other.ids
    assert one.parts == other.parts
    assert one.targets.tolist() == other.targets.tolist()
    assert [Path(str(name)).resolve() for name in one.inputs] == [Path(str(name)).resolve() for name in other.inputs]
    with pytest.raises(DataError, match="the frame holds no rows"):
        read(frame.iloc[:0])
