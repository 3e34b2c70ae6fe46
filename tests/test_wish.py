"""Every known strategy can be trained alone, by its name; so can everything above a depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stage

import frostline
from frostline.errors import BackboneError, CutError, OptionError, RunError
from frostline.journey import Result
from frostline.run.wish import Wish
from frostline.search.strategies import KNOWN
from frostline.values import Plan

PRESENT = tuple(name for name in KNOWN if name != "best_probe")  # here it may be the linear probe


def trained(wish: Plan | Wish | str, out: Path, **given: Any) -> Result:
    options = {"weights": "none", "epochs": 4, "batch_size": 8, "device": "cpu", "threads": 1, "precision": "fp32"}
    options |= {"out": str(out), **given}
    return frostline.train(stage.pictures(90), f"{stage.__file__}:small", wish, **options)


@pytest.mark.parametrize("name", [*PRESENT, "scratch"])
def test_a_strategy_is_trained_by_its_name(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path / "run")
    assert run.summary["score"]["n"] > 0
    assert run.plan.recipe.epochs == 4  # what was asked for goes before a strategy's own
    if name == "lora":
        assert run.plan.adapter is not None
    elif name in ("mlp_probe", "attention_probe"):
        assert (run.plan.head.kind, run.plan.freeze) == (name.partition("_")[0], 4)
    elif name == "scratch":
        assert run.plan.keep == 0


@pytest.mark.parametrize(("freeze", "depth"), [(2, 2), ("blocks.0", 2), (0.75, 3), ("1", 1)])
def test_everything_above_a_depth_is_trained_at_the_rate_that_is_asked_for(
    freeze: Any, depth: int, tmp_path: Path
) -> None:
    run = trained(Wish(freeze=freeze, lr=2e-3), tmp_path / "run")
    assert (run.plan.freeze, run.plan.keep, run.plan.recipe.lr) == (depth, 4, 2e-3)
    assert run.summary["checks"]["frozen_unchanged"]


def test_what_cannot_be_is_refused_and_a_run_is_bound_to_its_wish(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'lp_ft'"):
        trained("lpft", tmp_path / "no")
    with pytest.raises(OptionError, match="give a plan"):
        Wish()
    with pytest.raises(OptionError, match="or one of the two"):
        Wish("lp_ft", freeze=2)
    with pytest.raises(OptionError, match="no use for it"):
        trained(Wish("linear_probe", lr=1e-2), tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(CutError, match="no layer has that name"):
        trained(Wish(freeze="block.9"), tmp_path / "no")
    first = trained("lp_ft", tmp_path / "run")
    assert trained("lp_ft", tmp_path / "run", resume=True).summary == first.summary
    with pytest.raises(RunError, match="not the one"):
        trained("layer_decay", tmp_path / "run", resume=True)


def test_a_network_that_is_frozen_throughout_is_refused_with_the_remedy(tmp_path: Path) -> None:
    module = stage.small().requires_grad_(False)
    with pytest.raises(BackboneError, match=r"call requires_grad_\(\)"):
        frostline.train(stage.pictures(30), module, "lp_ft", device="cpu", epochs=1, out=str(tmp_path / "run"))
