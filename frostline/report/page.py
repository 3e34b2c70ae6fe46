"""The report as one HTML file that asks nothing of the network: style and pictures are inside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.report import compared, facts, figures, gallery, glossary, growth, words, wrong
from frostline.report.facts import Report
from frostline.report.snippet import snippets
from frostline.search.decide import further

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("page.html.j2")


def write(path: Path, report: Report) -> Path:
    """Write the page whole or not at all: a reader never meets half of one."""
    text = render(report)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp lets nobody else read it, and a report is for showing
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def render(report: Report) -> str:
    """The page's text. The same report gives the same bytes."""
    return _template().render(**_content(report))


@cache
def _template() -> Template:
    # not at the top: a run that writes no page need not load the template engine
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _content(report: Report) -> Mapping[str, Any]:
    """Every name that the template reads."""
    summary, plan = report.summary, report.plan
    metric = summary["score"]["metric"]
    probed = words.probed(metric, report.curve)
    rows = facts.strategies(report)
    return {
        "report": report,
        "summary": summary,
        "plan": plan,
        "metric": metric,
        "metric_words": words.called(metric),
        "metric_heading": words.heading(metric),
        "amount": words.amount,
        "probing": words.probing(summary["task"]),
        "backbone": words.place(summary["backbone"]),
        "advice": words.advice(plan),
        "answer": words.answer(summary, plan),
        "procedure": words.procedure(summary["score"]),
        "sets": words.sets(summary),
        "early": facts.early(report),
        "others": facts.others(report),
        "beaten": facts.beaten(report),
        "glossary": glossary.explained(arm["id"] for arm in summary["arms"]),
        "needed": _needed(summary),
        "sentence": words.sentence,
        "seconds": words.seconds,
        "size": words.size,
        "extent": words.extent,
        "stage": words.stage,
        "ratio": words.ratio,
        "regret": words.gap(summary["decision"]["expected_regret"], metric),
        "score": lambda value: words.score(value, metric),
        "interval": lambda low, high: words.interval(low, high, metric),
        "ranged": lambda at: words.ranged(at[0], at[1], at[2], metric),
        "probed": words.called(probed),
        "accuracy": lambda value: words.score(value, probed),
        "spread": lambda low, high: words.interval(low, high, probed),
        "arms": facts.ranked(report),
        "held_out": facts.held_out(report),
        "elsewhere": facts.elsewhere(report),
        "growing": growth.growing(report),
        "compared": compared.compared(report),
        "taken": f"{compared.TAKEN} {compared.lost(report)[1]}",
        "lost": compared.lost(report)[0],
        "networks": facts.networks(summary.get("backbones", ())),
        "saved": words.saved,
        "count": words.count,
        "number": words.number,
        "rates": {arm["id"]: arm["learning_rate"] for arm in summary["arms"] if arm.get("learning_rate") is not None},
        "rows": rows,
        "chosen": next(row for row in rows if row.chosen),
        "full_seconds": facts.seconds_of(report, "full_finetune"),
        "savings": facts.savings(report),
        "checked": facts.checked(report),
        "relative": facts.relative(report),
        "layers": facts.layer_rows(plan),
        "trainable": facts.trainable(plan),
        "learned": facts.learned(plan),
        "gallery": report.gallery,
        "introduced": gallery.introduced,
        "described": gallery.described,
        "outline": gallery.outline,
        "look": gallery.look,
        "again": facts.again(report),
        "snippets": snippets(plan),
        "figures": _figures(report, rows),
        "costs": _costs(summary["cost"]),
        "side_by_side": sum(took for _, took in _costs(summary["cost"])) > summary["cost"]["total_seconds"],
    }


def _needed(summary: Mapping[str, Any]) -> str:
    """How many more examples the choice lacks to be certified; "" where that is not known or not the matter."""
    needed = summary["decision"].get("needed")
    return words.sentence(further(needed, summary["score"]["n"])) if needed else ""


def _costs(cost: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Where the search's time went; what is over is reading, splitting and writing."""
    names = {
        "fill": "storing activations",
        "probe": "probing every cut",
        "race": "the race",
        "final": "training the finalists",
        "baseline": "baselines outside the race",
    }
    return [(text, cost[f"{key}_seconds"]) for key, text in names.items() if cost.get(f"{key}_seconds")]


def _figures(report: Report, rows: Sequence[facts.Row]) -> Mapping[str, Sequence[str]]:
    """Each picture twice, for a desk and for a phone, as markup that is already safe."""
    from markupsafe import Markup

    summary, metric = report.summary, report.summary["score"]["metric"]
    chosen = summary["decision"]["arm"]
    drawn: dict[str, Sequence[str]] = {}

    timed = [row for row in rows if row.seconds is not None]
    for narrow in (False, True):
        pictures = {
            "arms": figures.arms(summary["arms"], chosen, metric, narrow=narrow),
            "baselines": figures.baselines(timed, metric, narrow=narrow),
        }
        if report.curve:
            pictures["depth"] = figures.depth_curve(report.curve, report.plan, metric, narrow=narrow)
        if any(arm.get("shifted") for arm in summary["arms"]):
            pictures["elsewhere"] = figures.elsewhere(report.curve, summary["arms"], chosen, metric, narrow=narrow)
        if known := compared.compared(report):
            pictures["compared"] = compared.picture(known, metric, narrow=narrow)
        if summary.get("growth"):
            pictures["growth"] = growth.picture(summary["growth"], metric, narrow=narrow)
        if report.confusion is not None:
            pictures["confusion"] = figures.confusion(report.confusion, report.classes, narrow=narrow)
        if report.points:
            pictures["scatter"] = wrong.scatter(report.points, narrow=narrow)
        if any(report.epochs.values()):
            pictures["learning"] = figures.learning(report.epochs, chosen, metric, narrow=narrow)
        for name, svg in pictures.items():
            # the plotting library escapes every text it is given, so this markup is safe as it stands
            drawn[name] = [*drawn.get(name, ()), Markup(svg)]
    return drawn
