"""What happens at which run of which module when a network is sawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_unflatten

from frostline.backbones.anatomy import Anatomy

Action = Literal["skip", "cut", "stop", "tap"]


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at one run of one module."""

    action: Action
    call: int  # index in the anatomy
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Standin:
    """The result of a call that is not run: buffers where it has tensors."""

    leaves: tuple[Any, ...]
    form: Any  # as the pytree library describes it

    def result(self, stored: Mapping[int, Tensor]) -> Any:
        # a fresh alias each time: autograd's marks stay on it, the buffer keeps none
        leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for place, tensor in stored.items():
            leaves[place] = tensor
        return tree_unflatten(leaves, self.form)


def skipping(anatomy: Anatomy, depth: int) -> dict[int, Step]:
    """What each call does when the network is sawn at this depth: those not named run as ever."""
    cut = anatomy.calls[anatomy.port(depth).call]
    steps = {cut.index: Step("cut", cut.index, depth)}
    passed: set[int] = {cut.index}
    for call in anatomy.calls[1:]:
        if call.parent in passed:
            passed.add(call.index)
        elif call.end < cut.end and call.gives == "activations":
            steps[call.index] = Step("skip", call.index)
            passed.add(call.index)
    return steps


def numbered(anatomy: Anatomy, steps: Mapping[int, Step]) -> dict[str, dict[int, Step]]:
    """Module -> n-th run -> step. What runs inside a call that is passed over does not count as a run."""
    found: dict[str, dict[int, Step]] = {}
    runs: dict[str, int] = {}
    passed: set[int] = set()
    for call in anatomy.calls[1:]:
        if call.parent in passed:
            passed.add(call.index)
            continue
        number = runs.get(call.name, 0)
        runs[call.name] = number + 1
        step = steps.get(call.index)
        if step is not None:
            found.setdefault(call.name, {})[number] = step
            if step.action in ("skip", "cut"):
                passed.add(call.index)
    return found


def still(anatomy: Anatomy, depth: int) -> tuple[str, ...]:
    """Modules that ran below the cut or enclose it: nothing in them learns or is random."""
    if depth == 0:
        return ()
    end = anatomy.calls[anatomy.port(depth).call].end
    return tuple(dict.fromkeys(call.name for call in anatomy.calls if call.start <= end))
