"""Two processes train as one does, up to the order in which fp32 sums are taken."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from conftest import run_spec
from models_for_tests import tiny
from project import ROOT
from shallower.errors import Unfinished, UserError
from shallower.files import read_json
from shallower.models.llama import LlamaLM
from shallower.models.registry import HEADS
from shallower.study.runs import EliminationTraining, RunSpec
from shallower.training.checkpoint import Checkpoints
from shallower.training.distributed import (
    DataParallel,
    Distributed,
    TensorParallel,
    cut_of,
    interleave,
)
from training_runs import (
    changed,
    checkpoints_of,
    command,
    newest_step,
    run,
    start,
    write_spec,
)

pytestmark = pytest.mark.slow

KINDS = ["data", "tensor"]
TWO = ["--processes", "2"]
# Stated tolerance: the losses of ten steps at a rate of 3e-3, and the weights, each of
# which moves by about the rate in each step.
LOSS, WEIGHT = 1e-5, 2e-5


def spec_for(kind: str) -> RunSpec:
    """Ten clipped steps; gradients are accumulated where batches are shared out."""
    spec = run_spec("proposed", steps=10, checkpoint_every=100)
    spec = changed(spec, log_every=1, diagnose_every=4, clip=0.2)
    if kind == "data":
        return changed(spec, accumulation=2)
    return changed(spec, loss_chunk=50, checkpoint_activations=True)


def two(
    kind: str, spec: RunSpec, tokens: Path, folder: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    words = command(spec, tokens, folder, *TWO, "--parallel", kind, *more)
    return python(words)


def python(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def ours(errors: str) -> list[str]:
    """The lines of the command itself, among what torchrun reports."""
    return [
        line for line in errors.splitlines() if line.startswith("shallower train-run: ")
    ]


@pytest.fixture(scope="module", params=KINDS)
def runs(
    request: pytest.FixtureRequest,
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folders of a run by one process, by two, and by one, two and one in turn."""
    kind, tokens = request.param, corpus / "train"
    folder, spec = tmp_path_factory.mktemp(kind), spec_for(kind)
    run(spec, tokens, folder / "one")
    assert two(kind, spec, tokens, folder / "two").returncode == 0
    with pytest.raises(Unfinished):
        run(spec, tokens, folder / "in turn", time_limit=1e-9)
    stopped = two(kind, spec, tokens, folder / "in turn", "--time-limit", "1e-9")
    assert stopped.returncode == Unfinished.status
    message = "shallower train-run: stopped after 2 of 10 steps, before the time limit"
    [line] = ours(stopped.stderr)
    assert line.startswith(message)
    run(spec, tokens, folder / "in turn")
    return folder


def test_two_processes_train_as_one(runs: Path) -> None:
    kind = "tensor" if "tensor" in runs.name else "data"
    columns = ["iteration", "tokens", "learning_rate"]
    expected = pd.read_csv(runs / "one" / "losses.csv")
    assert expected["loss"].iloc[-1] < expected["loss"].iloc[0] - 0.3
    weights = load_file(runs / "one" / "model.safetensors")
    for name, parallel in (("two", (2, kind, 0)), ("in turn", (1, "none", 2))):
        found = pd.read_csv(runs / name / "losses.csv")
        assert found[columns].equals(expected[columns])
        assert found["loss"].tolist() == pytest.approx(expected["loss"], abs=LOSS)
        trained = load_file(runs / name / "model.safetensors")
        assert list(trained) == list(weights)
        for key, value in trained.items():
            assert torch.allclose(value, weights[key], rtol=0, atol=WEIGHT), key
        facts = read_json(runs / name / "training.json")
        assert (facts["processes"], facts["parallel"], facts["restarts"]) == parallel
    if kind == "tensor":  # with data, each process measures its own sequences
        tables = [
            pd.read_csv(runs / name / "diagnostics.csv") for name in ("one", "two")
        ]
        values = [table.pop("value").tolist() for table in tables]
        assert tables[0].equals(tables[1])
        assert values[1] == pytest.approx(values[0], rel=1e-3)


def test_sigterm_saves_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    spec = changed(spec_for("data"), steps=100_000, checkpoint_every=10)
    words = command(spec, corpus / "train", tmp_path / "run", *TWO)
    process = start(words, 10, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == Unfinished.status
    [line] = ours(errors)
    step = newest_step(tmp_path / "run")
    assert f"stopped after {step} of 100000 steps, at a signal to end" in line


def test_an_error_in_one_process_is_one_line(corpus: Path, tmp_path: Path) -> None:
    """Only the first process finds the run locked; the other must not wait for it."""
    spec, folder = spec_for("data"), tmp_path / "run"
    with pytest.raises(Unfinished):
        run(spec, corpus / "train", folder, time_limit=1e-9)
    [checkpoints] = checkpoints_of(folder).iterdir()
    locked = Checkpoints(checkpoints)
    locked.lock()
    refused = two("data", spec, corpus / "train", folder)
    assert refused.returncode == UserError.status
    [line] = ours(refused.stderr)
    assert "another process is training this run" in line


# --- what is shared out, and how ------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shares_and_clipping(kind: str, tmp_path: Path) -> None:
    write_spec(spec_for(kind), tmp_path)
    script = ROOT / "tests" / "two_processes.py"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [str(script), str(tmp_path), kind]
    checked = python(words)
    assert checked.returncode == 0, checked.stderr[-3000:]


def test_a_process_gets_its_heads_of_queries_keys_and_values() -> None:
    """Rows numbered by (matrix, head): each half has heads of all three matrices."""
    rows = (10 * torch.arange(3)[:, None] + torch.arange(4)).reshape(12, 1)
    mixed = interleave(rows, 3, 2, 0)
    assert mixed[:6].flatten().tolist() == [0, 1, 10, 11, 20, 21]
    assert mixed[6:].flatten().tolist() == [2, 3, 12, 13, 22, 23]
    assert torch.equal(interleave(mixed, 2, 3, 0), rows)


def group(kind: type[Distributed], size: int) -> Distributed:
    """A group's rules, without its processes."""
    made = kind.__new__(kind)
    made.size = size
    return made


def test_runs_that_cannot_be_shared() -> None:
    spec = run_spec("proposed", 4, 4)
    with pytest.raises(UserError, match=r"batch_size: 4 windows in 1 parts .* 3 proc"):
        group(DataParallel, 3).check(spec)
    elimination = EliminationTraining(
        speedup=2, calibration_windows=1, window=8, prompt_tokens=16
    )
    odd = tiny("matched", width=64, heads=8)
    for changes, size, message in (
        ({}, 3, "heads: 4 cannot be shared equally by 3"),
        ({"model": odd}, 2, "ffn_hidden: 67"),
        ({"elimination": elimination}, 2, "not for elimination"),
        ({"training": changed(spec, compile="always").training}, 2, "compile: always"),
        ({"training": changed(spec, scale_by_rms=True).training}, 2, "scale_by_rms"),
    ):
        with pytest.raises(UserError, match=message):
            group(TensorParallel, size).check(spec.model_copy(update=changes))


@pytest.mark.parametrize("head", HEADS)
def test_every_variant_is_cut_or_refused(head: str) -> None:
    """A parameter that belongs to the heads is either cut or its variant refused."""
    extra = tiny(head).ffn_width % 2
    spec = run_spec(head, 4, 4, model=tiny(head, ffn_hidden=64 - extra))
    try:
        group(TensorParallel, 2).check(spec)
    except UserError:
        assert head not in ("baseline", "proposed")
        return
    for name, _ in LlamaLM(spec.model).named_parameters():
        of_heads = ".attention." in name or ".ffn." in name
        assert (cut_of(name) is not None) == of_heads, name
