"""Small real networks for tests: each shows one thing that cutting must get right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.values import Backbone


def backbone(module: nn.Module, width: int | tuple[int, ...], name: str = "tiny", seed: int = 0) -> Backbone:
    """A network whose forward takes `x`, with a random batch of two of this shape."""
    shape = (2, width) if isinstance(width, int) else (2, *width)
    data = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return Backbone(name, module.eval(), {"x": data}, "x", None, "none")


def seeded(build: type[nn.Module], seed: int = 0) -> nn.Module:
    """The network with weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


class Mlp(nn.Module):
    """Three hidden layers and a head; `x` in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class PlainConvolutions(nn.Sequential):
    """Nothing but an nn.Sequential."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:  # the name of the argument is part of what is tested
        return super().forward(x)


class FunctionalResidual(nn.Module):
    """A skip connection and an activation that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.top = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.norm(x + F.relu(self.inner(x)))
        return self.head(F.relu(self.top(x)).mean((2, 3)))


class Bypassed(nn.Module):
    """What `first` computes reaches the result beside `second` and `third`: after those the network cannot be sawn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def beside(self, x: Tensor) -> Tensor:
        return 0.5 * x

    def forward(self, x: Tensor) -> Tensor:
        low = torch.tanh(self.first(x))
        high = torch.tanh(self.third(torch.tanh(self.second(low))))
        return self.head(high + self.beside(low))


class ScaledBypass(Bypassed):
    """The bypass is too small to be seen in the result."""

    def beside(self, x: Tensor) -> Tensor:
        return 1e-9 * x


class DetachedBypass(Bypassed):
    """Autograd does not see the bypass."""

    def beside(self, x: Tensor) -> Tensor:
        return x.detach()


class UngradedBypass(Bypassed):
    """Autograd is switched off on the bypass."""

    def beside(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.sin(x)


class IntegerBypass(Bypassed):
    """Only an integer passes beside."""

    def beside(self, x: Tensor) -> Tensor:
        return F.one_hot(x.argmax(1), 8).to(x.dtype)


class PythonBypass(Bypassed):
    """Only a Python number passes beside."""

    def beside(self, x: Tensor) -> Tensor:
        return torch.ones(8, dtype=x.dtype) * (2.0 if x.sum().item() > 0 else 3.0)


class RawBypass(nn.Module):
    """A second path from the raw input, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.side = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))) + self.side(x))


class CalledTwice(nn.Module):
    """One module runs twice, in one layer; another three times, across the cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()
        self.first = nn.Linear(8, 8)
        self.shared = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = self.act(self.shared(self.act(self.shared(x))))
        return self.head(self.act(self.third(x)))


class InPlace(nn.Module):
    """The result of the first block is overwritten by the second, through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        low = self.first(x)
        low[:, :4].mul_(2.0)
        low.tanh_()
        high = self.second(low)
        high.add_(1.0)
        return self.head(torch.tanh(self.third(torch.tanh(high))))


class TwoStreams(nn.Module):
    """What its stem hands on are two tensors, and the result needs both."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(self.fine(x)), torch.tanh(self.coarse(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem = TwoStreams.Split()
        self.top = nn.Sequential(nn.Linear(12, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.top(torch.cat(self.stem(x), dim=1)))


class Dictionary(nn.Module):
    """Takes a mask, gives a dictionary, and its blocks hand on tuples."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            weights = (x @ x.transpose(1, 2) / 3).masked_fill(~mask[:, None], -1e9).softmax(-1)
            return x + torch.tanh(self.linear(weights @ x)), weights

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.ModuleList(Dictionary.Block() for _ in range(3))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = self.stem(x)
        for block in self.blocks:
            hidden, _ = block(hidden, mask)
        kept = mask[..., None].to(hidden.dtype)
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        return {"logits": self.head(self.drop(pooled)), "hidden": hidden}


def dictionary() -> Backbone:
    """The Dictionary network with two sequences, the second of them padded."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    module = seeded(Dictionary).eval()
    return Backbone("tiny", module, {"x": torch.randn(2, 6, 5, generator=rng), "mask": mask}, "x", None, "none")


class DropoutBeforeHead(nn.Module):
    """As many classifiers end: pooled features, dropout, the output layer. Here almost everything is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.between = nn.Dropout(0.5)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.999)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(torch.relu(self.stem(x)))
        return self.classifier(self.dropout(self.pool(torch.relu(self.block(x))).flatten(1)))
