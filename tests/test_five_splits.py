"""What the benchmark of five splits takes for its options."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "five_splits.py"


@pytest.mark.parametrize(
    ("text", "value"),
    [("30m", "30m"), ("3", 3), ("0.5", 0.5), ("[0.5]", [0.5]), ("true", True), ("macro_f1", "macro_f1"), ("[a", "[a")],
)
def test_an_option_is_json_where_it_can_be_and_else_its_text(text: str, value: Any) -> None:
    assert runpy.run_path(str(FILE))["value_of"](text) == value
