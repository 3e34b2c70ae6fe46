"""New layers on top: from pooled features, or from the positions that they were pooled of, to logits.

Every one holds a linear head, and what goes beyond it begins at zero: started from a probe, each begins as that probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline.tasks.decoder import Decoder
from frostline.values import QUERIES, Head, HeadKind

PRIOR = 0.01  # how probably a query found a class, before anything is learned


class Mlp(nn.Module):
    """A linear head and, beside it, one hidden layer: logits = linear(x) + output(gelu(hidden(normalised x)))."""

    def __init__(self, features: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.hidden = nn.Linear(features, hidden)
        self.output = _silent(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.gelu(self.hidden(functional.layer_norm(features, (self.hidden.in_features,))))
        return self.linear(features) + self.output(inner)


class Attention(nn.Module):
    """A linear head on the pooled features and, beside it, means over the positions that learned queries weigh.

    Source: attentive probing; Chen et al., "Context autoencoder", IJCV 2024, arXiv:2202.03026.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.queries = nn.Parameter(torch.randn(QUERIES, features))
        self.output = _silent(QUERIES * features, classes)

    def forward(self, features: Tensor, positions: Tensor, counts: Tensor | None = None) -> Tensor:
        """`positions` (n, places, features) are what `features` were pooled of; `counts` is 0 where none is."""
        inner = functional.layer_norm(positions, (self.linear.in_features,))
        scores = inner @ self.queries.T / self.linear.in_features**0.5
        if counts is not None:
            scores = scores.masked_fill(counts[..., None] == 0, float("-inf"))
        seen = torch.einsum("npq,npf->nqf", scores.softmax(dim=1), inner)
        return self.linear(features) + self.output(seen.flatten(1))


class Scaled(nn.Module):
    """A head whose outputs are numbers in units of their own: it works in units in which they spread by one.

    Rates then mean the same whatever the units. `centre` and `spread` never learn.
    """

    def __init__(self, inner: nn.Module, centre: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("centre", centre.float())
        self.register_buffer("spread", spread.float())

    def forward(self, *given: Tensor | None) -> Tensor:
        return self.inner(*given) * self.spread + self.centre


class Pyramid(nn.Module):
    """A detector on the maps of several depths, of one of the kinds, which says of itself how it was made."""

    def __init__(self, levels: Sequence[tuple[int, ...]], classes: int, size: tuple[int, int], kind: HeadKind) -> None:
        super().__init__()
        # torchvision takes a second that only boxes are worth
        from frostline.tasks.anchored import Anchored
        from frostline.tasks.detector import Detector, Level
        from frostline.tasks.proposed import Proposed

        self.register_buffer("levels", torch.tensor([list(level) for level in levels]))  # channels, height, width
        self.register_buffer("made", torch.tensor([classes, *size]))
        self.kind = kind
        made = {"pyramid": Detector, "anchors": Anchored, "proposals": Proposed}[kind]
        self.detector = made([Level(*level) for level in levels], classes, size)

    def forward(self, crossing: Sequence[Sequence[Tensor]]) -> Tensor:
        """From what crosses each of the depths that it reads."""
        return self.detector([maps[0] for maps in crossing])


class Queries(nn.Module):
    """What the queries of a detector found, from their rows: of hidden states the classes; of boxes, they know it.

    At first each says that it is probably nothing. Source: Lin et al., "Focal loss", ICCV 2017, arXiv:1708.02002.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(features, classes)
        nn.init.constant_(self.classes.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, crossing: Sequence[Sequence[Tensor]]) -> Tensor:
        """Logits and boxes (n, queries, classes + 4), from what crosses the top depth."""
        (rows,) = crossing[-1]
        return torch.cat([self.classes(rows[..., :-4]), rows[..., -4:]], dim=-1)


def made(kind: Head, features: int, classes: int, *, seed: int) -> nn.Module:
    """Fresh new layers; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind.kind == "mlp":
            return Mlp(features, classes, kind.hidden)
        return Attention(features, classes) if kind.kind == "attention" else nn.Linear(features, classes)


def attends(head: nn.Module) -> bool:
    """Whether it reads the positions that features were pooled of."""
    return isinstance(head.inner if isinstance(head, Scaled) else head, Attention)


def linear_of(head: nn.Module) -> nn.Linear:
    """The linear head in it, which a probe starts."""
    inner = head.inner if isinstance(head, Scaled) else head
    found = inner if isinstance(inner, nn.Linear) else inner.get_submodule("linear")
    assert isinstance(found, nn.Linear), "every head holds one"
    return found


def folded(head: nn.Module) -> nn.Module:
    """A linear head whose outputs are numbers, as the one linear layer that says the same; others as they are."""
    if not isinstance(head, Scaled) or not isinstance(head.inner, nn.Linear):
        return head
    inner, (centre, spread) = head.inner, units(head)
    found = nn.Linear(inner.in_features, inner.out_features)
    with torch.no_grad():
        found.weight.copy_(inner.weight * spread[:, None])
        found.bias.copy_(inner.bias * spread + centre)
    return found


def units(head: nn.Module) -> tuple[Tensor, Tensor]:
    """Where outputs lie in the middle, and by how much they spread: 0 and 1 where they are no numbers."""
    if not isinstance(head, Scaled):
        return torch.zeros(1), torch.ones(1)
    return head.get_buffer("centre"), head.get_buffer("spread")


def rebuilt(state: Mapping[str, Tensor]) -> nn.Module:
    """The head whose weights these are. Raises KeyError or RuntimeError where they are of none."""
    if "levels" in state:
        shapes = [(int(c), int(h), int(w)) for c, h, w in state["levels"].tolist()]
        classes, height, width = (int(n) for n in state["made"].tolist())
        if "says.weight" in state:
            found = Decoder(shapes, classes, (height, width))
        else:
            names = " ".join(state)
            kind = "pyramid" if "ctrness" in names else "proposals" if "box_predictor" in names else "anchors"
            found = Pyramid(shapes, classes, (height, width), kind)
        found.load_state_dict(dict(state))
        return found
    if "classes.weight" in state:
        classes, features = state["classes.weight"].shape
        queries = Queries(features, classes)
        queries.load_state_dict(dict(state))
        return queries
    if "spread" in state:
        inner = {name.removeprefix("inner."): tensor for name, tensor in state.items() if name.startswith("inner.")}
        return Scaled(rebuilt(inner), state["centre"], state["spread"])
    if "weight" in state:
        head: nn.Module = nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
    else:
        classes, features = state["linear.weight"].shape
        hidden = state.get("hidden.bias")
        head = Attention(features, classes) if hidden is None else Mlp(features, classes, len(hidden))
    head.load_state_dict(state)
    return head


def _silent(features: int, classes: int) -> nn.Linear:
    """A layer that says nothing yet."""
    layer = nn.Linear(features, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
