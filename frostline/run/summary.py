"""summary.json: the contract for other programs, made of nouns alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from frostline.plan import to_json
from frostline.search.arms import exact
from frostline.values import (
    Decision,
    Estimate,
    Evidence,
    Examples,
    Growth,
    Plan,
    Profile,
    Score,
    Split,
    Standing,
    Verdict,
)

FORMAT = "frostline.summary/1"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run found; what a verb does not find out stays None or empty."""

    task: str
    metric: str
    backbone: str
    weights: str
    examples: Examples
    profile: Profile
    split: Split
    evidence: tuple[Evidence, ...] = ()
    decision: Decision | None = None
    score: Score | None = None
    metrics: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])  # the score's predictions, in each
    standings: tuple[Standing, ...] = ()
    certified: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])  # of finalists, where rows certify
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])  # why each arm ended where it did
    baselines: Mapping[str, tuple[Standing, Estimate | None]] = field(
        default_factory=dict[str, tuple[Standing, Estimate | None]]
    )
    beaten: Mapping[str, float] = field(default_factory=dict[str, float])  # baseline -> P(the model is better)
    growth: tuple[Growth, ...] = ()
    comparison: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])  # by baseline
    rivals: tuple[Mapping[str, Any], ...] = ()  # each backbone of a race of several
    forgetting: str = ""  # what was asked of the source: its "output layer", a "probe", or its "answers" alone
    cost: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    checks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()


def document(found: Findings) -> dict[str, Any]:
    """The document, as its format promises it; every field is there, None where this run did not find it out."""
    fold = found.split.folds[0]
    decision = found.decision
    return {
        "format": FORMAT,
        "task": found.task,
        "metric": found.metric,
        "backbone": found.backbone,
        "weights": found.weights,
        "backbones": [dict(row) for row in found.rivals],
        "data": {
            "train": len(fold.train),
            "validation": len(fold.validation),
            "certification": len(found.split.certification),
            "shifted": len(found.split.shifted),
            "classes": list(found.examples.classes),
            "skipped": [{"id": name, "reason": reason} for name, reason in found.examples.skipped],
            "split": found.split.how,
            "folds": len(found.split.folds),
        },
        "decision": None if decision is None else {**asdict(decision), "plan": to_json(decision.plan)},
        "score": None if found.score is None else asdict(found.score),
        "metrics": {name: asdict(at) for name, at in found.metrics.items()},
        "arms": [
            _arm(standing, found.reasons.get(standing.arm.id), found.certified.get(standing.arm.id))
            for standing in found.standings
        ],
        "baselines": {
            name: {**_arm(standing, None, certified), "beaten": found.beaten.get(name)}
            for name, (standing, certified) in found.baselines.items()
        },
        "growth": [asdict(growth) for growth in found.growth],
        "forgetting": found.forgetting,
        "comparison": {name: dict(row) for name, row in found.comparison.items()},
        "cost": dict(found.cost),
        "checks": dict(found.checks),
        "verdicts": [asdict(verdict) for verdict in found.verdicts],
        "curve": [_point(evidence) for evidence in found.evidence],
        "notes": list(found.notes),
    }


def _arm(standing: Standing, reason: str | None, certified: Estimate | None) -> dict[str, Any]:
    return {
        "id": standing.arm.id,
        "plan": _short(standing.arm.plan),
        "stage": standing.stage,
        "score": asdict(standing.score),
        "certified": None if certified is None else asdict(certified),
        "shifted": None if standing.shifted is None else asdict(standing.shifted),
        "seconds": standing.seconds,
        "peak_bytes": standing.peak_bytes,
        "learning_rate": None if exact(standing.arm) else standing.rate,  # a closed form has none
        "cost": asdict(standing.cost),
        "reason": reason,
    }


def _short(plan: Plan) -> dict[str, Any]:
    """A plan without its layers: those of the chosen network stand in decision.plan."""
    return {name: value for name, value in to_json(plan).items() if name != "layers"}


def _point(evidence: Evidence) -> dict[str, Any]:
    return {
        "depth": evidence.cut.depth,
        "layer": evidence.cut.name,
        **{k: v for k, v in asdict(evidence).items() if k != "cut"},
    }
