"""Short runs for the tests of training: in this process, stopped, or killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shallower.files import read_json, sha256
from shallower.study.runs import RunSpec, YamlDumper
from shallower.training.loop import train
from shallower.training.tasks import Sources


class Stop(Exception):
    """Raised in the middle of a run."""


def changed(spec: RunSpec, **training: Any) -> RunSpec:
    """The same specification with other training settings."""
    settings = spec.training.model_copy(update=training)
    return spec.model_copy(update={"training": settings})


def write_spec(spec: RunSpec, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(spec.model_dump(mode="json"), Dumper=YamlDumper)
    (folder / "spec.yaml").write_text(text)


def checkpoints_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-checkpoints")


def run(
    spec: RunSpec, sources: Sources | Path, folder: Path, **options: Any
) -> dict[str, Any]:
    """Train in this process, as the rule does; what training.json says."""
    write_spec(spec, folder)
    if isinstance(sources, Path):  # of the shards alone
        sources = Sources(sources)
    train(spec, sources, folder, checkpoints_of(folder), **options)
    return read_json(folder / "training.json")


def stop(
    spec: RunSpec, sources: Sources | Path, folder: Path, after: int, **options: Any
) -> None:
    """Train, and fail at the first logged step that is not before `after`."""

    def report(step: int, loss: float, tokens_per_second: float) -> None:
        if step >= after:
            raise Stop

    with pytest.raises(Stop):
        run(spec, sources, folder, report=report, **options)


def command(spec: RunSpec, tokens: Path, folder: Path, *more: str | Path) -> list[str]:
    """The command of the rule `train`, without its interpreter."""
    write_spec(spec, folder)
    words = ["-m", "shallower", "train-run", "--run", folder, "--tokens", tokens]
    words += ["--checkpoints", checkpoints_of(folder), "--device", "cpu", *more]
    return [str(word) for word in words]


def start(words: list[str], saved: int, folder: Path) -> subprocess.Popen[str]:
    """Start Python with `words`; return when a checkpoint of `saved` steps is there."""
    process = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and newest_step(folder) < saved:
        time.sleep(0.01)
    return process


def newest_step(folder: Path) -> int:
    files = checkpoints_of(folder).glob("*/step-*.pt")
    return max((int(path.stem.removeprefix("step-")) for path in files), default=0)


def same_weights(one: Path, other: Path) -> bool:
    return sha256(one / "model.safetensors") == sha256(other / "model.safetensors")


def ids(rows: int = 4, tokens: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (rows, tokens) of 300 pieces."""
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randint(300, (rows, tokens + 1), generator=draw)
    return chosen[:, :-1], chosen[:, 1:]
