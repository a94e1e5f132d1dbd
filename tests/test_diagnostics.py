"""Diagnostics look on, see what is there, and change nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from conftest import build, run_spec
from shallower.training.diagnostics import Watch, entropy, rms
from shallower.training.loop import train
from shallower.training.step import make_optimizer, training_step


def test_entropy_of_even_attention() -> None:
    """Equal keys: row t spreads evenly over t + 1 tokens, entropy ln(t + 1)."""
    queries, keys = torch.randn(2, 3, 6, 4), torch.zeros(2, 3, 6, 4)
    due = sum(math.log(t + 1) for t in range(6)) / 6
    assert entropy(queries, keys).item() == pytest.approx(due, abs=1e-6)


def test_entropy_of_decided_attention() -> None:
    keys = 100 * torch.eye(6)[None, None]
    assert entropy(keys, keys).item() == pytest.approx(0, abs=1e-6)


def test_rms() -> None:
    assert rms(torch.tensor([3.0, 4.0])).item() == pytest.approx(math.sqrt(12.5))


def test_what_is_seen_by_hand() -> None:
    model = build("proposed").float().train()
    settings = run_spec("proposed", 4, 4)["training"]
    optimizer = make_optimizer(model, settings)
    ids = torch.randint(300, (4, 16))
    before = [p.clone() for p in model.blocks[1].parameters() if p.ndim > 1]
    stream = model.embedding(ids)
    with Watch(model) as watch:
        training_step(model, optimizer, ids, ids, settings, watch)
    after = [p for p in model.blocks[1].parameters() if p.ndim > 1]
    seen = {(block, what): value for _, block, what, value in watch.rows(1)}
    assert seen[0, "stream_rms"] == pytest.approx(rms(stream).item())
    assert seen[1, "branch_ratio"] == pytest.approx(
        seen[1, "branch_rms"] / seen[1, "stream_rms"]
    )
    moved = sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True))
    size = sum((b**2).sum() for b in before)
    assert seen[1, "update_ratio"] == pytest.approx((moved / size).sqrt().item(), 1e-4)
    assert {what for _, what in seen} == {
        *("output_rms", "stream_rms", "branch_rms", "branch_ratio", "entropy"),
        *("gradient_norm", "update_ratio"),
    }


def test_looking_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    weights = []
    for every in (2, 1000):
        spec = run_spec("proposed", steps=12, checkpoint_every=5)
        spec["training"]["diagnose_every"] = every
        run = tmp_path / str(every)
        train(spec, corpus / "train", run, tmp_path / f"kept-{every}")
        weights.append(load_file(run / "model.safetensors"))
        table = pd.read_csv(run / "diagnostics.csv")
        assert len(table["iteration"].unique()) == (6 if every == 2 else 1)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
