"""From the graph of one forward pass to a chain of segments: which calls cut the network, and why others do not.

In the order in which values were made, an edge from an earlier to a later value jumps over everything made between.
Every value lies on a path from the data to the result, so a value that no edge jumps over is on all of them: it
dominates the result. (The same set that an immediate-dominator tree gives, in one sweep.)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate

from torch import nn

from frostline.backbones.anatomy import Call
from frostline.backbones.graph import Trace

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class View:
    """A trace, read backwards from the result."""

    trace: Trace
    module: nn.Module = field(repr=False)
    live: frozenset[int]  # values that the result depends on
    edges: tuple[tuple[int, int], ...]  # between live activations; -1 is the data, len(nodes) the result
    dominators: frozenset[int]
    spans: dict[str, tuple[int, int]]  # parameter -> first and last tick at which something live reads it
    ticks: tuple[int, ...]  # of operations with multiply-accumulates, rising
    totals: tuple[int, ...]  # multiply-accumulates up to each of them
    children: dict[int, list[Call]]
    main: tuple[int, ...]  # the live activations, in the order in which they were made
    made: tuple[int, ...]  # the ticks of those
    last_read: dict[int, float]  # live activation -> tick of the last live operation that reads it

    def macs(self, start: int, end: int) -> int:
        """Multiply-accumulates of the batch in start < tick <= end."""
        low, high = bisect_right(self.ticks, start), bisect_right(self.ticks, end)
        return (self.totals[high - 1] if high else 0) - (self.totals[low - 1] if low else 0)

    def crossing(self, call: Call) -> tuple[int, ...]:
        """Places in the call's result of the activations that something after it reads."""
        return tuple(
            place
            for place, node in enumerate(call.leaves)
            if node is not None and self.last_read.get(node, -1) > call.end
        )

    def values(self, call: Call) -> frozenset[int]:
        """The activations that a call hands on to what runs after it."""
        return frozenset(node for place in self.crossing(call) if (node := call.leaves[place]) is not None)

    def is_element(self, call: Call) -> bool:
        """Whether its module stands in a container: the n-th of something."""
        return bool(call.name) and isinstance(self.module.get_submodule(call.name.rpartition(".")[0]), CONTAINERS)

    def branches(self, call: Call) -> bool:
        """Whether it has parts, and something inside runs beside its own main path."""
        low, high = bisect_right(self.made, call.start), bisect_right(self.made, call.end)
        inside = self.main[low:high]
        if call.index not in self.children or not inside:
            return False
        place = {node: n for n, node in enumerate(inside)}
        for n, node in enumerate(inside[1:], start=1):
            reads = [read for read in self.trace.nodes[node].reads if self.trace.nodes[read].activation]
            if any(place.get(read, -1) < n - 1 for read in reads):
                return True
        return False

    def parents(self, call: Call) -> list[Call]:
        """The calls it runs in, innermost first, without the whole network's own."""
        found: list[Call] = []
        while call.parent > 0:
            call = self.trace.calls[call.parent]
            found.append(call)
        return found


@dataclass(frozen=True)
class Segment:
    """A stretch of the forward pass that ends with a call: start < tick <= end."""

    start: int
    end: int
    call: Call | None  # whose result ends it; None after the last
    block: Call | None  # which carries its multiply-accumulates and its name
    macs: int
    why: str  # the reason where it is no cut


def view(trace: Trace, module: nn.Module) -> View:
    """Everything about a trace that can be known at once."""
    nodes = trace.nodes
    live = reach(trace, trace.results, frozenset())
    edges = [(read, node) for node in live for read in nodes[node].reads if _both(trace, read, node)]
    edges += [(-1, node) for node in live if nodes[node].source]
    edges += [(node, len(nodes)) for node in trace.results if nodes[node].activation]
    spans: dict[str, tuple[int, int]] = {}
    busy = {nodes[node].time for node in live}
    for tick, names in trace.learned.items():
        if tick in busy:
            for name in names:
                first, last = spans.get(name, (tick, tick))
                spans[name] = (min(first, tick), max(last, tick))
    children: dict[int, list[Call]] = {}
    for call in trace.calls:
        children.setdefault(call.parent, []).append(call)
    ticks = tuple(sorted(trace.macs))
    totals = tuple(accumulate(trace.macs[tick] for tick in ticks))
    alive = sorted(node for node in live if nodes[node].activation)
    last_read: dict[int, float] = {}
    for low, high in edges:
        when = nodes[high].time if high < len(nodes) else math.inf
        last_read[low] = max(last_read.get(low, -1), when)
    return View(
        trace=trace,
        module=module,
        live=live,
        edges=tuple(edges),
        dominators=_dominators(alive, edges, len(nodes)),
        spans=spans,
        ticks=ticks,
        totals=totals,
        children=children,
        main=tuple(alive),
        made=tuple(nodes[node].time for node in alive),
        last_read=last_read,
    )


def reach(trace: Trace, start: Iterable[int], stop: frozenset[int]) -> frozenset[int]:
    """Every value that these depend on, not looking through `stop`."""
    found: set[int] = set()
    waiting = [node for node in start if node not in stop]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [read for read in trace.nodes[node].reads if read not in stop]
    return frozenset(found)


def _both(trace: Trace, read: int, node: int) -> bool:
    return trace.nodes[read].activation and trace.nodes[node].activation


def _dominators(alive: list[int], edges: list[tuple[int, int]], size: int) -> frozenset[int]:
    jumps = [0] * (size + 2)
    for low, high in edges:
        if high > low + 1:
            jumps[low + 1] += 1
            jumps[high] -= 1
    over = list(accumulate(jumps))
    return frozenset(node for node in alive if over[node] == 0)


def verdict(seen: View, call: Call) -> str:
    """Why the network cannot be sawn after this call; empty where it can."""
    nodes = seen.trace.nodes
    values = seen.values(call)
    if not values:
        return "it hands on nothing that the result depends on"
    if call.gives == "opaque":
        return "it hands on an object whose tensors cannot be seen"
    plain = [node for node in call.leaves if node is not None and not nodes[node].activation and node in seen.live]
    if plain:
        return "it hands on plain functions of the inputs beside its activations"
    if not values <= seen.dominators or len(values) > 1:
        beside = reach(seen.trace, seen.trace.results, values)
        if not (values & seen.dominators) and any(nodes[node].source for node in beside):
            return bypass(seen, values, beside)
    for name, (first, last) in seen.spans.items():
        if first <= call.end < last:
            return f"shares {name!r} with the layers above"
    return ""


def bypass(seen: View, values: frozenset[int], beside: frozenset[int]) -> str:
    """In words: what passes beside a call's result."""
    nodes, last = seen.trace.nodes, max(values)
    for low, high in sorted(seen.edges, reverse=True):
        if low < last < high and low not in values and (low in beside or low < 0):
            if low < 0:
                return f"{_place(seen, nodes[high].time)} reads the raw input again above it"
            above = "the result" if high == len(nodes) else _place(seen, nodes[high].time)
            return f"what {_place(seen, nodes[low].time)} computed is read again by {above} above it"
    return "the result depends on more than what it hands on"


def _place(seen: View, tick: int) -> str:
    inside = [call for call in seen.trace.calls if call.start < tick < call.end]
    name = max(inside, key=lambda call: call.start).name if inside else ""
    return repr(name) if name else "the network itself"


def segments(seen: View) -> list[Segment]:
    """The forward pass as a chain: blocks where it has some, single calls elsewhere."""
    found: list[Segment] = []
    start = 0
    steps = sorted(_steps(seen, seen.trace.calls[0]), key=lambda call: call.end)
    for call in steps:
        why = verdict(seen, call)
        shown = not why or (seen.is_element(call) and seen.branches(call) and seen.macs(call.start, call.end) > 0)
        if not shown or not seen.values(call):
            continue
        ends = _lifted(seen, call) if not why else call
        if ends.end <= start:
            continue
        block, macs = call, seen.macs(start, ends.end)
        if macs and not seen.macs(call.start, call.end):  # the work was done by something that is no cut
            inside = [step for step in steps if start < step.start and step.end <= ends.end]
            block = max(inside, key=lambda step: seen.macs(step.start, step.end))
        found.append(Segment(start, ends.end, ends, block, macs, why))
        start = ends.end
    last = seen.trace.calls[0].end
    return [*found, Segment(start, last, None, None, seen.macs(start, last), "")]


def _steps(seen: View, parent: Call) -> list[Call]:
    found: list[Call] = []
    for call in seen.children.get(parent.index, []):
        if _opens(seen, call):
            found += _steps(seen, call)
        found.append(call)  # an opened call ends a segment too: code of its own may follow its last part
    return found


def _opens(seen: View, call: Call) -> bool:
    """Whether the search for blocks goes on inside: blocks are what stands in containers and branches."""
    if call.index not in seen.children:
        return False
    if type(seen.module.get_submodule(call.name)) is nn.Sequential or not seen.is_element(call):
        return True
    inner = 0
    for other in seen.trace.calls[call.index + 1 :]:
        if other.start > call.end:
            break
        counted = any(_is_block(seen, outer) for outer in seen.parents(other) if outer.start > call.start)
        if not counted and _is_block(seen, other):
            inner += seen.macs(other.start, other.end)
    # a gate inside a block also branches, but carries little of its work; the blocks of a stage carry most of it
    return 2 * inner > seen.macs(call.start, call.end)


def _is_block(seen: View, call: Call) -> bool:
    return seen.is_element(call) and bool(seen.values(call) & seen.dominators) and seen.branches(call)


def _lifted(seen: View, call: Call) -> Call:
    """The outermost call that hands on just the same: all of it is then passed over at once."""
    values = seen.values(call)
    for outer in seen.parents(call):
        if seen.values(outer) != values or verdict(seen, outer):
            break
        call = outer
    return call


def head_start(seen: View, chain: list[Segment], unloaded: frozenset[str]) -> int:
    """Index of the segment at which the head begins: the last weighty one, or the first that no checkpoint brought."""
    weighty = [n for n, segment in enumerate(chain) if segment.macs]
    start = weighty[-1] if weighty else len(chain) - 1
    block = chain[start].block
    if block is not None and seen.is_element(block) and seen.branches(block):
        start = len(chain) - 1  # the network ends with a block and has no head
    for n, segment in enumerate(chain[:start]):
        if any(segment.start < seen.spans[name][0] <= segment.end for name in unloaded & seen.spans.keys()):
            return n
    return start


def merged(seen: View, chain: list[Segment], head: int) -> list[Segment]:
    """Weightless segments go to the layer below, or to the one above where they stand in one part with it.

    What makes nothing in inference is dropout: it goes above, and from the last layer to the head. A cut behind it
    would have it act on what the head reads whenever the layer below learns.
    """
    found: list[Segment] = []
    waiting: int | None = None  # tick at which a weightless segment for the layer above began
    idle: int | None = None  # tick at which dropout behind the layer below began
    for n, segment in enumerate(chain[:head]):
        if segment.macs == 0 and found and waiting is None and _idle(seen, segment):
            idle = segment.start if idle is None else idle
            continue
        if segment.macs == 0 and found:
            if waiting is None and not _belongs_above(seen, chain[:head], n, found[-1]):
                below = found[-1]
                found[-1] = replace(below, end=segment.end, call=segment.call, why=segment.why)
                idle = None
                continue
            waiting = segment.start if waiting is None else waiting
            continue
        starts = [tick for tick in (idle, waiting, segment.start) if tick is not None]
        found.append(replace(segment, start=min(starts)))
        waiting = idle = None
    return found


def _idle(seen: View, segment: Segment) -> bool:
    """Whether a call made nothing in inference, and is not there for show."""
    call = segment.call
    if call is None or type(seen.module.get_submodule(call.name)) is nn.Identity:
        return False
    return all(seen.trace.nodes[node].time <= call.start for node in seen.values(call))


def _belongs_above(seen: View, chain: list[Segment], n: int, below: Segment) -> bool:
    """Whether a part holds this segment and the weighty one above it, and no other: a norm before its convolution."""
    weighty = [segment.block for segment in chain[n:] if segment.macs]
    block = chain[n].block
    if block is None or below.block is None or not weighty or weighty[0] is None:
        return False
    shared = {call.index for call in seen.parents(block)} & {call.index for call in seen.parents(weighty[0])}
    for other in (below.block, *weighty[1:2]):
        shared -= {call.index for call in seen.parents(other)} if other is not None else set()
    return bool(shared)


def name_of(seen: View, segment: Segment) -> str:
    """The outermost part that lies in the segment as a whole; a block keeps its own name."""
    assert segment.block is not None
    named = segment.block
    for outer in seen.parents(named):
        block = seen.is_element(named) and named.index in seen.children
        if block or outer.start <= segment.start or outer.end > segment.end:
            break
        named = outer
    return named.name
