"""How a run ends: the score of the model handed back, the verdicts, the model, the report, and summary.json last."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from frostline import study as studies
from frostline.bench import finals
from frostline.bench.bench import Bench
from frostline.bench.curve import grown_cuts
from frostline.bench.forgetting import forgotten
from frostline.bench.task import ALL
from frostline.bench.unit import kept_weights
from frostline.formats import model as models
from frostline.plan import from_json
from frostline.report import page
from frostline.report.facts import Report
from frostline.report.gallery import Gallery
from frostline.report.wrong import Points, Tally
from frostline.run import command, compared, comparisons, directory, entrants, judging, notes, terms
from frostline.run.course import Run
from frostline.run.ended import Ended
from frostline.run.gallery import gallery
from frostline.run.judged import confusion, judged, points, tallies
from frostline.run.summary import Findings, document
from frostline.search import race as races
from frostline.search import standing
from frostline.search.arms import best_probe, exact
from frostline.search.decide import Finalist
from frostline.search.schedule import whole
from frostline.values import (
    Arm,
    Epoch,
    Estimate,
    Evidence,
    Outcome,
    Plan,
    Profile,
    Score,
    Standing,
    Unit,
)

PACKAGES = ("frostline", "torch", "torchvision", "timm", "transformers", "numpy", "scikit-learn")


def conclude(run: Run, ended: Ended) -> dict[str, Any]:
    """Write the summary and the report of a search, and return the summary."""
    bench, given = ended.bench, ended.bench.settings
    told = studies.outcomes(run.study)
    targets, aim = bench.examples.targets, terms.aim(bench)
    costs = {arm.id: terms.cost_of(bench.of(arm.id), arm.plan) for arm in ended.race.arms}
    judges = ended.chosen.certification[:1] or ended.chosen.validation
    known = findings(bench, evidence=ended.evidence)
    models = {it.arm.id: (it.arm, it.validation[0].unit) for it in (ended.chosen, *ended.baselines)}
    compares = given.strategies == "known"
    kept = forgotten(bench, list(models.values()) if compares else [models[ended.chosen.arm.id]])
    found = replace(
        known,
        decision=ended.decision,
        score=replace(score_of(ended, told), refit=given.refit_all),
        metrics=standing.in_every_metric(judges, targets, aim),
        standings=tuple(
            replace(it, shifted=elsewhere(ended, told)) if it.arm.id == ended.chosen.arm.id else it
            for it in standing.standings(ended.race, told, targets, costs, aim, shifted=bench.split.shifted)
        ),
        reasons={name: reason for name, (_, reason) in races.stages(ended.race).items()},
        certified={
            f.arm.id: standing.estimate(f.certification, targets, aim) for f in ended.finalists if f.certification
        },
        baselines={
            b.name: (comparisons.as_standing(bench, b, ended.race, aim), standing.estimate(b.judged, targets, aim))
            for b in ended.baselines
        },
        beaten={
            b.name: standing.probability(judges, b.judged, targets, aim)
            for b in ended.baselines
            if b.arm.id != ended.chosen.arm.id
        },
        notes=(*known.notes, *of_rivals(ended), *left_out(ended), *unadapted(ended), *diverged(ended)),
        growth=grown_cuts(bench, told_of(ended)),
        comparison=compared.taken(bench, ended.baselines, told, kept) if compares else {},
        rivals=judging.rivals(ended),
        forgetting="" if kept is None else kept.how,
        cost=costs_of(run, ended, told),
        checks=ended.checks,
        verdicts=judging.judged(ended, kept),
    )
    extras = {
        "command": command.line(run.settings),
        **wrongs(bench, judges),
        "epochs": {f.arm.id: f.validation[0].epochs for f in ended.finalists},
        "training_seconds": {f.arm.id: f.validation[0].seconds for f in ended.finalists if in_full(f)}
        | {b.arm.id: b.validation[0].seconds for b in ended.baselines},
    }
    return write(run.folder, found, extras)


def wrongs(bench: Bench, judges: Sequence[Outcome]) -> dict[str, Any]:
    """Where the model is wrong on the examples that its score rests on, and some of these themselves."""
    found = judged(judges, bench.examples)
    confused = confusion(found)
    shown = gallery(found, bench.examples, bench.settings.gallery, held_out=bench.split.kind == "held_out")
    return {
        "confusion": None if confused is None else confused.tolist(),
        "tallies": tallies(found),
        "points": points(found),
        "gallery": shown,
    }


def told_of(ended: Ended) -> tuple[int, ...]:
    """The cuts whose growth is told: the best probe's, the last, where the choice stops freezing, and two others."""
    depths = [evidence.cut.depth for evidence in ended.evidence]
    best, own = best_probe(ended.evidence), ended.decision.plan.freeze
    return (best, depths[-1], *((own,) if own in depths else ()), depths[len(depths) // 2], depths[len(depths) // 4])


def of_rivals(ended: Ended) -> tuple[str, ...]:
    """What was replaced or assumed of the other networks that raced."""
    others = (each for each in ended.bench.every if each is not ended.bench)
    return tuple(f"{each.tag}: {note}" for each in others for note in (*each.backbone.notes, *each.anatomy.notes))


def left_out(ended: Ended) -> tuple[str, ...]:
    """What a comparison is told to do without; nothing of a search."""
    compares = ended.bench.settings.strategies == "known"
    return entrants.unavailable(ended.bench, ended.race.arms) if compares else ()


def unadapted(ended: Ended) -> tuple[str, ...]:
    """What got no adapter in the race, and why."""
    plans = [arm.plan for arm in ended.race.arms if arm.plan.adapter is not None]
    return tuple(note for plan in plans for note in notes.unadapted(ended.bench, plan))


def diverged(ended: Ended) -> tuple[str, ...]:
    """Which strategies of a comparison have no row, since a training of theirs diverged."""
    if ended.bench.settings.strategies != "known":
        return ()
    names = [name for turn in races.rounds(ended.race) for name in turn.diverged]
    return tuple(f"{name} has no row: a training of it diverged" for name in names)


def elsewhere(ended: Ended, told: Sequence[Outcome]) -> Estimate | None:
    """The choice's score on the shifted examples: of its trainings in full, or of the one on all data."""
    refit = [o for o in told if o.unit.fold == ALL and o.unit.arm == ended.chosen.arm.id]
    bench = ended.bench
    judged = refit or ended.chosen.validation
    return standing.beyond(judged, bench.split.shifted, bench.examples.targets, terms.aim(bench))


def in_full(finalist: Finalist) -> bool:
    """Whether it was trained on the full schedule: the last rung of a quick race is shorter."""
    return exact(finalist.arm) or finalist.validation[0].unit.epochs >= finalist.arm.plan.recipe.epochs


def conclude_training(run: Run, bench: Bench, arm: Arm, outcome: Outcome, handed: Unit) -> dict[str, Any]:
    """Write the summary of one training: its score is on rows that it did not see.

    `handed` is the training whose model is handed back; where that saw every row, the score is of the one before.
    """
    aim, targets = terms.aim(bench), bench.examples.targets
    unseen = bool(len(bench.split.certification))
    judge = finals.certify(bench, [(arm, outcome.unit)])[0] if unseen else outcome
    at = standing.estimate([outcome], targets, aim)
    cost, told = terms.cost_of(bench, arm.plan), studies.outcomes(run.study)
    models = [o for o in told if o.unit == handed] or [outcome]
    strange = standing.beyond(models, bench.split.shifted, targets, aim)
    peak = max(o.peak_bytes * o.together for o in told)
    known = findings(bench)
    found = replace(
        known,
        notes=(*known.notes, *notes.unadapted(bench, arm.plan), *notes.unlike(bench, arm.plan)),
        score=replace(
            standing.held_out_score(judge, targets, aim, seed=bench.settings.seed), refit=handed != outcome.unit
        ),
        metrics=standing.in_every_metric([judge], targets, aim),
        standings=(
            Standing(arm, "finalist", at, arm.plan.recipe.lr, outcome.seconds, outcome.peak_bytes, cost, strange),
        ),
        cost={"total_seconds": run.spent(), "final_seconds": sum(o.seconds for o in told), "peak_bytes": peak},
        checks={
            "cached_vs_live": None if exact(arm) else finals.cached_versus_live(bench, arm, outcome.unit),
            "frozen_unchanged": finals.frozen_unchanged(bench, arm.plan, handed),
        },
    )
    summary = document(found)
    directory.write_json(run.folder / "summary.json", summary)
    return directory.read_json(run.folder / "summary.json")


def findings(bench: Bench, *, evidence: tuple[Evidence, ...] = ()) -> Findings:
    """What is known before anything is trained."""
    return Findings(
        task=bench.settings.task,
        metric=bench.settings.metric,
        backbone=bench.settings.backbone,
        weights=bench.backbone.weights,
        examples=bench.examples,
        profile=bench.profile,
        split=bench.split,
        evidence=evidence,
        notes=(*bench.backbone.notes, *bench.anatomy.notes, *bench.examples.warnings, *notes.rounded(bench)),
    )


def score_of(ended: Ended, told: Sequence[Outcome]) -> Score:
    """Of the very model that is handed back: on held-out rows, or corrected for having been selected."""
    bench, chosen = ended.bench, ended.chosen
    targets, aim, seed = bench.examples.targets, terms.aim(bench), bench.settings.seed
    if chosen.certification:
        return standing.held_out_score(chosen.certification[0], targets, aim, seed=seed)
    rungs = range(1, len(ended.race.schedule.rungs) + 1)
    arms = {arm.id for arm in ended.race.arms}
    seen = [outcome for outcome in told if outcome.unit.rung in rungs and outcome.unit.arm in arms]
    return standing.corrected_score(seen, chosen.validation, targets, aim, seed=seed)


def costs_of(run: Run, ended: Ended, told: Sequence[Outcome]) -> dict[str, float | None]:
    """Seconds by what they were spent on, and the largest peak of memory.

    The total is wall-clock time; race, finals and baselines are what their trainings took, which may run side by side.
    """
    last, full = len(ended.race.schedule.rungs), whole(ended.race.schedule)
    arms = {arm.id for arm in ended.race.arms}
    raced = [o for o in told if o.unit.rung > 0 and o.unit.arm in arms]
    finals = [o for o in raced if (full and o.unit.rung == last) or o.unit.rung > last]
    refit = [o for o in told if o.unit.fold == ALL]
    names = {b.arm.id for b in ended.baselines if b.apart}
    apart = [o for o in told if o.unit.rung == 0 and o.unit.fold != ALL and o.unit.arm in names]
    full_one = next((b.validation[0].seconds for b in ended.baselines if b.name == "full_finetune"), None)
    spent = {name: sum(each.seconds[name] for each in ended.bench.every) for name in ("fill", "probe")}
    return {
        "total_seconds": run.spent(),
        "fill_seconds": spent["fill"],
        "probe_seconds": spent["probe"],
        "race_seconds": sum(o.seconds for o in raced) - sum(o.seconds for o in finals),
        "final_seconds": sum(o.seconds for o in (*finals, *refit)),
        "baseline_seconds": sum(o.seconds for o in apart),
        "peak_bytes": max(o.peak_bytes * o.together for o in told),
        "exhaustive_seconds": sum(comparisons.exhaustive_seconds(each, ended.race) for each in ended.bench.every),
        "full_finetune_seconds": full_one,
    }


def hand_back(bench: Bench, plan: Plan, unit: Unit, folder: Path) -> None:
    """The folder `model/`: the weights of one training, with what it takes to use them."""
    given = bench.settings
    how = {
        "spec": lasting(given.backbone),
        "model_kwargs": dict(given.model_kwargs),
        "image_size": given.image_size,
        "max_length": given.max_length,
        "seconds": given.seconds,
        "task": given.task,
        "classes": list(bench.examples.classes),
        "trained_on": "all examples" if unit.fold == ALL else f"the training rows of fold {unit.fold}",
    }
    models.write(folder / "model", bench.backbone, plan, kept_weights(bench, unit), how)


def lasting(spec: str) -> str | None:
    """A backbone's specification that holds from any folder; None for a module, which has to be given again."""
    if spec.startswith("(module "):
        return None
    source, _, name = spec.partition("/")
    if source == "hf" and Path(name).expanduser().is_dir():
        return f"hf/{Path(name).expanduser().resolve()}"
    file, colon, factory = spec.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{factory}" if colon and file.endswith(".py") else spec


def write(folder: Path, found: Findings, extras: Mapping[str, Any]) -> dict[str, Any]:
    """summary.json, what the report needs beside it, and the report; the summary last, since it says "finished"."""
    summary = document(found)
    directory.write_json(folder / "report.json", _plain(found, extras))
    page.write(folder / "report.html", report_of(summary, directory.read_json(folder / "report.json")))
    directory.write_json(folder / "summary.json", summary)
    return directory.read_json(folder / "summary.json")  # lists, not tuples: what every later reader finds


def report_of(summary: Mapping[str, Any], extras: Mapping[str, Any]) -> Report:
    """The report's noun, from the two files that `write` leaves."""
    confusion = extras["confusion"]
    return Report(
        summary=summary,
        plan=from_json(summary["decision"]["plan"]),
        curve=TypeAdapter(tuple[Evidence, ...]).validate_python(extras["curve"]),
        profile=TypeAdapter(Profile).validate_python(extras["profile"]),
        split_how=summary["data"]["split"],
        warnings=tuple(summary["notes"]),
        skipped=tuple((row["id"], row["reason"]) for row in summary["data"]["skipped"]),
        command=extras["command"],
        versions=extras["versions"],
        confusion=None if confusion is None else np.asarray(confusion, np.int64),
        tallies=TypeAdapter(tuple[Tally, ...]).validate_python(extras.get("tallies") or ()),
        points=TypeAdapter(dict[str, Points]).validate_python(extras.get("points") or {}),
        gallery=TypeAdapter[Gallery | None](Gallery | None).validate_python(extras.get("gallery")),
        classes=tuple(summary["data"]["classes"]),
        epochs=TypeAdapter(dict[str, tuple[Epoch, ...]]).validate_python(extras["epochs"]),
        training_seconds=extras["training_seconds"],
    )


def versions() -> dict[str, str]:
    """What the run was made with."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _plain(found: Findings, extras: Mapping[str, Any]) -> dict[str, Any]:
    curve = TypeAdapter(tuple[Evidence, ...]).dump_python(found.evidence, mode="json")
    profile = TypeAdapter(Profile).dump_python(found.profile, mode="json")
    epochs = TypeAdapter(dict[str, tuple[Epoch, ...]]).dump_python(extras["epochs"], mode="json")
    plain = {name: TypeAdapter(Any).dump_python(value, mode="json") for name, value in extras.items()}
    return {**plain, "curve": curve, "profile": profile, "epochs": epochs, "versions": versions()}
