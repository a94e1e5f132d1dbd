"""The floor under decoding: how fast weights can be read, by how many there are.

One token at batch 1 reads every weight once, so no model is faster than a
matrix-vector product over as many bytes. What fits a cache is read much faster, and a
study's small models may fit where deeper ones do not: hence a curve, not a number.
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch

DEFAULT: dict[str, Any] = {
    "megabytes": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    "repeats": 12,  # half of them before the models, half behind
}
MEGABYTE = 2**20
COLUMNS = 1024  # of each matrix: the width of the paper's models
LARGEST = 4  # MB of one matrix, so that the cost of a call is lost in its work
AT_LEAST = 16  # MB read between two looks at the clock


def time_reads(
    settings: dict[str, Any], repeats: range, order: random.Random, device: torch.device
) -> list[dict[str, Any]]:
    """Rows `bytes, repeat, nanoseconds` (of one read); sizes shuffled each time."""
    sizes, rows = settings["megabytes"], []
    store = torch.ones(
        max(sizes) * MEGABYTE // (4 * COLUMNS), COLUMNS, device=device
    )  # written, so that every page is there
    vector = torch.ones(COLUMNS, device=device)
    for repeat in repeats:
        for size in order.sample(sizes, len(sizes)):
            nanoseconds = read(matrices(store, size), vector)
            rows.append(
                {
                    "bytes": size * MEGABYTE,
                    "repeat": repeat,
                    "nanoseconds": nanoseconds,
                }
            )
    return rows


def matrices(store: torch.Tensor, megabytes: int) -> tuple[torch.Tensor, ...]:
    """The first `megabytes` of the rows, as matrices that share no memory."""
    row = store.shape[1] * store.element_size()
    part = store[: megabytes * MEGABYTE // row]
    return part.split(LARGEST * MEGABYTE // row)


@torch.inference_mode()
def read(weights: tuple[torch.Tensor, ...], vector: torch.Tensor) -> int:
    """Nanoseconds of one product with each matrix, after one that is not timed.

    As in decoding, the caches hold what the read before has left in them.
    """
    size = sum(weight.nbytes for weight in weights)
    passes = max(1, AT_LEAST * MEGABYTE // size)
    for weight in weights:
        torch.mv(weight, vector)
    if vector.is_cuda:
        torch.cuda.synchronize()
    before = time.perf_counter_ns()
    for _ in range(passes):
        for weight in weights:
            torch.mv(weight, vector)
    if vector.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter_ns() - before) // passes
