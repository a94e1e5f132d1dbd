"""On a CUDA device: what the CPU's tests of the same code cannot show.

Continuous integration has no such device; docs/gpu.md says where and when they ran.
"""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest
import torch

from conftest import run_spec
from models_for_tests import tiny
from shallower import machine
from shallower.evaluation.latency import bandwidth
from shallower.files import read_json
from shallower.models import decoding
from shallower.models.initial import initialise
from shallower.models.llama import KeyValueCache, LlamaConfig, LlamaLM
from shallower.training import loss
from shallower.training.batches import Prefetch
from shallower.training.peaks import peak_flops
from shallower.training.step import set_matmul_precision
from training_runs import changed, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def curves(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run in fp32 on the CPU, in fp32 on the GPU, and as large models are."""
    fast = {"precision": "bfloat16", "compile": "gpu", "loss_chunk": 64}
    fast |= {"checkpoint_activations": True}
    folder, runs = tmp_path_factory.mktemp("gpu"), {}
    for name, device, more in (
        ("cpu", "cpu", {}),
        ("gpu", "cuda", {}),
        ("fast", "cuda", fast),
    ):
        spec = run_spec("proposed", steps=40, checkpoint_every=15)
        spec = changed(spec, **{"log_every": 1, "diagnose_every": 10, **more})
        runs[name] = folder / name
        run(spec, corpus / "train", runs[name], device=device)
    return runs


def losses(folder: Path) -> list[float]:
    return pd.read_csv(folder / "losses.csv")["loss"].tolist()


def test_fp32_is_fp32(curves: dict[str, Path]) -> None:
    """TF32 would be off by a thousandth in every product."""
    assert losses(curves["gpu"]) == pytest.approx(losses(curves["cpu"]), abs=1e-3)


def test_bfloat16_compiled_and_prefetched_is_close(curves: dict[str, Path]) -> None:
    assert losses(curves["fast"]) == pytest.approx(losses(curves["cpu"]), abs=0.05)


def test_facts_name_the_device_and_how_far_it_was_used(
    curves: dict[str, Path],
) -> None:
    facts = read_json(curves["fast"] / "training.json")
    assert facts["device"] == torch.cuda.get_device_name()
    assert (facts["precision"], facts["compiled"]) == ("bfloat16", True)
    assert 0 <= facts["data_wait_share"] < 1
    if peak_flops(facts["device"], "bfloat16") is None:
        assert facts["mfu"] is None
    else:
        assert 0 < facts["mfu"] < 1


def test_batches_come_from_pinned_memory() -> None:
    ids = torch.arange(6).reshape(2, 3)
    with Prefetch(lambda step: (ids[:, :-1], ids[:, 1:]), 0, 2, GPU) as ahead:
        assert ahead._coming is not None
        assert all(part.is_pinned() for part in ahead._coming.result())
        inputs, targets = ahead.next()
    assert inputs.is_cuda
    assert torch.equal(targets.cpu(), ids[:, 1:])


def test_matrix_products_lose_nothing_unless_asked() -> None:
    for precision, expected in (("bfloat16", "high"), ("float32", "highest")):
        set_matmul_precision(GPU, precision)
        assert torch.get_float32_matmul_precision() == expected


def test_chunked_loss_needs_less_memory() -> None:
    """32,000 pieces and 4,096 tokens: 0.5 GB of logits in fp32 and as much again."""
    config = LlamaConfig(32_000, 256, 1, 4, 512, 512)
    ids = torch.randint(32_000, (8, 513), device=GPU)
    peaks = []
    for chunk in (0, 512):
        model = initialise(LlamaLM(config), 0).to(GPU)
        torch.cuda.reset_peak_memory_stats()
        total, _ = loss.losses(model, ids[:, :-1], ids[:, 1:], "float32", chunk)
        total.backward()
        peaks.append(machine.peak_memory_bytes(GPU))
        del model
    assert peaks[1] < peaks[0] - 0.5e9


@torch.no_grad()
def test_a_cuda_graph_decodes_as_eager_does() -> None:
    set_matmul_precision(GPU, "float32")  # whatever ran before
    model = initialise(LlamaLM(tiny("proposed")), 0).to(GPU).eval()
    tokens = torch.randint(300, (1, 12), device=GPU)
    logits = {}
    for name, make in (("eager", decoding.eager), ("graph", decoding.graphed)):
        filled = KeyValueCache(model, 1, 16)
        step = make(model, decoding.StaticCache.of(filled))
        model(tokens[:, :4], cache=filled)
        found = []
        for index in range(4, 12):
            position = torch.tensor([index], device=GPU)
            found.append(step(tokens[:, index : index + 1], position).clone())
        logits[name] = torch.cat(found, dim=1)
    assert torch.allclose(logits["graph"], logits["eager"], atol=1e-5)
    uncached = model(tokens)[:, 4:]
    assert torch.allclose(logits["eager"], uncached, atol=1e-4)


def test_the_floor_is_below_what_a_launch_costs() -> None:
    """Small reads take longer by launch than by bandwidth: hence the CUDA graph."""
    rows = bandwidth.time_reads([1, 256], range(4), random.Random(0), GPU)
    table = pd.DataFrame(rows).groupby(["bytes", "way"])["nanoseconds"].median()
    speeds = table.groupby("bytes").min()
    speeds = speeds.index / speeds  # GB/s
    assert set(table.index.get_level_values("way")) == {"library", "sum"}
    assert speeds.loc[2**28] > 200  # slower than any card of the last ten years
    assert speeds.loc[2**20] > 50  # 20 us; launched by themselves, reads take longer
