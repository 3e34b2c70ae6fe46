"""Verbs on Plan: make one, say where "6", "0.5" or "blocks.3" is, turn it into JSON and back."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import CutError, PlanError
from frostline.values import Above, Adapter, Cut, Head, Layer, Plan, Recipe, Statistics

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = "frostline.plan/1"


def plan(
    layers: Sequence[Layer],
    recipe: Recipe,
    *,
    keep: int | None = None,
    freeze: int | str | float = 0,
    above: Above | None = None,
    train: Sequence[bool] | None = None,
    head: Head | None = None,
    thaw: Sequence[tuple[int, Sequence[bool]]] = (),
    adapter: Adapter | None = None,
    statistics: Statistics = "eval",
    blend: float = 1.0,
) -> Plan:
    """A Plan with what was not said filled in: all layers kept, all of them from `freeze` on learning.

    `freeze` is a count, a fraction or a layer's name (see `depth_of`). Kept layers above it learn, or stand still
    beside an `adapter` that does. Raises PlanError and CutError.
    """
    frozen = depth_of(layers, freeze)
    kept = len(layers) if keep is None else keep
    if above is None and kept < len(layers):
        raise PlanError(f"keep is {kept} of {len(layers)} layers; say whether those above are to 'reinit' or to 'drop'")
    _refuse_shared(layers, frozen)
    return Plan(
        layers=tuple(layers),
        keep=kept,
        freeze=frozen,
        above=above or "tune",
        train=tuple(i >= frozen and adapter is None for i in range(kept)) if train is None else tuple(train),
        recipe=recipe,
        head=head or Head(),
        thaw=tuple((epoch, tuple(flags)) for epoch, flags in thaw),
        adapter=adapter,
        statistics=statistics,
        blend=blend,
    )


def gradual(
    layers: Sequence[Layer], recipe: Recipe, *, until: int | float = 0.5, order: Sequence[int] | None = None
) -> Plan:
    """Gradual unfreezing: the head alone in the first epoch, then layers one after the other, all of them by `until`.

    `until` is a number of epochs, or a share of the schedule. `order` names the layers by their index, the first to
    thaw first; without it they thaw from the top down (ULMFiT: Howard and Ruder, ACL 2018, arXiv:1801.06146). Where
    there are more layers than epochs, several thaw together. Raises PlanError.
    """
    depth, epochs = len(layers), recipe.epochs
    whole = isinstance(until, int)
    if not (1 <= until <= epochs if whole else 0 < until <= 1):
        raise PlanError(
            f"until is {until}; allowed are a number of epochs from 1 to {epochs}, or a share of the schedule above 0 "
            "and at most 1.0"
        )
    first = tuple(reversed(range(depth))) if order is None else tuple(order)
    if sorted(first) != list(range(depth)):
        raise PlanError(f"order is {first}; it names each of the layers 0 to {depth - 1} once, the first to thaw first")
    still = (False,) * depth
    if epochs == 1:  # no epoch is left for the head alone
        return plan(layers, recipe, train=still, thaw=((0, (True,) * depth),))
    last = min(epochs - 1, max(1, int(until if whole else until * epochs)))
    steps = min(depth, last)
    thaw = dict[int, tuple[bool, ...]]()
    for step in range(1, steps + 1):
        learning = first[: depth * step // steps]
        thaw[max(1, round(last * step / steps))] = tuple(index in learning for index in range(depth))
    return plan(layers, recipe, train=still, thaw=tuple(sorted(thaw.items())))


def depth_of(layers: Sequence[Layer], freeze: int | str | float) -> int:
    """The depth meant by a count (first n layers, stem included), a fraction of the layers, or a layer's name.

    A name freezes up to and with that layer. Raises CutError where nothing matches.
    """
    count, names = len(layers), [layer.name for layer in layers]
    if isinstance(freeze, str) and freeze in names:
        return names.index(freeze) + 1
    try:
        number = float(freeze)
    except ValueError:
        close = difflib.get_close_matches(str(freeze), names, n=3, cutoff=0.3) or names[:3]
        raise CutError(
            f"freeze is {freeze!r}, and no layer has that name; near it: {', '.join(close)}. "
            "`frostline layers BACKBONE` lists them all"
        ) from None
    whole = isinstance(freeze, int) or (isinstance(freeze, str) and freeze.strip().lstrip("+-").isdigit())
    if whole and 0 <= number <= count:
        return int(number)
    if not whole and 0 <= number <= 1:
        return round(number * count)
    raise CutError(
        f"freeze is {freeze!r}; allowed are a count from 0 to {count} (the stem is the first layer), "
        f"a fraction from 0.0 to 1.0, or a layer's name such as {names[-1]!r}"
    )


def cut_at(layers: Sequence[Layer], depth: int) -> Cut:
    """The cut below which `depth` layers lie."""
    return Cut(depth, layers[depth - 1].name if depth else "input")


def legal_depths(layers: Sequence[Layer]) -> tuple[int, ...]:
    """Every depth at which Frostline saws: 0, and after each layer that is a cut."""
    return (0, *(layer.index + 1 for layer in layers if layer.cut))


def with_rate(plan: Plan, rate: float) -> Plan:
    """The same plan at another peak learning rate."""
    return replace(plan, recipe=replace(plan.recipe, lr=rate))


def with_epochs(plan: Plan, epochs: int) -> Plan:
    """The same plan on a shorter or longer schedule: epochs at which layers thaw move in proportion."""
    scale, moved = epochs / plan.recipe.epochs, dict[int, tuple[bool, ...]]()
    for epoch, flags in plan.thaw:
        at = round(epoch * scale)
        # what thaws within the schedule still does; where two meet on a short one, the later one holds
        moved[min(at, epochs - 1) if epoch < plan.recipe.epochs else at] = flags
    return replace(plan, recipe=replace(plan.recipe, epochs=epochs), thaw=tuple(sorted(moved.items())))


def to_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain JSON values; `from_json` reads it back to an equal plan."""
    return {"format": FORMAT, **_adapter().dump_python(plan, mode="json")}


def from_json(document: dict[str, Any]) -> Plan:
    """The plan that `to_json` wrote. Raises PlanError naming the field that is wrong."""
    from pydantic import ValidationError

    if document.get("format") != FORMAT:
        raise PlanError(f"the plan's format is {document.get('format')!r}; this version reads {FORMAT!r}")
    try:
        found = _adapter().validate_python({k: v for k, v in document.items() if k != "format"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"the plan's field {where!r} is wrong: {first['msg']} (found {first['input']!r:.80})") from None
    unknown = _unknown(document, to_json(found))
    if unknown:
        raise PlanError(f"the plan's field {unknown!r} is none that a plan has; leave it out or mend its name")
    return found


@cache
def _adapter() -> TypeAdapter[Plan]:
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)


def _unknown(given: Any, known: Any, where: str = "") -> str | None:
    """The first field of a document that was not read."""
    if isinstance(given, dict) and isinstance(known, dict):
        strange = next((name for name in given if name not in known), None)
        if strange is not None:
            return f"{where}{strange}"
        pairs = [(name, value, known[name]) for name, value in given.items()]
    elif isinstance(given, list) and isinstance(known, list):
        pairs = [(place, *values) for place, values in enumerate(zip(given, known, strict=True))]
    else:
        return None
    deeper = (_unknown(value, below, f"{where}{name}.") for name, value, below in pairs)
    return next((name for name in deeper if name), None)


def read(path: Path) -> Plan:
    """The plan in a plan.json, or in the summary.json of a run. Raises PlanError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            f"no plan can be read from {str(path)!r}: {error.strerror}; give a run's model/plan.json"
        ) from None
    except ValueError as error:
        raise PlanError(f"{str(path)!r} is no JSON: {error}; give a run's model/plan.json") from None
    decision = document.get("decision") if isinstance(document, dict) else None
    found = decision.get("plan") if isinstance(decision, dict) else document
    if not isinstance(found, dict):
        raise PlanError(f"{str(path)!r} holds no plan; give a run's model/plan.json or summary.json")
    return from_json(found)


def _refuse_shared(layers: Sequence[Layer], frozen: int) -> None:
    if frozen and not layers[frozen - 1].legal and "share" in layers[frozen - 1].why:
        layer = layers[frozen - 1]
        raise CutError(f"freezing up to {layer.name!r} (depth {frozen}) is not possible: {layer.why}")
