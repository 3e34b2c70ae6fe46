"""Texts are found in whatever form they lie, and what is wrong with them is named."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networks_of
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import frostline
from frostline.backbones.load import load
from frostline.data.read import read
from frostline.data.tables import texts_in
from frostline.errors import BackboneError, DataError, FrostlineError, LabelError, OptionError
from frostline.values import Examples

TEXTS = ("a fine film", "a dull film, and grey", "warm rain", 'he said "walk"', "cold stone", "kind")
LABELS = ("good", "bad", "good", "good", "bad", "good")
SECOND = ("wood", "his house", "a river", "a bird", "grey day", "it was")


def frame(**columns: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame({name: list(cells) for name, cells in columns.items()})


def written(table: pd.DataFrame, file: Path) -> Path:
    match file.suffix:
        case ".parquet":
            table.to_parquet(file)
        case ".jsonl":
            table.to_json(file, orient="records", lines=True)
        case suffix:
            table.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    return file


def found(examples: Examples) -> list[tuple[Any, str]]:
    """Each text with its label."""
    assert examples.kind == "texts"
    return [(text, examples.classes[target]) for text, target in zip(examples.inputs, examples.targets, strict=True)]


def refused(kind: type[FrostlineError], source: Any, *words: str, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        read(source, "texts", **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("text", "label"), [("text", "label"), ("Sentence", "category"), ("review", "y")])
def test_tables_are_read_by_the_usual_names_of_their_columns(
    tmp_path: Path, suffix: str, text: str, label: str
) -> None:
    examples = read(written(frame(**{"id": range(6), label: LABELS, text: TEXTS}), tmp_path / f"data{suffix}"), "texts")
    assert found(examples) == list(zip(TEXTS, LABELS, strict=True))
    assert examples.classes == ("bad", "good")
    assert examples.ids[0] == "row-1"
    assert text in examples.detected
    assert label in examples.detected


def test_columns_can_be_named_and_labels_may_be_numbers(tmp_path: Path) -> None:
    table = frame(text=SECOND, words=TEXTS, label=["x"] * 6, mood=[1, 0, 1, 1, 0, 1])
    examples = read(written(table, tmp_path / "data.csv"), "texts", path="words", label="mood")
    assert found(examples) == list(zip(TEXTS, ("1", "0", "1", "1", "0", "1"), strict=True))


def test_the_column_of_the_most_words_holds_the_texts_where_no_name_is_usual(tmp_path: Path) -> None:
    examples = read(written(frame(code=list("abcdef"), what=TEXTS, label=LABELS), tmp_path / "data.csv"), "texts")
    assert found(examples) == list(zip(TEXTS, LABELS, strict=True))


@pytest.mark.parametrize(
    ("names", "asked"),
    [(("sentence1", "sentence2"), None), (("premise", "hypothesis"), None), (("left", "right"), "left,right")],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_two_columns_are_read_as_pairs(tmp_path: Path, suffix: str, names: tuple[str, str], asked: str | None) -> None:
    table = frame(**{names[0]: TEXTS, names[1]: SECOND, "label": LABELS})
    examples = read(written(table, tmp_path / f"data{suffix}"), "texts", path=asked)
    assert found(examples) == list(zip(zip(TEXTS, SECOND, strict=True), LABELS, strict=True))
    assert texts_in(tmp_path / f"data{suffix}", asked) == list(zip(TEXTS, SECOND, strict=True))


def test_a_column_of_parts_is_the_users_own_split(tmp_path: Path) -> None:
    table = frame(text=TEXTS, label=LABELS, split=["train"] * 4 + ["dev", "test"])
    examples = read(written(table, tmp_path / "data.csv"), "texts")
    assert examples.parts == ("train",) * 4 + ("validation", "test")


def test_a_first_line_that_is_an_example_is_one(tmp_path: Path) -> None:
    file = tmp_path / "sst.tsv"
    numbers = [int(label == "good") for label in LABELS]
    file.write_text("".join(f"{text}\t{number}\n" for text, number in zip(TEXTS, numbers, strict=True)))
    examples = read(file, "texts")
    assert found(examples) == list(zip(TEXTS, map(str, numbers), strict=True))
    assert texts_in(file) == list(TEXTS)


def test_a_first_line_of_names_is_no_example_however_the_names_are(tmp_path: Path) -> None:
    table = frame(utterances=TEXTS, mood=LABELS)
    examples = read(written(table, tmp_path / "data.tsv"), "texts", label="mood")
    assert len(examples) == 6


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_of_few_classes_whose_names_are_a_text_is_not_taken_for_headerless(tmp_path: Path, suffix: str) -> None:
    table = frame(text=[f"{text} {n}" for n in range(5) for text in TEXTS], label=LABELS * 5)
    examples = read(written(table, tmp_path / f"data{suffix}"), "texts")
    assert len(examples) == 30


@pytest.mark.parametrize("text", ['5" of rain', 'he said "walk', '"walk" he said, and "', 'it was 5" and 6" of rain'])
def test_a_quotation_mark_in_a_line_with_tabs_is_part_of_the_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "data.tsv"
    rows = [f"{text}\tgood", "a film\tbad", 'grey 4" stone\tbad', "warm\tgood"]
    file.write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    assert found(read(file, "texts")) == [tuple(row.split("\t")) for row in rows]


def test_quoted_cells_may_hold_commas_tabs_and_lines(tmp_path: Path) -> None:
    texts = ("a film,\nand a day", 'he said "walk"', "wood", "rain\tand stone")
    for name in ("data.csv", "data.tsv"):
        file = written(frame(text=texts, label=("a", "b", "a", "b")), tmp_path / name)
        assert [text for text, _ in found(read(file, "texts"))] == list(texts), name


def test_a_folder_may_hold_a_table_for_each_part(tmp_path: Path) -> None:
    for name, rows in (("train", 4), ("dev", 2), ("test", 2)):
        written(frame(sentence=TEXTS[:rows], label=LABELS[:rows]), tmp_path / f"{name}.tsv")
    examples = read(tmp_path, "texts")
    assert examples.parts == ("train",) * 4 + ("validation",) * 2 + ("test",) * 2
    assert examples.ids[:1] + examples.ids[4:5] == ("train/row-1", "dev/row-1")
    assert "train 4, validation 2, test 2" in examples.detected


def test_a_part_without_labels_is_named(tmp_path: Path) -> None:
    """As the test tables of GLUE are."""
    written(frame(sentence=TEXTS, label=LABELS), tmp_path / "train.tsv")
    written(frame(index=range(6), sentence=TEXTS), tmp_path / "test.tsv")
    refused(DataError, tmp_path, "test.tsv", "labels")


def test_a_frame_of_pandas_is_a_table() -> None:
    assert found(read(frame(text=TEXTS, label=LABELS), "texts")) == list(zip(TEXTS, LABELS, strict=True))


# ------------------------------------------------------------------------------------------------ other forms


def test_folders_of_text_files_are_classes(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / label / f"{number}.txt").write_text(f"\ufeff{text}", "utf-8")
        (tmp_path / "test" / label / f"{number}.txt").write_text(f"{text} day", "utf-8")
    examples = read(tmp_path, "texts")
    assert sorted(found(examples)[:6]) == sorted(zip(TEXTS, LABELS, strict=True))
    assert examples.parts == ("train",) * 6 + ("test",) * 6
    assert examples.ids[0] == "train/bad/1.txt"


def test_texts_that_are_empty_or_no_utf_8_are_skipped_counted_and_named(tmp_path: Path) -> None:
    for label in ("bad", "good"):
        (tmp_path / label).mkdir()
        for number, text in enumerate(TEXTS):
            (tmp_path / label / f"{number}.txt").write_text(text)
    (tmp_path / "good" / "6.txt").write_bytes("schön".encode("latin-1"))
    (tmp_path / "bad" / "6.txt").write_text(" \n")
    examples = read(tmp_path, "texts")
    assert [name for name, _ in examples.skipped] == ["bad/6.txt", "good/6.txt"]
    assert len(examples) == 12
    assert any("2 of 14 texts cannot be read" in warning for warning in examples.warnings)
    pairs = [("a", "b"), ("a", ""), ("c", "d"), ("e", "f"), ("g", None), ("h", "i")]
    assert [name for name, _ in read((pairs, list("xyxyxy")), "texts").skipped] == ["row-1", "row-4"]


@pytest.mark.parametrize("parted", [False, True])
def test_data_sets_of_hugging_face_hold_texts_and_pairs(tmp_path: Path, parted: bool) -> None:
    import datasets

    numbers = [int(label == "good") for label in LABELS]
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    one: Any = datasets.Dataset.from_dict({"sentence": list(TEXTS), "label": numbers}, features=features)
    source = datasets.DatasetDict({"train": one, "validation": one}) if parted else one
    examples = read(source, "texts")
    assert found(examples)[:6] == list(zip(TEXTS, LABELS, strict=True))
    source.save_to_disk(tmp_path / "saved")
    assert found(read(tmp_path / "saved", "texts")) == found(examples)
    columns = {"premise": list(TEXTS), "hypothesis": list(SECOND), "label": numbers}
    pairs = read(datasets.Dataset.from_dict(columns), "texts")
    assert [text for text, _ in found(pairs)] == list(zip(TEXTS, SECOND, strict=True))
    bare = datasets.Dataset.from_dict({"words": list(TEXTS), "label": numbers})
    assert len(read(bare, "texts", path="words")) == 6
    refused(DataError, bare, "text column", "'words'", "'label'")


def test_lists_and_arrays_in_python_are_texts_and_labels() -> None:
    assert found(read((list(TEXTS), list(LABELS)), "texts")) == list(zip(TEXTS, LABELS, strict=True))
    assert found(read((np.array(TEXTS), np.array(LABELS)), "texts")) == list(zip(TEXTS, LABELS, strict=True))
    pairs = list(zip(TEXTS, SECOND, strict=True))
    assert found(read((pairs, list(LABELS)), "texts")) == list(zip(pairs, LABELS, strict=True))
    assert all(type(text) is str for text in read((np.array(TEXTS), list(LABELS)), "texts").inputs)


# ------------------------------------------------------------------------------------------------ what is wrong


def test_what_is_wrong_with_texts_is_named_with_a_remedy(tmp_path: Path) -> None:
    table = written(frame(code=list("abcdef"), label=LABELS), tmp_path / "codes.csv")
    refused(DataError, table, "'code', 'label'", "path", "'text'")
    more = written(frame(a=TEXTS, b=TEXTS, c=TEXTS, label=LABELS), tmp_path / "more.csv")
    refused(DataError, more, "a,b,c", "two", path="a,b,c")
    refused(DataError, more, "'d'", "'a', 'b', 'c', 'label'", path="a,d")
    plain = written(frame(text=TEXTS, mood=LABELS), tmp_path / "plain.csv")
    refused(DataError, plain, "labels", "'text', 'mood'", "label")
    refused(LabelError, written(frame(text=TEXTS, label=[*LABELS[:5], ""]), tmp_path / "holes.csv"), "row 6")
    for wrong in ((list(TEXTS), list(LABELS[:5])), ([], []), (list(TEXTS), list(LABELS), 3)):
        refused(DataError, wrong, "two lists of the same length")
    refused(DataError, ([("a", "b", "c")] * 2, ["x", "y"]), "('a', 'b', 'c')", "pair of two")
    refused(DataError, ([("a", "b"), "c"], ["x", "y"]), "some of the texts are pairs")
    refused(DataError, ([3, 4], ["x", "y"]), "'3'", "neither a text")
    refused(DataError, (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]), "texts")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.txt").write_text("a film")
    refused(LabelError, tmp_path / "loose", "good/1.txt")


def test_more_bad_rows_than_the_limit_refuse_the_data() -> None:
    refused(DataError, ([*TEXTS, *[" "] * 4], [*LABELS, *["bad"] * 4]), "4 of 10 texts")


def test_options_that_say_nothing_to_texts_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    spec = f"hf/{networks_of.saved(tmp_path_factory, 'encoder')}"
    given: dict[str, Any]
    for given in ({"image_size": 32}, {"seconds": 1.0}, {"mean": (0.5,), "std": (0.5,)}, {"interpolation": "bicubic"}):
        with pytest.raises(OptionError, match=f"{next(iter(given))} is .* reads texts"):
            load(spec, **given)
    with pytest.raises(BackboneError, match=f"max_length is 49, and .* reads {networks_of.LONG} tokens"):
        load(spec, max_length=networks_of.LONG + 1)
    assert load(spec, max_length=8).preprocessing.length == 8  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(OptionError, match="max_length is 8"):
        load("timm/test_resnet", weights="none", max_length=8)


def test_a_network_without_its_tokenizer_says_what_is_missing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = networks_of.saved(tmp_path_factory, "encoder")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(BackboneError, match=r"vocabulary.*save_pretrained"):
        load(f"hf/{tmp_path}")
    config = json.loads((whole / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "t5gemma_unknown"}))
    with pytest.raises(BackboneError, match="hf/"):
        load(f"hf/{tmp_path}")


def test_texts_are_cut_at_the_length_that_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    backbone = load(f"hf/{networks_of.saved(tmp_path_factory, 'encoder')}", max_length=6)
    assert backbone.encode is not None
    encoded = backbone.encode(["a film and a day of rain and stone", "rain"])
    assert [len(ids) for ids in encoded["input_ids"]] == [6, 3]
    pairs = backbone.encode([("a film and a day", "rain and stone"), ("a", "day")])
    assert [len(ids) for ids in pairs["input_ids"]] == [6, 5]
    assert list(pairs["token_type_ids"][1]) == [0, 0, 0, 1, 1]


def test_python_takes_lists_of_texts(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    spec, data = f"hf/{networks_of.saved(tmp_path_factory, 'flat')}", networks_of.texts(30)
    given = {"threads": 1, "device": "cpu", "precision": "fp32", "epochs": 1, "out": str(tmp_path / "run")}
    result = frostline.train(data, spec, "linear_probe", **given)
    rows = list(result.predict(["a fine film", "a dull film"]))
    assert [row["input"] for row in rows] == ["a fine film", "a dull film"]
    assert set(rows[0]["scores"]) == {"bad", "good"}


def test_what_a_checkpoint_does_not_bring_is_told_by_us_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, told = tmp_path / "headless", list[str]()
    shutil.copytree(networks_of.saved(tmp_path_factory, "encoder"), folder)
    weights = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "classifier" not in k}, weights, {"format": "pt"})
    seen = logging.Handler()
    seen.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("transformers").addHandler(seen)
    try:
        notes = load(f"hf/{folder}").notes
    finally:
        logging.getLogger("transformers").removeHandler(seen)
    assert any("classifier.weight" in note for note in notes)
    assert told == []
