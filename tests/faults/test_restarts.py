"""Training that is stopped very often, and checkpoints that are damaged."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import pytest

from conftest import run_spec
from counting import Tried
from shallower.errors import Unfinished
from shallower.files import record_of
from shallower.training.loop import train
from shallower.training.progress import Clock
from shallower.training.tasks import Sources
from shallower.trusted import check_stage
from training_runs import checkpoints_of, run, same_weights, stop, write_spec


@pytest.mark.parametrize("steps", [6, pytest.param(1001, marks=pytest.mark.faults)])
def test_restarts_change_nothing(
    corpus: Path,
    tmp_path: Path,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    tried: Tried,
) -> None:
    """Stopped after each step: no drift, no growth of the folder or the memory."""
    (tmp_path / "study.json").write_text("{}")
    spec = run_spec("proposed", steps=steps, checkpoint_every=10**6)
    run(spec, corpus / "train", tmp_path / "whole")
    monkeypatch.setattr(Clock, "reason", lambda clock, seconds: "for the test")
    stopped, largest = tmp_path / "stopped", 0
    write_spec(spec, stopped)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(steps - 1):
        with pytest.raises(Unfinished):
            train(spec, Sources(corpus / "train"), stopped, checkpoints_of(stopped))
        files = [p for p in checkpoints_of(stopped).rglob("*") if p.is_file()]
        largest = max(largest, len(files))
        if number == 9:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(spec, Sources(corpus / "train"), stopped, checkpoints_of(stopped))
    assert same_weights(tmp_path / "whole", stopped)
    assert largest <= 6  # two checkpoints with their records, the lock, a spare
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # kB
    assert len(list(Path("/proc/self/fd").iterdir())) < 100
    tried("a restart of training", steps - 1, "the same weights, no growth")


@pytest.mark.parametrize("flips", [3, pytest.param(100, marks=pytest.mark.faults)])
def test_a_damaged_checkpoint_is_passed_over(
    corpus: Path,
    tmp_path: Path,
    flips: int,
    capsys: pytest.CaptureFixture[str],
    tried: Tried,
) -> None:
    """With a warning; the one before it is used, and the weights are the same."""
    (tmp_path / "study.json").write_text("{}")
    spec = run_spec("proposed", steps=20, checkpoint_every=3)
    run(spec, corpus / "train", tmp_path / "whole")
    stopped, draw = tmp_path / "stopped", random.Random(1)
    stop(spec, corpus / "train", stopped, after=12)
    newest = max(checkpoints_of(stopped).glob("*/step-*.pt"))
    content, record = newest.read_bytes(), record_of(newest).read_bytes()
    told = ["--run", str(stopped), "--tokens", str(corpus / "train")]
    told += ["--checkpoints", str(checkpoints_of(stopped))]
    for _ in range(flips):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        newest.write_bytes(damaged)
        record_of(newest).write_bytes(record)
        check_stage(["train-run", *told])
        said = capsys.readouterr().err
        assert f"{newest}: changed since it was made; passed over" in said
        assert not newest.exists()
    assert run(spec, corpus / "train", stopped)["restarts"] == 1
    assert same_weights(tmp_path / "whole", stopped)
    tried("one bit flipped in a checkpoint", flips, "passed over with a warning")
