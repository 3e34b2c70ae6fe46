"""Laws of the run directory: begun once, whole files only, and nothing of a run that was refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from world import refused, tell

from frostline.errors import DataError, FrozenMoved, RunError, StoreError
from frostline.formats.model import open_model
from frostline.run import directory
from frostline.settings import Settings, settings


def given(out: Path) -> Settings:
    return settings({"data": "pictures", "backbone": "timm/resnet18", "out": out})


def test_a_directory_is_begun_once_and_resumed_with_the_same_settings(tmp_path: Path) -> None:
    first = given(tmp_path / "run")
    assert directory.begin(first) == tmp_path / "run"
    assert settings(json.loads((tmp_path / "run" / "config.json").read_text())) == first
    with pytest.raises(RunError, match="give --resume"):
        directory.begin(first)
    again = replace(first, resume=True, workers=3)
    assert directory.begin(again) == tmp_path / "run"
    with pytest.raises(RunError, match=r"epsilon 0\.01, and now it is 0\.02"):
        directory.begin(replace(again, epsilon=0.02))


def test_a_run_that_was_begun_before_a_setting_was_invented_goes_on_with_its_default(tmp_path: Path) -> None:
    first = given(tmp_path / "run")
    directory.begin(first)
    known = json.loads((tmp_path / "run" / "config.json").read_text())
    del known["storage_precision"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(known))
    assert directory.begin(replace(first, resume=True)) == tmp_path / "run"
    with pytest.raises(RunError, match="storage_precision 'auto', and now it is 'fp16'"):
        directory.begin(replace(first, resume=True, storage_precision="fp16"))


def test_one_folder_may_be_spelt_in_another_way_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pictures", "others"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    first = given(tmp_path / "run")
    directory.begin(first)
    again = replace(first, resume=True, threads=7, data=str(tmp_path / "pictures"))
    assert directory.begin(again) == tmp_path / "run"
    with pytest.raises(RunError, match="others"):
        directory.begin(replace(again, data="others"))


@pytest.mark.parametrize("error", [DataError, StoreError, FrozenMoved, TypeError])
def test_a_run_that_ends_before_anything_was_finished_leaves_nothing(error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error), directory.begun(given(tmp_path / "runs" / "new" / "run")) as folder:
        (folder / "activations" / "x").mkdir(parents=True)
        (folder / "study.db").write_text("")
        raise error("no")
    assert not list(tmp_path.iterdir())


def test_folders_of_others_stay_when_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError), directory.begun(given(tmp_path / "runs" / "a")) as folder:
        raise DataError(str(folder))
    with pytest.raises(DataError), directory.begun(given(tmp_path / "mine")):
        raise DataError("no")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "runs"]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, DataError])
def test_what_was_finished_is_kept_however_the_run_ends(ending: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(ending), directory.begun(given(tmp_path / "run")) as folder:
        (folder / "outcomes").mkdir()
        (folder / "outcomes" / "unit.npz").write_text("")
        raise ending
    assert (tmp_path / "run" / "outcomes" / "unit.npz").exists()
    assert (tmp_path / "run" / "config.json").exists()


def test_a_resumed_run_is_kept_when_it_is_refused(tmp_path: Path) -> None:
    directory.begin(given(tmp_path / "run"))
    with pytest.raises(DataError), directory.begun(replace(given(tmp_path / "run"), resume=True)):
        raise DataError("the pictures are gone")
    assert (tmp_path / "run" / "config.json").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    directory.write_text(tmp_path / "a" / "file", "old")
    for place in (tmp_path / "a" / "file" / "below", tmp_path / "a"):
        with pytest.raises(StoreError, match="cannot be written"):
            directory.write_text(place, "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "file"]


def test_names_that_are_no_utf8_come_back_from_a_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"ants/\xff.png")
    directory.write_json(tmp_path / "file.json", {"Kröte": name})
    assert directory.read_json(tmp_path / "file.json") == {"Kröte": name}


@pytest.mark.parametrize(
    ("data", "backbone", "name"),
    [
        ("/home/me/my bees", "hf/weights/mobilenet/hf", "my-bees-mobilenet"),
        ("pets.csv", "timm/resnet18.a1_in1k", "pets.csv-resnet18.a1_in1k"),
        ("(arrays)", "(module Small)", "arrays-module-Small"),
        ("data/", "nets/small.py:Small", "data-small.py-Small"),
    ],
)
def test_a_run_is_called_after_its_data_and_its_network(data: str, backbone: str, name: str) -> None:
    assert directory.place(Settings(data, backbone)) == Path("runs") / name


def test_the_log_is_lines_of_json_in_the_order_of_time(tmp_path: Path) -> None:
    for number in range(3):
        directory.log(tmp_path, "unit", number=number, name="Kröte")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    with pytest.raises(StoreError, match=r"log\.jsonl cannot be written"):
        directory.log(tmp_path / "absent", "unit")


@pytest.mark.parametrize("text", ["[1]", "{}", "null", "3", '"a"', '{"format": "other/1", "decision": null}'])
@pytest.mark.parametrize("words", [("report",), ("predict", "picture.png")])
def test_a_summary_of_another_program_is_refused_by_name(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text)
    said = tell(words[0], tmp_path, *words[1:])
    refused(said, "summary.json", "give the directory of a run that Frostline finished")


@pytest.mark.parametrize("text", ["[1]", "{}", '{"format": "other/1"}'])
def test_a_model_of_another_program_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(text)
    with pytest.raises(RunError, match="holds no trained model"):
        open_model(tmp_path)


def test_a_configuration_that_is_no_object_is_refused_before_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(RunError, match=r"config\.json' holds a list"):
        directory.begin(replace(given(tmp_path), resume=True))
