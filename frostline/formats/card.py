"""What a trained model is, for a reader: where it comes from, what it scores and how that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from frostline.data.intake import kind_of
from frostline.formats.model import Model
from frostline.values import Kind

# as the Hugging Face hub calls them
TAGS: Mapping[Kind, str] = {
    "pictures": "image-classification",
    "texts": "text-classification",
    "recordings": "audio-classification",
}


def card(model: Model, summary: Mapping[str, Any], use: str) -> str:
    """A model card with the evidence of its run; `use` is how the exported form is loaded, as Python."""
    score, plan, decision = summary["score"], model.plan, summary["decision"]
    frozen = f"the first {plan.freeze} stayed as they were" if plan.freeze else "all learned"
    kept = "" if plan.keep == len(plan.layers) else f", of which the first {plan.keep} were kept"
    kinds = {"classification": "classes", "multilabel": "labels"}.get(model.task.name, "numbers")
    lines = [
        "---",
        f"tags: [frostline, {_tag(model)}, transfer-learning]",
        f"base_model: {json.dumps(summary['backbone'])}",
        "---",
        "",
        f"# {summary['backbone']}, tuned to {len(model.classes)} {kinds if len(model.classes) > 1 else kinds[:-1]}",
        "",
        f"Weights of the source: {summary['weights']}. Of its {len(plan.layers)} layers{kept}, {frozen}.",
        "",
        f"- {score['metric']}: {score['value']:.4g} ({100 * _confidence(summary):.0f}% interval {score['low']:.4g} to "
        f"{score['high']:.4g}) on {score['n']:,} examples, {score['kind'].replace('_', ' ')}"
        + (", of the procedure: this model was then trained once more on everything" if score["refit"] else ""),
        f"- {kinds}: {', '.join(model.classes)}",
        f"- examples: {summary['data']['train']:,} to learn from, {summary['data']['validation']:,} to choose by, "
        f"{summary['data']['certification']:,} that no decision saw",
    ]
    if decision is not None:
        lines += ["", decision["reason"], "", "| strategy | score | interval |", "|---|---|---|"]
        for name, row in summary["baselines"].items():
            at = row["certified"] or row["score"]
            lines.append(f"| {name} | {at['mean']:.4g} | {at['low']:.4g} to {at['high']:.4g} |")
    lines += ["", "## Use", "", "```python", use, "```", ""]
    return "\n".join(lines)


def _tag(model: Model) -> str:
    """The hub has none for numbers."""
    return "regression" if model.task.name == "regression" else TAGS[kind_of(model.backbone)]


def _confidence(summary: Mapping[str, Any]) -> float:
    return summary["decision"]["confidence"] if summary["decision"] else 0.95
