"""What was computed from what: one forward pass, seen below autograd.

The autograd graph misses integers, `detach` and no-grad code, so the trace stands at the dispatcher, where every
tensor operation passes. A value is known by the memory it stands for (storage, offset, shape, strides): two tensors
that look at the same memory in the same way are one value, and an operation that writes into memory makes a new value
of everything that looks at it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from frostline.backbones.anatomy import Call
from frostline.backbones.patch import calmed, patched, without_cache

# they read the shape of their tensor argument and none of its numbers
SHAPE_ONLY = frozenset(
    "aten::" + form.format(kind)
    for kind in ("zeros", "ones", "full", "empty", "rand", "randn", "randint", "empty_strided")
    for form in ("new_{}", "{}_like")
)
TO_PYTHON = frozenset({"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"})
SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, slots=True)
class Node:
    """One tensor value."""

    reads: tuple[int, ...]  # the values it was computed from
    time: int  # tick of the operation, -1 for inputs, parameters and buffers
    operation: str
    raw: frozenset[str] = frozenset()  # inputs it is a plain function of
    learned: frozenset[str] = frozenset()  # parameters that it is a function of, without any data
    activation: bool = False  # of the data and of parameters
    source: bool = False  # an activation made straight from raw inputs and parameters


@dataclass(frozen=True, slots=True)
class Trace:
    """The graph of one forward pass, and the module calls in it."""

    nodes: tuple[Node, ...]
    calls: tuple[Call, ...]  # in the order in which they began; the whole network first
    results: frozenset[int]  # the values that count, and those that became Python numbers
    macs: Mapping[int, int]  # tick of an operation -> multiply-accumulates of the whole batch
    learned: Mapping[int, frozenset[str]]  # tick of an operation -> parameters that it reads
    buffers: Mapping[int, frozenset[str]]  # tick of an operation -> buffers that it reads
    overwritten: Mapping[int, int]  # value -> tick of the first in-place operation on its memory afterwards
    shapes: Mapping[int, tuple[int, ...]]  # of the values
    sizes: Mapping[int, int]  # of the values, in bytes


class Tape:
    """The trace while it grows. Every tensor seen is kept alive, or its memory would be used for another."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.calls: list[Call | None] = []
        self.stack: list[int] = []
        self.clock = 0
        self.results: set[int] = set()
        self.macs: dict[int, int] = {}
        self.learned: dict[int, frozenset[str]] = {}
        self.buffers: dict[int, frozenset[str]] = {}
        self.overwritten: dict[int, int] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.sizes: dict[int, int] = {}
        self._alive: list[Any] = []
        self._values: dict[tuple[Any, ...], int] = {}
        self._memory: dict[Any, list[tuple[Any, ...]]] = {}
        self._buffer_names: dict[int, str] = {}

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def place(self, tensor: Tensor, node: int) -> None:
        key = key_of(tensor)
        if key not in self._values:
            self._memory.setdefault(key[0], []).append(key)
        self._values[key] = node
        self._alive.append(tensor)
        self._measure(node, tuple(tensor.shape), tensor.dtype)

    def _measure(self, node: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shapes[node] = shape
        self.sizes[node] = math.prod(shape) * dtype.itemsize

    def find(self, tensor: Tensor) -> int:
        """The value that this tensor holds now; memory never seen before is a plain constant."""
        key = key_of(tensor)
        found = self._values.get(key)
        if found is None:
            # known memory seen in a new way: an operation changed a tensor's shape in place, or no dispatcher was asked
            same = tuple(dict.fromkeys(self._values[other] for other in self._memory.get(key[0], ())))
            found = self.add(self._node(same, "view") if same else Node((), -1, "constant"))
            self.place(tensor, found)
        return found

    def name_buffer(self, tensor: Tensor, name: str) -> None:
        self._buffer_names[self.find(tensor)] = name

    def operation(self, function: Any, arguments: tuple[Any, Mapping[str, Any]], result: Any) -> None:
        self.clock += 1
        name = function._schema.name
        given = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        reads = () if name in SHAPE_ONLY else tuple(dict.fromkeys(self.find(tensor) for tensor in given))
        if name in TO_PYTHON:
            self.results.update(reads)
            return
        self._account(function, arguments, result, reads)
        written = written_by(function, arguments)
        for tensor in written:
            self._write(tensor, reads, name)
        changed = {key_of(tensor) for tensor in written}
        for tensor in made:
            key = key_of(tensor)
            # an output that looks at known memory in a known way is that value: detach, or an in-place result
            if key in changed or (key in self._values and key[0] in {key_of(t)[0] for t in given}):
                continue
            self.place(tensor, self.add(self._node(reads, name)))

    def _account(
        self, function: Any, arguments: tuple[Any, Mapping[str, Any]], result: Any, reads: tuple[int, ...]
    ) -> None:
        macs = macs_of(function, arguments, result)
        if macs:
            self.macs[self.clock] = macs
        learned = frozenset[str]().union(*(self.nodes[read].learned for read in reads))
        if learned:
            self.learned[self.clock] = learned
        buffers = frozenset(self._buffer_names[read] for read in reads if read in self._buffer_names)
        if buffers:
            self.buffers[self.clock] = buffers

    def _node(self, reads: tuple[int, ...], operation: str) -> Node:
        seen = [self.nodes[read] for read in reads]
        raw = frozenset[str]().union(*(node.raw for node in seen))
        learned = frozenset[str]().union(*(node.learned for node in seen))
        source = bool(raw and learned)
        if source or any(node.activation for node in seen):
            return Node(reads, self.clock, operation, activation=True, source=source)
        return Node(reads, self.clock, operation, raw=raw, learned=learned)

    def _write(self, tensor: Tensor, reads: tuple[int, ...], operation: str) -> None:
        key = key_of(tensor)
        before = self.find(tensor)
        self.overwritten.setdefault(before, self.clock)
        written = self.add(self._node(tuple(dict.fromkeys((*reads, before))), operation))
        for other in self._memory[key[0]]:
            if other == key:
                self._values[other] = written
            else:
                old = self._values[other]
                self.overwritten.setdefault(old, self.clock)
                self._values[other] = self.add(self._node((written, old), operation))
                self._measure(self._values[other], other[1][1], other[1][3])
        self._measure(written, tuple(tensor.shape), tensor.dtype)

    def enter(self, name: str) -> int:
        self.clock += 1
        index = len(self.calls)
        parent = self.stack[-1] if self.stack else -1
        self.calls.append(Call(index, name, parent, self.clock, -1, "plain"))
        self.stack.append(index)
        return index

    def leave(self, index: int, result: Any) -> None:
        self.clock += 1
        self.stack.pop()
        leaves = tree_leaves(result)
        found = tuple(self.find(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves)
        kinds = {self.nodes[node].activation for node in found if node is not None}
        opaque = any(node is None and not isinstance(leaf, SIMPLE) for node, leaf in zip(found, leaves, strict=True))
        gives = "mixed" if len(kinds) == 2 else "activations" if True in kinds else "plain"
        begun = self.calls[index]
        assert begun is not None
        self.calls[index] = Call(
            index, begun.name, begun.parent, begun.start, self.clock, "opaque" if opaque else gives, found
        )


class Recorder(TorchDispatchMode):
    """Hands every tensor operation to a tape."""

    def __init__(self, tape: Tape) -> None:
        TorchDispatchMode.__init__(self)
        self._tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._tape.operation(func, (args, kwargs or {}), result)
        return result


def key_of(tensor: Tensor) -> tuple[Any, ...]:
    """The memory that a tensor looks at, and how."""
    try:
        memory = tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]  # no public name for it
        how = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        return (memory, how, tensor.is_conj(), tensor.is_neg())
    except (NotImplementedError, RuntimeError):  # sparse and opaque tensors have no storage
        return (("object", id(tensor)),)


def written_by(function: Any, arguments: tuple[Any, Mapping[str, Any]]) -> list[Tensor]:
    """The arguments that an operation writes into."""
    if not function._schema.is_mutable:
        return []
    positional, named = arguments
    found: list[Tensor] = []
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = positional[place] if place < len(positional) else named.get(argument.name)
        found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def macs_of(function: Any, arguments: tuple[Any, Mapping[str, Any]], result: Any) -> int:
    """Multiply-accumulates of one operation; 0 for what only moves, adds or normalises."""
    if function._schema.name == "aten::_scaled_dot_product_flash_attention_for_cpu":  # torch counts it on GPUs only
        query, key, value = arguments[0][:3]
        return query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    formula = flop_registry.get(function._overloadpacket)
    # a multiply and an add are counted as two floating-point operations there
    return 0 if formula is None else int(formula(*arguments[0], **arguments[1], out_val=result)) // 2


def results_of(output: Any) -> dict[str, Tensor]:
    """What the task reads of a network's output: logits and boxes, else the last hidden state, else every float."""
    named: dict[str, Any] = dict(output) if isinstance(output, Mapping) else {}
    for wanted in (("logits", "pred_boxes"), ("last_hidden_state",)):
        found = {name: named[name] for name in wanted if isinstance(named.get(name), Tensor)}
        if found:
            return found
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    floats = [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]
    return {str(place): leaf for place, leaf in enumerate(floats or leaves)}


@contextmanager
def slow_attention() -> Generator[None]:
    """nn.MultiheadAttention's fused path hides its modules, and only exists without gradients: it is off."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def trace(module: nn.Module, example: Mapping[str, Any]) -> Trace:
    """One forward pass in eval mode, without gradients; the module is left as it was."""
    tape = Tape()
    for name, tensor in module.named_parameters(remove_duplicate=False):
        known = tape.find(tensor)
        tape.nodes[known] = Node((), -1, "parameter", learned=tape.nodes[known].learned | {name})
    for name, tensor in module.named_buffers(remove_duplicate=False):
        tape.name_buffer(tensor, name)
    for name, value in example.items():
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                tape.place(leaf, tape.add(Node((), -1, "input", raw=frozenset({name}))))
    watched = [(part, _watched(tape, name, part.forward)) for name, part in module.named_modules() if _open(part)]
    quiet = (calmed(module.modules()), without_cache(module), slow_attention(), torch.no_grad())
    with ExitStack() as stack:
        for context in (patched(watched), *quiet, Recorder(tape)):
            stack.enter_context(context)
        output = module(**example)
    tape.results.update(tape.find(tensor) for tensor in results_of(output).values())
    return Trace(
        tuple(tape.nodes),
        tuple(call for call in tape.calls if call is not None),
        frozenset(tape.results),
        tape.macs,
        tape.learned,
        tape.buffers,
        tape.overwritten,
        tape.shapes,
        tape.sizes,
    )


def _open(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule)  # its forward cannot be replaced


def _watched(tape: Tape, name: str, forward: Any) -> Any:
    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        call = tape.enter(name)
        result = forward(*args, **kwargs)
        tape.leave(call, result)
        return result

    return watched
