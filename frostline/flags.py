"""The options of the command line, each declared once, in the panel of --help in which it stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

of_data = partial(typer.Option, rich_help_panel="Data")
of_backbone = partial(typer.Option, rich_help_panel="Backbone")
of_aim = partial(typer.Option, rich_help_panel="What is wanted")
of_spending = partial(typer.Option, rich_help_panel="What is spent")
of_machine = partial(typer.Option, rich_help_panel="Machine")
of_run = partial(typer.Option, rich_help_panel="Run")

Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder (pictures, recordings, texts), a table (CSV, TSV, JSONL, Parquet) or a saved data set."
    ),
]
Backbone = Annotated[
    list[str] | None,
    of_backbone(
        help="timm/NAME, torchvision/NAME, hf/NAME or hf/FOLDER, or FILE.py:factory; several race with each other."
    ),
]
Weights = Annotated[
    list[str] | None,
    of_backbone(help='A checkpoint (safetensors first), "none" for random weights; one for each of several backbones.'),
]
Kwargs = Annotated[list[str] | None, of_backbone("--model-kwargs", help="KEY=VALUE for the model; may be repeated.")]
ImageSize = Annotated[int | None, of_backbone(help="Pixels of a side; the backbone's own by default.")]
MaxLength = Annotated[int | None, of_backbone(help="Tokens of a text that are read; the backbone's own, up to 512.")]
Seconds = Annotated[float | None, of_backbone(help="Seconds of a recording that are heard; the longest's by default.")]
Mean = Annotated[str | None, of_backbone(help="Channel means, 0.485,0.456,0.406.")]
Std = Annotated[str | None, of_backbone(help="Channel deviations, 0.229,0.224,0.225.")]
Interpolation = Annotated[str | None, of_backbone(help="nearest, bilinear, bicubic or lanczos.")]
DataFormat = Annotated[str | None, of_data(help="folder, table or huggingface; detected by default.")]
Label = Annotated[str | None, of_data(help="The column of labels; ONE,OTHER are several labels or numbers an example.")]
PathColumn = Annotated[
    str | None,
    of_data("--path", help="The column of paths, files or texts; ONE,OTHER hold pairs of texts."),
]
Group = Annotated[str | None, of_data(help="A column: rows of one group stay on one side of every split.")]
Values = Annotated[str | None, of_data(help="A column of numbers, for a metric of your own.")]
Shifted = Annotated[
    str | None, of_data(help="More examples of the same classes, from another place: scored, never decided by.")
]
Source = Annotated[
    str | None, of_data(help="Labelled examples of what the backbone was trained on: how far, and what is forgotten.")
]
Task = Annotated[
    str | None, of_aim(help="What is learned: classification, multilabel, regression, detection or segmentation.")
]
Detector = Annotated[
    str | None, of_aim(help="The head that finds boxes on a classifier: fasterrcnn (default), fcos or retinanet.")
]
Metric = Annotated[
    str | None,
    of_aim(
        help="accuracy, balanced_accuracy, macro_f1, weighted_f1, roc_auc, log_loss or FILE.py:NAME; of labels "
        "average_precision, macro_f1, micro_f1, exact_match or log_loss; of numbers r2, rmse, mae or pearson; "
        "of boxes map50 or map; of masks mean_iou or pixel_accuracy."
    ),
]
Epsilon = Annotated[float | None, of_aim(help="A score this far behind the best counts as equally good [0.01].")]
Confidence = Annotated[float | None, of_aim(help="How sure every interval and claim must be, 0.5 to 1 [0.95].")]
Effort = Annotated[str | None, of_spending(help="How much is tried: quick, default or thorough.")]
Budget = Annotated[str | None, of_spending(help="Time for the search, 30m or 1.5h; scales the schedule once.")]
Epochs = Annotated[int | None, of_spending(help="Epochs of a full training; from the data's size by default.")]
Prefer = Annotated[str | None, of_aim(help="Which cost to keep low: training, inference or memory.")]
Augment = Annotated[str | None, of_spending(help="How pictures vary in training: none, flip, crop or flip_crop.")]
Views = Annotated[
    int | None, of_spending(help="Views of each example that short trainings learn from, with --augment [up to 4].")
]
BatchSize = Annotated[int | None, of_spending(help="Examples in a training step; from the data's size by default.")]
Device = Annotated[str | None, of_machine(help="Where to compute: auto, cpu, cuda or mps.")]
Precision = Annotated[
    str | None, of_machine(help="Number format in training: auto, fp32, bf16 or fp16; auto measures.")
]
Storage = Annotated[str | None, of_machine(help="Room for stored activations: 8GiB, 500MB, 0 for none [8GiB].")]
StoragePrecision = Annotated[
    str | None, of_machine(help="Number format of stored activations: auto, fp32, fp16 or bf16; auto halves if short.")
]
Out = Annotated[str | None, of_run(help="The run's directory; runs/DATA-BACKBONE by default.")]
DemoOut = Annotated[str | None, of_run("--out", help="The run's directory; runs/demo by default.")]
Seed = Annotated[int | None, of_run(help="Decides every random draw [0].")]
Workers = Annotated[int | None, of_machine(help="Processes that train at the same time; as many as pay by default.")]
Recalibrate = Annotated[bool, of_machine("--recalibrate", help="Measure this machine anew, whatever it remembers.")]
Resume = Annotated[bool, of_run("--resume", help="Go on with an interrupted run.")]
Gallery = Annotated[
    int | None, of_run(help="Examples that the report shows, right and wrong, with pictures of them; 0 for none [24].")
]
Log = Annotated[
    list[str] | None, of_run("--log", help="Log the run for tensorboard or mlflow too, in its directory; repeatable.")
]
Config = Annotated[Path | None, of_run(help="A TOML file with the same keys; a flag overrides it.")]
Json = Annotated[bool, of_run("--json", help="Print one JSON document instead of text.")]
RefitAll = Annotated[bool, of_run("--refit-all", help="Train the choice once more on all data.")]
DryRun = Annotated[bool, of_run("--dry-run", help="Say what would be done and spent; write nothing.")]
