"""From a plan to something that learns: source or fresh weights, the new head, the modes, the optimiser's groups."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frostline.backbones.anatomy import Anatomy
from frostline.backbones.halves import Halves
from frostline.backbones.pooling import pool, positions_at
from frostline.errors import BackboneError, PlanError
from frostline.tasks.heads import attends
from frostline.tasks.table import TASKS
from frostline.tasks.task import Task
from frostline.training import adapters
from frostline.training.device import Device
from frostline.training.step import Batch, Learner
from frostline.values import Backbone, Plan

Given = Mapping[str, Tensor]  # arguments of the forward, by name

HEAD = "frostline_head"  # the name of the new head's groups, which no layer bears
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def top(plan: Plan) -> int:
    """The depth on which the new head sits."""
    return plan.keep if plan.above == "drop" else len(plan.layers)


def read_at(plan: Plan) -> tuple[int, ...]:
    """The depths whose pooled features the new head reads, side by side; the top one last."""
    return (*plan.head.cuts, top(plan))


def refuse_untrained(plan: Plan) -> None:
    """Raise PlanError for what a plan may say but this version does not train."""
    adapters.refuse(plan)
    cuts, allowed = plan.head.cuts, tuple(i + 1 for i, layer in enumerate(plan.layers[: top(plan) - 1]) if layer.cut)
    if any(depth not in allowed for depth in cuts) or list(cuts) != sorted(set(cuts)):
        raise PlanError(
            f"head reads the cuts {cuts} besides the top one; allowed are depths of {allowed}, rising, each once"
        )
    if cuts and not plan.closed and plan.head.pools:
        raise PlanError(
            f"head reads the cuts {cuts} besides the top one, and layers below it learn; such a head is fitted on "
            f"frozen features: freeze all {plan.keep} kept layers, let nothing begin anew, `kind` be 'linear' and "
            "`start` be 'probe'"
        )


@contextmanager
def prepared(
    backbone: Backbone,
    anatomy: Anatomy,
    plan: Plan,
    head: nn.Module,
    *,
    start: int,
    seed: int,
    device: Device,
    weights: Tensor | None = None,
    task: Task = TASKS["classification"],
) -> Generator[Learner]:
    """A Learner for a plan whose inputs are what crosses the cut at depth `start` and what goes beside it.

    The backbone is not touched: a copy learns. `seed` draws the weights of layers that begin anew, `weights` are those
    of the classes in the loss.
    Raises BackboneError where fresh weights are wanted and the backbone cannot be built anew.
    """
    refuse_untrained(plan)
    if start > plan.freeze:
        raise PlanError(f"training would start at depth {start}, above the {plan.freeze} frozen layers")
    network, depth = _weights(backbone, plan, seed), top(plan)
    module = nn.ModuleDict({"network": network, "head": head}).to(device.device)
    groups, mode, anchors = _groups(plan, network, head), _mode(plan, network, head), _anchors(plan, network)
    blended = plan.blend != 1 and plan.head.start == "probe"
    began = tuple((p, p.detach().clone()) for p in head.parameters()) if blended else ()
    if plan.adapter is not None:
        groups = adapters.inject(network, plan, seed=seed) + groups
        mode = _mode_of_adapters(network, head)
    with ExitStack() as stack:
        sawn = Halves(network, anatomy).sawn(start, until=depth, levels=plan.head.cuts)
        run = stack.enter_context(sawn) if start < depth else None

        def forward(cargo: tuple[Tensor, ...]) -> Tensor:
            if device.mixed_precision == "no":
                cargo = tuple(_widened(tensor, head) for tensor in cargo)
            frontier, given = anatomy.parted(start, cargo)
            if not plan.head.pools:
                last = frontier if run is None else run(frontier, given or None)
                seen = {**anatomy.lower(start, cargo), start: frontier, **(run.seen if run else {}), depth: last}
                return head([seen[level] for level in read_at(plan)])
            return headed(head, anatomy, depth, frontier if run is None else run(frontier, given or None), given)

        by = None if weights is None else weights.to(device.device)
        yield Learner(module, forward, groups, mode, anchors, by, began, task.bound(head))


def _widened(tensor: Tensor, head: nn.Module) -> Tensor:
    """What was stored in half precision, in the precision that is computed in."""
    kind = next(head.parameters()).dtype
    return tensor.to(kind) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def predictor(
    network: nn.Module, head: nn.Module, anatomy: Anatomy, plan: Plan, task: Task = TASKS["classification"]
) -> Callable[[Given], Tensor]:
    """From the arguments of the network's forward, n examples, to what a task keeps, log-probabilities (n, c).

    In inference mode.
    """
    answer = answering(network, head, anatomy, plan, task)

    def predict(inputs: Given) -> Tensor:
        with torch.inference_mode():
            return answer(inputs)

    return predict


def answering(
    network: nn.Module, head: nn.Module, anatomy: Anatomy, plan: Plan, task: Task = TASKS["classification"]
) -> Callable[[Given], Tensor]:
    """As `predictor`, in whatever mode the caller is: both modules are put in inference mode once, here."""
    depths, whole, task = read_at(plan), Halves(network.eval(), anatomy), task.bound(head)
    head.eval()

    def answer(inputs: Given) -> Tensor:
        found = whole.taps(inputs, depths)
        if not plan.head.pools:
            return task.predictions(head([found[depth] for depth in depths]))
        if len(depths) == 1:
            return task.predictions(headed(head, anatomy, depths[0], found[depths[0]], inputs))
        features = [pool(anatomy, depth, found[depth], inputs) for depth in depths]
        return task.predictions(head(torch.cat(features, dim=1)))

    return answer


def headed(
    head: nn.Module, anatomy: Anatomy, depth: int, frontier: tuple[Tensor, ...], given: Given | None = None
) -> Tensor:
    """The logits of a head that sits on one cut, from what crosses it; `given` are the inputs, for their mask."""
    features = pool(anatomy, depth, frontier, given)
    if attends(head):
        return head(features, *positions_at(anatomy, depth, frontier, given))
    return head(features)


def reestimate(learner: Learner, batches: Iterator[Batch], plan: Plan) -> None:
    """Measure the batch norms above the frozen prefix once on the target, as a mean over all batches.

    Source: Li et al., "Revisiting batch normalization for practical domain adaptation", arXiv:1603.04779.
    """
    frozen = {name for layer in plan.layers[: plan.freeze] for name in layer.modules}
    norms = [m for name, m in norms_of(learner.module.get_submodule("network")).items() if name not in frozen]
    learner.mode(None)
    momenta = [norm.momentum for norm in norms]
    sums = [(torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)) for norm in norms]
    for norm in norms:
        norm.momentum = _of_one_batch(norm)
        norm.train()
    count = 0
    with torch.no_grad():
        for inputs, _ in batches:
            count += 1
            learner.forward(inputs)
            for norm, (mean, variance) in zip(norms, sums, strict=True):
                mean += norm.running_mean
                variance += norm.running_var
    assert count, "an epoch has a batch"
    for norm, momentum, (mean, variance) in zip(norms, momenta, sums, strict=True):
        norm.running_mean.copy_(mean / count)
        norm.running_var.copy_(variance / count)
        norm.momentum = momentum
        norm.eval()


def norms_of(network: nn.Module) -> dict[str, Any]:
    """The batch norms that hold statistics, by name: PyTorch's and Keras'."""
    kinds = {name: module for name, module in network.named_modules() if isinstance(module, NORMS) or _of_keras(module)}
    return {name: module for name, module in kinds.items() if module.running_mean is not None}


def _of_keras(module: nn.Module) -> bool:
    return type(module).__name__ == "BatchNormalization" and "running_mean" in dict(module.named_buffers(recurse=False))


def _of_one_batch(norm: nn.Module) -> float:
    """The momentum with which its statistics become the last batch's: Keras counts what stays of the old ones."""
    return 1.0 if isinstance(norm, NORMS) else 0.0


def _weights(backbone: Backbone, plan: Plan, seed: int) -> nn.Module:
    """A copy of the source network, with fresh weights in the layers that begin anew."""
    network = copy.deepcopy(backbone.module)
    if plan.above == "reinit":
        if backbone.fresh is None:
            raise BackboneError(f"{backbone.name!r} cannot be built anew, so its layers cannot get fresh weights")
        anew = {name for layer in plan.layers[plan.keep :] for name in layer.members}
        fresh = backbone.fresh(seed).state_dict()
        network.load_state_dict({name: fresh[name] for name in anew if name in fresh}, strict=False)
    return network


def _groups(plan: Plan, network: nn.Module, head: nn.Module) -> list[dict[str, Any]]:
    """Static groups with their peak rates; the network's own output layer, which the head replaces, has none."""
    members = {name for layer in plan.layers for name in layer.members}
    owned = {id(parameter) for name, parameter in network.named_parameters() if name in members}
    # told by what they hold: a layer of the backbone may be called "head" too
    groups = [group for group in plan.parameter_groups(network) if id(group["params"][0]) in owned]
    for vectors in (False, True):
        weights = [p for p in head.parameters() if (p.ndim < 2) == vectors]
        decay = 0.0 if vectors else plan.recipe.weight_decay
        name = f"{HEAD}/no_decay" if vectors else HEAD
        groups.append({"name": name, "params": weights, "lr": plan.recipe.lr, "weight_decay": decay})
    return [group | {"peak": group["lr"]} for group in groups]


def _mode(plan: Plan, network: nn.Module, head: nn.Module) -> Callable[[int | None], None]:
    """Inference mode for everything but the layers that learn: also for modules that enclose both halves."""
    modules = dict(network.named_modules())
    owned = {name for layer in plan.layers for name in layer.members}
    norms = {name.rpartition(".")[0] for name, _ in network.named_buffers() if name.endswith("running_mean")}

    def mode(epoch: int | None) -> None:
        network.eval()
        head.train(epoch is not None)
        if epoch is None:
            return
        plan.apply(network, epoch)
        for name, parameter in network.named_parameters():
            if name not in owned:
                parameter.requires_grad_(False)
        for layer, learns in zip(plan.layers, plan.learning(epoch), strict=True):
            batch = plan.statistics == "batch" or layer.index >= plan.keep  # fresh norms have no statistics to keep
            for name in layer.modules if learns else ():
                modules[name].training = batch or name not in norms

    return mode


def _mode_of_adapters(network: nn.Module, head: nn.Module) -> Callable[[int | None], None]:
    """Nothing of the network itself learns, so all of it stays in inference mode."""

    def mode(epoch: int | None) -> None:
        network.eval()
        head.train(epoch is not None)

    return mode


def _anchors(plan: Plan, network: nn.Module) -> tuple[tuple[nn.Parameter, Tensor], ...]:
    """Kept parameters that ever learn, with a copy of their source weights where the plan needs one."""
    if plan.recipe.anchor == 0 and plan.blend == 1:
        return ()
    rates = plan.rates()
    names = {name for layer in plan.layers[: plan.keep] if rates[layer.index] is not None for name in layer.members}
    return tuple((p, p.detach().clone()) for name, p in network.named_parameters() if name in names)
