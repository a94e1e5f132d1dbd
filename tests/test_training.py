"""Runs: they learn, are the same to the bit, and lose nothing when they are stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from conftest import run_spec
from models_for_tests import tiny
from shallower import machine
from shallower.code import run_code
from shallower.errors import Unfinished, UserError
from shallower.models.config import LlamaConfig
from shallower.study.runs import RunSpec
from shallower.study.schema import Training
from shallower.training.checkpoint import Checkpoints
from shallower.training.progress import Clock
from shallower.training.tasks import flops_per_token, steps_of
from training_runs import (
    changed,
    checkpoints_of,
    command,
    newest_step,
    run,
    same_weights,
    start,
    stop,
)

COLUMNS = ["iteration", "tokens", "loss", "learning_rate"]


def test_files_of_a_run(corpus: Path, spec: RunSpec, tmp_path: Path) -> None:
    code = run_code("train", spec.model)[1]
    facts = run(spec, corpus / "train", tmp_path / "run", code=code)
    losses = pd.read_csv(tmp_path / "run" / "losses.csv")
    assert list(losses["iteration"]) == list(range(4, 61, 4))
    assert list(losses["tokens"]) == [n * 4 * 32 for n in losses["iteration"]]
    # The next word is one of two; an untrained model is at log(300) = 5.7.
    assert losses["loss"].iloc[0] > 4
    assert losses["loss"].iloc[-1] < 2.5
    assert (facts["model"], facts["seed"], facts["steps"]) == ("proposed-2", 0, 60)
    assert facts["tokens"] == 60 * 4 * 32
    assert facts["flops"] == facts["tokens"] * flops_per_token(spec)
    assert facts["final_loss"] == losses["loss"].iloc[-1]
    assert facts["restarts"] == 0
    assert (facts["precision"], facts["compiled"]) == ("float32", False)
    assert 0 <= facts["data_wait_share"] < 1
    assert facts["saving_seconds"] > 0
    assert facts["mfu"] is None
    assert RunSpec(**facts["made_with"]["spec"]) == spec
    assert facts["made_with"]["code"] == code
    assert list(checkpoints_of(tmp_path / "run").iterdir()) == []


def test_divergence_is_an_error(corpus: Path, spec: RunSpec, tmp_path: Path) -> None:
    wild = changed(spec, learning_rate=1e30, clip=1e30)
    with pytest.raises(UserError, match="diverged"):
        run(wild, corpus / "train", tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_another_vocabulary_is_an_error(
    corpus: Path, spec: RunSpec, tmp_path: Path
) -> None:
    other = spec.model_copy(update={"pieces": 512})
    with pytest.raises(UserError, match="300 pieces, but the model has 512"):
        run(other, corpus / "train", tmp_path / "run")


# --- killed and continued -------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_continues_to_the_bit(
    corpus: Path, spec: RunSpec, tmp_path: Path
) -> None:
    """A real process, killed twice; the third attempt finishes."""
    spec = changed(spec, steps=400, checkpoint_every=7)
    run(spec, corpus / "train", tmp_path / "once")
    killed = tmp_path / "killed"
    words = command(spec, corpus / "train", killed)
    for steps in (7, 210):  # saved before each kill
        process = start(words, steps, killed)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "finished before it could be killed"
        assert not (killed / "model.safetensors").exists()
    facts = run(spec, corpus / "train", killed)
    assert facts["restarts"] >= 1
    assert same_weights(killed, tmp_path / "once")
    logs = [pd.read_csv(tmp_path / f / "losses.csv") for f in ("killed", "once")]
    assert logs[0][COLUMNS].equals(logs[1][COLUMNS])


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step})
    assert len(list(tmp_path.iterdir())) == 2
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-40])
    assert checkpoints.newest() == {"step": 2}


@dataclasses.dataclass(frozen=True)
class LaterConfig(LlamaConfig):
    """The model's configuration with a field that it does not have yet."""

    later: int = 7


class LaterTraining(Training):
    """The same of the training settings."""

    later: bool = False


class LaterSpec(RunSpec):
    """The same of the specification."""

    later: str = "unused"
    model: LaterConfig
    training: LaterTraining


CODE = {"training.loop": "0123", "models.llama": "4567"}


def later(spec: RunSpec, **changes: int) -> LaterSpec:
    content = spec.model_dump() | {"training": spec.training.model_dump()}
    content["model"] |= changes
    return LaterSpec(**content)


@pytest.mark.parametrize(
    ("change", "continued"),
    [
        (lambda spec: (spec, CODE), True),
        (lambda spec: (later(spec), CODE), True),
        (lambda spec: (later(spec, later=8), CODE), False),
        (lambda spec: (changed(spec, weight_decay=0.2), CODE), False),
        (lambda spec: (spec.model_copy(update={"first_step": 1}), CODE), False),
        (lambda spec: (spec, CODE | {"models.llama": "89ab"}), False),
    ],
    ids=["same", "new defaults", "new value", "training", "first step", "code"],
)
def test_which_checkpoint_is_continued(
    change, continued: bool, corpus: Path, spec: RunSpec, tmp_path: Path
) -> None:
    spec, folder = changed(spec, steps=12), tmp_path / "run"
    stop(spec, corpus / "train", folder, after=8, code=CODE)
    spec, code = change(spec)
    facts = run(spec, corpus / "train", folder, code=code)
    assert facts["restarts"] == continued
    # An abandoned checkpoint stays; one that was continued is removed at the end.
    assert len(list(checkpoints_of(folder).iterdir())) == (not continued)


def test_a_run_is_locked_while_it_is_trained(tmp_path: Path) -> None:
    """A killed workflow's job may still run when the workflow is started again."""
    first, second = (Checkpoints(tmp_path / "run") for _ in range(2))
    first.lock()
    with pytest.raises(UserError, match="another process is training this run"):
        second.lock()
    del first
    second.lock()


# --- stopped before the time limit, or at SIGTERM -------------------------------------


def test_a_run_in_single_steps_has_the_same_bits(corpus: Path, tmp_path: Path) -> None:
    """Each attempt begins behind its time limit, takes one step and stops."""
    spec = run_spec("proposed", steps=6, checkpoint_every=4)
    run(spec, corpus / "train", tmp_path / "once")
    for step in range(1, 6):
        with pytest.raises(Unfinished, match=f"after {step} of 6 steps, before the"):
            run(spec, corpus / "train", tmp_path / "steps", time_limit=1e-9)
        assert not (tmp_path / "steps" / "model.safetensors").exists()
    facts = run(spec, corpus / "train", tmp_path / "steps", time_limit=1e-9)
    assert facts["restarts"] == 5
    assert same_weights(tmp_path / "steps", tmp_path / "once")


@pytest.mark.slow
def test_sigterm_saves_and_ends(corpus: Path, spec: RunSpec, tmp_path: Path) -> None:
    """A real process: a checkpoint, one line, and a status of its own."""
    spec = changed(spec, steps=100_000, checkpoint_every=10)
    words = command(spec, corpus / "train", tmp_path / "run")
    process = start(words, 10, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert errors.strip().splitlines()[-1] == (
        f"shallower train-run: stopped after {newest_step(tmp_path / 'run')} of 100000 "
        "steps, at a signal to end; run again to resume"
    )


@pytest.mark.parametrize(
    ("limit", "last_age"),
    [
        (60, 60 - 15 - 8),  # a margin of a quarter of the limit
        (3600, 3600 - 120 - 8),  # but of two minutes at most
    ],
)
def test_a_step_is_taken_only_if_it_ends_in_time(limit: float, last_age: int) -> None:
    age = 0.0
    clock = Clock(limit, age=lambda: age)
    assert clock.reason(8) is None  # the longest step counts, not the last
    age = last_age
    assert clock.reason(1) is None
    age = last_age + 0.1
    assert f"time limit of {limit // 60} minute" in str(clock.reason(1))
    age = last_age - 5
    clock.longest_save = 6
    assert clock.reason(1)
    assert Clock(None, age=lambda: 1e9).reason(1e9) is None


@pytest.mark.slow
def test_the_age_of_a_process_includes_its_imports() -> None:
    before = time.perf_counter()
    code = "import time; time.sleep(.2); from shallower import machine;"
    code += "print(machine.process_age())"
    found = subprocess.check_output([sys.executable, "-c", code])
    # The kernel counts in hundredths of a second.
    assert 0.19 < float(found) < time.perf_counter() - before + 0.01


def test_age_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(machine.time, "CLOCK_BOOTTIME")
    monkeypatch.setattr(machine.time, "monotonic", lambda: machine.IMPORTED + 5)
    assert machine.process_age() == pytest.approx(machine.BEFORE_IMPORT + 5)


# --- controls of equal FLOPs ----------------------------------------------------------


def hand_counted(config: LlamaConfig) -> int:
    """FLOPs of a forward pass per token: two per multiply-accumulate.

    4 d^2 and 3 d H for the weights of a block, 2 T d for scores and their products with
    the values, and the output head's d V.
    """
    d, context = config.width, config.context
    block = 4 * d * d + 3 * d * config.ffn_hidden + 2 * context * d
    return 2 * (config.depth * block + d * config.vocabulary)


@pytest.mark.parametrize(
    ("sizes", "depths", "steps", "expected"),
    [
        ((2048, 128, 344, 512), (5, 8), 30, 45),  # of the default study
        ((512, 32, 88, 64), (1, 2), 12, 18),  # of the smoke study
    ],
)
def test_steps_of_a_control(
    sizes: tuple[int, ...], depths: tuple[int, int], steps: int, expected: int
) -> None:
    keys = ("vocabulary", "width", "ffn_hidden", "context")
    named = dict(zip(keys, sizes, strict=True))
    own, teacher = (tiny(depth=depth, **named) for depth in depths)
    student = run_spec("baseline", steps, steps, model=own)
    f, t = hand_counted(own), hand_counted(teacher)
    assert flops_per_token(student) == 3 * f
    assert flops_per_token(student, teacher) == 3 * f + t
    assert steps_of(student) == steps
    control = student.model_copy(update={"equal_flops": teacher})
    assert steps_of(control) == round(steps * (3 * f + t) / (3 * f)) == expected


def test_a_control_takes_its_steps(corpus: Path, tmp_path: Path) -> None:
    spec = run_spec("baseline", 10, 100, equal_flops=tiny(depth=4))
    facts = run(spec, corpus / "train", tmp_path / "run")
    log = pd.read_csv(tmp_path / "run" / "losses.csv")
    assert facts["steps"] == log["iteration"].iloc[-1] == steps_of(spec) == 16
    assert facts["tokens"] == 16 * 4 * 32
    # The learning rate is at its lowest in the last of them.
    assert log["learning_rate"].iloc[-1] == pytest.approx(3e-4)
