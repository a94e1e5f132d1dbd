"""Runs that go on from a parent: without a sublayer, or with tokens eliminated."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from shallower.errors import Unfinished, UserError
from shallower.files import read_json, sha256
from shallower.models.arithmetic import training_flops
from shallower.models.elimination import continuation_loss, contribution
from shallower.models.retention import Elimination, acc_profile, prefill_speedup
from shallower.models.skipping import skip
from shallower.tokens.shards import TokenStream
from shallower.training import loss as losses_module
from shallower.training.batches import Batches
from shallower.training.lesson import begin_run
from shallower.training.loop import train
from shallower.training.loss import losses
from shallower.training.runs import load_run, save_weights
from shallower.training.tasks import Sources, open_data
from shallower.training.tuning import Tuning, begin_tuning

PROMPT = 24  # of a context of 32


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A trained run of three blocks whose attention is not flat."""
    folder = tmp_path_factory.mktemp("parent")
    train(plain(), corpus / "train", folder / "run", folder / "checkpoints")
    return folder / "run"


def plain() -> dict[str, Any]:
    model = {"vocabulary": 300, "width": 32, "depth": 3, "heads": 4, "ffn_hidden": 64}
    training = {"steps": 80, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2}
    training |= {"warmup_fraction": 0.1, "final_fraction": 0.1, "weight_decay": 0.1}
    training |= {"betas": [0.9, 0.95], "clip": 1.0, "precision": "float32"}
    training |= {"log_every": 4, "checkpoint_every": 10, "diagnose_every": 40}
    return {
        "name": "parent",
        "seed": 0,
        "model": model | {"context": 32, "head": {}},
        # Large, for attention that prefers some tokens to others.
        "initialisation": {"std": 0.3, "output_scale": 1.0},
        "training": training,
    }


def going_on(**changes: Any) -> dict[str, Any]:
    spec = plain()
    spec["training"] |= {"steps": 40, "learning_rate": 3e-3, "checkpoint_every": 5}
    return spec | {"name": "child", "parent": "parent", "first_step": 80} | changes


def healed() -> dict[str, Any]:
    spec = going_on()
    spec["model"]["skip"] = {"attention": [2], "ffn": [1]}
    return spec


def tuned(**changes: Any) -> dict[str, Any]:
    wish = {"speedup": 1.5, "prompt_tokens": PROMPT, "window": 8}
    return going_on(elimination=wish | {"calibration_windows": 4} | changes)


def by_itself(spec: dict[str, Any]) -> dict[str, Any]:
    """Taught by the parent alone, which skips nothing."""
    lesson = {"teacher": "parent", "alpha": 0.0, "temperature": 1.0}
    return spec | {"distillation": lesson}


def mixed_up(run: Path, folder: Path) -> Path:
    """The same run, but for the order of the words that it predicts."""
    folder.mkdir()
    (folder / "spec.yaml").write_text((run / "spec.yaml").read_text())
    state = load_run(run).state_dict()
    words = {"head.weight": state["head.weight"].roll(1, 0)}
    save_weights(state | words, folder / "model.safetensors")
    return folder


def told(run: Path) -> Elimination:
    """What a tuned run says that it eliminates."""
    facts = read_json(run / "training.json")["elimination"]
    del facts["counts"]
    return Elimination(**facts | {"profile": tuple(facts["profile"])})


def plain_batches(corpus: Path) -> Batches:
    """What the parent would read at each step, had it gone on."""
    return Batches(TokenStream.open(corpus / "train"), 32, 4, seed=0)


def test_data_go_on_where_the_parent_stopped(corpus: Path) -> None:
    sources, before = Sources(corpus / "train"), plain_batches(corpus)
    behind = open_data(going_on(), sources, (0, 1)).read
    for step in (0, 3):
        assert torch.equal(behind(step)[0], before(80 + step)[0])
        assert not torch.equal(behind(step)[0], before(step)[0])
    # Whatever the task.
    spans = [spec | {"task": "spans"} for spec in (plain(), going_on())]
    first, behind = (open_data(spec, sources, (0, 1)).read for spec in spans)
    assert torch.equal(behind(3)[0], first(83)[0])
    assert not torch.equal(behind(3)[0], first(3)[0])


def test_a_healed_run_begins_as_its_skipped_parent(parent: Path) -> None:
    model, facts = begin_run(healed(), parent)
    due = skip(load_run(parent), attention=[2], ffn=[1])
    tokens = torch.arange(3, 35)[None]
    assert torch.equal(model(tokens), due(tokens))
    assert facts["parent"] == "parent"
    assert facts["parent_sha256"] == sha256(parent / "model.safetensors")


def test_healing_heals(corpus: Path, parent: Path, tmp_path: Path) -> None:
    sources = Sources(corpus / "train", parent=parent)
    train(healed(), sources, tmp_path / "run", tmp_path / "checkpoints")
    hurt, read = skip(load_run(parent), attention=[2], ffn=[1]), plain_batches(corpus)
    before, after = (
        np.mean([float(losses(model, *read(step))[0].detach()) for step in range(8)])
        for model in (hurt, load_run(tmp_path / "run"))
    )
    assert after < before
    assert load_run(tmp_path / "run").config.skip.attention == (2,)


def test_healing_by_oneself_has_the_whole_parent_for_a_teacher(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    """One that says what no text does; only by a lesson it could be learnt."""
    mixed = mixed_up(parent, tmp_path / "mixed")
    taught = Sources(corpus / "train", parent=mixed, teacher=mixed)
    train(by_itself(healed()), taught, tmp_path / "taught", tmp_path / "checkpoints")
    alone = Sources(corpus / "train", parent=mixed)
    train(healed(), alone, tmp_path / "alone", tmp_path / "checkpoints")
    tokens = plain_batches(corpus)(200)[0]
    shares, apart = load_run(mixed)(tokens).detach().softmax(-1), {}
    for name in ("taught", "alone"):
        logs = load_run(tmp_path / name)(tokens).log_softmax(-1)
        apart[name] = F.kl_div(logs, shares, reduction="batchmean").item()
    assert apart["taught"] < 0.3 * apart["alone"]
    assert read_json(tmp_path / "taught" / "training.json")["teacher"] == "parent"


def test_another_kind_of_parent_is_refused(parent: Path) -> None:
    spec = going_on()
    spec["model"]["depth"] = 2
    with pytest.raises(UserError, match="of another kind"):
        begin_run(spec, parent)
    spec = healed()
    spec["model"]["skip"] = {"attention": [3]}
    with pytest.raises(UserError, match=r"blocks \[3\]: the model has 3"):
        begin_run(spec, parent)


def test_tuning_calibrates_on_the_parent(corpus: Path, parent: Path) -> None:
    spec = tuned()
    model, _ = begin_run(spec, parent)
    tuning, facts = begin_tuning(spec, model, corpus / "train")
    assert tuning is not None
    stream = TokenStream.open(corpus / "train")
    rows = [stream.read(32 * index, 32) for index in range(4)]
    windows = torch.from_numpy(np.stack(rows))
    acc = contribution(load_run(parent), windows, window=8)
    assert tuning.elimination.profile == acc_profile(acc)
    counts = tuning.elimination.counts(PROMPT)
    assert prefill_speedup(spec["model"], counts, PROMPT) >= 1.5
    assert facts["elimination"]["counts"] == counts
    assert facts["elimination"]["alpha"] == tuning.elimination.alpha


def test_the_loss_under_a_tuning_is_that_of_the_continuation(parent: Path) -> None:
    model = load_run(parent).double()
    tokens = torch.randint(3, 300, (2, 33), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    elimination = Elimination((1.0, 0.6, 0.3), window=8)
    how = Tuning(elimination, PROMPT)
    due = continuation_loss(model, inputs, targets, PROMPT, elimination)
    for chunk in (0, 5):
        found = losses(model, inputs, targets, chunk=chunk, tuning=how)
        assert torch.allclose(found[0].float(), due, rtol=1e-5)
        assert torch.allclose(found[1].float(), due, rtol=1e-5)
    nothing = losses(model, inputs, targets)[0]
    assert abs((nothing - due).item()) > 1e-4
    with_bfloat16 = losses(model.float(), inputs, targets, "bfloat16", tuning=how)[0]
    assert abs((with_bfloat16 - due).item()) < 0.1


def test_a_tuned_run_learns_to_do_without(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    sources = Sources(corpus / "train", parent=parent)
    train(tuned(speedup=2.0), sources, tmp_path / "run", tmp_path / "checkpoints")
    elimination = told(tmp_path / "run")
    inputs, targets = open_data(tuned(), sources, (0, 1)).read(200)
    before, after = (
        continuation_loss(load_run(run), inputs, targets, PROMPT, elimination)
        for run in (parent, tmp_path / "run")
    )
    assert after < before
    train(going_on(), sources, tmp_path / "without", tmp_path / "checkpoints")
    other = tmp_path / "without" / "model.safetensors"
    assert sha256(tmp_path / "run" / "model.safetensors") != sha256(other)


@pytest.mark.parametrize("spec", [healed(), tuned()], ids=["healed", "tuned"])
def test_a_stopped_run_goes_on_to_the_bit(
    spec: dict[str, Any], corpus: Path, parent: Path, tmp_path: Path
) -> None:
    sources = Sources(corpus / "train", parent=parent)
    train(spec, sources, tmp_path / "whole", tmp_path / "elsewhere")

    class Stop(Exception):
        pass

    def stop(step: int, *_: float) -> None:
        if step == 24:
            raise Stop

    checkpoints = tmp_path / "checkpoints"
    with pytest.raises((Stop, Unfinished)):
        train(copy.deepcopy(spec), sources, tmp_path / "run", checkpoints, report=stop)
    train(spec, sources, tmp_path / "run", checkpoints)
    facts, whole = (
        read_json(tmp_path / run / "training.json") for run in ("run", "whole")
    )
    assert facts["restarts"] == 1
    # Calibrated on the parent again, not on what the run had become.
    assert facts.get("elimination") == whole.get("elimination")
    for name in ("model.safetensors", "model-half.safetensors"):
        assert sha256(tmp_path / "run" / name) == sha256(tmp_path / "whole" / name)


# --- what is logged, as an oracle of a whole run --------------------------------------


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("healed", "float32"),
        ("by itself", "float32"),
        ("tuned", "float32"),
        ("tuned", "bfloat16"),
        ("both", "float32"),
    ],
)
def test_without_learning_the_losses_are_the_parents(
    kind: str, precision: str, corpus: Path, parent: Path, tmp_path: Path
) -> None:
    """At no learning rate each step's loss is known: of which model, where, on what."""
    spec = {"tuned": tuned(), "both": tuned()}.get(kind, healed())
    if kind == "both":  # tuned without the sublayers that the parent has
        spec["model"]["skip"] = {"attention": [1]}
    spec = by_itself(spec) if kind == "by itself" else spec
    settings = {"steps": 4, "learning_rate": 1e-30, "log_every": 1, "accumulation": 2}
    spec["training"] |= settings | {"precision": precision}
    teacher = parent if kind == "by itself" else None
    sources = Sources(corpus / "train", parent=parent, teacher=teacher)
    train(spec, sources, tmp_path / "run", tmp_path / "checkpoints")
    model, read = load_run(parent), plain_batches(corpus)
    model = skip(model, **spec["model"].get("skip", {}))
    with torch.no_grad():
        due = [
            continuation_loss(model, *read(step), PROMPT, told(tmp_path / "run"))
            if "elimination" in spec
            else losses(model, *read(step))[0]
            for step in range(80, 84)
        ]
    found = pd.read_csv(tmp_path / "run" / "losses.csv")["loss"]
    near = 1e-5 if precision == "float32" else 2e-2
    assert found.tolist() == pytest.approx([x.item() for x in due], rel=near)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_of_a_tuned_run_falls(
    precision: str, corpus: Path, parent: Path, tmp_path: Path
) -> None:
    """A parent that attends to what matters, and takes each word for another one."""
    spec = tuned(speedup=2.0)
    spec["training"] |= {"steps": 80, "learning_rate": 1e-2, "precision": precision}
    sources = Sources(corpus / "train", parent=mixed_up(parent, tmp_path / "mixed"))
    train(spec, sources, tmp_path / "run", tmp_path / "kept")
    assert min(told(tmp_path / "run").counts(PROMPT)) < PROMPT / 2
    found = pd.read_csv(tmp_path / "run" / "losses.csv")["loss"]
    assert found.iloc[-3:].mean() < found.iloc[0] - 2


def test_a_tuned_run_is_not_compiled_and_says_so(
    corpus: Path, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses_module, "compiled_loss", None)  # not to be called
    spec, sources = tuned(), Sources(corpus / "train", parent=parent)
    spec["training"] |= {"steps": 2, "compile": "always"}
    train(spec, sources, tmp_path / "run", tmp_path / "checkpoints")
    assert read_json(tmp_path / "run" / "training.json")["compiled"] is False


def test_work_is_counted_as_if_nothing_were_eliminated(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    sources = Sources(corpus / "train", parent=parent)
    for name, spec in (("tuned", tuned()), ("healed", healed())):
        train(spec, sources, tmp_path / name, tmp_path / "checkpoints")
        facts = read_json(tmp_path / name / "training.json")
        assert facts["tokens"] == 40 * 4 * 32
        assert facts["flops"] == facts["tokens"] * training_flops(spec["model"])
    assert training_flops(healed()["model"]) < training_flops(plain()["model"])


# --- going on after a kill ------------------------------------------------------------


def test_a_killed_tuned_run_goes_on_to_the_bit(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    """A real process, really killed."""
    spec = tuned()
    spec["training"]["steps"] = 300
    sources = Sources(corpus / "train", parent=parent)
    train(spec, sources, tmp_path / "whole", tmp_path / "elsewhere")
    command = [sys.executable, "-m", "shallower", "train", "--spec", json.dumps(spec)]
    command += ["--tokens", corpus / "train", "--parent", parent]
    command += ["--output", tmp_path / "run", "--checkpoints", tmp_path / "kept"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("kept/*/step-*.pt")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "finished before it could be killed"
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert read_json(tmp_path / "run" / "training.json")["restarts"] == 1
    for name in ("model.safetensors", "model-half.safetensors"):
        assert sha256(tmp_path / "run" / name) == sha256(tmp_path / "whole" / name)


@pytest.mark.parametrize("what", ["speedup", "first_step", "parent"])
def test_another_beginning_never_continues_a_checkpoint(
    what: str, corpus: Path, parent: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, *_: float) -> None:
        if step == 8:
            raise Stop

    spec, sources = tuned(), Sources(corpus / "train", parent=parent)
    output, kept = tmp_path / "run", tmp_path / "kept"
    with pytest.raises(Stop):
        train(spec, sources, output, kept, report=stop)
    if what == "speedup":
        spec["elimination"]["speedup"] = 1.4
    elif what == "first_step":
        spec["first_step"] = 81
    else:
        mixed = mixed_up(parent, tmp_path / "mixed")
        sources = Sources(corpus / "train", parent=mixed)
    train(spec, sources, output, kept)
    assert read_json(output / "training.json")["restarts"] == 0


def test_what_cannot_be_tuned_is_refused(corpus: Path, parent: Path) -> None:
    model = load_run(parent)
    lesson = {"teacher": "parent", "alpha": 0.5, "temperature": 2.0}
    with pytest.raises(UserError, match="without a teacher"):
        begin_tuning(tuned() | {"distillation": lesson}, model, corpus / "train")
    with pytest.raises(UserError, match="fewer than a context of 32"):
        begin_tuning(tuned(prompt_tokens=32), model, corpus / "train")
