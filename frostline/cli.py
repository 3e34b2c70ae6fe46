"""The command line: parse, call, print. Everything else is in journey.py."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from frostline import console, flags
from frostline.errors import FrostlineError, OptionError

# what may befall any file, wherever it is written or read; each is for the user to mend
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
INTERRUPTED = 130

app = typer.Typer(
    name="frostline",
    help="How many layers of a pre-trained network to transfer, how many to freeze: answered from your own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",  # for the panels; no help text here has a letter behind a square bracket
)


def _version(asked: bool) -> None:
    if asked:
        import frostline

        print(frostline.__version__)
        raise typer.Exit


@app.callback()
def before(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """How many layers of a pre-trained network to transfer, how many to freeze: answered from your own data."""


# every verb that trains takes the same keys: those of settings.Settings


@app.command("compare", help="The known strategies side by side on equal data, and the trained model.")
@app.command("find", help="The answer and the trained model.")
def find(
    context: typer.Context,
    data: flags.Data = None,
    data_format: flags.DataFormat = None,
    label: flags.Label = None,
    path: flags.PathColumn = None,
    group: flags.Group = None,
    values: flags.Values = None,
    shifted: flags.Shifted = None,
    source: flags.Source = None,
    backbone: flags.Backbone = None,
    weights: flags.Weights = None,
    model_kwargs: flags.Kwargs = None,
    image_size: flags.ImageSize = None,
    max_length: flags.MaxLength = None,
    seconds: flags.Seconds = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    interpolation: flags.Interpolation = None,
    task: flags.Task = None,
    detector: flags.Detector = None,
    metric: flags.Metric = None,
    epsilon: flags.Epsilon = None,
    confidence: flags.Confidence = None,
    prefer: flags.Prefer = None,
    effort: flags.Effort = None,
    budget: flags.Budget = None,
    epochs: flags.Epochs = None,
    augment: flags.Augment = None,
    views: flags.Views = None,
    batch_size: flags.BatchSize = None,
    device: flags.Device = None,
    precision: flags.Precision = None,
    storage: flags.Storage = None,
    storage_precision: flags.StoragePrecision = None,
    out: flags.Out = None,
    seed: flags.Seed = None,
    workers: flags.Workers = None,
    refit_all: flags.RefitAll = False,
    gallery: flags.Gallery = None,
    recalibrate: flags.Recalibrate = False,
    resume: flags.Resume = False,
    log: flags.Log = None,
    dry_run: flags.DryRun = False,
    config: flags.Config = None,
    json_: flags.Json = False,
) -> None:
    """A search, or with all known strategies in its place, a comparison."""
    options = _given(locals())
    if context.info_name == "compare":
        options["strategies"] = "known"
    from frostline import journey
    from frostline.settings import settings, switched_on

    dry_run, json_ = dry_run or switched_on("dry_run", config), json_ or switched_on("json", config)
    with console.told(json_) as show:
        resolved = settings(options, config=config)
        found = journey.probe_with(resolved, show=show) if dry_run else journey.find_with(resolved, show=show)
    if isinstance(found, journey.Probed):
        _print_probed(found, json_, plan=True)
    else:
        _print_result(found, json_)


@app.command()
def demo(
    out: flags.DemoOut = None, seed: flags.Seed = None, resume: flags.Resume = False, json_: flags.Json = False
) -> None:
    """The whole job on a data set and a small pre-trained network that come with the package."""
    from frostline import journey

    with console.told(json_) as show:
        result = journey.demo(out=out, seed=seed, resume=resume, show=show)
    _print_result(result, json_)


@app.command()
def layers(
    backbone: Annotated[str, typer.Argument(help="As for --backbone of the other commands.")],
    weights: Annotated[
        str | None, typer.Option(help='A checkpoint; none is needed here, so "none" is usual.')
    ] = "none",
    model_kwargs: flags.Kwargs = None,
    image_size: flags.ImageSize = None,
    max_length: flags.MaxLength = None,
    seconds: flags.Seconds = None,
    json_: flags.Json = False,
) -> None:
    """The layers and legal cuts: parameters, MACs, bytes at each cut."""
    from frostline import journey
    from frostline.report import tables

    with console.told(json_):
        sizes = {"image_size": image_size, "max_length": max_length, "seconds": seconds}
        found = journey.layers(backbone, weights=weights, model_kwargs=_pairs(model_kwargs), **sizes)
    if json_:
        _print_json({"layers": [tables.layer_row(layer) for layer in found]})
    else:
        Console().print(
            tables.layer_table(backbone, found, "random, none are needed here" if weights == "none" else weights)
        )


@app.command()
def probe(
    data: flags.Data = None,
    data_format: flags.DataFormat = None,
    label: flags.Label = None,
    path: flags.PathColumn = None,
    group: flags.Group = None,
    shifted: flags.Shifted = None,
    source: flags.Source = None,
    backbone: flags.Backbone = None,
    weights: flags.Weights = None,
    model_kwargs: flags.Kwargs = None,
    image_size: flags.ImageSize = None,
    max_length: flags.MaxLength = None,
    seconds: flags.Seconds = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    interpolation: flags.Interpolation = None,
    task: flags.Task = None,
    detector: flags.Detector = None,
    metric: flags.Metric = None,
    epsilon: flags.Epsilon = None,
    device: flags.Device = None,
    storage: flags.Storage = None,
    storage_precision: flags.StoragePrecision = None,
    seed: flags.Seed = None,
    recalibrate: flags.Recalibrate = False,
    config: flags.Config = None,
    json_: flags.Json = False,
) -> None:
    """Seconds, no training: profile, linear-probe curve, forecast of what a search costs."""
    options = _given(locals())
    from frostline import journey
    from frostline.settings import settings, switched_on

    json_ = json_ or switched_on("json", config)
    with console.told(json_) as show:
        resolved = settings(options, config=config)
        journey.tell_unread("probe", resolved, show)
        probed = journey.probe_with(resolved, show=show)
    _print_probed(probed, json_)


@app.command()
def train(
    data: flags.Data = None,
    *,
    plan: Annotated[Path | None, typer.Option(help="A plan.json, or the summary.json of a run.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Or a known strategy: lp_ft, gradual_unfreezing, lora, scratch, ...")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Or what to freeze: a count, a layer's name, a share; the rest is trained.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of new layers, beside one of the two.")] = None,
    data_format: flags.DataFormat = None,
    label: flags.Label = None,
    path: flags.PathColumn = None,
    group: flags.Group = None,
    values: flags.Values = None,
    shifted: flags.Shifted = None,
    backbone: flags.Backbone = None,
    weights: flags.Weights = None,
    model_kwargs: flags.Kwargs = None,
    image_size: flags.ImageSize = None,
    max_length: flags.MaxLength = None,
    seconds: flags.Seconds = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    interpolation: flags.Interpolation = None,
    task: flags.Task = None,
    detector: flags.Detector = None,
    metric: flags.Metric = None,
    epochs: flags.Epochs = None,
    augment: flags.Augment = None,
    batch_size: flags.BatchSize = None,
    device: flags.Device = None,
    precision: flags.Precision = None,
    storage: flags.Storage = None,
    storage_precision: flags.StoragePrecision = None,
    out: flags.Out = None,
    seed: flags.Seed = None,
    recalibrate: flags.Recalibrate = False,
    resume: flags.Resume = False,
    log: flags.Log = None,
    config: flags.Config = None,
    json_: flags.Json = False,
) -> None:
    """One plan, and its model."""
    options = _given(locals())
    from frostline import journey
    from frostline.settings import settings, switched_on

    json_ = json_ or switched_on("json", config)
    with console.told(json_) as show:
        wanted = _wanted(plan, strategy, freeze, lr)
        result = journey.train_with(settings(options, config=config), wanted, show=show)
    _print_result(result, json_)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    files: Annotated[list[Path], typer.Argument(help="Pictures, recordings, texts, or tables of texts.")],
    draw: Annotated[
        Path | None, typer.Option(help="A folder for the pictures with the boxes or classes that were found on them.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="A folder for masks as PNG: the class of every pixel as its value.")
    ] = None,
    json_: flags.Json = False,
) -> None:
    """Labels and probabilities, numbers, boxes or masks, with the model of a run."""
    from frostline import journey

    with console.told(json_):
        for row in journey.load(run).predict(files, draw=draw, masks=masks):
            row.pop("mask", None)  # of pixels: it goes into a file
            if json_:
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                print(f"{row['input']}\t{_said(row)}", flush=True)


def _said(row: Mapping[str, Any]) -> str:
    """A prediction in a line: a class with its probability, the labels with theirs, the numbers, or what is where."""
    if "shares" in row:
        return "\t".join(f"{name} {share:.3f}" for name, share in row["shares"].items() if share)
    if "boxes" in row:
        told = zip(row["labels"], row["scores"], row["boxes"], strict=True)
        return "\t".join(f"{label} {p:.2f} [{', '.join(f'{x:.0f}' for x in box)}]" for label, p, box in told) or "none"
    if "values" in row:
        return "\t".join(f"{name} {value:.4g}" for name, value in row["values"].items())
    if "labels" in row:
        return "\t".join(f"{name} {row['scores'][name]:.3f}" for name in row["labels"]) or "none"
    return f"{row['label']}\t{row['scores'][row['label']]:.3f}"


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    gallery: flags.Gallery = None,
) -> None:
    """Write report.html of a finished run anew, and print its answer; it shows no more examples than the run kept."""
    from frostline import journey

    with console.told(False):
        result = journey.report(run, gallery=gallery)
    _print_result(result, False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    to: Annotated[str, typer.Option(help="safetensors, transformers, onnx, torch_export or keras.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write; RUN/export/FORMAT by default.")] = None,
) -> None:
    """The model of a run for other libraries, with a card of its evidence."""
    from frostline import journey

    with console.told(False):
        found = journey.export(run, to, out=out)
    print(f"{found.folder}: {', '.join(found.files)}")
    print(f"Read back, it differs from the run's own answers by {found.off:.1g} at most.\n\n{found.use}")


def main() -> None:
    """Run the command line; errors of ours end with their exit code and their message, an interrupt with 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # file names may be no UTF-8, and a terminal may know ASCII alone
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # the parser catches an interrupt and returns this; older ones raise Abort
            raise KeyboardInterrupt
        sys.exit(code or 0)
    except FrostlineError as error:
        sys.stderr.write(f"frostline: {error}\n")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nfrostline: interrupted; everything finished is kept, --resume goes on from here\n")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = f"{error.filename!r} cannot be used" if error.filename else "something cannot be written"
        sys.stderr.write(f"frostline: {place}: {error.strerror}; make room or choose another place with --out\n")
        sys.exit(2)
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error of the parser draws itself
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


def _wanted(plan: Path | None, strategy: str | None, freeze: str | None, lr: float | None) -> Any:
    """The plan of a file, or the wish for one. Raises OptionError where it is said twice or not at all."""
    from frostline.plan import read
    from frostline.run.wish import Wish

    if plan is None:
        return Wish(strategy, freeze, lr)
    if strategy is not None or freeze is not None or lr is not None:
        raise OptionError(f"the plan {str(plan)!r} says all of strategy, freeze and lr; leave these away")
    return read(plan)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a verb's options, as settings: unset ones left out."""
    own = ("context", "config", "json_", "dry_run", "plan", "strategy", "freeze", "lr")
    given = {
        name: value for name, value in options.items() if value is not None and value is not False and name not in own
    }
    for name in ("backbone", "weights"):
        if len(given.get(name, ())) == 1 and isinstance(given[name], list):
            given[name] = given[name][0]
    if "model_kwargs" in given:
        given["model_kwargs"] = _pairs(given["model_kwargs"])
    return given


def _pairs(texts: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE, values read as JSON where they are JSON."""
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise OptionError(f"--model-kwargs is {text!r}; give KEY=VALUE, for example pad_type=same")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))


def _print_result(result: Any, as_json: bool) -> None:
    from frostline.report import text

    if as_json:
        _print_json(result.summary)
    elif result.summary["decision"] is None:
        Console().print(text.trained(result.summary, result.plan, result.folder / "model"))
    else:
        Console().print(text.render(result.report, result.folder / "report.html"))


def _print_probed(probed: Any, as_json: bool, *, plan: bool = False) -> None:
    from frostline.report import tables, text

    if as_json:
        _print_json(probed.document())
        return
    examples = len(probed.bench.split.folds[0].train)
    costs = {"seconds": probed.seconds, "stored": probed.stored}
    metric = probed.bench.settings.metric
    if probed.networks:
        Console().print(tables.network_table(probed.networks, metric))
    Console().print(text.probed(probed.bench.profile, probed.curve, examples, probed.arms, metric=metric, **costs))
    if plan:
        example = max(probed.arms, key=lambda arm: 0 < arm.plan.freeze < arm.plan.keep)  # one with layers of both kinds
        Console().print(tables.plan_table(example.plan, f"One of the plans, {example.id}, layer by layer"))
