"""The floor under decoding, and the load of the machine while something is measured."""

from __future__ import annotations

import random
import resource
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shallower.evaluation.latency import bandwidth, job
from shallower.evaluation.latency.job import BackgroundLoad
from shallower.machine import has_compiler

CPU = torch.device("cpu")


def test_load_is_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"monotonic": 0.0, "machine_busy": 100.0, "own_busy": 5.0}
    monkeypatch.setattr(job.time, "monotonic", lambda: clock["monotonic"])
    for name in ("machine_busy", "own_busy"):
        monkeypatch.setattr(job, name, partial(clock.__getitem__, name))
    load = BackgroundLoad()
    clock |= {"monotonic": 10.0, "machine_busy": 113.0, "own_busy": 14.0}
    # 13 seconds of cores were busy, 9 of them ours: 4 in 10 seconds.
    assert load.cores() == pytest.approx(0.4)
    clock["machine_busy"] = float("nan")
    assert np.isnan(load.cores())


def test_compilers_that_this_process_started_are_not_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def used(who: int) -> SimpleNamespace:
        mine = who == resource.RUSAGE_SELF
        user, system = (1.0, 2.0) if mine else (30.0, 40.0)
        return SimpleNamespace(ru_utime=user, ru_stime=system)

    monkeypatch.setattr(job.resource, "getrusage", used)
    assert job.own_busy() == 73.0


def test_a_working_set_is_distinct_matrices_of_its_size() -> None:
    store = torch.ones(16 * 256, 1024)
    for megabytes, count in ((1, 1), (4, 1), (8, 2), (16, 4)):
        parts = bandwidth.matrices(store, megabytes)
        assert len(parts) == count
        assert sum(part.nbytes for part in parts) == megabytes * 2**20
        assert len({part.data_ptr() for part in parts}) == count


def test_every_size_is_read_in_every_repeat() -> None:
    repeats = range(2, 8)
    rows = bandwidth.time_reads([1, 2, 8], repeats, random.Random(0), CPU)
    found = {(row["repeat"], row["bytes"]) for row in rows}
    assert found == {(r, s * 2**20) for r in repeats for s in (1, 2, 8)}
    assert len(rows) == 18
    assert {row["way"] for row in rows} == {"library"}
    orders = [tuple(r["bytes"] for r in rows[i : i + 3]) for i in range(0, 18, 3)]
    assert len(set(orders)) > 1


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_both_ways_to_read_are_timed_and_are_the_same_product() -> None:
    rows = bandwidth.time_reads([1, 2], range(2), random.Random(0), CPU, True)
    assert len({(row["bytes"], row["way"], row["repeat"]) for row in rows}) == 8
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 1024, generator=draw)
    vector = torch.randn(1024, generator=draw)
    library, loop = bandwidth.products(CPU, True).values()
    assert torch.allclose(library(matrix, vector), loop(matrix, vector), atol=1e-4)
    exact = matrix.bfloat16().double() @ vector.double()
    assert torch.allclose(loop(matrix.bfloat16(), vector).double(), exact, atol=1e-4)


def test_a_read_is_charged_for_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks once per product: four matrices take four ticks."""
    clock = {"now": 0}
    products: list[int] = []

    def product(weight: torch.Tensor, _: torch.Tensor) -> None:
        products.append(weight.data_ptr())
        clock["now"] += 1000

    monkeypatch.setattr(bandwidth.time, "perf_counter_ns", lambda: clock["now"])
    parts = bandwidth.matrices(torch.ones(8 * 256, 1024), 8)
    assert bandwidth.read(parts, torch.ones(1024), product) == 2000
    # One pass to warm up, and two (16 MB) that are timed.
    assert products == [part.data_ptr() for part in parts] * 3
