"""Training stops by its own clock, and what it saved is continued to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import run_spec
from shallower import machine
from shallower.errors import Unfinished
from shallower.files import read_json, sha256
from shallower.training.clock import Clock
from shallower.training.loop import train
from test_training import newest_step, start


def test_the_age_of_the_process() -> None:
    """A fresh process' own word against its parent's watch, imports included."""
    before = time.perf_counter()
    code = "from shallower.machine import process_age; print(process_age(), flush=True)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        age = float(process.stdout.readline())
        elapsed = time.perf_counter() - before
    # The kernel counts in hundredths of a second.
    assert 0.5 * elapsed < age < elapsed + 0.05


def test_without_proc_the_import_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(machine.time, "CLOCK_BOOTTIME")
    before = machine.process_age()
    time.sleep(0.05)
    assert machine.BEFORE_IMPORT < before <= machine.process_age() - 0.05


@pytest.mark.parametrize(
    ("limit", "last_age"),
    [
        (60, 60 - 15 - 8),  # a quarter of the limit is kept free
        (3600, 3600 - 120 - 8),  # but two minutes at most
    ],
)
def test_a_step_is_taken_only_if_it_ends_in_time(limit: float, last_age: int) -> None:
    age = 0.0
    clock = Clock(limit, age=lambda: age)
    assert clock.reason(8) is None  # the longest step counts, not the last
    age = last_age
    assert clock.reason(1) is None
    age = last_age + 0.1
    reason = clock.reason(1)
    assert reason is not None
    assert f"time limit of {limit // 60} minute" in reason
    age = last_age - 5
    clock.longest_save = 6
    assert clock.reason(1)


def test_no_limit_never_stops() -> None:
    assert Clock(None, age=lambda: 1e9).reason(1e9) is None


def test_a_run_in_single_steps_has_the_same_bits(corpus: Path, tmp_path: Path) -> None:
    """A limit that has passed at once: each attempt takes one step and stops."""
    spec = run_spec("proposed", steps=6, checkpoint_every=4)
    tokens = corpus / "train"
    train(spec, tokens, tmp_path / "whole", tmp_path / "elsewhere")
    for step in range(1, 6):
        with pytest.raises(Unfinished, match=f"after {step} of 6 steps, before the"):
            train(spec, tokens, tmp_path / "run", tmp_path / "kept", time_limit=1e-9)
        assert not (tmp_path / "run" / "model.safetensors").exists()
    train(spec, tokens, tmp_path / "run", tmp_path / "kept", time_limit=1e-9)
    assert read_json(tmp_path / "run" / "training.json")["restarts"] == 5
    for name in ("model.safetensors", "model-half.safetensors"):
        assert sha256(tmp_path / "run" / name) == sha256(tmp_path / "whole" / name)


def test_sigterm_saves_and_ends(corpus: Path, spec: dict, tmp_path: Path) -> None:
    """A real process: saved between checkpoints, one line, a status of its own."""
    spec["training"] |= {"steps": 100_000, "checkpoint_every": 10}
    process = start(corpus, spec, tmp_path)
    while process.poll() is None and newest_step(tmp_path) < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    last = said.strip().splitlines()[-1]
    step = newest_step(tmp_path)
    assert last == (
        f"shallower train: stopped after {step} of 100000 steps, at a signal to end; "
        "run again to resume"
    )
