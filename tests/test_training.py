"""Training: it learns, it is reproducible to the bit, and a kill loses nothing."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch.nn import functional as F

from conftest import build, tiny
from shallower.errors import UserError
from shallower.files import read_json, sha256
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.tokens.shards import TokenStream
from shallower.training.batches import Batches
from shallower.training.checkpoint import Checkpoints
from shallower.training.loop import train
from shallower.training.runs import load_run
from shallower.training.schedule import learning_rate
from shallower.training.step import make_optimizer, training_step


def test_a_run_writes_what_it_promises(
    corpus: Path, spec: dict, tmp_path: Path
) -> None:
    train(spec, corpus / "train", tmp_path / "run", tmp_path / "checkpoints")
    folder = tmp_path / "run"
    losses = pd.read_csv(folder / "losses.csv")
    assert list(losses["iteration"]) == list(range(4, 61, 4))
    assert list(losses["tokens"]) == [n * 4 * 32 for n in losses["iteration"]]
    # The toy's next word is one of two; an untrained model is at log(300) = 5.7.
    assert losses["loss"].iloc[0] > 4
    assert losses["loss"].iloc[-1] < 2.5
    facts = read_json(folder / "training.json")
    assert facts["tokens"] == 60 * 4 * 32
    assert facts["restarts"] == 0
    assert facts["mfu"] is None
    assert yaml.safe_load((folder / "spec.yaml").read_text()) == spec
    half = load_run(folder, "model-half.safetensors")
    assert not torch.equal(load_run(folder).head.weight, half.head.weight)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def start(corpus: Path, spec: dict, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "shallower", "train", "--spec", json.dumps(spec)]
    command += ["--tokens", corpus / "train", "--output", folder / "run"]
    command += ["--checkpoints", folder / "checkpoints"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_kill_and_resume_is_exact_to_the_bit(
    corpus: Path, spec: dict, tmp_path: Path
) -> None:
    """A real process, really killed twice; the third attempt finishes."""
    spec["training"] |= {"steps": 400, "checkpoint_every": 7}
    train(spec, corpus / "train", tmp_path / "whole" / "run", tmp_path / "elsewhere")
    killed = tmp_path / "killed"
    for least in (1, 30):  # checkpoints reached before each kill
        process = start(corpus, spec, killed)
        while process.poll() is None and newest_step(killed) < least * 7:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "finished before it could be killed"
        assert not (killed / "run" / "model.safetensors").exists()
    assert start(corpus, spec, killed).wait() == 0
    assert read_json(killed / "run" / "training.json")["restarts"] >= 1
    for name in ("model.safetensors", "model-half.safetensors", "spec.yaml"):
        whole = tmp_path / "whole" / "run" / name
        assert sha256(killed / "run" / name) == sha256(whole), name
    columns = ["iteration", "tokens", "loss", "learning_rate"]
    logs = [pd.read_csv(f / "run" / "losses.csv") for f in (killed, tmp_path / "whole")]
    assert logs[0][columns].equals(logs[1][columns])


def newest_step(folder: Path) -> int:
    steps = [int(p.stem[5:]) for p in folder.glob("checkpoints/*/step-*.pt")]
    return max(steps, default=0)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        kept.save(step, {"step": step})
    assert len(list(tmp_path.iterdir())) == 2
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-40])
    assert kept.newest() == {"step": 2}


def test_another_configuration_never_continues_a_checkpoint(
    corpus: Path, spec: dict, tmp_path: Path
) -> None:
    spec["training"] |= {"steps": 400}
    process = start(corpus, spec, tmp_path)
    while process.poll() is None and newest_step(tmp_path) < 6:
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = {p.name for p in tmp_path.glob("checkpoints/*")}
    assert len(before) == 1
    spec["training"]["learning_rate"] = 1e-3
    train(spec, corpus / "train", tmp_path / "run", tmp_path / "checkpoints")
    assert read_json(tmp_path / "run" / "training.json")["restarts"] == 0
    assert {p.name for p in tmp_path.glob("checkpoints/*")} == before


def test_one_run_is_trained_by_one_process(tmp_path: Path) -> None:
    """A killed workflow's job may live on while the workflow runs again."""
    first = Checkpoints(tmp_path / "run")
    first.lock()
    code = "import sys; from shallower.training.checkpoint import Checkpoints as C;"
    code += "C(sys.argv[1]).lock()"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert "another process is training this run" in refused.stderr
    del first
    assert subprocess.run(command).returncode == 0


def test_batches_depend_on_step_and_seed_alone(corpus: Path) -> None:
    stream = TokenStream.open(corpus / "train")
    first, second = (Batches(stream, 32, 4, seed=0) for _ in range(2))
    for step in (500, 3, 0):  # any order, across epochs
        x, y = first(step)
        assert torch.equal(x, second(step)[0])
        assert torch.equal(x[:, 1:], y[:, :-1])
    other = Batches(stream, 32, 4, seed=1)
    assert not torch.equal(first(0)[0], other(0)[0])


def test_an_epoch_shows_every_window_once(corpus: Path) -> None:
    batches = Batches(TokenStream.open(corpus / "train"), 32, 1, seed=0)
    seen = [tuple(batches(step)[0][0].tolist()) for step in range(batches.windows)]
    due = [
        tuple(batches.stream.read(32 * i, 32).tolist()) for i in range(batches.windows)
    ]
    assert sorted(seen) == sorted(due)
    assert seen != due


def test_too_little_text_is_said(corpus: Path) -> None:
    with pytest.raises(UserError, match="context 1000000"):
        Batches(TokenStream.open(corpus / "train"), 1_000_000, 1, 0)


def test_schedule() -> None:
    rates = [learning_rate(s, 100, 2.0, 0.1, 0.1) for s in range(100)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[-1] == pytest.approx(0.2)
    # Half way down the cosine: the mean of peak and floor.
    assert rates[10 + 44] == pytest.approx((2.0 + 0.2) / 2)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_accumulation_gives_the_same_step(spec: dict) -> None:
    results = []
    for parts in (1, 4):
        model = build("proposed")
        settings = spec["training"] | {"accumulation": parts}
        ids = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
        optimizer = make_optimizer(model, settings)
        loss = training_step(model, optimizer, ids[:, :-1], ids[:, 1:], settings)
        results.append((loss, model.head.weight))
    assert results[0][0].item() == pytest.approx(results[1][0].item(), abs=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-9)


def test_step_equals_plain_adamw(spec: dict) -> None:
    """One clipped AdamW step, against torch's functions written out by hand."""
    settings = spec["training"] | {"clip": 0.5}
    model = build()
    plain = copy.deepcopy(model)
    ids = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    x, y = ids[:, :-1], ids[:, 1:]
    loss = training_step(model, make_optimizer(model, settings), x, y, settings)
    expected = F.cross_entropy(plain(x).float().reshape(-1, 300), y.reshape(-1))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    norm = sum(p.grad.square().sum() for p in plain.parameters()).sqrt()
    assert norm > 0.5
    with torch.no_grad():
        for name, p in plain.named_parameters():
            gradient = p.grad * (0.5 / (norm + 1e-6))
            decay = 0.0 if p.ndim == 1 else 0.1
            # The first step: both moments are bias-corrected to g and g^2.
            update = gradient / (gradient.abs() + 1e-8)
            due = p * (1 - 3e-3 * decay) - 3e-3 * update
            assert torch.allclose(model.get_parameter(name), due, atol=1e-7), name


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_bfloat16_autocast_trains(spec: dict, head: str) -> None:
    settings = spec["training"] | {"precision": "bfloat16"}
    model = initialise(LlamaLM(tiny(head)), 0)
    optimizer = make_optimizer(model, settings)
    ids = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    losses = [
        training_step(model, optimizer, ids[:, :-1], ids[:, 1:], settings).item()
        for _ in range(20)
    ]
    assert losses[-1] < losses[0] - 0.5
    assert model.head.weight.dtype == torch.float32


def test_divergence_is_an_error(corpus: Path, spec: dict, tmp_path: Path) -> None:
    spec["training"] |= {"learning_rate": 1e30, "clip": 1e30}
    with pytest.raises(UserError, match="diverged"):
        train(spec, corpus / "train", tmp_path / "run", tmp_path / "checkpoints")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_wrong_vocabulary_is_said(corpus: Path, spec: dict, tmp_path: Path) -> None:
    spec["model"]["vocabulary"] = 512
    with pytest.raises(UserError, match="300 pieces, but the model has 512"):
        train(spec, corpus / "train", tmp_path / "run", tmp_path / "checkpoints")


def test_biases_and_gains_do_not_decay(spec: dict) -> None:
    model = LlamaLM(tiny("proposed"))
    decay, plain = make_optimizer(model, spec["training"]).param_groups
    assert plain["weight_decay"] == 0
    assert decay["weight_decay"] == 0.1
    names = {id(p): name for name, p in model.named_parameters()}
    kept = {names[id(p)].rsplit(".", 2)[-2:][0] for p in plain["params"]}
    assert kept == {"attention_norm", "ffn_norm", "norm", "linear"}
    assert np.isclose(sum(p.numel() for p in plain["params"]), 2 * (64 + 32) + 32)
