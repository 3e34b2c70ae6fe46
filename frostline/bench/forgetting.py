"""What a training forgot of its source.

Where examples of the source are given, the network is scored on them before and after: by its own output layer where
this names their classes, else by a linear probe that was fitted on the features of the untouched network. Without any,
the target's examples are shown to the source and to what became of it, and both answer in the source's classes (as in
learning without forgetting: Li and Hoiem, ECCV 2016, arXiv:1606.09282).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.graph import results_of
from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool
from frostline.bench.bench import Bench
from frostline.bench.unit import kept_weights
from frostline.data.intake import intake
from frostline.evidence import probes, similarity
from frostline.training import checkpoint
from frostline.values import Arm, Backbone, Estimate, Examples, Unit

Given = Mapping[str, torch.Tensor]  # arguments of the forward

LOOKED = 512  # examples at most: a share is then known to two points
BATCH = 64


@dataclass(frozen=True, slots=True)
class Kept:
    """What a network says about one set of examples, before a training and after it."""

    how: Literal["output layer", "probe", "answers"]  # what was asked; "answers" compares with what was said before
    before: NDArray[np.bool_]  # example by example: right, or, of answers, always true
    after: Mapping[str, NDArray[np.bool_] | None]  # by arm; None where the layers that answer are gone or new

    def lost(self, arm: str) -> float | None:
        """The share of examples that were right before, less that of those that are right after."""
        after = self.after.get(arm)
        return None if after is None else float(self.before.mean() - after.mean())


def forgotten(bench: Bench, models: Sequence[tuple[Arm, Unit]]) -> Kept | None:
    """What the kept models of units still know of the source; None where nothing can be asked.

    On examples that no training learned from.
    """
    return _of_source(bench, models) if bench.origin is not None else _of_answers(bench, models)


def likeness(bench: Bench, arm: Arm, unit: Unit) -> Estimate | None:
    """How alike the features behind the last layer are before and after a training (CKA), on rows it never saw.

    Of ten parts of the rows each is left out once (jackknife). None where these layers are not kept, or do not vary.
    """
    if arm.plan.above != "tune":
        return None
    rows = np.random.default_rng(bench.settings.seed).permutation(bench.split.folds[0].validation)[:LOOKED]
    given, network = _inputs(bench, bench.examples, rows), copy.deepcopy(bench.backbone.module)
    checkpoint.read(kept_weights(bench, unit), network)
    before, after = (_features(bench, of, given) for of in (bench.backbone.module, network))
    found = np.array([similarity.cka(np.delete(before, part, 0), np.delete(after, part, 0)) for part in _tenths(rows)])
    if not np.isfinite(found).all():
        return None
    z = NormalDist().inv_cdf((1 + bench.settings.confidence) / 2)
    half = z * float(np.sqrt((len(found) - 1) * found.var()))
    mean = similarity.cka(before, after)
    return Estimate(mean, mean - half, min(1.0, mean + half))


def _tenths(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(np.arange(len(rows)), 10)


def _of_answers(bench: Bench, models: Sequence[tuple[Arm, Unit]]) -> Kept | None:
    """Whether the network's own output layer still says of the target's examples what it said before."""
    if not answers(bench.backbone, bench.anatomy):
        return None
    rows = bench.split.certification if len(bench.split.certification) else bench.split.folds[0].validation
    looked = np.random.default_rng(bench.settings.seed).permutation(rows)[:LOOKED]  # rows come class by class
    given = _inputs(bench, bench.examples, looked)
    before = _answers(bench, bench.backbone.module, given)
    if before is None:
        return None
    same = np.ones(len(looked), bool)
    after = _each(bench, models, same, lambda network: _answers(bench, network, given) == before)
    return Kept("answers", same, after)


def _of_source(bench: Bench, models: Sequence[tuple[Arm, Unit]]) -> Kept | None:
    assert bench.origin is not None
    order = np.random.default_rng(bench.settings.seed).permutation(len(bench.origin))
    named, rows = _named(bench), order[: len(order) // 2][:LOOKED]
    truth, given = bench.origin.targets[rows], _inputs(bench, bench.origin, rows)
    if named is not None:

        def right(network: nn.Module) -> NDArray[np.bool_]:
            said = _answers(bench, network, given)
            assert said is not None, "its answers were looked at"
            return said == named[truth]

        before = right(bench.backbone.module)
        # a guess at which output means which class that is no better than chance was wrong
        if Estimate.of_share(float(before.mean()), len(before)).low > 1 / len(bench.origin.classes):
            return Kept("output layer", before, _each(bench, models, before, right))
    others = order[len(order) // 2 :]
    learned = _features(bench, bench.backbone.module, _inputs(bench, bench.origin, others))
    probe = probes.logistic(learned, bench.origin.targets[others], classes=len(bench.origin.classes))

    def scored(network: nn.Module) -> NDArray[np.bool_]:
        return probes.log_probabilities(probe, _features(bench, network, given)).argmax(axis=1) == truth

    before = scored(bench.backbone.module)
    return Kept("probe", before, _each(bench, models, before, scored))


def _each(
    bench: Bench,
    models: Sequence[tuple[Arm, Unit]],
    before: NDArray[np.bool_],
    asked: Callable[[nn.Module], NDArray[np.bool_]],
) -> Mapping[str, NDArray[np.bool_] | None]:
    """By arm what its network says; what it said `before` where nothing below the head moved."""
    found = dict[str, NDArray[np.bool_] | None]()
    for arm, unit in models:
        if arm.plan.above != "tune":
            found[arm.id] = None
        elif arm.plan.freeze == arm.plan.keep:
            found[arm.id] = before
        else:
            network = copy.deepcopy(bench.backbone.module)
            checkpoint.read(kept_weights(bench, unit), network)
            found[arm.id] = asked(network)
    return found


def _named(bench: Bench) -> NDArray[np.int64] | None:
    """For each class of the source which output of the network means it; None where that is not known.

    By the names that a network of transformers keeps, by folders that are named by number, or, where there are as many
    classes as outputs, in alphabetical order, as torchvision's folders are.
    """
    assert bench.origin is not None
    classes, outputs = bench.origin.classes, _outputs(bench)
    if outputs is None:
        return None
    labels = getattr(getattr(bench.backbone.module, "config", None), "id2label", None) or {}
    places = {str(name).lower(): int(number) for number, name in labels.items()}
    if all(name.lower() in places for name in classes):
        return np.array([places[name.lower()] for name in classes])
    if all(name.isdigit() and int(name) < outputs for name in classes):
        return np.array([int(name) for name in classes])
    return np.arange(outputs) if len(classes) == outputs else None


def _outputs(bench: Bench) -> int | None:
    """How many classes the network's own output layer tells apart; None where it has none that learned."""
    if not answers(bench.backbone, bench.anatomy):
        return None
    some = _inputs(bench, bench.examples, bench.split.folds[0].train[:2])
    with _there(bench, bench.backbone.module):
        logits = _logits(bench, bench.backbone.module, some[0])
    return None if logits is None else logits.shape[1]


def answers(backbone: Backbone, anatomy: Anatomy) -> bool:
    """Whether the network ends in an output layer of its own whose weights were learned."""
    own = [
        name for name, _ in backbone.module.named_parameters() if name.startswith(tuple(f"{h}." for h in anatomy.head))
    ]
    return bool(own) and backbone.weights != "none" and not set(own) & set(backbone.unloaded)


def _inputs(bench: Bench, examples: Examples, rows: NDArray[np.int64]) -> list[Given]:
    """The arguments of the forward, batch by batch, on the CPU."""
    theirs = bench.intake if examples is bench.examples else intake(bench.backbone, examples)
    parts = np.array_split(rows, -(-len(rows) // BATCH))
    return [theirs.ready(theirs.raw(part), torch.device("cpu")) for part in parts]


def _there_too(given: Given, where: torch.device) -> Given:
    return {name: tensor.to(where) for name, tensor in given.items()}


def _answers(bench: Bench, network: nn.Module, given: Sequence[Given]) -> NDArray[np.int64] | None:
    """The class that the network's own output layer names first, example by example."""
    found = list[NDArray[np.int64]]()
    with _there(bench, network):
        for part in given:
            logits = _logits(bench, network, part)
            if logits is None:
                return None
            found.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(found)


def _logits(bench: Bench, network: nn.Module, given: Given) -> torch.Tensor | None:
    """What the output layer says (n, classes); None where it says nothing of the kind."""
    with torch.inference_mode():
        results = results_of(network(**_there_too(given, bench.device.device)))
    logits = results.get("logits", next(iter(results.values()), None))
    return None if logits is None or logits.ndim != 2 or logits.shape[1] < 2 else logits


def _features(bench: Bench, network: nn.Module, given: Sequence[Given]) -> NDArray[np.float32]:
    """Pooled features behind the last layer."""
    depth, halves = len(bench.anatomy.layers), Halves(network, bench.anatomy)
    with _there(bench, network) as where, torch.inference_mode():
        there = (_there_too(part, where) for part in given)
        rows = [pool(bench.anatomy, depth, halves.prefix(part, depth), part) for part in there]
        return torch.cat(rows).cpu().numpy()


@contextmanager
def _there(bench: Bench, network: nn.Module) -> Generator[torch.device]:
    """The network on its device and in inference mode, and on the CPU again."""
    network.to(bench.device.device).eval()
    try:
        yield bench.device.device
    finally:
        network.cpu()
