"""What a training forgot: how often the network's own output layer says something else than before.

No source example is needed for it (as in learning without forgetting: Li and Hoiem, ECCV 2016, arXiv:1606.09282): the
target's pictures are shown to the source and to what became of it, and both answer in the source's classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.graph import results_of
from frostline.bench.bench import Bench
from frostline.bench.unit import kept_weights
from frostline.data import batches
from frostline.training import checkpoint
from frostline.values import Arm, Backbone, Unit

LOOKED = 512  # examples at most: a share is then known to two points
BATCH = 64


def forgotten(bench: Bench, models: Sequence[tuple[Arm, Unit]]) -> Mapping[str, float | None]:
    """By arm, the share of examples for which the source's first answer changed, 0 where nothing below the head moved.

    Of rows that no training learned from. None where the layers that make the answer are gone or new, and for all
    arms where the network has no output layer that learned anything.
    """
    if not answers(bench.backbone, bench.anatomy):
        return {arm.id: None for arm, _ in models}
    rows = bench.split.certification if len(bench.split.certification) else bench.split.folds[0].validation
    looked = np.random.default_rng(bench.settings.seed).permutation(rows)[:LOOKED]  # rows come class by class
    pictures = [_decoded(bench, part) for part in np.array_split(looked, -(-len(looked) // BATCH))]
    before = _answers(bench, bench.backbone.module, pictures)
    found = dict[str, float | None]()
    for arm, unit in models:
        if before is None or arm.plan.above != "tune":
            found[arm.id] = None
        else:
            still = arm.plan.freeze == arm.plan.keep
            found[arm.id] = 0.0 if still else _changed(bench, unit, pictures, before)
    return found


def answers(backbone: Backbone, anatomy: Anatomy) -> bool:
    """Whether the network ends in an output layer of its own whose weights were learned."""
    own = [
        name for name, _ in backbone.module.named_parameters() if name.startswith(tuple(f"{h}." for h in anatomy.head))
    ]
    return bool(own) and backbone.weights != "none" and not set(own) & set(backbone.unloaded)


def _changed(bench: Bench, unit: Unit, pictures: Sequence[torch.Tensor], before: NDArray[np.int64]) -> float:
    network = copy.deepcopy(bench.backbone.module)
    checkpoint.read(kept_weights(bench, unit), network)
    after = _answers(bench, network, pictures)
    assert after is not None, "the same network answered before"
    return float(np.mean(before != after))


def _decoded(bench: Bench, rows: NDArray[np.int64]) -> torch.Tensor:
    how = bench.backbone.preprocessing
    assert how is not None, "pictures come with preprocessing"
    return torch.from_numpy(batches.decode(bench.examples, rows, how, workers=bench.settings.threads))


def _answers(bench: Bench, network: nn.Module, pictures: Sequence[torch.Tensor]) -> NDArray[np.int64] | None:
    """The class that the network's own output layer names first, picture by picture."""
    where, found = bench.device.device, list[NDArray[np.int64]]()
    network.to(where).eval()
    try:
        for part in pictures:
            with torch.inference_mode():
                results = results_of(network(**{bench.anatomy.data: part.to(where)}))
            logits = results.get("logits", next(iter(results.values()), None))
            if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
                return None
            found.append(logits.argmax(dim=1).cpu().numpy())
    finally:
        network.cpu()
    return np.concatenate(found)
