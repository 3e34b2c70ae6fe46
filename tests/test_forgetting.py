"""What a training forgets of its source, on examples of the source: a small network that learned letters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from world import HOME, draw

from frostline.bench import forgetting
from frostline.bench.bench import Bench, Source
from frostline.bench.curve import probe_cuts
from frostline.bench.forgetting import Kept, forgotten
from frostline.bench.lay import lay
from frostline.bench.unit import perform
from frostline.demo import network
from frostline.errors import DataError
from frostline.plan import plan
from frostline.run import verdicts
from frostline.settings import settings
from frostline.values import Arm, Estimate, Recipe, Unit
from scripts.pretrain_demo import batch, draw_all

COUNT = 600


def letters(folder: Path, *, named: bool) -> Path:
    """Printed letters as the network learned them, in folders by output number, or by other names of half of them."""
    pages, which = draw_all()
    inputs, targets = batch(pages, which, COUNT, torch.Generator().manual_seed(5))
    grey = (inputs[:, 0] * 0.3 + 0.3).mul(255).round().clamp(0, 255).byte().numpy()
    for row, (pixels, label) in enumerate(zip(grey, targets.tolist(), strict=True)):
        if named or label < 12:
            place = folder / (str(label) if named else f"letter {chr(97 + label)}")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{row:03d}.png")
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["output layer", "probe"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("source")
    given = {"data": str(draw(folder / "shapes", 40)), "backbone": f"{HOME / 'network.py'}:glyphs"}
    given |= {"weights": str(network.WEIGHTS), "source": str(letters(folder / "letters", named=request.param))}
    given |= {"device": "cpu", "threads": 1, "workers": 1, "precision": "fp32"}
    resolved = settings({**given, "epochs": 3, "batch_size": 16})
    (folder / "run").mkdir()
    return lay(resolved, Source(), folder=folder / "run")


def arms(bench: Bench) -> dict[str, Arm]:
    layers, recipe = bench.anatomy.layers, Recipe(epochs=3, lr=1e-3, batch=16)
    plans = {
        "probe": plan(layers, recipe, freeze=len(layers)),
        "gentle": plan(layers, replace(recipe, lr=1e-4)),
        "rough": plan(layers, replace(recipe, lr=3e-2, kept_lr=1.0)),
        "dropped": plan(layers, recipe, keep=4, above="drop"),
    }
    return {name: Arm(name, of, (of.recipe.lr,)) for name, of in plans.items()}


def test_a_network_trained_roughly_on_another_task_forgets_letters_and_a_frozen_one_does_not(bench: Bench) -> None:
    assert bench.origin is not None
    models = [(arm, Unit(name, arm.plan.recipe.lr, 1, 0, 0, 3)) for name, arm in arms(bench).items()]
    for arm, unit in models:
        perform(bench, arm, unit, keep=True)
    kept = forgotten(bench, models)
    assert kept is not None
    assert kept.how == ("output layer" if bench.origin.classes[0].isdigit() else "probe")
    assert kept.before.mean() > 0.6  # it knows what it was taught
    assert kept.after["dropped"] is None
    known = {name: after for name, after in kept.after.items() if after is not None}
    told = {name: verdicts.forgetting(kept, after, 0.01, 0.95) for name, after in known.items()}
    assert told["rough"].holds
    assert kept.lost("rough") > 0.2  # type: ignore[operator]
    assert not told["probe"].holds and kept.lost("probe") == 0
    assert not told["gentle"].holds
    assert "examples of the source" in told["rough"].evidence
    assert "wise_ft" in told["rough"].advice


def test_the_distance_from_the_source_is_told_at_every_cut_and_nothing_of_it_is_left(bench: Bench) -> None:
    curve = probe_cuts(bench)
    assert all(evidence.distance is not None and 0 <= evidence.distance <= 2 for evidence in curve)
    assert max(evidence.distance or 0 for evidence in curve) > 1.5  # shapes are no letters
    assert all(evidence.untaught is not None and evidence.untaught < 1 for evidence in curve)
    assert bench.folder is not None
    assert not (bench.folder / "activations" / "source").exists()


def test_classes_that_are_taken_for_the_wrong_outputs_are_asked_of_a_probe(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.origin is not None
    wrong = np.roll(np.arange(len(bench.origin.classes)), 5)
    monkeypatch.setattr(forgetting, "_named", lambda bench: wrong)
    kept = forgotten(bench, [])
    assert kept is not None and kept.how == "probe"


def test_too_few_examples_of_the_source_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    given = {"data": str(draw(tmp_path / "shapes", 8)), "source": str(draw(tmp_path / "few", 4)), "device": "cpu"}
    resolved = settings({**given, "backbone": f"{HOME / 'network.py'}:glyphs", "weights": str(network.WEIGHTS)})
    with pytest.raises(DataError, match="holds 12 examples of the source; at least 20"):
        lay(resolved, Source())


def test_which_output_means_a_class_is_known_by_name_by_number_or_by_their_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.origin is not None
    monkeypatch.setattr(forgetting, "_outputs", lambda bench: 4)

    def named(classes: tuple[str, ...]) -> list[int] | None:
        assert bench.origin is not None
        found = forgetting._named(replace(bench, origin=replace(bench.origin, classes=classes)))
        return None if found is None else found.tolist()

    assert named(("0", "3")) == [0, 3]
    assert named(("a", "b", "c", "d")) == [0, 1, 2, 3]
    assert named(("a", "b")) is None
    assert named(("0", "7")) is None


@pytest.mark.parametrize(("lost", "holds"), [(0.0, False), (0.02, False), (0.3, True)])
def test_what_was_forgotten_is_a_difference_with_an_interval(lost: float, holds: bool) -> None:
    before = np.arange(200) % 10 != 0
    after = before & (np.arange(200) >= 200 * lost)
    verdict = verdicts.forgetting(Kept("probe", before, {"a": after}), after, 0.01, 0.95)
    assert verdict.holds == holds
    assert "before the training" in verdict.evidence


@pytest.mark.parametrize(("same", "holds"), [(0.95, False), (0.75, False), (0.5, True)])
def test_answers_that_changed_are_told_by_their_share(same: float, holds: bool) -> None:
    after = np.arange(200) < 200 * same
    verdict = verdicts.forgetting(Kept("answers", np.ones(200, bool), {"a": after}), after, 0.01, 0.95)
    assert verdict.holds == holds
    assert verdicts.drift(Estimate(0.3, 0.2, 0.4)).holds
    assert not verdicts.drift(Estimate(0.5, 0.4, 0.6)).holds
