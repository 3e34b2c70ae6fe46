"""How much each layer's weights matter to what the network says, measured once before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from frostline.bench.bench import Bench
from frostline.bench.task import plan_training
from frostline.bench.unit import learner
from frostline.data import batches
from frostline.values import Arm, Unit

LOOKED = 64  # examples, each with a backward pass of its own: what the layers are ranked by is a mean over them


def fisher(bench: Bench, arm: Arm) -> tuple[float, ...]:
    """The trace of the Fisher information of each layer, with the source's weights under the arm's first head.

    It is the mean over examples x of the squared norm of the gradient of log p(y | x), with y drawn from p(. | x), in
    squared nats. Looks at training rows of the first fold alone. Every layer of the arm's plan has to learn some time.
    Source: Liu et al., "FUN with Fisher", NAACL 2024, arXiv:2301.05487.
    """
    training = plan_training(bench, arm, Unit(arm.id, arm.plan.recipe.lr, 0, 0, 0, arm.plan.recipe.epochs), live=True)
    all_learn = replace(training.plan, train=(True,) * training.plan.keep, thaw=())
    rng = np.random.default_rng(training.seed)
    rows = rng.permutation(training.rows)[:LOOKED]
    totals = np.zeros(len(bench.anatomy.layers))
    with learner(bench, replace(training, plan=all_learn)) as taught:
        taught.mode(None)
        owner = {layer.name: layer.index for layer in all_learn.layers}
        groups = [(owner[name], g["params"]) for g in taught.groups if (name := str(g["name"]).split("/")[0]) in owner]
        wanted = [parameter.requires_grad_(True) for _, params in groups for parameter in params]
        for part in batches.batches(rows, 1):
            inputs = tuple(torch.from_numpy(table).to(bench.device.device) for table in bench.read(part))
            drawn = taught.task.drawn(taught.forward(inputs), rng)
            slopes = iter(torch.autograd.grad(drawn, wanted, materialize_grads=True))
            for index, params in groups:
                totals[index] += sum(float(next(slopes).double().square().sum()) for _ in params)
    return tuple(float(total) for total in totals / len(rows))
