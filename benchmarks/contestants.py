"""Who takes part in frozen_training.py: a frozen training as each library's documentation has it.

Each reports the seconds from its first batch to its last, and whether anything frozen moved. Where there is a GPU, all
train on it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from frostline.bench.bench import Bench
    from frostline.values import Layer

PICTURES, SIZE, CLASSES, BATCH, RATE = 600, 128, 10, 32, 1e-3
WHERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Work:
    """A network, and up to where it is frozen."""

    network: str  # of timm
    frozen: tuple[str, ...]  # prefixes of parameter names
    depth: str | None  # the last frozen layer as Frostline names it; None freezes nothing


STEM = ("conv1", "bn1")
WORKS = {
    "resnet18 frozen through layer3": Work("resnet18", (*STEM, "layer1", "layer2", "layer3"), "layer3.1"),
    "vit_tiny frozen through 9 of 12": Work(
        "vit_tiny_patch16_224",
        ("patch_embed", "cls_token", "pos_embed", "norm_pre", *(f"blocks.{i}." for i in range(9))),
        "blocks.8",
    ),
    "resnet18 linear probe": Work("resnet18", (*STEM, "layer1", "layer2", "layer3", "layer4"), "layer4.1"),
    "resnet18 full fine-tuning": Work("resnet18", (), None),
}


@dataclass(frozen=True)
class Timed:
    """What a contestant reports."""

    seconds: float
    unchanged: bool  # frozen parameters and buffers
    before: float = 0.0  # seconds of set-up, stated apart
    bound: float = 0.0  # seconds that nobody can beat
    flops: float = 0.0  # floating-point operations of one such bound: a multiplication and an addition are two


# ------------------------------------------------------------------------------------------------ what all share


@cache
def drawn() -> tuple[np.ndarray, Tensor]:
    """Pictures of noise and their labels."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (PICTURES, SIZE, SIZE, 3), dtype=np.uint8)
    return pictures, torch.from_numpy(np.arange(PICTURES) % CLASSES)


@cache
def normalised() -> Tensor:
    """As the network reads them."""
    pictures, _ = drawn()
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) / 0.25


def network(work: Work) -> nn.Module:
    """With random weights and a new last layer."""
    import timm

    torch.manual_seed(0)
    more = {"img_size": SIZE} if work.network.startswith("vit") else {}
    return timm.create_model(work.network, num_classes=CLASSES, **more)


def is_frozen(work: Work, name: str) -> bool:
    """Whether a parameter or a buffer lies in the frozen layers."""
    return name.startswith(work.frozen) if work.frozen else False


def freeze(model: nn.Module, work: Work) -> list[nn.Parameter]:
    """What learns; the rest gets no gradient."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(work, name))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def state(model: nn.Module, work: Work) -> dict[str, Tensor]:
    """Frozen parameters and buffers, but for the counters of batches."""
    return {
        name.removeprefix("model."): tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if is_frozen(work, name.removeprefix("model.")) and not name.endswith("num_batches_tracked")
    }


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return before.keys() == after.keys() and all(
        torch.equal(tensor.cpu(), after[name].cpu()) for name, tensor in before.items()
    )


def over(started: float) -> float:
    """Seconds since then, once a GPU has done what it was given."""
    if WHERE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


# ------------------------------------------------------------------------------------------------ contestants


def plain(work: Work, epochs: int) -> Timed:
    """A careful loop: frozen layers in eval mode, and the optimiser over what learns."""
    _, labels = drawn()
    data = torch.utils.data.TensorDataset(normalised(), labels)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, pin_memory=WHERE.type == "cuda")
    model = network(work).to(WHERE)
    optimiser = torch.optim.AdamW(freeze(model, work), lr=RATE)
    before, started = state(model, work), time.perf_counter()
    for _ in range(epochs):
        model.train()
        for name, part in model.named_modules():
            if is_frozen(work, f"{name}."):
                part.eval()
        for inputs, targets in loader:
            seen, told = inputs.to(WHERE, non_blocking=True), targets.to(WHERE, non_blocking=True)
            loss = nn.functional.cross_entropy(model(seen), told)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Timed(over(started), same(before, state(model, work)))


def fastai(work: Work, epochs: int) -> Timed:
    """A Learner with a splitter, frozen to its last group."""
    from fastai.vision.all import DataLoaders, Learner, params

    _, labels = drawn()
    inputs = normalised()
    data = [(inputs[i], labels[i]) for i in range(PICTURES)]
    loaders = DataLoaders.from_dsets(data, data[:BATCH], bs=BATCH, num_workers=0, device=WHERE)
    model = network(work)

    def groups(model: nn.Module) -> list[list[nn.Parameter]]:
        named = list(model.named_parameters())
        lower = [p for name, p in named if is_frozen(work, name)]
        return [lower, [p for name, p in named if not is_frozen(work, name)]] if lower else [params(model)]

    learner = Learner(loaders, model, loss_func=nn.CrossEntropyLoss(), splitter=groups, lr=RATE)
    if work.frozen:
        learner.freeze()
    before = state(model, work)
    with learner.no_bar(), learner.no_logging():
        started = time.perf_counter()
        learner.fit(epochs)
        took = over(started)
    return Timed(took, same(before, state(model, work)))


def lightning(work: Work, epochs: int) -> Timed:
    """A module whose frozen parameters have no gradient."""
    import lightning as L

    _, labels = drawn()
    data = torch.utils.data.TensorDataset(normalised(), labels)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, pin_memory=WHERE.type == "cuda")

    class Tuned(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(work)
            self.learning = freeze(self.model, work)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.learning, lr=RATE)

    tuned = Tuned()
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="gpu" if WHERE.type == "cuda" else "cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    before, started = state(tuned, work), time.perf_counter()
    trainer.fit(tuned, loader)
    return Timed(over(started), same(before, state(tuned, work)))


def transformers(work: Work, epochs: int) -> Timed:
    """The Hugging Face Trainer on a module that returns its loss."""
    from transformers import Trainer, TrainingArguments

    _, labels = drawn()
    inputs = normalised()
    data = [{"pixel_values": inputs[i], "labels": labels[i]} for i in range(PICTURES)]

    class Tuned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(work)
            freeze(self.model, work)

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.model(pixel_values)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    tuned = Tuned()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, num_train_epochs=epochs, learning_rate=RATE,
            use_cpu=WHERE.type == "cpu", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(tuned, arguments, train_dataset=data)
        before, started = state(tuned, work), time.perf_counter()
        trainer.train()
        took = over(started)
    return Timed(took, same(before, state(tuned, work)))


def keras(work: Work, epochs: int) -> Timed:
    """Keras 3 on its torch backend: the same module, wrapped; layers that are not trainable run as Keras runs them."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from keras.layers import TorchModuleWrapper

    _, labels = drawn()
    inputs = normalised()
    model = network(work)
    freeze(model, work)
    wrapped = keras.Sequential([keras.Input(inputs.shape[1:]), TorchModuleWrapper(model)])
    wrapped.compile(
        optimizer=keras.optimizers.AdamW(RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(work, name))
    before, started = state(model, work), time.perf_counter()
    wrapped.fit(inputs.numpy(), labels.numpy(), batch_size=BATCH, epochs=epochs, verbose=0)
    return Timed(over(started), same(before, state(model, work)))


def frostline_fp32(work: Work, epochs: int) -> Timed:
    """One plan on stored activations; a closed-form probe where nothing but the head learns."""
    return _frostline(work, epochs, "fp32")


def frostline_measured(work: Work, epochs: int) -> Timed:
    """As `frostline_fp32`, at the precision that calibration finds faster."""
    return _frostline(work, epochs, "auto")


def _frostline(work: Work, epochs: int, precision: str) -> Timed:
    from frostline.bench.task import ALL
    from frostline.bench.unit import perform
    from frostline.plan import plan
    from frostline.run.course import single_blas
    from frostline.values import Arm, Recipe, Unit

    bench, depth, before = _laid(work, epochs, precision)
    made = plan(bench.anatomy.layers, Recipe(epochs, RATE, batch=BATCH), freeze=depth)
    with single_blas():  # as a search trains
        outcome = perform(bench, Arm("arm", made, (RATE,)), Unit("arm", RATE, 1, ALL, 0, epochs))
    # full fine-tuning needs no pass through the network; the pictures as the network reads them are there for everybody
    fill = bench.seconds["fill"] if depth else 0.0
    learning = sum(epoch.seconds for epoch in outcome.epochs) if outcome.epochs else outcome.seconds
    seconds, way = bench.calibration, bench.calibration.way
    below, above = sum(seconds.forward[:depth]), sum(seconds.forward[depth:]) + sum(seconds.backward[depth:])
    print(f"{way}; stored {sorted(bench.whole)}; fill {fill:.2f} s, training {learning:.2f} s", file=sys.stderr)
    macs = [layer.macs for layer in bench.anatomy.layers]
    flops = PICTURES * 2 * (sum(macs[:depth]) + 3 * epochs * sum(macs[depth:]))
    # `perform` raises where something frozen moved
    return Timed(fill + learning, True, before - fill, PICTURES * (below + epochs * above), flops)


def _laid(work: Work, epochs: int, precision: str) -> tuple[Bench, int, float]:
    """The bench, the depth that is frozen, and the seconds that laying it took, those of filling the store included."""
    from frostline.bench.bench import Source
    from frostline.bench.lay import lay
    from frostline.plan import depth_of
    from frostline.run.course import cores, shared, single_blas
    from frostline.settings import settings

    pictures, labels = drawn()
    model = network(work)
    started = time.perf_counter()
    options = {
        "data": "(arrays)", "backbone": "(module)", "image_size": SIZE, "mean": (0.5,) * 3, "std": (0.25,) * 3,
        "batch_size": BATCH, "epochs": epochs, "precision": precision, "device": WHERE.type,
    }  # fmt: skip

    def demands(layers: Sequence[Layer]) -> dict[int, float]:
        """As `frostline train` has it: a head that is solved for reads pooled features alone."""
        depth = 0 if work.depth is None else depth_of(layers, work.depth)
        return {} if depth == len(layers) else {depth: float(epochs)}

    with single_blas():
        bench = lay(shared(settings(options), cores()), Source((pictures, labels.numpy()), model), demands=demands)
    depth = 0 if work.depth is None else depth_of(bench.anatomy.layers, work.depth)
    return bench, depth, time.perf_counter() - started


def frostline_probes(work: Work, epochs: int) -> Timed:
    """The closed-form head of every cut and not of the last one alone, each at the best of four penalties.

    `epochs` mean nothing to it: a head that is solved for has no learning rate.
    """
    from frostline.bench.unit import ALL, starting_head
    from frostline.run.course import cores, single_blas

    bench, _, before = _laid(work, epochs, "fp32")
    started = time.perf_counter()
    with single_blas(), ThreadPoolExecutor(cores()) as threads:  # as the probes of a search are shared
        list(threads.map(lambda depth: starting_head(bench, ALL, (depth,), balance=False), sorted(bench.pooled)))
    solved, fill = time.perf_counter() - started, bench.seconds["fill"]
    print(f"{len(bench.pooled)} cuts: fill {fill:.2f} s, heads {solved:.2f} s", file=sys.stderr)
    return Timed(fill + solved, True, before - fill)


CONTESTANTS: dict[str, Callable[[Work, int], Timed]] = {
    "plain loop": plain,
    "fastai": fastai,
    "lightning": lightning,
    "transformers": transformers,
    "keras": keras,
    "frostline fp32": frostline_fp32,
    "frostline": frostline_measured,
    "frostline, every cut": frostline_probes,
}
PROBES = ("frostline, every cut",)  # for the linear probe alone
LIBRARIES = ("torch", "timm", "fastai", "lightning", "transformers", "keras")
