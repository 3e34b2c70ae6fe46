"""The tables that the terminal shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from frostline.report import compared, facts, words
from frostline.report.facts import Report
from frostline.values import Evidence, Layer, Plan

BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths of a cell
FROST, EMBER, MUTED = "bold blue", "bold yellow", "dim"
CELLS = 16  # of the longest bar
DISTANCE = "Distance: how surely your examples are told from the source's by these features; 0 not at all, 2 always."
SHIFT = "Shift: nats a channel from what the batch norms remember of the network's own data."
LONG = 22  # letters of a strategy's name
ROOMY = 100  # columns of a terminal that need not be saved


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is drawn for as many columns as the terminal has."""

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by the terminal library, with the room there is."""
        yield self.draw(options.max_width)


def depth_table(curve: Sequence[Evidence], plan: Plan | None, examples: int, metric: str) -> RenderableType:
    """A bar for the linear probe at every cut; the frost line stands where the chosen plan, if any, stops freezing.

    `examples` are those that the curve rests on; its score is accuracy, balanced where classes count alike in the
    run's `metric`.
    """
    probed = words.probed(metric, curve)
    return Fitted(lambda width: _depth_table(curve, plan, examples, probed, width))


def _depth_table(curve: Sequence[Evidence], plan: Plan | None, examples: int, metric: str, width: int) -> Table:
    line = 0 if plan is None else plan.freeze
    untrained = any(e.random is not None for e in curve)
    shifted = any(e.shift is not None for e in curve) and width >= ROOMY
    distant = any(e.distance is not None for e in curve) and width >= ROOMY
    beyond = any(e.shifted is not None for e in curve)
    scored = words.called(metric)
    table = _table(
        ("depth", "right"), ("after layer", "left"), ("", "left"), (scored, "right"), ("interval", "right"),
        *([("untrained", "right")] if untrained else []), *([("shift", "right")] if shifted else []),
        *([("distance", "right")] if distant else []), *([("shifted_examples", "right")] if beyond else []),
        width=width,
    )  # fmt: skip
    limit = 40 if width >= ROOMY else max(8, width - 61)  # 61 is what the other columns take
    top = max(e.score.mean for e in curve)
    floor = min([0.0, *(e.score.mean for e in curve)])
    for e in curve:
        frozen = 0 < e.cut.depth <= line
        cells: list[RenderableType] = [
            str(e.cut.depth),
            Text(words.middle(e.cut.name, limit)),
            Text(bar((e.score.mean - floor) / (top - floor or 1.0), CELLS), style=FROST if frozen else "yellow"),
            Text(words.score(e.score.mean, metric), style="bold" if e.score.mean == top else ""),
            Text(words.interval(e.score.low, e.score.high, metric), style=MUTED),
        ]
        if untrained:
            cells.append(Text(words.score(e.random, metric), style=MUTED))
        if shifted:
            cells.append(Text("–" if e.shift is None else f"{e.shift:.2f}", style=MUTED))
        if distant:
            cells.append(Text("–" if e.distance is None else f"{e.distance:.2f}", style=MUTED))
        if beyond:
            cells.append("–" if e.shifted is None else words.score(e.shifted.mean, metric))
        table.add_row(*cells)
        if 0 < e.cut.depth == line and e is not curve[-1]:
            table.add_row("", Text("┄" * 8, style=FROST), Text("┄┄ frost line ┄┄", style=FROST))
    rests = f"Leave-one-out {words.called(metric)} of a linear probe on {examples:,} training examples."
    note = "Blue: frozen in the chosen plan; yellow: not." if line else "The plan freezes nothing." if plan else ""
    return _noted(table, " ".join(filter(None, (rests, note, SHIFT if shifted else "", DISTANCE if distant else ""))))


def arms_table(report: Report) -> RenderableType:
    """Each arm with what became of it: finalists first, then by validation score."""
    return Fitted(lambda width: _arms_table(report, width))


def _arms_table(report: Report, width: int) -> Table:
    metric, chosen = report.summary["score"]["metric"], report.summary["decision"]["arm"]
    held, shifted = facts.held_out(report), any(arm.get("shifted") for arm in report.summary["arms"])
    long = max(len(arm["id"]) for arm in report.summary["arms"]) > LONG
    close = bool(held or shifted or long) and width < ROOMY  # then memory stands on the page alone
    table = _table(
        ("strategy", "left"), ("stage", "left"), ("score" if close else heading(metric), "right"),
        ("interval", "right"),
        *([("held out", "right")] if held else []), *([("shifted", "right")] if shifted else []), ("spent", "right"),
        *([] if close else [("memory", "right")]),
        width=width,
    )  # fmt: skip
    for arm in facts.ranked(report):
        score, side = arm["score"], words.side(arm, chosen)
        cells: list[RenderableType] = [
            Text(arm["id"]),
            words.stage(arm["stage"]),
            words.score(score["mean"], metric),
            words.interval(score["low"], score["high"], metric),
        ]
        if held:
            at = held.get(arm["id"])
            cells.append("–" if at is None else f"{words.score(at[0], metric)} {words.interval(*at[1:], metric)}")
        if shifted:
            cells.append(words.score(arm["shifted"]["mean"], metric) if arm.get("shifted") else "–")
        cells.append(words.seconds(arm["seconds"]))
        if not close:
            cells.append(words.size(arm["peak_bytes"]))
        table.add_row(*cells, style={"chosen": EMBER, "finalist": "", "out": MUTED}[side])
    return _noted(table, facts.early(report))


def baselines_table(report: Report) -> RenderableType:
    """The known strategies beside the choice: score and training time."""
    return Fitted(lambda width: _baselines_table(report, width))


def _baselines_table(report: Report, width: int) -> Table:
    metric, rows = report.summary["score"]["metric"], facts.strategies(report)
    chosen = next(row for row in rows if row.chosen)
    table = _table(
        ("strategy", "left"), (heading(metric), "right"), ("interval", "right"), ("training", "right"),
        ("relative", "right"),
        width=width,
    )  # fmt: skip
    table.columns[0].no_wrap = False  # a known name with its arm's id is long, and breaks well between the two
    for row in rows:
        table.add_row(
            Text(row.label),
            words.score(row.mean, metric),
            words.interval(row.low, row.high, metric),
            words.seconds(row.seconds),
            "–" if row.chosen else words.ratio(row.seconds, chosen.seconds),
            style=EMBER if row.chosen else "",
        )
    return _noted(table, facts.relative(report))


def comparison_table(report: Report) -> RenderableType:
    """What each known strategy took in all, and what it kept of the source."""
    return Fitted(lambda width: _comparison_table(report, width))


def _comparison_table(report: Report, width: int) -> Table:
    close = width < ROOMY  # then only what people ask first stands here; the page has the rest
    columns = (
        "in all",
        "one training",
        "against_scratch",
        "against_full",
        "memory",
        "learning",
        "MACs",
        compared.lost(report)[0].replace(" ", "_"),
    )
    shown = [place for place, name in enumerate(columns) if not close or name not in ("one training", "memory", "MACs")]
    table = _table(("strategy", "left"), *((columns[place], "right") for place in shown), width=width)
    for row in compared.compared(report):
        cells = (
            words.seconds(row.total),
            words.seconds(row.training),
            words.saved(row.against_scratch),
            words.saved(row.against_full),
            words.size(row.peak_bytes),
            words.count(row.trainable),
            words.count(row.macs),
            "–" if row.forgotten is None else f"{row.forgotten:.0%}",
        )
        table.add_row(Text(row.name), *(cells[place] for place in shown), style=EMBER if row.chosen else "")
    return _noted(table, f"{compared.TAKEN} {compared.lost(report)[1]}")


def network_table(rows: Sequence[Mapping[str, Any]], metric: str) -> RenderableType:
    """What the probes say of each of several backbones; `rows` are those of summary.json, `metric` that of the run."""
    return Fitted(lambda width: _network_table(facts.networks(rows), words.probed(metric), width))


def _network_table(rows: Sequence[facts.Network], metric: str, width: int) -> Table:
    table = _table(
        ("network", "left"), (metric, "right"), ("untrained", "right"), ("behind the best, points", "right"),
        ("source", "left"), width=width,
    )  # fmt: skip
    for row in rows:
        gap = " to ".join(f"{100 * end:.1f}" for end in row.behind[1:])
        table.add_row(
            Text(row.tag),
            words.score(row.probe[0], metric),
            Text(words.score(row.untrained, metric), style=MUTED),
            Text(gap if any(row.behind) else "–", style=MUTED),
            row.judged,
            style=EMBER if row.chosen else "",
        )
    note = "The best linear probe of each network on the training examples, each left out once; the gap is in accuracy."
    return _noted(table, note)


def plan_table(plan: Plan, title: str = "") -> RenderableType:
    """A plan, layer by layer, and how much of the network learns in it; `title` stands above it."""
    table = _table(
        ("depth", "right"), ("layer", "left"), ("parameters", "right"), ("kept", "left"), ("frozen", "left"),
        ("learning rate", "right"),
    )  # fmt: skip
    for row in facts.layer_rows(plan):
        rate = "adapter" if row.adapted else "–" if row.rate is None else f"{row.rate:.2g}"
        table.add_row(
            str(row.index + 1),
            Text(row.name),
            f"{row.parameters:,}",
            "yes" if row.kept else "no",
            "yes" if row.frozen else "no",
            rate if row.kept or row.rate is not None else "dropped",
            style="blue" if row.frozen else "",
        )
    return Group(*([titled(title)] if title else []), table, Text(facts.trainable(plan)))


def layer_table(backbone: str, layers: Sequence[Layer], weights: str | None) -> RenderableType:
    """The layers of a network and where it may be sawn, as `frostline layers` prints them.

    Why a layer is no cut is said once for all that share the reason, below the table.
    """
    reasons = list(dict.fromkeys(layer.why for layer in layers if not layer.cut))
    total, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    cuts = sum(layer.cut for layer in layers)
    counts = f"{len(layers)} layers below the head, {cuts} cuts; {total:,} parameters, {macs:,} MACs an example"
    line = f"{backbone}: {counts}; weights: {weights or 'its own'}"
    why = [Text(f"({number}) {reason}") for number, reason in enumerate(reasons, 1)]
    return Group(Fitted(lambda width: _layer_table(layers, reasons, width)), *why, Text(line))


def _layer_table(layers: Sequence[Layer], reasons: Sequence[str], width: int) -> Table:
    columns = (
        ("depth", "right"), ("layer", "left"), ("parameters", "right"), ("MACs", "right"), ("shape", "left"),
        ("stored", "right"), ("cut", "left"),
    )  # fmt: skip
    rows = [
        (
            str(layer.index + 1), layer.name, f"{layer.parameters:,}", f"{layer.macs:,}",
            "x".join(map(str, layer.shape)), words.size(layer.bytes),
            "yes" if layer.cut else f"({reasons.index(layer.why) + 1})",
        )
        for layer in layers
    ]  # fmt: skip
    others = [i for i, (name, _) in enumerate(columns) if name != "layer"]
    taken = sum(max(len(columns[i][0]), *(len(row[i]) for row in rows)) for i in others)
    limit = max(8, width - taken - (2 if width < ROOMY else 3) * len(others))
    table = _table(*columns, width=width)
    for layer, row in zip(layers, rows, strict=True):
        cells = (Text(words.middle(cell, limit) if cell == layer.name else cell) for cell in row)
        table.add_row(*cells, style="" if layer.cut else MUTED)
    return table


def layer_row(layer: Layer) -> dict[str, Any]:
    """One layer as `frostline layers --json` prints it."""
    names = ("index", "name", "parameters", "macs", "shape", "bytes", "cut", "why", "error")
    return {name: getattr(layer, name) for name in names} | {"shape": list(layer.shape)}


def bar(share: float, cells: int) -> str:
    """A bar of blocks, to an eighth of a cell; `share` is cut to 0..1.

    >>> bar(0.5, 4)
    '██  '
    >>> bar(0.28125, 4)
    '█▏  '
    """
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (BLOCKS[rest] if rest else "")).ljust(cells)


def heading(metric: str) -> str:
    """A metric's name at the head of a column; it may be broken at a stroke below."""
    return words.called(metric).replace(" ", "_")


def _noted(table: Table, note: str) -> Table:
    """The table with a line below it that explains a word of it."""
    table.caption = Text(note, style=MUTED) if note else None
    table.caption_justify = "left"
    return table


def _table(*columns: tuple[str, str], width: int = 0) -> Table:
    """Columns by name and side; with a `width`, nothing in them is wrapped, and on a narrow terminal they stand close.

    Without one, long names are folded and so stay whole.
    """
    from rich import box

    gap = (0, 1, 0, 0) if 0 < width < ROOMY else (0, 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=gap)
    for name, side in columns:
        # only in a heading may a name be broken, where a long metric would widen a column of numbers
        shown = name.replace("_", "\n" if width else " ")
        justify, overflow = ("right" if side == "right" else "left"), ("ellipsis" if width else "fold")
        table.add_column(shown, justify=justify, overflow=overflow, no_wrap=width > 0)
    return table


def titled(text: str) -> RenderableType:
    """A line above a table."""
    return Padding(Text(text, style="bold"), (1, 0, 0, 0))
