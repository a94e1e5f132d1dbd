"""Two processes train as one does, up to the order in which fp32 sums are taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from conftest import ROOT, run_spec, tiny
from shallower.errors import Unfinished, UserError
from shallower.files import read_json
from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.models.registry import HEADS
from shallower.tokens.shards import TokenStream
from shallower.training.batches import Batches
from shallower.training.checkpoint import Checkpoints
from shallower.training.distributed import (
    DataParallel,
    TensorParallel,
    cut_of,
    interleave,
)
from shallower.training.loop import train

KINDS = ["data", "tensor"]
# Stated tolerance: the losses of ten steps at a rate of 3e-3, and the weights, each of
# which moves by about the rate in each step.
LOSS, WEIGHT = 1e-5, 2e-5


def spec_for(kind: str) -> dict:
    """Ten steps, clipped; gradients accumulated where batches are shared out."""
    spec = run_spec("proposed", steps=10, checkpoint_every=100)
    spec["training"] |= {"log_every": 1, "diagnose_every": 4, "clip": 0.2}
    if kind == "data":
        spec["training"]["accumulation"] = 2
    else:
        spec["training"] |= {"loss_chunk": 50, "checkpoint_activations": True}
    return spec


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Per kind: alone/, two/whole, two/begun (finished by one), two/finished."""
    folder, tokens = tmp_path_factory.mktemp("runs"), corpus / "train"
    for kind in KINDS:
        spec, at = spec_for(kind), folder / kind
        (folder / f"spec-{kind}.json").write_text(json.dumps(spec))
        train(spec, tokens, at / "alone", at / "kept-alone", device="cpu")
        kept = at / "kept-finished"
        with pytest.raises(Unfinished):
            train(spec, tokens, at / "x", kept, device="cpu", time_limit=1e-9)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script = str(ROOT / "tests" / "two_processes.py")
    subprocess.run([*command, script, str(folder), str(tokens)], check=True)
    for kind in KINDS:
        at = folder / kind
        assert not (at / "begun" / "model.safetensors").exists()
        train(spec_for(kind), tokens, at / "begun", at / "kept-begun", device="cpu")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", ["whole", "begun", "finished"])
def test_two_processes_train_as_one(runs: Path, kind: str, run: str) -> None:
    """Through and through, begun by two and finished by one, and the reverse."""
    alone, two = runs / kind / "alone", runs / kind / run
    columns = ["iteration", "tokens", "learning_rate"]
    due, found = (pd.read_csv(folder / "losses.csv") for folder in (alone, two))
    assert found[columns].equals(due[columns])
    assert found["loss"].to_numpy() == pytest.approx(due["loss"].to_numpy(), abs=LOSS)
    assert due["loss"].iloc[-1] < due["loss"].iloc[0] - 0.3
    for name in ("model.safetensors", "model-half.safetensors"):
        expected, weights = load_file(alone / name), load_file(two / name)
        assert list(weights) == list(expected)
        for key, value in weights.items():
            assert value.shape == expected[key].shape
            assert torch.allclose(value, expected[key], rtol=0, atol=WEIGHT), key
    facts = read_json(two / "training.json")
    assert facts["restarts"] == (run != "whole")
    expected_size = (1, "none") if run == "begun" else (2, kind)
    assert (facts["processes"], facts["parallel"]) == expected_size


def test_all_heads_are_seen_by_the_diagnostics(runs: Path) -> None:
    due, found = (
        pd.read_csv(runs / "tensor" / run / "diagnostics.csv")
        for run in ("alone", "whole")
    )
    keys = ["iteration", "block", "quantity"]
    assert found[keys].equals(due[keys])
    assert found["value"].to_numpy() == pytest.approx(due["value"].to_numpy(), rel=1e-3)


def test_parts_of_a_batch_are_the_batch(corpus: Path) -> None:
    stream = TokenStream.open(corpus / "train")
    whole, *parts = (Batches(stream, 32, 4, 0, p) for p in ((0, 1), (0, 2), (1, 2)))
    for step in (0, 77):
        joined = torch.cat([part(step)[0] for part in parts])
        assert torch.equal(joined, whole(step)[0])


def test_a_process_gets_its_heads_of_queries_keys_and_values() -> None:
    """Rows numbered by (matrix, head): each half has all three matrices' heads."""
    rows = (10 * torch.arange(3)[:, None] + torch.arange(4)).reshape(12, 1)
    mixed = interleave(rows, 3, 2, 0)
    assert mixed[:6].flatten().tolist() == [0, 1, 10, 11, 20, 21]
    assert mixed[6:].flatten().tolist() == [2, 3, 12, 13, 22, 23]
    assert torch.equal(interleave(mixed, 2, 3, 0), rows)


def test_what_is_cut() -> None:
    assert cut_of("blocks.3.attention.qkv.weight") == (0, 3)
    assert cut_of("blocks.3.attention_norm.weight") is None
    assert cut_of("head.weight") is None


def group(kind: type, size: int):
    """A group's rules, without its processes."""
    made = kind.__new__(kind)
    made.size = size
    return made


def test_what_cannot_be_shared_is_refused() -> None:
    settings = run_spec("proposed", 4, 4)["training"]
    with pytest.raises(UserError, match=r"batch_size: 4 windows in 1 parts .* 3 proc"):
        group(DataParallel, 3).check({}, settings)
    with pytest.raises(UserError, match="heads: 4 cannot be shared equally by 3"):
        group(TensorParallel, 3).check(run_spec("baseline", 4, 4)["model"], settings)
    matched = run_spec("matched", 4, 4)["model"] | {"width": 64, "heads": 8}
    with pytest.raises(UserError, match="ffn_hidden: 67"):
        group(TensorParallel, 2).check(matched, settings)


def test_every_variant_is_cut_or_refused() -> None:
    """A parameter that belongs to the heads is either cut or its variant refused."""
    for head in HEADS:
        spec = run_spec(head, 4, 4)
        spec["model"]["ffn_hidden"] -= tiny(head).ffn_width % 2
        try:
            group(TensorParallel, 2).check(spec["model"], spec["training"])
        except UserError:
            continue
        model = LlamaLM(LlamaConfig.parse(spec["model"]))
        for name, _ in model.named_parameters():
            if ".attention." in name or ".ffn." in name:
                assert cut_of(name), (head, name)


def command(corpus: Path, spec: dict, folder: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "shallower", "train", "--spec", json.dumps(spec)]
    words += ["--tokens", str(corpus / "train"), "--output", str(folder / "run")]
    return [*words, "--checkpoints", str(folder / "kept"), "--device", "cpu", *more]


def test_the_command_starts_its_processes(corpus: Path, tmp_path: Path) -> None:
    """It stops by the clock and, with the run held by another, ends with one line."""
    spec = run_spec("baseline", steps=4, checkpoint_every=100)
    words = command(corpus, spec, tmp_path, "--processes", "2")
    first = subprocess.run(
        [*words, "--time-limit", "1e-9"], capture_output=True, text=True
    )
    assert first.returncode == 75, first.stderr
    assert first.stderr.splitlines() == [
        "shallower train: stopped after 1 of 4 steps, before the time limit of 1e-09 "
        "minutes; run again to resume"
    ]
    (kept,) = (tmp_path / "kept").iterdir()
    held = Checkpoints(kept)
    held.lock()
    # Only the first process finds this out; the other must not wait for ever.
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode == 2, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert "another process is training this run" in line
