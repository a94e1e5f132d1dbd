"""The next batch is read, and pinned for a GPU, while the current step runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # inputs and targets, each (batch, context)


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
