"""The layers of a network in execution order, and every place where it may be sawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy, Call, Port
from frostline.backbones.chain import Segment, View, head_start, merged, name_of, reach, segments, view
from frostline.backbones.graph import trace
from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pools
from frostline.backbones.proof import prove
from frostline.errors import CutError
from frostline.values import Backbone, Layer

MORE = 4  # positions that an example is made longer by, to see what grows with it


def dissect(backbone: Backbone, *, most: int = 16) -> Anatomy:
    """Layers and legal cuts of a network, found from what depends on what and proven one by one.

    At most `most` cuts (the stem and the last two always) are offered; layers between two of them say so. A cut whose
    suffix does not give the whole network's result from NaN-filled stand-ins is taken back.
    CutError where the network runs no module whose result everything passes through.
    """
    if most < 3:
        raise CutError(f"most is {most}; at least 3 cuts are kept: the stem and the last two layers")
    seen = view(trace(backbone.module, backbone.example), backbone.module)
    chain = segments(seen)
    head = len(chain) - 1 if backbone.queries else head_start(seen, chain, frozenset(backbone.unloaded))
    parts = merged(seen, chain, head)
    if not parts:
        raise CutError(
            f"no layer was found in {backbone.name!r}: its result depends on no module but the last; "
            "give a network of at least one layer and a head"
        )
    ports = tuple(_port(seen, part, backbone.example) for part in parts)
    bounds = [part.end for part in parts]
    owners = _owners(seen, bounds)
    layers = _layers(seen, parts, ports, owners, _batch(backbone.example, backbone.data))
    anatomy = Anatomy(
        name=backbone.name,
        layers=thinned(layers, most),
        data=backbone.data,
        example=dict(backbone.example),
        calls=seen.trace.calls,
        ports=ports,
        needs=tuple(_needs(seen, part) for part in parts),
        head=_head(seen, bounds[-1]),
    )
    anatomy = replace(anatomy, ports=_axes(backbone.module, anatomy))
    anatomy = replace(anatomy, ports=_ragged(backbone.module, anatomy))
    anatomy = _proven(backbone.module, anatomy)
    first = tuple(_channels_first(seen, part) for part in parts)
    return replace(anatomy, pools=pools(backbone.module, anatomy, _last_tokens(seen), first))


def thinned(layers: tuple[Layer, ...], most: int) -> tuple[Layer, ...]:
    """At most `most` of the legal cuts, about equally far apart in cost: the first and the last two always."""
    legal = [layer.index for layer in layers if layer.legal]
    if len(legal) <= most:
        return layers
    done = 0
    spent: dict[int, int] = {}
    for layer in layers:
        done += layer.macs
        spent[layer.index] = done
    kept = {legal[0], *legal[-2:]}
    low, high = spent[legal[0]], spent[legal[-2]]
    for step in range(1, most - 2):
        goal = low + (high - low) * step / (most - 2)
        kept.add(min((n for n in legal if n not in kept), key=lambda n: (abs(spent[n] - goal), n)))
    why = f"left out: {most} cuts of about equal cost are enough"
    return tuple(
        layer if layer.index in kept or not layer.legal else replace(layer, cut=False, why=why) for layer in layers
    )


def _batch(example: Mapping[str, Any], data: str) -> int:
    return int(example[data].shape[0])


def _port(seen: View, part: Segment, example: Mapping[str, Any]) -> Port | None:
    if part.why or part.call is None:
        return None
    places: dict[int, tuple[int, ...]] = {}
    for place in seen.crossing(part.call):
        node = part.call.leaves[place]
        assert node is not None
        places[node] = (*places.get(node, ()), place)  # the same tensor may stand twice in one result
    shapes = tuple(seen.trace.shapes[node] for node in places)
    late = any(seen.trace.overwritten.get(node, -1) > part.call.end for node in places)
    return Port(part.call.index, tuple(places.values()), shapes, (0,) * len(places), late)


def _layers(
    seen: View, parts: list[Segment], ports: tuple[Port | None, ...], owners: dict[str, int], batch: int
) -> tuple[Layer, ...]:
    sizes = {name: tensor.numel() for name, tensor in seen.module.named_parameters() if tensor.requires_grad}
    held = {name for name, tensor in seen.module.named_parameters() if not tensor.requires_grad}
    used: set[str] = set()
    layers: list[Layer] = []
    for index, part in enumerate(parts):
        assert part.call is not None
        name = name_of(seen, part)
        used.add(name := _told_apart(name, used))
        members = tuple(sorted(member for member, owner in owners.items() if owner == index))
        node = next(value for place in seen.crossing(part.call) if (value := part.call.leaves[place]) is not None)
        values = seen.values(part.call)
        modules = [call.name for call in seen.trace.calls if part.start < call.start and call.end <= part.end]
        elsewhere = {call.name for call in seen.trace.calls if call.start <= part.start or call.end > part.end}
        layers.append(
            Layer(
                index=index,
                name=name,
                parameters=sum(sizes.get(member, 0) for member in members),
                macs=seen.macs(part.start, part.end) // batch,
                shape=_per_example(seen.trace.shapes[node], batch),
                bytes=sum(seen.trace.sizes[value] for value in values) // batch,
                cut=ports[index] is not None,
                why=part.why,
                legal=ports[index] is not None,
                members=members,
                held=tuple(member for member in members if member in held),
                modules=tuple(dict.fromkeys(name for name in modules if name not in elsewhere)),
            )
        )
    return tuple(layers)


def _told_apart(name: str, used: set[str]) -> str:
    if name not in used:
        return name
    return next(other for n in range(2, len(used) + 3) if (other := f"{name}#{n}") not in used)


def _per_example(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    if not shape:
        return ()
    # windows and views may be folded into the first dimension
    return shape[1:] if shape[0] == batch else (shape[0] // batch, *shape[1:])


def _owners(seen: View, bounds: list[int]) -> dict[str, int]:
    """Parameter or buffer -> the layer it lives in: where it is first read, else where its module runs."""

    def layer_at(tick: int) -> int | None:
        return next((index for index, end in enumerate(bounds) if tick <= end), None)

    runs: dict[str, set[int | None]] = {}
    for call in seen.trace.calls[1:]:
        runs.setdefault(call.name, set()).update((layer_at(call.start), layer_at(call.end)))
    first = {name: span[0] for name, span in seen.spans.items()}
    for tick, names in sorted(seen.trace.buffers.items()):
        for name in names:
            first.setdefault(name, tick)
    owners: dict[str, int] = {}
    module = seen.module
    for name in [*(n for n, _ in module.named_parameters(remove_duplicate=False)), *(n for n, _ in _buffers(module))]:
        owner = layer_at(first[name]) if name in first else None
        holder = name.rpartition(".")[0]
        while name not in first and holder and owner is None:  # never read here: an expert not asked, a counter
            place = runs.get(holder, set())
            owner = next(iter(place)) if len(place) == 1 else None
            holder = holder.rpartition(".")[0] if not place else ""
        if owner is not None:
            owners[name] = owner
    return owners


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.named_buffers(remove_duplicate=False))


def _needs(seen: View, part: Segment) -> tuple[str, ...]:
    """The raw inputs that are read again above a segment."""
    if part.call is None or part.why:
        return ()
    beside = reach(seen.trace, seen.trace.results, seen.values(part.call))
    return tuple(sorted({name for node in beside for name in seen.trace.nodes[node].raw}))


def _head(seen: View, end: int) -> tuple[str, ...]:
    late = {call.name for call in seen.trace.calls if call.start > end}
    early = {call.name for call in seen.trace.calls if call.start <= end}
    holders = [name for name in late - early if any(True for _ in seen.module.get_submodule(name).parameters())]
    return tuple(sorted(name for name in holders if not any(name.startswith(other + ".") for other in holders)))


def _axes(module: nn.Module, anatomy: Anatomy) -> tuple[Port | None, ...]:
    """The batch dimension of every tensor that crosses, from one more pass with another number of examples."""
    batch = _batch(anatomy.example, anatomy.data)
    depths = [n + 1 for n, port in enumerate(anatomy.ports) if port is not None]
    halves = Halves(module, anatomy)
    taps = halves.taps(halves.examples(batch + 1), depths) if depths else {}
    ports = list(anatomy.ports)
    for depth, frontier in taps.items():
        port = ports[depth - 1]
        assert port is not None
        axes: list[int] = []
        for old, new in zip(port.shapes, frontier, strict=True):
            grown = [n for n, (a, b) in enumerate(zip(old, new.shape, strict=True)) if a * (batch + 1) == b * batch]
            axes.append(next((n for n in grown if old[n] != new.shape[n]), 0))
        ports[depth - 1] = replace(port, axes=tuple(axes))
    return tuple(ports)


def _ragged(module: nn.Module, anatomy: Anatomy) -> tuple[Port | None, ...]:
    """Which tensors are as long as the data, of networks that read numbers of any length: from one longer pass."""
    data = anatomy.example[anatomy.data]
    depths = [n + 1 for n, port in enumerate(anatomy.ports) if port is not None]
    if data.is_floating_point() or data.ndim != 2 or not depths:
        return anatomy.ports
    halves, (batch, length) = Halves(module, anatomy), data.shape

    def longer(value: Any) -> Any:
        grows = isinstance(value, Tensor) and value.shape[:2] == (batch, length)
        return torch.cat([value, value[:, :MORE]], dim=1) if grows else value

    example = {name: longer(value) for name, value in halves.examples(batch).items()}
    ports = list(anatomy.ports)
    for depth, frontier in halves.taps(example, depths).items():
        port = ports[depth - 1]
        assert port is not None
        grown = tuple(
            axis == 0 and len(old) > 1 and tuple(new.shape) == (old[0], old[1] + MORE, *old[2:]) and old[1] == length
            for axis, old, new in zip(port.axes, port.shapes, frontier, strict=True)
        )
        ports[depth - 1] = replace(port, ragged=grown)
    return tuple(ports)


def _proven(module: nn.Module, anatomy: Anatomy) -> Anatomy:
    """The anatomy with the measured error of every cut; what fails is a cut no more."""
    depths = [layer.index + 1 for layer in anatomy.layers if layer.cut]
    layers, ports = list(anatomy.layers), list(anatomy.ports)
    for depth, proof in prove(module, anatomy, anatomy.example, depths=depths).items():
        layers[depth - 1] = replace(layers[depth - 1], error=proof.error)
        if proof.why:
            layers[depth - 1] = replace(layers[depth - 1], cut=False, legal=False, why=proof.why)
            ports[depth - 1] = None
    return replace(anatomy, layers=tuple(layers), ports=tuple(ports))


def _last_tokens(seen: View) -> Call | None:
    """The last call on the main path that hands on a sequence: what is done with its positions is the pooling."""
    for call in sorted(seen.trace.calls[1:], key=lambda call: call.end, reverse=True):
        values = [node for node in seen.values(call) if len(seen.trace.shapes[node]) == 3]
        if values and call.gives == "activations" and len(call.leaves) == 1 and set(values) <= seen.dominators:
            return call
    return None


def _channels_first(seen: View, part: Segment) -> bool:
    """Whether the next weights that read a segment's result take its second dimension for the channels."""
    nodes = seen.trace.nodes
    for node in sorted(node for node in seen.live if nodes[node].time > part.end and nodes[node].activation):
        if seen.trace.learned.get(nodes[node].time):
            convolves = any(word in nodes[node].operation for word in ("conv", "batch_norm", "group_norm"))
            return convolves != _turned(seen, node, part.end)
    return False


def _turned(seen: View, node: int, end: int) -> bool:
    """Whether maps were turned, channels first to last or back, between a segment's result and what reads it."""
    nodes = seen.trace.nodes
    while nodes[node].time > end:
        if nodes[node].operation == "aten::permute" and len(seen.trace.shapes[node]) == 4:
            return True
        node = next((read for read in nodes[node].reads if nodes[read].activation), -1)
        if node < 0:
            break
    return False
