"""Runs that go on from a parent: without a sublayer, or with tokens eliminated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from shallower.errors import Unfinished, UserError
from shallower.files import read_json, sha256
from shallower.models.elimination import continuation_loss, contribution
from shallower.models.retention import Elimination, acc_profile, prefill_speedup
from shallower.models.skipping import skip
from shallower.tokens.shards import TokenStream
from shallower.training.lesson import begin_run
from shallower.training.loop import train
from shallower.training.loss import losses
from shallower.training.runs import load_run
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
        "initialisation": {"std": 0.02, "output_scale": 1.0},
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


def plain_batches(corpus: Path) -> Any:
    return open_data(plain(), Sources(corpus / "train"), (0, 1)).read


def test_data_go_on_where_the_parent_stopped(corpus: Path) -> None:
    sources = Sources(corpus / "train")
    before = open_data(plain(), sources, (0, 1)).read
    behind = open_data(going_on(), sources, (0, 1)).read
    for step in (0, 3):
        assert torch.equal(behind(step)[0], before(80 + step)[0])
        assert not torch.equal(behind(step)[0], before(step)[0])


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
    lesson = {"teacher": "parent", "alpha": 0.5, "temperature": 2.0}
    spec = healed() | {"distillation": lesson}
    sources = Sources(corpus / "train", parent=parent, teacher=parent)
    train(spec, sources, tmp_path / "taught", tmp_path / "checkpoints")
    alone = Sources(corpus / "train", parent=parent)
    train(healed(), alone, tmp_path / "alone", tmp_path / "checkpoints")
    names = [tmp_path / name / "model.safetensors" for name in ("taught", "alone")]
    assert sha256(names[0]) != sha256(names[1])
    assert read_json(tmp_path / "taught" / "training.json")["teacher"] == "parent"


def test_another_kind_of_parent_is_refused(parent: Path) -> None:
    spec = going_on()
    spec["model"]["depth"] = 2
    with pytest.raises(UserError, match="of another kind"):
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
    assert abs(float(nothing - due)) > 1e-4
    with_bfloat16 = losses(model.float(), inputs, targets, "bfloat16", tuning=how)[0]
    assert abs(float(with_bfloat16 - due)) < 0.1


def test_a_tuned_run_learns_to_do_without(
    corpus: Path, parent: Path, tmp_path: Path
) -> None:
    sources = Sources(corpus / "train", parent=parent)
    train(tuned(speedup=2.0), sources, tmp_path / "run", tmp_path / "checkpoints")
    facts = read_json(tmp_path / "run" / "training.json")["elimination"]
    elimination = Elimination(
        tuple(facts["profile"]), alpha=facts["alpha"], window=facts["window"]
    )
    inputs, targets = open_data(tuned(), sources, (0, 1)).read(200)
    before, after = (
        continuation_loss(load_run(run), inputs, targets, PROMPT, elimination)
        for run in (parent, tmp_path / "run")
    )
    assert after < before
    # What is logged is the loss of the continuation, not of the whole window.
    first = pd.read_csv(tmp_path / "run" / "losses.csv")["loss"].iloc[0]
    assert 0.4 < first < 1.2
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
    assert read_json(tmp_path / "run" / "training.json")["restarts"] == 1
    for name in ("model.safetensors", "model-half.safetensors"):
        assert sha256(tmp_path / "run" / name) == sha256(tmp_path / "whole" / name)


def test_what_cannot_be_tuned_is_refused(corpus: Path, parent: Path) -> None:
    model = load_run(parent)
    lesson = {"teacher": "parent", "alpha": 0.5, "temperature": 2.0}
    with pytest.raises(UserError, match="without a teacher"):
        begin_tuning(tuned() | {"distillation": lesson}, model, corpus / "train")
    with pytest.raises(UserError, match="fewer than a context of 32"):
        begin_tuning(tuned(prompt_tokens=32), model, corpus / "train")
