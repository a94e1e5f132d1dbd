"""The floor under decoding: how fast weights can be read, by how many there are.

One token at batch 1 reads every weight once, so no model is faster than a
matrix-vector product over as many bytes. What fits a cache is read much faster, and a
study's small models may fit where deeper ones do not: hence a curve, not a number.
No single kernel is the fastest: the product of torch's library and a compiled loop are
both timed, and the faster one, which differs from size to size, is the floor.
On a GPU a launch costs more than a small read: there the products, over matrices that
are not cut up, and a plain sum are timed within a CUDA graph.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import cache as once
from typing import TypedDict

import torch
from torch import Tensor

from shallower.machine import has_compiler
from shallower.models.decoding import row_times

Product = Callable[[Tensor, Tensor], Tensor]  # matrix, vector -> vector

MEGABYTE = 2**20
COLUMNS = 1024  # of each matrix: the width of the paper's models
LARGEST = 4  # MB of one matrix, so that the cost of a call is lost in its work
AT_LEAST = 16  # MB read between two readings of the clock


def products(device: torch.device, compiled: bool) -> dict[str, Product]:
    """Ways to multiply a matrix by a vector, by name; compiling takes seconds."""
    ways: dict[str, Product] = {"library": torch.mv}
    if compiled and device.type == "cpu" and has_compiler():
        ways["loop"] = _loop()
    if device.type == "cuda":
        ways["sum"] = lambda matrix, vector: matrix.sum()
    return ways


@once
def _loop() -> Product:
    return torch.compile(row_times, options={"compile_threads": 1})


class ReadTime(TypedDict):
    """A row of bandwidth.parquet, without what is the same in a session."""

    bytes: int
    way: str
    repeat: int
    nanoseconds: int  # of one read


def time_reads(
    megabytes: Sequence[int],
    repeats: range,
    order: random.Random,
    device: torch.device,
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[ReadTime]:
    """A row per size, way and repeat; in a new random order in each repeat."""
    rows: list[ReadTime] = []
    # Written, so that every page is there.
    length = max(megabytes) * MEGABYTE // (dtype.itemsize * COLUMNS)
    store = torch.ones(length, COLUMNS, device=device, dtype=dtype)
    ways = products(device, compiled)
    cells = [(size, way) for size in megabytes for way in ways]
    for repeat in repeats:
        for size, way in order.sample(cells, len(cells)):
            exact = torch.float32 if way == "loop" else dtype
            vector = torch.ones(COLUMNS, device=device, dtype=exact)
            nanoseconds = read(matrices(store, size), vector, ways[way])
            rows.append(
                ReadTime(
                    bytes=size * MEGABYTE,
                    way=way,
                    repeat=repeat,
                    nanoseconds=nanoseconds,
                )
            )
    return rows


def matrices(store: Tensor, megabytes: int) -> tuple[Tensor, ...]:
    """The first `megabytes` of the rows, as matrices that share no memory."""
    row = store.shape[1] * store.element_size()
    part = store[: megabytes * MEGABYTE // row]
    return (part,) if store.is_cuda else torch.split(part, LARGEST * MEGABYTE // row)


@torch.inference_mode()
def read(weights: tuple[Tensor, ...], vector: Tensor, product: Product) -> int:
    """Nanoseconds of one product with each matrix, after one that is not timed.

    As in decoding, the caches hold what the read before has left in them.
    """
    size = sum(weight.nbytes for weight in weights)
    passes = max(1, AT_LEAST * MEGABYTE // size)

    def pass_over() -> None:
        for _ in range(passes):
            for weight in weights:
                product(weight, vector)

    run = _as_graph(pass_over) if vector.is_cuda else pass_over
    for weight in weights:
        product(weight, vector)
    if vector.is_cuda:
        torch.cuda.synchronize()
    before = time.perf_counter_ns()
    run()
    if vector.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter_ns() - before) // passes


def _as_graph(function: Callable[[], None]) -> Callable[[], None]:
    """The function's kernels as one launch; what it reads must outlive the result."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
