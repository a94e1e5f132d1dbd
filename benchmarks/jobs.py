"""Two single-thread trainings side by side against one with two threads.

As the default study trains: its sizes, its windows a step, compiled.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks import models
from benchmarks.harness import Row, alternate

SECONDS = 8.0  # of training that is timed, in each process
CASE, DEPTH = "study's size, 5 blocks", 5
REPEATS = 3


def run() -> list[Row]:
    """Tokens a second of both processes together, and of the one."""
    ways = {
        "two jobs of one thread": lambda: together(2, 1),
        "one job of two threads": lambda: together(1, 2),
    }
    return alternate("jobs", CASE, ways, REPEATS, "tokens/s", warmups=1)


def together(processes: int, threads: int) -> float:
    """Tokens a second of so many processes that train at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    jobs = [
        context.Process(target=work, args=(threads, barrier, results))
        for _ in range(processes)
    ]
    for job in jobs:
        job.start()
    total = sum(results.get() for _ in jobs)
    for job in jobs:
        job.join()
    return total


def work(threads: int, barrier: Barrier, results: Any) -> None:
    """Train for some seconds once all are ready; put tokens a second."""
    import torch

    from shallower.training.step import make_optimizer, training_step

    torch.set_num_threads(threads)
    training, sizes = models.DEFAULT["training"], models.STUDY
    model = models.ours(DEPTH, **sizes).train()
    settings = models.settings(training["precision"], training["compile"])
    optimizer = make_optimizer(model, settings)
    shape = (models.WINDOWS, sizes["context"])
    ids = torch.randint(sizes["vocabulary"], shape)
    for _ in range(3):
        training_step(model, optimizer, ids, ids, settings)
    barrier.wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        training_step(model, optimizer, ids, ids, settings)
        steps += 1
    results.put(steps * ids.numel() / (time.perf_counter() - start))
