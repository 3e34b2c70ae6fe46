"""A whole comparison on a small world: every strategy comes to the end, and what each took adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from world import ONE, Said, small, tell

from frostline import journey
from frostline.report import page


@pytest.fixture(scope="module")
def run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    out = tmp_path_factory.mktemp("compare") / "run"
    options = ("--epochs", 2, "--effort", "quick", "--image-size", 8, "--out", out, "--json")
    return out, tell("compare", place / "parted", *small(place), *ONE, *options)


def rows(run: tuple[Path, Said]) -> dict[str, Any]:
    return run[1].document["comparison"]


def test_every_strategy_comes_to_the_end_and_is_told_of(run: tuple[Path, Said]) -> None:
    summary = run[1].document
    assert run[1].code == 0
    assert {arm["stage"] for arm in summary["arms"]} == {"finalist"}
    assert set(summary["comparison"]) == set(summary["baselines"]) >= {"scratch", "full_finetune", "lora", "l2_sp"}
    assert all(row["certified"] for row in summary["baselines"].values())
    assert (run[0] / "model" / "model.safetensors").exists()


def test_what_a_strategy_took_is_its_training_its_tuning_and_its_pass_over_the_data(run: tuple[Path, Said]) -> None:
    found = rows(run)
    arms = {arm["id"]: arm for arm in run[1].document["arms"]}
    for name, row in found.items():
        assert row["total"] == pytest.approx(row["training"] + row["tuning"] + row["filling"])
        for against, key in (("scratch", "saved_against_scratch"), ("full_finetune", "saved_against_full")):
            expected = None if name == against else pytest.approx(1 - row["total"] / found[against]["total"])
            assert row[key] == expected
        if name != "scratch":  # one seed, so all that was spent on an arm is in its row
            assert row["training"] + row["tuning"] == pytest.approx(arms[row["arm"]]["seconds"])
    assert found["lp_ft"]["filling"] > 0 == found["full_finetune"]["filling"]
    assert found["linear_probe"]["tuning"] >= 0 < found["scratch"]["tuning"]


def test_nothing_is_forgotten_where_nothing_of_the_network_moved(run: tuple[Path, Said]) -> None:
    found = rows(run)
    assert found["linear_probe"]["forgotten"] == 0
    assert found["scratch"]["forgotten"] is None  # its layers are new
    told = {name: row["forgotten"] for name, row in found.items() if row["forgotten"] is not None}
    assert all(0 <= share <= 1 for share in told.values())
    assert set(told) >= {"lp_ft", "full_finetune", "stem_frozen", "lora"}


def test_fewer_numbers_learn_where_more_is_frozen(run: tuple[Path, Said]) -> None:
    found = rows(run)
    learning = [found[name]["trainable"] for name in ("linear_probe", "stem_frozen", "lp_ft")]
    assert learning == sorted(set(learning))
    assert found["linear_probe"]["break_even"] is None


def test_the_page_and_the_command_say_that_it_was_a_comparison(run: tuple[Path, Said]) -> None:
    result = journey.load(run[0])
    text = page.render(result.report)
    assert "What each strategy took" in text
    assert result.report.command.startswith("frostline compare ")
    assert "--strategies" not in result.report.command
    told = tell("report", run[0]).out
    assert "What each took, the search for its rate counted" in told
    assert "probe over several cuts" in told or "from scratch" in told


def test_a_search_compares_nothing_of_the_kind(finished: tuple[Path, Said]) -> None:
    assert finished[1].document["comparison"] == {}
    assert "What each strategy took" not in (finished[0] / "report.html").read_text()


def test_a_dry_run_names_the_strategies(place: Path, tmp_path: Path) -> None:
    said = tell("compare", place / "parted", *small(place), *ONE, "--dry-run", "--json", "--out", tmp_path / "run")
    assert {"l2_sp", "wise_ft", "lora", "lp_ft"} <= set(said.document["forecast"]["arms"])
    assert not (tmp_path / "run").exists()
