"""Two single-thread trainings side by side against one with two threads."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.harness import Row, alternate

SECONDS = 8.0  # of training that is timed, in each process
CASES = {"default study (d = 128, 5 blocks)": ("STUDY", 128)}
CASES["d = 256, 5 blocks"] = ("WIDER", 256)


def run() -> list[Row]:
    """Tokens a second of both processes together, and of the one."""
    rows: list[Row] = []
    for case, what in CASES.items():
        implementations = {
            "two jobs of one thread": lambda what=what: together(what, 2, 1),
            "one job of two threads": lambda what=what: together(what, 1, 2),
        }
        rows += alternate("jobs", case, implementations, 4, "tokens/s", warmups=0)
    return rows


def together(what: tuple[str, int], processes: int, threads: int) -> float:
    """Tokens a second of so many processes that train at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    jobs = [
        context.Process(target=work, args=(what, threads, barrier, results))
        for _ in range(processes)
    ]
    for job in jobs:
        job.start()
    total = sum(results.get() for _ in jobs)
    for job in jobs:
        job.join()
    return total


def work(what: tuple[str, int], threads: int, barrier: Barrier, results: Any) -> None:
    """Train for some seconds once all are ready; put tokens a second."""
    import torch

    from benchmarks import models
    from shallower.training.step import make_optimizer, training_step

    torch.set_num_threads(threads)
    sizes, context = getattr(models, what[0]), what[1]
    model = models.ours(5, context, **sizes).train()
    settings = models.settings()
    optimizer = make_optimizer(model, settings)
    ids = torch.randint(sizes["vocabulary"], (8, context))
    for _ in range(3):
        training_step(model, optimizer, ids, ids, settings)
    barrier.wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        training_step(model, optimizer, ids, ids, settings)
        steps += 1
    results.put(steps * ids.numel() / (time.perf_counter() - start))
