"""Batches as a pure function of the step, so that resuming is exact and free.

The next one is read, and pinned for a GPU, while the current step runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.randomness import derive
from shallower.tokens.shards import TokenStream

Batch = tuple[Tensor, Tensor]  # inputs and targets, each (batch, context)


class Epochs:
    """Items 0 to `count` - 1, each once an epoch, in an order set by the seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, index: int) -> int:
        """Which item is the index-th to be seen, counted over all epochs."""
        epoch, position = divmod(index, self.count)
        if epoch != self._epoch:
            generator = np.random.default_rng(derive(self.seed, f"data epoch {epoch}"))
            self._epoch, self._order = epoch, generator.permutation(self.count)
        return int(self._order[position])


def part_rows(batch_size: int, part: tuple[int, int]) -> range:
    """The rows of each batch that are the i-th of n equal parts; `part` is (i, n)."""
    index, parts = part
    return range(index * batch_size // parts, (index + 1) * batch_size // parts)


class Batches:
    """Windows of `context` tokens, each once an epoch, in an order set by the seed.

    Models with the same seed see the same batches whatever their depth or variant.
    With `part` (i, n) only the i-th of n equal parts of each batch is read, in order.
    """

    def __init__(
        self,
        stream: TokenStream,
        context: int,
        batch_size: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.stream, self.context = stream, context
        self.batch_size, self.seed = batch_size, seed
        self.rows = part_rows(batch_size, part)
        self.windows = (len(stream) - 1) // context
        if self.windows < 1:
            raise UserError(
                f"training split: {len(stream)} tokens, but one window of context "
                f"{context} needs {context + 1}"
            )
        self._order = Epochs(self.windows, seed)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step (0-based): two (rows, context) int64."""
        first = step * self.batch_size
        rows = [
            self.stream.read(self._order(first + i) * self.context, self.context + 1)
            for i in self.rows
        ]
        block = torch.from_numpy(np.stack(rows))
        return block[:, :-1], block[:, 1:]


class Prefetch:
    """Batches of steps first, first + 1, ... last - 1, on `device`, in that order.

    One batch ahead, in one thread: `read` is never called by two at a time. A context
    manager, since the thread must end however training does.
    """

    def __init__(
        self, read: Callable[[int], Batch], first: int, last: int, device: torch.device
    ) -> None:
        self.read, self.step, self.last, self.device = read, first, last, device
        self.waited = 0.0  # seconds that training waited for data
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._coming: Future[Batch] | None = None
        self._order()

    def next(self) -> Batch:
        """The next step's batch. Raises what reading it raised."""
        assert self._coming is not None, "no batch is left"
        before = time.perf_counter()
        inputs, targets = self._coming.result()
        self.waited += time.perf_counter() - before
        self.step += 1
        self._order()
        # From pinned memory this does not wait; from other memory it does.
        return (
            inputs.to(self.device, non_blocking=True),
            targets.to(self.device, non_blocking=True),
        )

    def _order(self) -> None:
        more = self.step < self.last
        self._coming = self._thread.submit(self._load, self.step) if more else None

    def _load(self, step: int) -> Batch:
        inputs, targets = self.read(step)
        if self.device.type == "cuda":
            return inputs.pin_memory(), targets.pin_memory()
        return inputs, targets

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
