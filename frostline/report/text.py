"""The report on a terminal. rich is loaded here and in the command line alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from frostline.report import facts, growth, tables, words
from frostline.report.facts import Report
from frostline.values import Arm, Evidence, Plan, Profile


def render(report: Report, page: Path | None = None) -> RenderableType:
    """The answer, the depth curve, the arms, the baselines, what it cost, and where the page lies."""
    said = (
        words.procedure(report.summary["score"]),
        report.summary["decision"]["reason"],
        words.sets(report.summary),
    )
    parts: list[RenderableType] = [
        Text(words.answer(report.summary, report.plan), style="bold"),
        Text(" ".join(filter(None, said))),
    ]
    held = [
        f"{words.sentence(v['evidence'])} {words.sentence(v['advice'])}".rstrip()
        for v in report.summary["verdicts"]
        if v["holds"]
    ]
    parts += [Text(f"! {warning}", style="yellow") for warning in (*held, *report.warnings)]
    metric = report.summary["score"]["metric"]
    if rows := report.summary.get("backbones"):
        parts += [tables.titled("The networks that were tried"), tables.network_table(rows, metric)]
    if report.curve:
        table = tables.depth_table(report.curve, report.plan, report.summary["data"]["train"], metric)
        parts += [tables.titled("What each depth knows"), table]
    parts += [tables.titled(f"Strategies in the race (validation {words.called(metric)})"), tables.arms_table(report)]
    if elsewhere := facts.elsewhere(report):
        parts.append(Padding(Text(" ".join(elsewhere)), (1, 0, 0, 0)))
    if grown := growth.growing(report):
        parts.append(Padding(Text(" ".join(grown)), (1, 0, 0, 0)))
    parts += [tables.titled("Beside what people usually do"), tables.baselines_table(report)]
    if report.summary.get("comparison"):
        parts += [tables.titled("What each took, the search for its rate counted"), tables.comparison_table(report)]
    if beaten := facts.beaten(report):
        parts.append(Padding(Text(beaten), (1, 0, 0, 0)))
    if others := facts.others(report):
        parts.append(Padding(Text(others, style=tables.MUTED), (1, 0, 0, 0)))
    parts += [Padding(Text("\n".join(facts.savings(report))), (1, 0, 0, 0))]
    parts += [Padding(Text(" ".join(facts.checked(report)), style=tables.MUTED), (1, 0, 0, 0))]
    if page is not None:
        parts.append(Padding(Text.assemble("Report: ", (str(page), tables.FROST), overflow="fold"), (1, 0, 0, 0)))
    return Group(*parts)


def probed(
    profile: Profile,
    curve: Sequence[Evidence],
    examples: int,
    arms: Sequence[Arm],
    *,
    metric: str,
    seconds: float,
    stored: int,
) -> RenderableType:
    """What is known before any training, and what a search would take: `seconds`, and `stored` bytes of activations.

    `examples` are those that the curve rests on, `metric` is what would be asked for.
    """
    names = ", ".join(arm.id for arm in arms)
    forecast = f"Forecast: about {words.seconds(seconds)} for the race and its baselines"
    lines = [
        f"A search would race {len(arms)} strategies: {names}.",
        f"{forecast}; {words.size(stored)} of activations stored.",
    ]
    return Group(
        tables.titled("The data"),
        Text(words.profile(profile)),
        tables.titled("What each depth knows"),
        tables.depth_table(curve, None, examples, metric),
        Padding(Text("\n".join(lines)), (1, 0, 0, 0)),
    )


def trained(summary: Mapping[str, Any], plan: Plan, model: Path) -> RenderableType:
    """How one training came out, and its plan."""
    found = summary["score"]
    ends = words.interval(found["low"], found["high"], found["metric"])
    text = f"{words.score(found['value'], found['metric'])} {words.called(found['metric'])} ({ends})"
    line = f"{text} on {found['n']:,} examples that it did not see."
    if found.get("refit"):
        line = f"{text} on {found['n']:,} examples. {words.procedure(found)}"
    there = summary["arms"][0].get("shifted")
    if there:
        at = words.ranged(there["mean"], there["low"], there["high"], found["metric"])
        line = f"{line} On the shifted ones: {at}."
    return Group(tables.plan_table(plan), Text(f"{line} The model lies at {model}", style="bold", overflow="fold"))
