"""Everything that a finished search knows, before it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frostline.bench.bench import Bench
from frostline.run import entrants
from frostline.run.comparisons import Baseline
from frostline.search.decide import Finalist
from frostline.search.race import Race
from frostline.values import Decision, Evidence


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """Everything that a finished search knows."""

    bench: Bench
    curves: entrants.Curves  # of every backbone that raced
    race: Race
    finalists: tuple[Finalist, ...]
    chosen: Finalist
    decision: Decision
    baselines: tuple[Baseline, ...]
    checks: Mapping[str, Any]

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The probes of the backbone that was chosen."""
        return tuple(self.curves[self.bench.tag])
