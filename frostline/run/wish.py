"""A plan that is asked for by the name of a strategy or by a depth, and made once the network is known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from frostline.bench import storing
from frostline.bench.bench import Bench
from frostline.bench.curve import probe_cuts
from frostline.bench.recipe import RATE
from frostline.errors import OptionError
from frostline.plan import plan, with_rate
from frostline.run import entrants
from frostline.search import strategies
from frostline.search.arms import baselines
from frostline.values import Head, Layer, Plan, Recipe, Show, silent

NAMES = (*strategies.KNOWN, "scratch", "head_only")  # the last where no probe can start the head
ALIASES = {  # as arms are called
    "gradual": "gradual_unfreezing", "fisher_gradual": "fisher_unfreezing", "first_block": "surgical",
    "batch_statistics": "plain_loop",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """What one training shall be: a known strategy, or everything above a depth; at a rate, or at the usual one."""

    strategy: str | None = None  # "lp_ft", "gradual_unfreezing", ...; `strategies.KNOWN` and "scratch"
    freeze: int | str | float | None = None  # a count, a layer's name or a share
    lr: float | None = None  # peak, of new layers

    def __post_init__(self) -> None:
        if (self.strategy is None) == (self.freeze is None):
            raise OptionError(
                f"strategy is {self.strategy!r} and freeze is {self.freeze!r}; give a plan (--plan), or one of the "
                f"two: a strategy ({', '.join(NAMES)}) or how many layers to freeze"
            )
        if self.strategy is not None and self.strategy not in (*NAMES, *ALIASES):
            close = difflib.get_close_matches(self.strategy, (*NAMES, *ALIASES), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise OptionError(f"strategy is {self.strategy!r}; allowed are {', '.join(NAMES)}{hint}")


def rough(wish: Wish, layers: Sequence[Layer], epochs: int) -> Plan | None:
    """What it comes to as far as the layers alone tell: enough to know what to store. None where they do not."""
    recipe = Recipe(epochs, RATE)
    if wish.freeze is not None:
        return plan(layers, recipe, freeze=wish.freeze)
    if wish.strategy == "head_only":
        return plan(layers, recipe, freeze=len(layers), head=Head("pyramid", start="random"))
    arms = strategies.compared(layers, [storing.unseen(layers)], recipe=recipe, classes=2, examples=0)
    return next((arm.plan for arm in arms if ALIASES.get(str(wish.strategy), wish.strategy) == arm.baseline), None)


def granted(wish: Wish, bench: Bench, *, show: Show = silent) -> Plan:
    """The plan on this bench's layers and recipe. Raises OptionError where the strategy is not to be had here."""
    layers, recipe = bench.anatomy.layers, entrants.base_recipe(bench)
    frozen = None if wish.freeze is None else entrants.headed(bench, plan(layers, recipe, freeze=wish.freeze))
    made = frozen or _of(bench, str(wish.strategy), show)
    if wish.lr is not None and made.closed:
        raise OptionError(f"lr is {wish.lr}, and a head that is fitted in closed form has no use for it; leave it away")
    return made if wish.lr is None else with_rate(made, wish.lr)


def _of(bench: Bench, name: str, show: Show) -> Plan:
    name, recipe = ALIASES.get(name, name), entrants.base_recipe(bench)
    if name == "scratch":
        of = baselines(bench.anatomy.layers, recipe=recipe, batch_norms=entrants.batch_norms(bench))[0].plan
        return entrants.headed(bench, of)
    arms = entrants.known(bench, probe_cuts(bench, show=show))
    found = next((arm.plan for arm in arms if arm.baseline == name), None)
    if found is not None:
        return found
    alike = [note for note in entrants.unavailable(bench, arms) if note.startswith(name.replace("_", " "))]
    raise OptionError(
        f"strategy is {name!r}, and {(alike or ['this network does not allow it'])[0]}; here there are "
        f"{', '.join(str(arm.baseline) for arm in arms)}"
    )
