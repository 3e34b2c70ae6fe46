"""A plan in other libraries' loops: what is frozen does not move, layers thaw on time, a resume changes nothing."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage
import torch
import yaml
from torch import Tensor, nn

from frostline.activations.fingerprint import fingerprint
from frostline.callbacks import phases
from frostline.callbacks.follow import Follow
from frostline.errors import PlanError
from frostline.plan import gradual, plan
from frostline.values import Adapter, Head, Plan, Recipe

ROWS, BATCH, EPOCHS = 24, 8, 4
RECIPE = Recipe(epochs=EPOCHS, lr=2e-2, batch=BATCH, layer_decay=0.7)
HALF = (False, False, False, True)


class Model(nn.Module):
    """A network under a new layer; writes down what learns, and what is awake, at every training step."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = stage.network().module
        for block in self.backbone.blocks:
            block.drop.p = 0.0  # no library promises to draw the same after a resume
        torch.manual_seed(3)
        self.new = nn.Linear(4, stage.CLASSES)
        self.seen: list[tuple[frozenset[str], frozenset[str]]] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        if self.training:
            learns = frozenset(name for name, p in self.backbone.named_parameters() if p.requires_grad)
            awake = frozenset(name for name, part in self.backbone.named_modules() if name and part.training)
            self.seen.append((learns, awake))
        logits = self.new(self.backbone(x))
        return logits if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


LAYERS = stage.anatomy(stage.network()).layers
PLANS = {
    "freeze@2": plan(LAYERS, RECIPE, freeze=2),
    "thaw": plan(LAYERS, RECIPE, freeze=1, train=(False,) * 4, thaw=((1, HALF), (3, (False, True, True, True)))),
    "again": plan(LAYERS, RECIPE, thaw=((2, HALF),)),  # what learned stands still from then on
    "batch": plan(LAYERS, RECIPE, freeze=2, statistics="batch"),
    "gradual": gradual(LAYERS, RECIPE),
}


def data() -> tuple[Tensor, Tensor]:
    pictures, targets = stage.pictures(ROWS)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 100, torch.from_numpy(targets)


Fit = Callable[[Model, Plan, Path, int, bool], None]  # the model, the plan, a folder, epochs to come to, is it resumed?


def with_transformers(model: Model, of: Plan, folder: Path, until: int, resumed: bool) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from frostline.callbacks.transformers import PlanCallback

    class Stop(TrainerCallback):
        """As Ctrl-C after the checkpoint of an epoch: the schedule is that of all epochs."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.epoch >= until

    inputs, labels = data()
    rows = [{"x": inputs[i], "labels": labels[i]} for i in range(ROWS)]
    follow = PlanCallback(of, model, model.backbone)
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=BATCH, num_train_epochs=EPOCHS, use_cpu=True, report_to=[],
        save_strategy="epoch", eval_strategy="epoch", logging_strategy="no", disable_tqdm=True, seed=1,
        lr_scheduler_type="constant", remove_unused_columns=False,
    )  # fmt: skip
    optimiser = torch.optim.AdamW(follow.groups())
    trainer = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:8], callbacks=[follow, Stop()],
        optimizers=(optimiser, None),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resumed or None)
    assert not model._forward_pre_hooks


def with_lightning(model: Model, of: Plan, folder: Path, until: int, resumed: bool) -> None:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from frostline.callbacks.lightning import PlanCallback, groups

    class Tuned(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any) -> Tensor:
            return self.model(*batch)["loss"]

        def validation_step(self, batch: Any) -> None:
            self.model(*batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(groups(of, self, self.model.backbone))

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), BATCH)

    class Stop(Callback):
        """As Ctrl-C after an epoch."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch + 1 >= until

    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[PlanCallback(of, lambda module: module.model.backbone), Stop()],
    )  # fmt: skip
    trainer.fit(Tuned(), loader, loader, ckpt_path=folder / "last.ckpt" if resumed else None)
    trainer.save_checkpoint(folder / "last.ckpt")


def with_fastai(model: Model, of: Plan, folder: Path, until: int, resumed: bool) -> None:
    from fastai.callback.core import Callback, CancelFitException
    from fastai.vision.all import DataLoaders, Learner

    from frostline.callbacks.fastai import PlanCallback, rates, splitter

    class Stop(Callback):
        """As Ctrl-C after an epoch."""

        def after_epoch(self) -> None:
            if self.epoch + 1 >= until:
                raise CancelFitException

    inputs, labels = data()
    rows = [(inputs[i], labels[i]) for i in range(ROWS)]
    loaders = DataLoaders.from_dsets(rows, rows[:8], bs=BATCH, shuffle=False, num_workers=0, device=torch.device("cpu"))
    learner = Learner(
        loaders, model, loss_func=nn.CrossEntropyLoss(), splitter=splitter(of, "backbone"),
        cbs=[PlanCallback(of, "backbone"), Stop()], path=folder,
    )  # fmt: skip
    if resumed:
        learner.create_opt()
        learner.load("last", with_opt=True)
    with learner.no_bar(), learner.no_logging():
        learner.fit(EPOCHS, lr=rates(of, model, "backbone"), start_epoch=2 if resumed else 0)
    learner.save("last", with_opt=True)


LIBRARIES: dict[str, Fit] = {"transformers": with_transformers, "lightning": with_lightning, "fastai": with_fastai}


@pytest.fixture(params=LIBRARIES)
def fit(request: pytest.FixtureRequest) -> Fit:
    name = str(request.param)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (pip install --group benchmarks)")

    def run(*given: Any) -> None:
        with contextlib.redirect_stdout(open(os.devnull, "w")), np.errstate(all="ignore"):
            torch.manual_seed(0)
            LIBRARIES[name](*given)

    return run


pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of


@pytest.mark.parametrize("name", PLANS)
def test_layers_learn_when_the_plan_says_and_what_stands_still_does_so_at_every_step(
    fit: Fit, name: str, tmp_path: Path
) -> None:
    of, model = PLANS[name], Model()
    before = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
    frozen = fingerprint(model.backbone, stage.frozen_names(of))
    fit(model, of, tmp_path, EPOCHS, False)
    steps = ROWS // BATCH
    assert len(model.seen) == EPOCHS * steps
    for number, (learns, awake) in enumerate(model.seen):
        flags = of.learning(number // steps)
        expected = {n for layer, yes in zip(LAYERS, flags, strict=True) if yes for n in layer.members}
        weights = {n for n, _ in model.backbone.named_parameters()}
        assert learns == (expected & weights) | {"head.weight", "head.bias"}, number
        still = {n for layer, yes in zip(LAYERS, flags, strict=True) if not yes for n in layer.modules}
        assert not awake & still, number
        norms = {n for n, part in model.backbone.named_modules() if isinstance(part, nn.BatchNorm2d)}
        assert awake & norms == (norms - still if of.statistics == "batch" else set()), number
    assert fingerprint(model.backbone, stage.frozen_names(of)) == frozen
    after = model.backbone.state_dict()
    ever = {n for layer, rate in zip(LAYERS, of.rates(), strict=True) if rate is not None for n in layer.members}
    assert {n for n in before if not torch.equal(before[n], after[n])} >= ever & {
        n for n, _ in model.backbone.named_parameters()
    }


def test_what_stands_still_again_is_not_decayed_either(fit: Fit, tmp_path: Path) -> None:
    of, model = PLANS["again"], Model()
    held = list[dict[str, Tensor]]()
    model.register_forward_hook(
        lambda *_: (
            held.append({n: p.detach().clone() for n, p in model.backbone.stem.named_parameters()})
            if model.training
            else None
        )
    )
    fit(model, of, tmp_path, EPOCHS, False)
    steps = ROWS // BATCH
    at_thaw, last = held[2 * steps], held[-1]
    assert all(torch.equal(at_thaw[name], last[name]) for name in last)
    assert not torch.equal(held[0]["0.weight"], at_thaw["0.weight"])


def test_a_training_that_is_resumed_in_the_middle_of_a_thaw_ends_where_an_uninterrupted_one_does(
    fit: Fit, tmp_path: Path
) -> None:
    of, whole = PLANS["thaw"], Model()
    fit(whole, of, tmp_path / "whole", EPOCHS, False)
    first, second = Model(), Model()
    fit(first, of, tmp_path / "parts", 2, False)
    fit(second, of, tmp_path / "parts", EPOCHS, True)
    assert len(second.seen) == len(whole.seen) // 2
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_a_training_of_lightning_that_is_resumed_in_the_middle_of_an_epoch_is_followed_from_there(
    tmp_path: Path,
) -> None:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from frostline.callbacks.lightning import PlanCallback, groups

    of = PLANS["thaw"]

    class Tuned(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: Any) -> Tensor:
            return self.model(*batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(groups(of, self, self.model.backbone))

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == ROWS // BATCH + 1:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    def fitted(*more: Callback, ckpt: Path | None = None) -> Model:
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), BATCH)
        tuned = Tuned()
        Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[PlanCallback(of, lambda module: module.model.backbone), *more],
        ).fit(tuned, loader, ckpt_path=ckpt)  # fmt: skip
        return tuned.model

    whole = fitted(Keep())
    again = fitted(ckpt=tmp_path / "middle.ckpt")
    assert again.seen == whole.seen[len(whole.seen) - len(again.seen) :]
    assert len(again.seen) == len(whole.seen) - (ROWS // BATCH + 1)


def test_a_copy_of_the_model_is_kept_still_too_and_an_interrupted_training_leaves_one_hook() -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from frostline.callbacks.transformers import PlanCallback

    model, of = Model(), PLANS["freeze@2"]
    follow = PlanCallback(of, model, model.backbone)
    given = (TrainingArguments("none", use_cpu=True, report_to=[]), TrainerState(), TrainerControl())
    follow.on_train_begin(*given)
    follow.on_train_begin(*given)  # the first one was interrupted
    assert len(model._forward_pre_hooks) == 1
    copied = copy.deepcopy(model).train()
    copied(data()[0])
    still = {name for layer in LAYERS[:2] for name in layer.modules}
    assert not copied.seen[-1][1] & still
    assert model.backbone.blocks[2].training


def test_a_loop_of_other_epochs_or_of_several_processes_is_refused_where_layers_thaw() -> None:
    model = Model()
    follow = Follow(PLANS["thaw"], model, model.backbone)
    follow.fits(EPOCHS)
    with pytest.raises(PlanError, match=r"over 4 epochs, and the loop has 3 epochs; .*with_epochs"):
        follow.fits(3)
    with pytest.raises(PlanError, match="the loop has no epochs"):
        follow.fits(None)
    with pytest.raises(PlanError, match="2 processes train together"):
        follow.fits(EPOCHS, processes=2)
    Follow(PLANS["freeze@2"], model, model.backbone).fits(3, processes=2)


def test_groups_hold_every_parameter_that_ever_learns_once_and_at_its_own_rate() -> None:
    model, of = Model(), PLANS["freeze@2"]
    groups = Follow(of, model, model.backbone).groups()
    held = [id(p) for group in groups for p in group["params"]]
    frozen = {
        id(model.backbone.get_parameter(n)) for n in stage.frozen_names(of) if "running" not in n and "num" not in n
    }
    assert sorted(held) == sorted(id(p) for p in model.parameters() if id(p) not in frozen)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["new"] == rates["head"] == RECIPE.lr
    assert rates["blocks.1"] == pytest.approx(RECIPE.lr * 0.1 * 0.7)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (plan(LAYERS, RECIPE, keep=2, above="reinit"), "would reinit the layers above 2"),
        (plan(LAYERS, RECIPE, freeze=2, adapter=Adapter()), "the plan's adapter is Adapter"),
        (plan(LAYERS, Recipe(4, 1e-3, anchor=0.5)), r"the plan's anchor is 0\.5"),
        (plan(LAYERS, Recipe(4, 1e-3, balance=True)), "the plan's balance is True"),
        (plan(LAYERS, RECIPE, head=Head("mlp")), r"the plan's head\.kind is 'mlp'.*where it is 'linear'"),
        (plan(LAYERS, RECIPE, blend=0.5), r"the plan's blend is 0\.5"),
        (plan(LAYERS, RECIPE, statistics="reestimate"), "measures batch norms anew"),
    ],
)
def test_a_plan_that_changes_the_network_itself_is_refused(of: Plan, said: str) -> None:
    model = Model()
    with pytest.raises(PlanError, match=said):
        Follow(of, model, model.backbone)


def test_a_network_that_is_no_part_of_the_model_is_refused() -> None:
    with pytest.raises(PlanError, match="no part of the model"):
        Follow(PLANS["freeze@2"], Model(), stage.network().module)


# -------------------------------------------------------------------------------------- finetuning-scheduler


def scheduled(model: Model, of: Plan) -> dict[int, dict[str, Any]]:
    return yaml.safe_load(phases.write(of, model, model.backbone))


def test_a_plan_is_written_as_phases_and_read_back_to_the_same_plan() -> None:
    model = Model()
    steady = gradual(LAYERS, replace(RECIPE, layer_decay=1.0))
    for of in (PLANS["freeze@2"], steady):
        text = phases.write(of, model, model.backbone)
        back = phases.read(text, LAYERS, of.recipe, prefix="backbone.")
        assert [back.learning(epoch) for epoch in range(EPOCHS)] == [of.learning(epoch) for epoch in range(EPOCHS)]
    found = scheduled(model, steady)
    assert found[0]["params"] == ["backbone.head.bias", "backbone.head.weight", "new.bias", "new.weight"]
    assert [phase["max_transition_epoch"] for phase in found.values()] == [1, 2, EPOCHS]


def test_phases_name_patterns_and_the_last_may_go_on_to_the_end() -> None:
    first = "0:\n  params: ['net.head.*']\n  max_transition_epoch: 2\n"
    text = first + "1:\n  params: ['net\\.blocks\\.[12]\\..*']\n  lr: 1e-4\n"
    found = phases.read(text, LAYERS, RECIPE, prefix="net.")
    assert (found.freeze, found.train, found.thaw) == (2, (False,) * 4, ((2, (False, False, True, True)),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0: [", "is no YAML"),
        ("1:\n  params: []", "numbered 0, 1, 2"),
        ("[]", "numbered 0, 1, 2"),
        ("0:\n  params: []\n1:\n  params: []", "phase 0 has the max_transition_epoch -1"),
        ("0: [a]", "phase 0 is .*it holds `params`, a list"),
        ("0:\n  params: ['*.weight']", "is no regular expression"),
        ("0:\n  params: ['backbone.stem.*']", "no pattern of the schedule matches .*prefix is ''"),
    ],
)
def test_a_schedule_that_says_no_epochs_is_refused(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        phases.read(text, LAYERS, RECIPE)


def test_a_schedule_of_many_phases_is_read_in_the_order_of_their_numbers() -> None:
    many = [
        replace(LAYERS[1], index=index, name=f"part{index}", members=(f"part{index}.weight",)) for index in range(12)
    ]
    of = gradual(many, replace(RECIPE, epochs=20), until=13)
    text = "".join(
        f"{phase}:\n  params: ['part{12 - phase}[.].*']\n  max_transition_epoch: {phase + 1}\n" for phase in range(13)
    )
    found = phases.read(text, many, of.recipe)
    assert [sum(found.learning(epoch)) for epoch in range(14)] == [*range(13), 12]


def test_what_a_schedule_cannot_say_is_refused() -> None:
    model = Model()
    with pytest.raises(PlanError, match="freezes again at epoch 2"):
        phases.write(PLANS["again"], model, model.backbone)
    with pytest.raises(PlanError, match=r"with the rates .* and a phase of finetuning-scheduler has one"):
        phases.write(PLANS["thaw"], model, model.backbone)


@pytest.mark.skipif(
    not importlib.util.find_spec("finetuning_scheduler"), reason="finetuning-scheduler is not installed"
)
def test_the_library_itself_thaws_by_the_schedule_as_the_plan_does(tmp_path: Path) -> None:
    from finetuning_scheduler import FinetuningScheduler
    from lightning.pytorch import LightningModule, Trainer

    model, of = Model(), gradual(LAYERS, replace(RECIPE, layer_decay=1.0))

    class Tuned(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.new = model.backbone, model.new

        def training_step(self, batch: Any) -> Tensor:
            return model(*batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)

    place = tmp_path / "schedule.yaml"
    place.write_text(phases.write(of, model, model.backbone))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), BATCH)
    Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[FinetuningScheduler(ft_schedule=str(place), epoch_transitions_only=True, restore_best=False)],
    ).fit(Tuned(), loader)  # fmt: skip
    for number, (learns, _) in enumerate(model.seen):
        flags = of.learning(number // (ROWS // BATCH))
        expected = {n for layer, yes in zip(LAYERS, flags, strict=True) if yes for n in layer.members}
        weights = {n for n, _ in model.backbone.named_parameters()}
        assert learns - {"head.weight", "head.bias"} == expected & weights, number
