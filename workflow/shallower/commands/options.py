"""Kinds of options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Threads = Annotated[int, Option(min=1, help="of this process")]
Device = Annotated[str, Option(help="auto, cpu, cuda")]
Results = Annotated[Path, Option(help="folder of a study, results/<study>")]
File = Annotated[Path, Option(show_default=True)]
Files = Annotated[list[Path], Option()]
Text = Annotated[str, Option()]
Count = Annotated[int, Option(min=1)]
Code = Annotated[Path | None, Option(help="digests of the code, JSON")]
RunFolder = Annotated[Path, Option(help="folder of a run, with its spec.yaml")]
Config = Annotated[Path, Option(help="the study that overlays change")]
Overlays = Annotated[list[Path] | None, Option(help="overlays, each with the option")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="[KEY=VALUE]...", help="single settings: training.steps=50"),
]
StudyFolder = Annotated[
    Path, Option("--results", "-r", help="folder of a study, results/<study>")
]
