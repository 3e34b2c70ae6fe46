"""The loop: a generator that yields one Epoch after another. Whoever iterates records it, and may stop asking.

Learners that differ in their learning rates alone can be trained together: one forward and backward pass over their
stacked weights (`torch.func`) serves all, and each has its own optimiser.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import stdev
from typing import Any

import torch
from torch import Tensor, nn

from frostline.training.device import Device, scaled
from frostline.training.step import Feed, Going, Learner, Steps
from frostline.values import Epoch, Flow, Plan

Read = list[tuple[float, float, int]]  # of each batch: its loss, the norm of its gradient, its examples


def train(learner: Learner, feed: Feed, plan: Plan, steps: int, device: Device) -> Iterator[Epoch]:
    """Train for `plan.recipe.epochs` epochs of `steps` batches each.

    The learning rate of every group is a pure function of the step, so a resumed run is the same run. A loss that is
    not finite ends the training with an Epoch that says `diverged`; weights are then useless.
    AdamW is used with bias correction (Zhang et al., ICLR 2021, arXiv:2006.05987).
    """
    for epochs in train_together([started(learner, plan, device)], feed, steps, device):
        yield from epochs.values()


def train_together(
    several: Sequence[Going], feed: Feed, steps: int, device: Device, *, first: int = 0
) -> Iterator[dict[int, Epoch]]:
    """As `train`, for several learners whose plans differ in their learning rates alone: what each would come to alone.

    Yields for each epoch, from the `first` one on, those of all learners, by place, each with its share of the seconds;
    one that diverged is not there any more in the next. No learner may have a batch norm that uses batch statistics: it
    would have to be updated through the stack.
    """
    steps_of = Steps(several, device)
    try:
        yield from _epochs_of(several, steps_of, feed, steps, first)
    finally:
        steps_of.close()


def _epochs_of(
    several: Sequence[Going], taken: Steps, feed: Feed, steps: int, first: int
) -> Iterator[dict[int, Epoch]]:
    going = dict(enumerate(several))
    for number in range(first, several[0].plan.recipe.epochs):
        started, met = time.perf_counter(), {place: list[tuple[Tensor, Tensor, int]]() for place in going}
        for one in several:
            one.learner.mode(number)
        taken.begin(going)
        for index, (inputs, targets) in enumerate(feed(number)):
            for one in going.values():
                _schedule(one, number * steps + index, steps)
            for place, (loss, norm) in taken.take(inputs, targets).items():
                met[place].append((loss, norm, len(targets)))
        told = {place: _read(of) for place, of in met.items()}  # here a device is waited for, and not at every step
        share = (time.perf_counter() - started) / len(met)
        going = {place: one for place, one in going.items() if math.isfinite(told[place][-1][0])}
        flows = {place: _flows(one, told[place][-1][1]) for place, one in going.items()}
        yield {
            place: _epoch(number, of, share, several[place].learner, flows.get(place, ())) for place, of in told.items()
        }
        if not going:
            return


def _read(met: Sequence[tuple[Tensor, Tensor, int]]) -> Read:
    """As numbers, up to the first loss that is not finite."""
    losses: list[float] = torch.stack([loss for loss, _, _ in met]).tolist()
    norms: list[float] = torch.stack([norm for _, norm, _ in met]).tolist()
    rows = [(loss, norm, count) for loss, norm, (_, _, count) in zip(losses, norms, met, strict=True)]
    end = next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), len(rows))
    return rows[: end + 1]


def _schedule(one: Going, step: int, steps: int) -> None:
    """Set the learning rate of each group for a step; an epoch has `steps` of them."""
    total = one.plan.recipe.epochs * steps
    for group, begin in zip(one.optimiser.param_groups, one.begins, strict=True):
        group["rate"] = float(group["peak"]) * _factor(one.plan, step, begin * steps, total)
        if one.graphs:
            group["lr"].fill_(group["rate"])
        else:
            group["lr"] = group["rate"]


def started(learner: Learner, plan: Plan, device: Device, *, graphs: bool = False) -> Going:
    """A training before its first step; `graphs` records its steps, on a GPU that scales no loss."""
    # the pull to the source is told its rate by Python
    graphs = graphs and not (learner.task.waits or plan.recipe.anchor)
    graphs = graphs and device.device.type == "cuda" and device.scaler is None
    groups, begins = _merged(learner.groups, _begins(learner, plan))
    if graphs:
        groups = [group | {"lr": torch.tensor(float(group["lr"]), device=device.device)} for group in groups]
    return Going(learner, plan, scaled(device, _optimiser(groups, plan, graphs=graphs)), begins, graphs)


def _merged(groups: Sequence[dict[str, Any]], begins: Sequence[int]) -> tuple[list[dict[str, Any]], list[int]]:
    """Groups that are stepped alike as one, each with the epoch at which it begins.

    The optimiser computes the same, a parameter at a time; but each group is a call of its own in every step.
    """
    found: dict[tuple[float, float, int], dict[str, Any]] = {}
    for group, begin in zip(groups, begins, strict=True):
        alike = found.setdefault((group["peak"], group["weight_decay"], begin), {**group, "params": []})
        alike["params"].extend(group["params"])
    return list(found.values()), [begin for _, _, begin in found]


def _flows(one: Going, norm: float) -> tuple[Flow, ...]:
    """What the last step did to each layer; `norm` is that of all gradients before they were clipped to the recipe's.

    The step is read off the optimiser's state, so nothing is copied for it. Weight decay is not counted.
    """
    clip = one.plan.recipe.clip
    scale = max(1.0, norm / clip) if clip else 1.0
    layers = dict[str, list[nn.Parameter]]()
    for group in one.learner.groups:
        taught = [parameter for parameter in group["params"] if parameter.grad is not None]
        if taught:
            layers.setdefault(str(group["name"]).partition("/")[0], []).extend(taught)
    stepped = {id(p): group for group in one.optimiser.param_groups for p in group["params"]}
    state = one.optimiser.state
    counted = [p for members in layers.values() for p in members if "step" in state.get(p, {})]
    taken: list[float] = torch.stack([state[p]["step"] for p in counted]).tolist() if counted else []
    counts = dict(zip(map(id, counted), taken, strict=True))
    rows = list[Tensor]()
    with torch.no_grad():
        for members in layers.values():
            moved = [_moved(state[p], counts.get(id(p), 0.0), stepped[id(p)], p) for p in members]
            grads = [p.grad for p in members if p.grad is not None]
            rows.append(torch.stack([nn.utils.get_total_norm(part) for part in (grads, moved, members)]))
    table: list[list[float]] = torch.stack(rows).tolist() if rows else []
    return tuple(
        Flow(name, float(f"{scale * gradient:.3g}"), float(f"{step / max(weight, 1e-30):.3g}"))
        for name, (gradient, step, weight) in zip(layers, table, strict=True)
    )


def _moved(state: Mapping[str, Any], count: float, group: Mapping[str, Any], parameter: nn.Parameter) -> Tensor:
    """The step that the optimiser took last for a parameter, its `count`-th."""
    if "exp_avg" in state:
        first, second = group["betas"]
        spread = (state["exp_avg_sq"] / (1 - second**count)).sqrt() + group["eps"]
        return group["rate"] / (1 - first**count) * state["exp_avg"] / spread
    assert parameter.grad is not None, "asked of parameters that learned"
    buffer = state.get("momentum_buffer")
    return group["rate"] * (parameter.grad if buffer is None else parameter.grad + group["momentum"] * buffer)


def _epoch(
    number: int,
    told: Read,
    seconds: float,
    learner: Learner,
    flows: tuple[Flow, ...],
) -> Epoch:
    """From the loss, the gradient's norm and the examples of each of its batches, and from what its last step did."""
    learning = sum(p.numel() for group in learner.groups for p in group["params"] if p.requires_grad)
    last = told[-1][0]
    if not math.isfinite(last):
        return Epoch(number, last, None, seconds, diverged=True, learning=learning)
    mean = sum(loss * count for loss, _, count in told) / sum(count for *_, count in told)
    norm = sum(norm for _, norm, _ in told) / len(told)
    error = stdev(loss for loss, *_ in told) / len(told) ** 0.5 if len(told) > 1 else 0.0
    return Epoch(number, mean, None, seconds, gradient=norm, learning=learning, error=error, flows=flows)


def predict(learner: Learner, feed: Feed, device: Device) -> Tensor:
    """What is kept of outputs, log-probabilities (n, c), on the CPU for the batches of epoch 0, in inference mode."""
    learner.mode(None)
    with torch.inference_mode(), device.autocast():
        return torch.cat([learner.task.predictions(learner.forward(x)).cpu() for x, _ in feed(0)])


def blend(learner: Learner, weight: float) -> None:
    """Move tuned parameters back towards the source's, and the head's to the probe: weight 1 changes nothing.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903.
    """
    with torch.no_grad():
        for parameter, source in (*learner.anchors, *learner.began):
            parameter.lerp_(source, 1 - weight)


def _optimiser(groups: list[dict[str, Any]], plan: Plan, *, graphs: bool) -> torch.optim.Optimizer:
    if plan.recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=plan.recipe.lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=plan.recipe.lr, fused=True, capturable=graphs)


def _begins(learner: Learner, plan: Plan) -> list[int]:
    """The epoch at which each group first learns: its warm-up begins there; the head begins at once."""
    first = dict[str, int]()
    for index, layer in enumerate(plan.layers):
        epochs = (0, *(epoch for epoch, _ in plan.thaw))
        first[layer.name] = min((epoch for epoch in epochs if plan.learning(epoch)[index]), default=0)
    return [first.get(str(group["name"]).removesuffix("/no_decay"), 0) for group in learner.groups]


def _factor(plan: Plan, step: int, begin: int, total: int) -> float:
    """The share of its peak at which a group learns: warm-up from its own beginning, then the common schedule."""
    recipe = plan.recipe
    warm = recipe.warmup * total
    rise = min(1.0, (step - begin + 1) / warm) if warm >= 1 and step >= begin else 1.0
    if recipe.schedule == "constant":
        return rise
    # the end lies one step behind the last: a step at a rate of zero would be for nothing
    rest = max(0.0, (step + 1 - warm) / (total + 1 - warm))
    floor = 0.0 if recipe.schedule == "cosine" else 1e-4  # one-cycle ends at a ten-thousandth of its peak
    fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
    start = 1 / 25 if recipe.schedule == "one_cycle" else 0.0  # and begins at a 25th: Smith, arXiv:1708.07120
    return (start + (1 - start) * rise) * fall
