"""The command line: parse, call, print. Everything else is in journey.py."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from frostline.errors import FrostlineError, OptionError
from frostline.values import Event, Show, silent

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

# an option in its panel of --help
of_data = partial(typer.Option, rich_help_panel="Data")
of_backbone = partial(typer.Option, rich_help_panel="Backbone")
of_aim = partial(typer.Option, rich_help_panel="What is wanted")
of_spending = partial(typer.Option, rich_help_panel="What is spent")
of_machine = partial(typer.Option, rich_help_panel="Machine")
of_run = partial(typer.Option, rich_help_panel="Run")

Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder of pictures, a table (CSV, TSV, JSONL, Parquet) or a saved data set; --config may name it."
    ),
]
Backbone = Annotated[
    str | None, of_backbone(help="timm/NAME, torchvision/NAME, hf/NAME or hf/FOLDER, or FILE.py:factory.")
]
Weights = Annotated[str | None, of_backbone(help='A checkpoint (safetensors first), or "none" for random weights.')]
Kwargs = Annotated[list[str] | None, of_backbone("--model-kwargs", help="KEY=VALUE for the model; may be repeated.")]
ImageSize = Annotated[int | None, of_backbone(help="Pixels of a side; the backbone's own by default.")]
Mean = Annotated[str | None, of_backbone(help="Channel means, 0.485,0.456,0.406.")]
Std = Annotated[str | None, of_backbone(help="Channel deviations, 0.229,0.224,0.225.")]
Interpolation = Annotated[str | None, of_backbone(help="nearest, bilinear, bicubic or lanczos.")]
DataFormat = Annotated[str | None, of_data(help="folder, table or huggingface; detected by default.")]
Label = Annotated[str | None, of_data(help="The column of labels, in a table.")]
PathColumn = Annotated[str | None, of_data("--path", help="The column of paths or pictures, in a table.")]
Group = Annotated[str | None, of_data(help="A column: rows of one group stay on one side of every split.")]
Task = Annotated[str | None, of_aim(help="What is learned: classification.")]
Metric = Annotated[str | None, of_aim(help="The score: accuracy, balanced_accuracy, macro_f1 or weighted_f1.")]
Epsilon = Annotated[float | None, of_aim(help="A score this far below the best counts as equally good [0.01].")]
Confidence = Annotated[float | None, of_aim(help="How sure every interval and claim must be, from 0 to 1 [0.95].")]
Effort = Annotated[str | None, of_spending(help="How much is tried: quick, default or thorough.")]
Budget = Annotated[str | None, of_spending(help="Time for the search, 30m or 1.5h; scales the schedule once.")]
Epochs = Annotated[int | None, of_spending(help="Epochs of a full training; from the data's size by default.")]
Prefer = Annotated[str | None, of_aim(help="Which cost to keep low: training, inference or memory.")]
Augment = Annotated[str | None, of_spending(help="Varies the finalists' pictures: none, flip, crop or flip_crop.")]
BatchSize = Annotated[int | None, of_spending(help="Examples in a training step; from the data's size by default.")]
Device = Annotated[str | None, of_machine(help="Where to compute: auto, cpu, cuda or mps.")]
Precision = Annotated[
    str | None, of_machine(help="Number format in training: auto, fp32, bf16 or fp16; auto measures.")
]
Storage = Annotated[int | None, of_machine(help="Bytes of activations that may be stored [8 GiB].")]
Out = Annotated[str | None, of_run(help="The run's directory; runs/DATA-BACKBONE by default.")]
DemoOut = Annotated[str | None, of_run("--out", help="The run's directory; runs/demo by default.")]
Seed = Annotated[int | None, of_run(help="Decides every random draw [0].")]
Workers = Annotated[int | None, of_machine(help="Processes that train at the same time; as many as pay by default.")]
Recalibrate = Annotated[bool, of_machine("--recalibrate", help="Measure this machine anew, whatever it remembers.")]
Resume = Annotated[bool, of_run("--resume", help="Go on with an interrupted run.")]
Config = Annotated[Path | None, of_run(help="A TOML file with the same keys; a flag overrides it.")]
Json = Annotated[bool, of_run("--json", help="Print one JSON document instead of text.")]


# every verb that trains takes the same keys: those of settings.Settings


@app.command()
def find(
    data: Data = None,
    data_format: DataFormat = None,
    label: Label = None,
    path: PathColumn = None,
    group: Group = None,
    backbone: Backbone = None,
    weights: Weights = None,
    model_kwargs: Kwargs = None,
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    task: Task = None,
    metric: Metric = None,
    epsilon: Epsilon = None,
    confidence: Confidence = None,
    prefer: Prefer = None,
    effort: Effort = None,
    budget: Budget = None,
    epochs: Epochs = None,
    augment: Augment = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: Precision = None,
    storage: Storage = None,
    out: Out = None,
    seed: Seed = None,
    workers: Workers = None,
    refit_all: Annotated[bool, of_run("--refit-all", help="Train the choice once more on all data.")] = False,
    recalibrate: Recalibrate = False,
    resume: Resume = False,
    dry_run: Annotated[bool, of_run("--dry-run", help="Say what would be done and spent; write nothing.")] = False,
    config: Config = None,
    json_: Json = False,
) -> None:
    """The answer and the trained model."""
    options = _given(locals())
    from frostline import journey
    from frostline.settings import settings, switched_on

    dry_run, json_ = dry_run or switched_on("dry_run", config), json_ or switched_on("json", config)
    with _told(json_) as show:
        resolved = settings(options, config=config)
        found = journey.probe_with(resolved, show=show) if dry_run else journey.find_with(resolved, show=show)
    if isinstance(found, journey.Probed):
        _print_probed(found, json_, plan=True)
    else:
        _print_result(found, json_)


@app.command()
def demo(out: DemoOut = None, seed: Seed = None, resume: Resume = False, json_: Json = False) -> None:
    """The whole job on a data set and a small pre-trained network that come with the package."""
    from frostline import journey

    with _told(json_) as show:
        result = journey.demo(out=out, seed=seed, resume=resume, show=show)
    _print_result(result, json_)


@app.command()
def layers(
    backbone: Annotated[str, typer.Argument(help="As for --backbone of the other commands.")],
    weights: Weights = "none",
    model_kwargs: Kwargs = None,
    image_size: ImageSize = None,
    json_: Json = False,
) -> None:
    """The layers and legal cuts: parameters, MACs, bytes at each cut."""
    from frostline import journey
    from frostline.report import text

    with _told(json_):
        found = journey.layers(backbone, weights=weights, model_kwargs=_pairs(model_kwargs), image_size=image_size)
    if json_:
        _print_json({"layers": [text.layer_row(layer) for layer in found]})
    else:
        Console().print(
            text.layer_table(backbone, found, "random, none are needed here" if weights == "none" else weights)
        )


@app.command()
def probe(
    data: Data = None,
    data_format: DataFormat = None,
    label: Label = None,
    path: PathColumn = None,
    group: Group = None,
    backbone: Backbone = None,
    weights: Weights = None,
    model_kwargs: Kwargs = None,
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    device: Device = None,
    storage: Storage = None,
    seed: Seed = None,
    recalibrate: Recalibrate = False,
    config: Config = None,
    json_: Json = False,
) -> None:
    """Seconds, no training: profile, linear-probe curve, forecast of what a search costs."""
    options = _given(locals())
    from frostline import journey
    from frostline.settings import settings, switched_on

    json_ = json_ or switched_on("json", config)
    with _told(json_) as show:
        probed = journey.probe_with(settings(options, config=config), show=show)
    _print_probed(probed, json_)


@app.command()
def train(
    data: Data = None,
    *,
    plan: Annotated[Path, typer.Option(help="A plan.json, or the summary.json of a run.")],
    data_format: DataFormat = None,
    label: Label = None,
    path: PathColumn = None,
    group: Group = None,
    backbone: Backbone = None,
    weights: Weights = None,
    model_kwargs: Kwargs = None,
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    metric: Metric = None,
    epochs: Epochs = None,
    augment: Augment = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: Precision = None,
    storage: Storage = None,
    out: Out = None,
    seed: Seed = None,
    recalibrate: Recalibrate = False,
    resume: Resume = False,
    config: Config = None,
    json_: Json = False,
) -> None:
    """One plan, and its model."""
    options = _given(locals())
    from frostline import journey
    from frostline.plan import read
    from frostline.settings import settings, switched_on

    json_ = json_ or switched_on("json", config)
    with _told(json_) as show:
        result = journey.train_with(settings(options, config=config), read(plan), show=show)
    _print_result(result, json_)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    files: Annotated[list[Path], typer.Argument(help="Pictures.")],
    json_: Json = False,
) -> None:
    """Labels and probabilities, with the model of a run."""
    from frostline import journey

    with _told(json_):
        for row in journey.load(run).predict(files):
            if json_:
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                print(f"{row['input']}\t{row['label']}\t{row['scores'][row['label']]:.3f}", flush=True)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The directory of a finished run.")]) -> None:
    """Write report.html of a finished run anew, and print its answer."""
    from frostline import journey

    with _told(False):
        result = journey.report(run)
    _print_result(result, False)


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


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a verb's options, as settings: unset ones left out."""
    own = ("config", "json_", "dry_run", "plan")
    given = {
        name: value for name, value in options.items() if value is not None and value is not False and name not in own
    }
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


@contextmanager
def _told(quiet: bool) -> Generator[Show]:
    """Progress on standard error, and sentences between: bars on a terminal, lines elsewhere; nothing with --json."""
    console = Console(stderr=True)
    if quiet:
        yield silent
    elif console.is_terminal:
        with _bars(console) as show:
            yield show
    else:
        yield _lines()


@contextmanager
def _bars(console: Console) -> Generator[Show]:
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        bars: dict[str, TaskID] = {}

        def show(event: Event) -> None:
            if event.text:
                progress.console.print(event.text, markup=False, highlight=False)
            if event.total:
                if event.stage not in bars:
                    bars[event.stage] = progress.add_task(event.stage, total=event.total)
                progress.update(bars[event.stage], completed=event.done, total=event.total)

        yield show


def _lines() -> Show:
    """A line when a stage begins and at every tenth of it: in a file, bars would stand only at the very end."""
    tenths: dict[str, int] = {}

    def show(event: Event) -> None:
        if event.text:
            print(event.text, file=sys.stderr, flush=True)
        if event.total and tenths.get(event.stage) != (tenth := 10 * event.done // event.total):
            tenths[event.stage] = tenth
            print(f"{event.stage}: {event.done} of {event.total}", file=sys.stderr, flush=True)

    return show


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
    from frostline.report import text

    if as_json:
        _print_json(probed.document())
        return
    examples = len(probed.bench.split.folds[0].train)
    costs = {"seconds": probed.seconds, "stored": probed.stored}
    Console().print(text.probed(probed.bench.profile, probed.curve, examples, probed.arms, **costs))
    if plan:
        example = max(probed.arms, key=lambda arm: 0 < arm.plan.freeze < arm.plan.keep)  # one with layers of both kinds
        Console().print(text.plan_table(example.plan, f"One of the plans, {example.id}, layer by layer"))
