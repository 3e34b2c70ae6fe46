"""Contracts of the command line: what is printed, what is refused and how, and what is left on the disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from world import CLASSES, LETTERS, Said, draw, end, known, refused, small, start, tell, tree

from frostline import console
from frostline.values import Event

Run = tuple[Path, Said]
QUICK = ("--epochs", 1, "--effort", "quick")


# ------------------------------------------------------------------------------------------------ what is printed


def test_find_prints_its_summary_and_nothing_else(finished: Run) -> None:
    folder, said = finished
    assert said.code == 0, said.err
    assert said.err == ""
    assert said.document == json.loads((folder / "summary.json").read_text())


def test_find_tells_the_answer_and_where_the_report_lies(held_out: Run) -> None:
    folder, said = held_out
    assert said.code == 0, said.err
    assert str(folder / "report.html") in said.out.replace("\n", "")
    for word in ("macro F1", "36 held-out examples", "full fine-tuning", "from scratch", "linear probe"):
        assert word in " ".join(said.out.split())
    assert "126 pictures of 3 classes" in said.err
    assert "weights are random" in said.out


def test_layers_prints_the_document_of_the_design() -> None:
    said = tell("layers", LETTERS[1], "--json")
    rows = said.document["layers"]
    assert said.err == ""
    wanted = {"index": int, "name": str, "parameters": int, "macs": int, "bytes": int, "cut": bool, "why": str}
    for number, row in enumerate(rows):
        assert row["index"] == number
        assert {name: type(row[name]) for name in wanted} == wanted
        assert all(isinstance(size, int) for size in row["shape"])
        assert 0 <= row["error"] < 1e-4 if row["cut"] else row["why"]
    assert [row["name"] for row in rows] == ["stem", *(f"blocks.{i}" for i in range(6))]
    # the stem: 9 weights a channel and a batch norm; a pixel of each channel costs 9 multiply-accumulates
    assert (rows[0]["parameters"], rows[0]["macs"], rows[0]["bytes"]) == (9 * 16 + 32, 9 * 16 * 256, 4 * 16 * 256)


def test_layers_as_a_table_names_every_layer_once() -> None:
    said = tell("layers", LETTERS[1])
    assert said.code == 0
    for number in range(6):
        assert said.out.count(f"blocks.{number} ") == 1
    assert "174,320 parameters" in said.out


def test_layers_says_that_its_weights_are_random() -> None:
    assert "weights: random, none are needed here" in " ".join(tell("layers", "timm/resnet18").out.split())


def test_probe_prints_the_matching_parts_of_the_summary_and_a_forecast(place: Path) -> None:
    said = tell("probe", place / "data", *known(place), "--json")
    found = said.document
    assert said.err == ""
    assert found["format"] == "frostline.summary/1"
    assert found["decision"] is None
    assert found["data"]["train"] + found["data"]["validation"] == 120
    assert [point["depth"] for point in found["curve"]] == [1, 2, 3, 4]
    for point in found["curve"]:
        assert 0 <= point["score"]["low"] <= point["score"]["mean"] <= point["score"]["high"] <= 1
    assert found["forecast"]["seconds"] > 0
    assert found["forecast"]["bytes"] > 0
    assert "full_finetune" in found["forecast"]["arms"]


def test_predict_prints_one_object_a_line(finished: Run, place: Path) -> None:
    files = [place / "data" / label / "000.png" for label in CLASSES]
    said = tell("predict", finished[0], *files, "--json")
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == list(map(str, files))
    for row in rows:
        assert row.keys() == {"input", "label", "scores"}
        assert row["scores"].keys() == set(CLASSES)
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(row["scores"], key=lambda name: row["scores"][name])
    plain = tell("predict", finished[0], *files)
    assert [line.split("\t")[1] for line in plain.out.splitlines()] == [row["label"] for row in rows]


def test_predict_refuses_what_it_cannot_read(finished: Run, tmp_path: Path, place: Path) -> None:
    text = tmp_path / "note.png"
    text.write_text("no picture")
    refused(tell("predict", finished[0], text), "note.png")
    refused(tell("predict", finished[0], tmp_path / "absent.png"), "absent.png")
    refused(tell("predict", tmp_path, place / "data" / "bar" / "000.png"), "summary.json", "a finished run")


def test_report_tells_the_answer_again(finished: Run, tmp_path: Path) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    page = run / "report.html"
    page.unlink()
    said = tell("report", run)
    assert said.code == 0
    assert page.exists()
    assert "Strategies in the race" in said.out
    refused(tell("report", tmp_path), "summary.json", "finished run")


@pytest.mark.parametrize("name", ["model/plan.json", "summary.json"])
def test_train_takes_the_plan_of_a_run(name: str, finished: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = tell("train", place / "data", "--plan", finished[0] / name, *known(place), "--out", out, "--json")
    assert said.code == 0, said.err
    assert said.document == json.loads((out / "summary.json").read_text())
    assert said.document["score"]["n"] == 24
    assert json.loads((out / "model" / "plan.json").read_text())["keep"] == said.document["arms"][0]["plan"]["keep"]
    assert tell("predict", out, place / "data" / "bar" / "000.png").code == 0
    refused(tell("report", out), "trained one plan")


def test_train_refuses_the_plan_of_another_network(finished: Run, place: Path, tmp_path: Path) -> None:
    plan, out = finished[0] / "model" / "plan.json", tmp_path / "run"
    said = tell("train", place / "data", "--plan", plan, *small(tmp_path), "--out", out)
    refused(said, "4 layers", "has 2", "give the plan's backbone")
    assert not out.exists()
    broken = tmp_path / "plan.json"
    broken.write_text("{")
    refused(tell("train", place / "data", "--plan", broken, *known(place), "--out", out), "plan.json", "no JSON")
    refused(tell("train", place / "data", "--plan", tmp_path / "none", *known(place), "--out", out), "plan.json")


# ------------------------------------------------------------------------------------------------ dry runs and TOML


def test_a_dry_run_prints_plan_and_forecast_and_touches_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path), tree(place / "data")
    said = tell("find", place / "data", *network, "--epochs", 2, "--dry-run", "--out", tmp_path / "run")
    assert (tree(tmp_path), tree(place / "data")) == before
    assert said.code == 0, said.err
    for word in ("learning rate", "stem", "Forecast", "for the race"):
        assert word in said.out
    assert any(unit in said.out for unit in ("KiB", "MiB", " B of"))


def test_a_file_may_ask_for_a_dry_run_and_for_json(place: Path, tmp_path: Path) -> None:
    network, config = small(tmp_path), tmp_path / "run.toml"
    config.write_text(f'threads = 1\ndry-run = true\njson = true\nout = "{tmp_path / "run"}"\n')
    said = tell("find", place / "data", *network[:4], "--config", config, "--epochs", 2)
    assert said.code == 0, said.err
    assert said.document["forecast"]["seconds"] > 0
    assert not (tmp_path / "run").exists()
    config.write_text("dry-run = 1\n")
    refused(tell("find", place / "data", *network[:4], "--config", config), "dry_run is 1", "true or false")


def test_a_budget_that_nothing_fits_into_is_refused(place: Path, tmp_path: Path) -> None:
    network = small(tmp_path)
    least = tell("find", place / "data", *network, "--out", tmp_path / "run", "--budget", "0.001s")
    refused(least, "budget is 0", "allow")
    assert not (tmp_path / "run").exists()


def test_flags_go_before_the_file_and_the_file_may_name_all(place: Path, tmp_path: Path) -> None:
    network = small(tmp_path)
    config = tmp_path / "run.toml"
    config.write_text(
        f'data = {str(place / "data")!r}\nbackbone = {network[1]!r}\nweights = "none"\nbatch-size = 7\nepochs = 1\n'
        f'effort = "quick"\nthreads = 1\nprecision = "fp32"\nout = {str(tmp_path / "run")!r}\nseed = 4\n'
    )
    said = tell("find", "--config", config, "--seed", 5)
    assert said.code == 0, said.err
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (kept["batch_size"], kept["seed"], kept["epochs"]) == (7, 5, 1)
    probed = tell("probe", "--config", config)
    assert probed.code == 0, probed.err
    assert "Not used by probe: out = " in probed.err
    assert "seed" not in probed.err


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("epoch = 3", ("'epoch' is no setting", "did you mean 'epochs'")),
        ('epochs = "three"', ("epochs is 'three'", "a whole number")),
        ("seed = 1.5", ("seed is 1.5", "a whole number")),
        ("refit_all = 1", ("refit_all is 1", "true or false")),
        ("mean = [0.5, 'x']", ("mean is",)),
        ("budget = -3", ("budget is -3",)),
        ("[[", ("is no TOML",)),
    ],
)
def test_a_file_with_a_wrong_line_is_refused(line: str, parts: tuple[str, ...], place: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(line)
    refused(tell("find", place / "data", *LETTERS, "--config", config, "--out", tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ bad usage


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--metric", "acuracy"), ("metric is 'acuracy'", "did you mean 'accuracy'")),
        (("--effort", "huge"), ("effort is 'huge'", "quick, default, thorough")),
        (("--budget", "soon"), ("budget is 'soon'", "30m")),
        (("--budget", "3m", "--epochs", "3"), ("give one of them",)),
        (("--epochs", "0"), ("epochs is 0", "at least 1")),
        (("--epsilon", "2"), ("epsilon is 2", "above 0 and below 1", "one point is 0.01")),
        (("--confidence", "95"), ("confidence is 95", "95 percent is 0.95")),
        (("--storage", "8 gigs"), ("storage is '8 gigs'", "8GiB")),
        (("--mean", "0.5,x", "--std", "1"), ("mean is '0.5,x'", "0.485,0.456,0.406")),
        (("--mean", "0.5"), ("mean and std belong together",)),
        (("--mean", "0.5,0.5", "--std", "1,1"), ("mean",)),
        (("--mean", "0.5", "--std", "0"), ("std is '0'", "above 0")),
        (("--mean", "nan", "--std", "1"), ("mean is 'nan'", "finite")),
        (("--mean", "0.5", "--std", "1,inf,1"), ("std is '1,inf,1'", "finite")),
        (("--image-size", "1"), ("image_size is 1", "at least 2")),
        (("--device", "tpu"), ("device is 'tpu'", "cpu")),
        (("--model-kwargs", "width"), ("KEY=VALUE",)),
        (("--model-kwargs", "depth=3"), ("depth",)),
        (("--label", "kind"), ("label is 'kind'", "no columns")),
        (("--config", "absent.toml"), ("absent.toml", "cannot be read")),
        (("--seeds", "3"), ("--seed",)),
        (("--workers", "two"), ("--workers", "integer")),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    words: tuple[str, ...], parts: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    refused(tell("find", place / "data", *LETTERS, "--out", tmp_path / "refused", *words), *parts)
    assert not (tmp_path / "refused").exists()


def test_what_is_missing_is_named(place: Path) -> None:
    refused(tell("find", place / "data"), "backbone is missing")
    refused(tell("find", "--backbone", LETTERS[1]), "data is missing")
    refused(tell("train", place / "data", *LETTERS), "--plan", "lp_ft")
    refused(tell("fnid", place / "data"), "fnid")


@pytest.mark.parametrize(
    ("backbone", "parts"),
    [
        (("timm/resnet81",), ("no network 'resnet81'", "timm/resnet18")),
        (("resnet18",), ("names no source", "timm/resnet18")),
        (("torchvision/resnet19",), ("torchvision/resnet18",)),
        (("hf/./absent",), ("absent",)),
        (("absent.py:make",), ("absent.py does not exist",)),
        ((LETTERS[1].replace("glyphs", "glyph"), "--weights", "none"), ("has no function 'glyph'", "glyphs")),
        (("timm/resnet18", "--weights", LETTERS[3]), ("missing", "unexpected")),
        (("timm/resnet18", "--weights", "absent.safetensors"), ("absent.safetensors",)),
    ],
)
def test_a_backbone_that_cannot_be_had_is_refused(
    backbone: tuple[str, ...], parts: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    refused(tell("find", place / "data", "--out", tmp_path / "refused", "--backbone", *backbone), *parts)
    assert not (tmp_path / "refused").exists()


def test_weights_that_cannot_be_fetched_end_with_the_remedy(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = tell("find", place / "data", "--backbone", "timm/resnet18", "--out", tmp_path / "refused")
    refused(said, "weights of timm/resnet18 cannot be had", "--weights none")
    assert not (tmp_path / "refused").exists()


# ------------------------------------------------------------------------------------------------ bad data


def empty(folder: Path) -> None:
    folder.mkdir()


def one_class(folder: Path) -> None:
    draw(folder, 5)
    shutil.rmtree(folder / "bar")
    shutil.rmtree(folder / "ring")


def one_picture(folder: Path) -> None:
    draw(folder, 5)
    for number in range(1, 5):
        (folder / "ring" / f"{number:03d}.png").unlink()


def all_truncated(folder: Path) -> None:
    draw(folder, 12)
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])


def texts(folder: Path) -> None:
    draw(folder, 5)
    for number in range(10):
        (folder / "ring" / f"text{number}.jpg").write_text("no picture at all")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (empty, ("holds no pictures", "one folder a class")),
        (one_class, ("one class",)),
        (one_picture, ("ring",)),
        (all_truncated, ("cannot be read",)),
        (texts, ("cannot be read", "text")),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    make: Callable[[Path], None], parts: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path / "data")
    before = tree(tmp_path)
    said = tell("find", tmp_path / "data", *LETTERS, "--out", tmp_path / "runs" / "run", *QUICK)
    refused(said, *parts)
    assert tree(tmp_path) == before


def test_pictures_of_every_kind_are_searched_and_what_is_odd_is_told(tmp_path: Path) -> None:
    """CMYK, 16 bits, a palette, EXIF; one truncated, one misnamed, one with two labels; numbers, accents as names."""
    data = draw(tmp_path / "data", 14)
    for label, name in zip(CLASSES, ("7", "10", "Kröte ß"), strict=True):
        (data / label).rename(data / name)
    odd = data / "7"
    grey = Image.open(odd / "000.png")
    grey.convert("CMYK").save(odd / "a.jpg")
    grey.convert("P").save(odd / "b.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(odd / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    grey.convert("RGB").save(odd / "d.jpg", exif=exif)
    (odd / "e.png").write_bytes((odd / "001.png").read_bytes()[:70])
    (odd / "f.png").write_bytes(b"broken")
    (odd / "f.png").rename(odd / os.fsdecode(b"\xff.png"))
    shutil.copy(odd / "002.png", data / "10" / "same.png")
    said = end(start("find", data, *small(tmp_path), "--out", tmp_path / "run", *QUICK))
    assert said.code == 0, said.err
    told = " ".join(said.err.split())
    assert "Skipped 2 picture" in told
    assert "e.png" in told
    assert "Warning" in told
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["classes"] == ["10", "7", "Kröte ß"]
    assert [row["id"] for row in summary["data"]["skipped"]] == ["7/e.png", "7/?.png"]
    assert summary["notes"]


# ------------------------------------------------------------------------------------------------ run directories


def test_a_run_is_never_overwritten_silently(finished: Run, place: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished[0], tmp_path / "run")
    before = (out / "summary.json").read_bytes()
    words = ("find", place / "data", *known(place), "--out", out)
    refused(tell(*words, "--epochs", 2), "finished", "--resume")
    again = tell(*words, "--epochs", 2, "--resume", "--json")
    assert again.document == json.loads(before)
    assert (out / "summary.json").read_bytes() == before
    said = tell(*words, "--epochs", 3, "--resume")
    refused(said, "epochs 2", "now it is 3")


def test_a_place_that_is_no_run_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("mine too")
    before = tree(tmp_path)
    for out in ("mine", "file", "file/below"):
        refused(tell("find", place / "data", *LETTERS, "--out", tmp_path / out), out, "--out")
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------ real processes


def test_importing_frostline_and_asking_for_help_load_no_torch() -> None:
    for words in ("import frostline", "import frostline.cli", "import frostline; dir(frostline); frostline.Plan"):
        code = f"{words}; import sys; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, words
    code = (
        "import sys\nfrom frostline.cli import main\nsys.argv = ['frostline', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    for verb in ((), ("find",)):
        line = [sys.executable, "-c", code, *verb, "--help"]
        said = subprocess.run(line, check=False, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert "frostline" in said.stdout


def test_a_file_gets_a_line_when_a_stage_begins_and_at_every_tenth_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with console.told(False) as show:
        for text in ("126 pictures [of 3] classes " + "x" * 200, "one more"):
            show(Event("read", text=text))
        assert "one more\n" in capsys.readouterr().err  # at once, not at the end
        for done in range(1, 33):
            show(Event("round 1", done, 32))
        for done in range(3):
            show(Event("train", done, 2))
    lines = capsys.readouterr().err.splitlines()
    rounds = [line for line in lines if line.startswith("round 1: ")]
    assert rounds[0] == "round 1: 1 of 32" and rounds[-1] == "round 1: 32 of 32"
    assert len(rounds) == 11
    assert lines[len(rounds) :] == ["train: 0 of 2", "train: 1 of 2", "train: 2 of 2"]
    with console.told(True) as show:
        show(Event("read", 1, 2, text="nothing"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_an_interrupt_that_something_swallowed_ends_the_run_at_its_next_step(quiet: bool) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin deaf
    try:
        with console.told(quiet) as show:
            show(Event("read", 1, 2))
            with suppress(KeyboardInterrupt):  # as Python itself does in a finalizer
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                show(Event("read", 2, 2))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_was_deaf_to_interrupts_stays_deaf() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with console.told(True) as show:
            signal.raise_signal(signal.SIGINT)
            show(Event("read", 1, 2))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_help_of_find_is_in_panels_and_names_every_option_once() -> None:
    said = tell("find", "--help").out
    heads = [line.split("─ ")[1].split(" ─")[0] for line in said.splitlines() if "─ " in line]
    assert heads[-6:] == ["Data", "Backbone", "What is wanted", "What is spent", "Machine", "Run"]
    for name in (
        "label",
        "weights",
        "epsilon",
        "prefer",
        "budget",
        "device",
        "recalibrate",
        "out",
        "refit-all",
        "json",
    ):
        assert said.count(f"--{name} ") == 1, name
    assert "[0.01]" in said and "[8" in said  # no default is taken for markup


def test_a_process_ends_with_0_or_2_and_speaks_on_standard_error(tmp_path: Path) -> None:
    refused(end(start("find", tmp_path / "absent", *LETTERS)), "absent does not exist", "give the path")
    assert end(start("--help")).code == 0


@pytest.mark.parametrize("room", [400, 60_000])
def test_a_full_disk_is_told_and_nothing_half_written_stays(room: int, place: Path, tmp_path: Path) -> None:
    words = ("find", place / "data", *small(tmp_path), "--out", tmp_path / "run", *QUICK)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        said = tell(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(said, "cannot be written", "run")
    assert not (tmp_path / "run").exists()  # nothing was finished, and a full disk wants no more on it
