"""The story: what `frostline find` does from the data to the answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from frostline.backbones.cuts import dissect
from frostline.backbones.load import load as load_backbone
from frostline.bench.bench import Bench, Source
from frostline.bench.curve import probe_cuts
from frostline.bench.lay import lay
from frostline.bench.recipe import FULL
from frostline.bench.task import ALL
from frostline.errors import OptionError, RunError
from frostline.formats import drawn, overlaid
from frostline.formats import export as formats
from frostline.formats import model as models
from frostline.formats.export import Exported
from frostline.plan import read as read_plan
from frostline.report import page
from frostline.report.facts import Report
from frostline.report.gallery import fewer
from frostline.run import comparisons, course, directory, ending, entrants, judging, logged, notes, summary, terms
from frostline.run.ended import Ended
from frostline.run.wish import Wish, granted, rough
from frostline.search import race as races
from frostline.search.decide import decide
from frostline.settings import Settings, apart, refuse_gallery, settings, tags, unread
from frostline.training.prepare import refuse_untrained
from frostline.values import Arm, Event, Evidence, Layer, Plan, Show, Unit, silent

DEMO_EPOCHS = 6
DEMO_LABELLED = 300


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def plan(self) -> Plan:
        """The plan of the model that was handed back."""
        return read_plan(self.folder / "model" / "plan.json")

    @property
    def report(self) -> Report:
        """What the page and the terminal tell. Raises RunError where nothing was searched."""
        if self.summary["decision"] is None:
            raise RunError(f"the run in {str(self.folder)!r} trained one plan; a report tells of a search: use find")
        return ending.report_of(self.summary, directory.read_json(self.folder / "report.json"))

    def predict(
        self, inputs: Sequence[Any], *, module: Any = None, draw: Path | None = None, masks: Path | None = None
    ) -> Iterator[dict[str, Any]]:
        """Label and probabilities, numbers, boxes or a mask of every file; a run of a `module` needs it again.

        A model of texts takes texts, pairs of texts, and paths of files and of tables. Pictures with the boxes or the
        classes on them go to the folder `draw`, masks as PNG to the folder `masks`.
        """
        model, colours = models.open_model(self.folder, module), dict[str, str]()
        if draw is not None and model.task.name not in models.PLACED:
            raise OptionError(f"draw is {str(draw)!r}, and this model finds no boxes and no masks; leave it away")
        if masks is not None and model.task.name != "segmentation":
            raise OptionError(f"masks is {str(masks)!r}, and this model finds no masks; leave it away")
        for row in models.predict(model, inputs):
            more = {} if masks is None else {"written": str(overlaid.mask(row, masks))}
            if draw is not None:
                place = drawn.draw(row, colours, draw) if "boxes" in row else overlaid.overlay(row, draw)
                more["drawn"] = str(place)
            yield {**row, **more}


def find(data: Any, backbone: Any, *, show: Show = silent, **options: Any) -> Result:
    """How many layers of `backbone` to transfer to `data`, and the trained model.

    `data` is a path, a pair (pictures, labels) of arrays, a pandas DataFrame, or a data set of Hugging Face or PyTorch;
    `backbone` a name as on the command line, a list of names that race, or a torch.nn.Module; `options` are those of
    `settings.Settings`. Raises the errors of errors.py.
    """
    given, source = resolve(data, backbone, options)
    return find_with(given, source=source, show=show)


def compare(data: Any, backbone: Any, *, show: Show = silent, **options: Any) -> Result:
    """The strategies that people know, side by side on equal data and with tuned rates, and the trained model.

    As `find`, but every strategy comes to the end; `Result.summary["comparison"]` says what each took.
    """
    return find(data, backbone, show=show, **{**options, "strategies": "known"})


def find_with(given: Settings, *, source: Source | None = None, show: Show = silent) -> Result:
    """The whole journey: read, load, cut, calibrate, fill, split, probe, propose, race, certify, decide, report."""
    with course.begun(given) as run:
        if run.finished:
            return load(run.folder)
        bench = course.laid(run, source or Source(), show=show)
        course.roused(bench, run)
        curves = {each.tag: probe_cuts(each, show=show) for each in bench.every}
        bench = entrants.leading(bench, curves, show=show)
        start = course.entered(bench, curves, run, show=show)
        run = course.foreseen(bench, start, run)
        race = course.race(bench, start, run, beside=partial(comparisons.beside, bench), show=show)
        finalists = course.certified(bench, race, run, show=show)
        decision = decide(
            finalists,
            bench.examples.targets,
            terms.aim(bench),
            replicates=races.replicates(race, course.told(run)),
            seed=given.seed,
        )
        bench, unit = bench.of(decision.arm), course.chosen_unit(race, decision)
        picked = next(finalist for finalist in finalists if finalist.arm.id == decision.arm)
        chosen = course.trained_in_full(bench, race, picked, unit, run)
        finalists = tuple(chosen if finalist is picked else finalist for finalist in finalists)
        known = comparisons.baselines(bench, race, finalists, chosen, run, show=show)
        handed = replace(unit, rung=0, fold=ALL) if given.refit_all else unit
        course.once(bench, chosen.arm, handed, run)
        checks = comparisons.checks(bench, race, chosen.arm, (unit, handed), run)
        ended = Ended(bench, curves, race, finalists, chosen, decision, known, checks)
        ending.hand_back(bench, decision.plan, handed, run.folder)
        written = ending.conclude(run, ended)
        logged.caught_up(run.logs, run.study)
        course.cleared(run)
        return Result(run.folder, written)


def layers(backbone: Any, *, weights: str | None = "none", **options: Any) -> tuple[Layer, ...]:
    """The layers of a network in execution order, with its legal cuts; weights are not needed.

    `options` are those of `backbones.load.load`: image_size, model_kwargs, ...
    """
    return dissect(load_backbone(backbone, weights=weights, **options)).layers


@dataclass(frozen=True, slots=True)
class Probed:
    """What is known before any training."""

    bench: Bench
    curves: entrants.Curves  # of every backbone
    arms: tuple[Arm, ...]
    seconds: float  # that a search is forecast to take

    @property
    def stored(self) -> int:
        """Bytes of activations that a search would store."""
        return sum(stored.bytes for each in self.bench.every for stored in each.sets)

    @property
    def curve(self) -> tuple[Evidence, ...]:
        """The probes of the backbone whose best one is best."""
        return tuple(self.curves[self.bench.tag])

    @property
    def networks(self) -> tuple[dict[str, Any], ...]:
        """What the probes say of each of several backbones, the best one first."""
        return judging.probed(self.bench, self.curves)

    def document(self) -> dict[str, Any]:
        """The matching parts of summary.json, and the forecast."""
        found = ending.findings(self.bench, evidence=self.curve)
        return summary.document(replace(found, rivals=self.networks)) | {
            "forecast": {
                "seconds": self.seconds,
                "bytes": self.stored,
                "arms": [arm.id for arm in self.arms],
                "storing": self.bench.forecast.sentence,
            }
        }


def probe(data: Any, backbone: Any, *, show: Show = silent, **options: Any) -> Probed:
    """No training: the data's profile, the linear probes at every cut, and what a search would cost.

    `options` are those of `settings.Settings`, but for what only a run needs. Raises the errors of errors.py.
    """
    given, source = resolve(data, backbone, options)
    refuse_unread("probe", given)
    return probe_with(given, source=source, show=show)


def probe_with(given: Settings, *, source: Source | None = None, show: Show = silent) -> Probed:
    """As `probe`, from settings. Leaves nothing behind."""
    given = course.shared(given, course.cores())
    benches = list[Bench]()
    with course.single_blas():
        for tag, alone in zip(tags(given), apart(given), strict=True):
            first = benches[0] if benches else None
            benches.append(lay(alone, source or Source(), dry=True, tag=tag, beside=first, show=show))
        benches[0].rivals.update({each.tag: each for each in benches if each.tag})
        curves = {each.tag: probe_cuts(each, show=show) for each in benches}
    bench = entrants.leading(benches[0], curves, show=show)
    arms = entrants.together(bench, curves)
    trainings = terms.forecast_seconds(bench, arms, terms.afforded(bench, arms))
    return Probed(bench, curves, arms, trainings + sum(each.forecast.writing for each in benches))


def train(data: Any, backbone: Any, plan: Plan | Wish | str, *, show: Show = silent, **options: Any) -> Result:
    """One plan on one data set, and its model.

    Instead of the plan there may be the name of a known strategy, "gradual_unfreezing", or a `run.wish.Wish`.

    `options` are those of `settings.Settings`, but for what only a search needs. Raises the errors of errors.py.
    """
    given, source = resolve(data, backbone, options)
    refuse_unread("train", given)
    return train_with(given, Wish(plan) if isinstance(plan, str) else plan, source=source, show=show)


def train_with(given: Settings, plan: Plan | Wish, *, source: Source | None = None, show: Show = silent) -> Result:
    """As `train`, from settings; --epochs and --batch-size go before the plan's own. Raises PlanError."""
    if isinstance(plan, Plan):
        refuse_untrained(plan)
    tell_unread("train", given, show)
    if given.rivals:
        raise OptionError(
            f"backbone is {', '.join((given.backbone, *given.rivals))}, and one plan is of one network; give "
            "one, or use find"
        )
    given = replace(given, workers=1, source=None)  # one training: it has the whole machine
    with course.begun(given) as run:
        course.bound(run, plan)
        if run.finished:
            return load(run.folder)
        bench = course.laid(run, source or Source(), demands=partial(_demanded, given, plan), show=show)
        plan = terms.fitted_to(bench, plan if isinstance(plan, Plan) else granted(plan, bench, show=show))
        arm = Arm("plan", plan, (plan.recipe.lr,))
        for note in (*notes.unadapted(bench, plan), *notes.unlike(bench, plan)):
            show(Event("train", text=note))
        unit = Unit(arm.id, plan.recipe.lr, 1, 0, 0, plan.recipe.epochs)
        handed = replace(unit, fold=ALL) if given.refit_all else unit
        show(Event("train", 0, 1 + given.refit_all))
        outcome = course.once(bench, arm, unit, run)
        show(Event("train", 1, 1 + given.refit_all))
        course.once(bench, arm, handed, run)
        show(Event("train", 1 + given.refit_all, 1 + given.refit_all))
        ending.hand_back(bench, plan, handed, run.folder)
        written = ending.conclude_training(run, bench, arm, outcome, handed)
        logged.caught_up(run.logs, run.study)
        course.cleared(run)
        return Result(run.folder, written)


def _demanded(given: Settings, wanted: Plan | Wish, layers: Sequence[Layer]) -> Mapping[int, float]:
    """Epochs by freeze depth of one training that reads the store: none where its pictures vary or it is closed."""
    plan = wanted if isinstance(wanted, Plan) else rough(wanted, layers, given.epochs or FULL)
    if plan is None:
        return {}
    varies = (given.augment or plan.recipe.augment) != "none"
    if varies or plan.closed or plan.freeze > len(layers):
        return {}
    return {plan.freeze: float((given.epochs or plan.recipe.epochs) * (1 + given.refit_all))}


def load(run: Path | str) -> Result:
    """A finished run. Raises RunError."""
    folder = Path(run)
    found = directory.read_json(folder / "summary.json")
    if found.get("format") != summary.FORMAT:
        raise RunError(
            f"{str(folder / 'summary.json')!r} is of the format {found.get('format')!r}, and {summary.FORMAT!r} is "
            "read here; give the directory of a run that Frostline finished"
        )
    return Result(folder, found)


def export(run: Path | str, to: str, *, out: Path | str | None = None, module: Any = None) -> Exported:
    """The model of a finished run in the format of another library, read back and asked: `formats.FORMATS` names them.

    It lies in `out`, by default RUN/export/FORMAT. Raises OptionError and StoreError.
    """
    result = load(run)
    model = models.open_model(result.folder, module)
    place = Path(out) if out is not None else result.folder / "export" / to
    return formats.export(model, result.summary, directory.read_json(result.folder / "model" / "model.json"), to, place)


def report(run: Path | str, *, gallery: int | None = None) -> Result:
    """Write the report of a finished search anew, from what the run kept; at most `gallery` of its examples are shown.

    The data need not be there any more. Raises RunError, and OptionError for a gallery of no sensible size.
    """
    result = load(run)
    found = result.report
    if gallery is not None:
        refuse_gallery(gallery)
        found = replace(found, gallery=fewer(found.gallery, gallery))
    page.write(result.folder / "report.html", found)
    return result


def demo(*, out: str | None = None, seed: int | None = None, resume: bool = False, show: Show = silent) -> Result:
    """`find` on scikit-learn's handwritten digits, with a small network that learned letters; both come along."""
    folder, home = Path(out or "runs/demo"), resources.files("frostline") / "demo"
    digits = demo_digits(folder.with_name(f"{folder.name}-digits"))
    given = {"out": str(folder), "seed": seed or 0, "resume": resume, "epochs": DEMO_EPOCHS}
    weights = str(home / "letters.safetensors")
    return find(str(digits), f"{home / 'network.py'}:glyphs", weights=weights, show=show, **given)


def demo_digits(folder: Path) -> Path:
    """The handwritten digits as pictures: 300 to learn from, since labels are dear, and the rest as the test folder."""
    from PIL import Image
    from sklearn.datasets import load_digits

    if folder.exists():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pictures, labels = load_digits(return_X_y=True)
    # not draw 0: its 300 digits make a shallow cut look three points better than it is on the other 1,497
    order = np.random.default_rng(1).permutation(len(labels))
    for rank, number in enumerate(order):
        picture, label = pictures[number], labels[number]
        place = partial / ("train" if rank < DEMO_LABELLED else "test") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        grey = np.round(picture.reshape(8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 in the original
        Image.fromarray(grey).save(place / f"{number:04d}.png")
    partial.rename(folder)
    return folder


def refuse_unread(verb: str, given: Settings) -> None:
    """Raise OptionError for settings that were given and that a verb has no use for."""
    if names := unread(verb, given):
        raise OptionError(f"{names[0]} is {getattr(given, names[0])!r}, and {verb} has no use for it; leave it away")


def tell_unread(verb: str, given: Settings, show: Show) -> None:
    """Say which settings a verb has no use for: one file of them may serve several verbs."""
    for name in unread(verb, given):
        show(Event("read", text=f"Not used by {verb}: {name} = {getattr(given, name)!r}"))


def resolve(data: Any, backbone: Any, options: Mapping[str, Any]) -> tuple[Settings, Source]:
    """Settings, and beside them what was given as an object. Raises OptionError."""
    named: dict[str, Any] = {"data": str(data) if isinstance(data, (str, os.PathLike)) else "(arrays)"}
    spelt = isinstance(backbone, str) or (
        isinstance(backbone, (list, tuple)) and all(isinstance(b, str) for b in backbone)
    )
    if isinstance(backbone, (list, tuple)) and not spelt:
        raise OptionError("of several backbones each is given by its name; search one module at a time")
    named["backbone"] = backbone if spelt else f"(module {type(backbone).__name__})"
    given = settings({**named, **options})
    source = Source(None if isinstance(data, (str, os.PathLike)) else data, None if spelt else backbone)
    if (given.workers or 1) > 1 and (source.data is not None or source.module is not None):
        raise OptionError(
            f"workers is {given.workers}, but data or backbone was given as an object, which other processes cannot "
            "reach; use workers=1, or give a folder and a name"
        )
    return given, source
