"""What the documents tell readers to do: every block of Python runs, every link leads somewhere, every flag exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
from PIL import Image
from test_callbacks import BATCH, ROWS, Model, data
from world import draw

import frostline
from frostline import journey
from frostline.data.pictures import open_picture
from frostline.data.read import read

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/recipes.md", "docs/choosing.md", "docs/deciding.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_every_block_of_python_runs_after_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a page says is the reader's own; a network that must be downloaded is a small one.

    Searches are quick ones, and the same search of two pages is made once.
    """
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos", 12)
    given = read(tmp_path / "photos")
    pixels = np.stack([open_picture(file) for file in given.inputs])
    Image.fromarray(pixels[0]).save("new.png")
    inputs, targets = data()
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        "trainer", num_train_epochs=1, use_cpu=True, report_to=[], remove_unused_columns=False
    )
    names: dict[str, Any] = {
        "__name__": "__main__",
        "frostline": frostline,
        "pictures": pixels,
        "labels": given.targets,
        "MyNetwork": lambda: stage.network().module,
        "model": Model(),
        "arguments": arguments,
        "rows": [{"x": inputs[row], "labels": targets[row]} for row in range(ROWS)],
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), BATCH),
    }
    real = journey.resolve

    def resolve(source: Any, backbone: Any, options: Any) -> Any:
        small = {"epochs": 1, "batch_size": 8, "threads": 1, "device": "cpu", "precision": "fp32"}
        small |= {"image_size": 8} if "image_size" in options else {}
        if isinstance(backbone, str):
            assert backbone.startswith("timm/")
            backbone, small = f"{stage.__file__}:small", {**small, "weights": "none"}
        return real(source, backbone, {**options, **small})

    known, real_find = dict[str, Any](), journey.find

    def find(source: Any, backbone: Any, **options: Any) -> Any:
        key = f"{source} {backbone}" if isinstance(source, str) and not options else None
        if key not in known:
            result = real_find(source, backbone, **{"effort": "quick", **options})
            known.update({} if key is None else {key: result})
            return result
        return known[key]

    monkeypatch.setattr(journey, "resolve", resolve)
    monkeypatch.setattr(journey, "find", find)
    for page in PAGES:
        own = dict(names)
        for block in BLOCK.findall((ROOT / page).read_text("utf-8")):
            exec(compile(block, page, "exec"), own)
    assert len(known) == 1


def headings(page: Path) -> set[str]:
    """As sites name them."""
    found = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in found}


def test_every_link_between_the_documents_leads_to_a_file_and_a_heading() -> None:
    written = (*(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md"))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                name, _, heading = target.partition("#")
                place = (page.parent / name) if name else page
                assert place.exists(), f"{page.name}: {target}"
                assert not heading or heading in headings(place), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_has_the_options_that_it_gives_it(page: str) -> None:
    from typer.testing import CliRunner

    from frostline.cli import app

    verbs = "find|probe|train|compare|export|layers|predict|report"
    text = (ROOT / page).read_text("utf-8")
    for verb, rest in re.findall(rf"frostline ({verbs})\b([^`\n]*)", text):
        options = re.findall(r"(--[a-z][a-z-]*)", rest.split("#")[0])
        shown = (
            CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
        )
        for option in options:
            assert re.search(rf"{option}(?![\w-])", shown), f"{verb} {option}"
