"""Laws of settings: one noun from flags, Python or TOML, that refuses by name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.errors import OptionError
from frostline.settings import CHOICES, KINDS, Settings, seconds, settings

LEAST = {"data": "pictures", "backbone": "timm/resnet18"}
NAMES = [field.name for field in fields(Settings)]


@pytest.mark.parametrize(
    ("text", "bytes"), [("0", 0), ("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("1.5 kb", 1500), ("2g", 2 * 10**9)]
)
def test_room_for_activations_is_told_in_the_units_of_disks(text: str, bytes: int) -> None:
    assert settings({**LEAST, "storage": text}).storage == bytes
    for wrong in (f"-{text}", f"{text} or so"):
        with pytest.raises(OptionError, match="such as 8GiB"):
            settings({**LEAST, "storage": wrong})


def test_every_setting_has_a_kind_and_every_choice_is_allowed() -> None:
    told = [name for names in KINDS.values() for name in names]
    assert sorted(told) == sorted({*NAMES} - {"mean", "std"})
    for name, allowed in CHOICES.items():
        for value in allowed:
            about = {"task": "detection"} if name == "detector" else {}
            assert getattr(settings({**LEAST, **about, name: value}), name) == value


@given(st.sampled_from(sorted(CHOICES)), st.text(max_size=12))
def test_a_word_that_is_no_choice_is_refused_with_what_is_allowed(name: str, word: str) -> None:
    if word in CHOICES[name]:
        return
    with pytest.raises(OptionError) as error:
        settings({**LEAST, name: word})
    assert repr(word) in str(error.value)
    assert all(allowed in str(error.value) for allowed in CHOICES[name])


@given(st.sampled_from(NAMES), st.data())
def test_one_letter_too_many_is_answered_with_the_right_name(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name)))
    wrong = f"{name[:place]}x{name[place:]}"
    with pytest.raises(OptionError, match=f"{wrong}' is no setting; did you mean '{name}'"):
        settings({**LEAST, wrong: 1})


@given(st.decimals(min_value="0.001", max_value=99999, places=3), st.sampled_from(["", "s", "m", "h"]))
def test_a_time_is_its_number_in_its_unit(number: Any, unit: str) -> None:
    factor = {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
    assert seconds(f" {number}{unit} ") == pytest.approx(float(number) * factor)


@pytest.mark.parametrize("text", ["", "0", "0m", "-3m", "3 days", "1e3", "inf", "nan", "m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", True), ("epochs", 2.0), ("seed", "1"), ("seed", -1), ("storage", -1), ("epsilon", 0),
        ("epsilon", float("nan")), ("confidence", 1.0), ("workers", 0), ("batch_size", 0), ("image_size", -8),
        ("budget", 0), ("budget", float("inf")), ("budget", "-1m"), ("resume", "yes"), ("model_kwargs", ["a=b"]),
        ("mean", 0.5), ("std", "a,b"), ("label", 3), ("out", 3), ("image_size", 1), ("mean", "nan"),
        ("std", (1, "inf", 1)), ("mean", "0.5,-inf,0.5"), ("std", "0"), ("std", (1.0, -1.0, 1.0)),
        ("log", "tensorboard"), ("log", [3]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        settings({**LEAST, name: value})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 1000), "epsilon": st.floats(0.001, 0.5), "seed": st.integers(0, 2**31),
            "model_kwargs": st.dictionaries(st.text(min_size=1, max_size=5), st.integers()), "refit_all": st.booleans(),
            "mean": st.lists(st.floats(0, 1), min_size=3, max_size=3).map(tuple),
        },
    )
)  # fmt: skip
def test_settings_come_back_from_their_document(given: dict[str, Any]) -> None:
    if "mean" in given:
        given["std"] = (1.0, 1.0, 1.0)
    first = settings({**LEAST, **given})
    assert settings(json.loads(json.dumps(first.document()))) == first


def test_what_is_given_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('backbone = "timm/vgg11"\nepochs = 3\nimage-size = 64\n[model-kwargs]\nwidth = 4\n')
    found = settings({"data": tmp_path, "epochs": 5, "seed": None}, config=file)
    assert (found.epochs, found.image_size, found.backbone, found.seed) == (5, 64, "timm/vgg11", 0)
    assert found.model_kwargs == {"width": 4}
    assert found.data == str(tmp_path)


def test_settings_never_change() -> None:
    first = settings(LEAST)
    assert replace(first, seed=1) != first
    with pytest.raises(AttributeError):
        first.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
