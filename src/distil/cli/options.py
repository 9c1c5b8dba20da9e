"""Options that several verbs take, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "Assign",
    "BatchSize",
    "Config",
    "Data",
    "Device",
    "DryRun",
    "Epochs",
    "Grid",
    "Lr",
    "Out",
    "Overwrite",
    "Precision",
    "Pretrained",
    "Resume",
    "Student",
    "Teacher",
    "TeacherForward",
    "Teachers",
    "TeachersWeights",
    "TrainTeacher",
    "Weights",
]

Data = Annotated[
    str | None,
    typer.Option(
        help="Images, texts, rows of numbers and categories, or a graph: a folder, a .parquet, .csv, .tsv, .jsonl, … "
        "or a name such as digits."
    ),
]
_TEACHER = (
    "timm:NAME, torchvision:NAME, hf:FOLDER, distil:NAME(…), module:function, file.py:function, or cache:FOLDER, its "
    "answers stored by distil cache."
)
Teacher = Annotated[str | None, typer.Option(help=_TEACHER)]
Teachers = Annotated[
    list[str] | None,
    typer.Option(help=f"{_TEACHER} Repeated for a condensed set whose dynamic labels are of several."),
]
Student = Annotated[str | None, typer.Option(help="As --teacher.")]
Weights = Annotated[
    Path | None, typer.Option(help="The teacher's weights: .safetensors, or a torch file with a state dict.")
]
TeachersWeights = Annotated[
    list[Path] | None,
    typer.Option(help="The teacher's weights: .safetensors, or a torch file with a state dict; one for each teacher."),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load the teacher's published weights (may download).")]
TrainTeacher = Annotated[
    int | None, typer.Option(min=0, help="Train the teacher on the data first, for so many epochs.")
]
TeacherForward = Annotated[
    str | None,
    typer.Option(
        help="How its passes are made cheap, each way checked first: auto, plain, or of truncate, inference, fold_bn, "
        "channels_last, bf16, int8, compile, offload, stream, joined by commas."
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of every student.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples per batch.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]
Assign = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting: training.optimizer=sgd. May be repeated.")
]
Grid = Annotated[
    list[str] | None,
    typer.Option(help="Values to choose from on validation: kd.temperature=1,2,4 or training.lr=1e-3,1e-2."),
]
Config = Annotated[Path | None, typer.Option(help="A YAML file of settings; options and --set win over it.")]
Out = Annotated[Path | None, typer.Option(help="Where to write; runs/train or runs/compare by default.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; the best there is by default.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Load and check everything, train nothing but a teacher that has to be.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
