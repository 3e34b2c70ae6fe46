"""What the logs of a run are told, all of it from the study and from the summary."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from frostline import study as studies
from frostline.bench.bench import Bench
from frostline.bench.task import ALL
from frostline.logs import log as logs
from frostline.logs.entry import ANSWER, Entry, Log, Point, Value
from frostline.run import directory
from frostline.search import scores
from frostline.settings import Settings
from frostline.study import Kept, Study
from frostline.values import Arm, Epoch, Outcome


@contextmanager
def opened(given: Settings, study: Study) -> Generator[tuple[Log, ...]]:
    """The logs that are asked for, with all that the study holds: a run may be logged from later on only.

    Raises OptionError where a library is not installed.
    """
    now = time.time()
    with logs.opened(given.log, study.folder, Entry(ANSWER, now, now, params_of(given))) as found:
        caught_up(found, study)
        yield found


def caught_up(found: Sequence[Log], study: Study) -> None:
    """Write what the study holds, and the answer once there is one, where it is not written yet."""
    if not found:
        return
    entries = [of_unit(kept) for kept in studies.kept(study)]
    if (study.folder / "summary.json").exists():
        entries.append(of_answer(directory.read_json(study.folder / "summary.json"), time.time()))
    for log in found:
        there = log.written()
        for entry in entries:
            if entry.name not in there:
                log.write(entry)


def about(bench: Bench, arm: Arm, outcome: Outcome) -> dict[str, Any]:
    """What the study keeps of a training besides its outcome, to be shown: its depths, and its score where it has one.

    A training on all examples has no row to be judged on.
    """
    kept = {"keep": arm.plan.keep, "freeze": arm.plan.freeze}
    if outcome.diverged or outcome.unit.fold == ALL:
        return kept
    truth = bench.examples.targets[outcome.rows]
    score = scores.score(bench.metric, outcome.log_probabilities, truth, outcome.rows)
    return {**kept, "score": score} if np.isfinite(score) else kept


def of_unit(kept: Kept) -> Entry:
    """A training: its hyper-parameters, its epochs, what it scored and what it took."""
    outcome, said, unit = kept.outcome, kept.attributes, kept.outcome.unit
    params: dict[str, Value] = {
        "arm": unit.arm, "epochs": unit.epochs, "round": unit.rung, "fold": unit.fold, "seed": unit.seed,
        "diverged": outcome.diverged,
    }  # fmt: skip
    params |= {name: said[name] for name in ("freeze", "keep") if name in said}
    params |= {"lr": unit.rate, "batch": outcome.batch} if outcome.epochs else {}  # a closed form has none
    when = _moments(outcome.epochs, kept.when)
    curves = {
        "epoch/loss": tuple(Point(e.number, e.loss, at) for e, at in when),
        "epoch/score": tuple(Point(e.number, e.score, at) for e, at in when if e.score is not None),
    }
    figures = {"log_loss": kept.loss, "seconds": outcome.seconds, "peak_bytes": float(outcome.peak_bytes)}
    figures |= {"score": float(said["score"])} if "score" in said else {}
    return Entry(
        name=Path(said["file"]).stem,
        began=kept.when - outcome.seconds,
        ended=kept.when,
        params=params,
        curves={name: points for name, points in curves.items() if points},
        figures=figures,
    )


def _moments(epochs: Sequence[Epoch], end: float) -> list[tuple[Epoch, float]]:
    """Each epoch with when it ended, if the last one did at the end."""
    found = list[tuple[Epoch, float]]()
    for epoch in reversed(epochs):
        found.append((epoch, end))
        end -= epoch.seconds
    return found[::-1]


def of_answer(summary: Mapping[str, Any], now: float) -> Entry:
    """The answer: which strategy it is, the score of the model that is handed back, and what all of it cost."""
    decision, score = summary["decision"], summary["score"]
    chosen = summary["arms"][0] if decision is None else {"id": decision["arm"], "plan": decision["plan"]}
    params: dict[str, Value] = {"arm": chosen["id"], "score_kind": score["kind"]}
    params |= {name: chosen["plan"][name] for name in ("freeze", "keep")}
    params |= {} if decision is None else {"certified": decision["certified"]}
    figures = {f"answer/{name}": score[end] for name, end in (("score", "value"), ("low", "low"), ("high", "high"))}
    figures |= {f"cost/{name}": float(value) for name, value in summary["cost"].items() if value is not None}
    reason = "" if decision is None else f"{decision['reason']}\n\n"
    text = (
        f"{reason}{score['metric']} {score['value']:.4g} ({score['low']:.4g} to {score['high']:.4g}), "
        f"{score['kind'].replace('_', ' ')}, on {score['n']} examples"
    )
    began = now - (summary["cost"]["total_seconds"] or 0.0)
    return Entry(ANSWER, began=began, ended=now, params=params, figures=figures, text=text)


def params_of(given: Settings) -> dict[str, Value]:
    """The settings that say what a run is, without those that are left open, and as plain values."""
    found = {name: value for name, value in given.document().items() if name not in directory.ALWAYS_NEW}
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in found.items()
        if value is not None and value != () and value != {}
    }
