"""How far a run is, and when it must stop: before its job's time limit, at SIGTERM.

A scheduler kills a job at its limit, and under Snakemake's executors signals do not
always reach the worker, so training looks at the clock itself.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

from shallower import machine

LINE_EVERY = 10.0  # seconds between lines where there is no terminal
# How long before its limit a run stops: in seconds, or as a share of the limit if that
# is less.
MARGIN = 120.0
MARGIN_SHARE = 0.25


class Progress:
    """Steps done, loss, tokens per second and time left, on standard error.

    A live bar on a terminal, a line now and then elsewhere.
    """

    def __init__(self, label: str, steps: int) -> None:
        self.label, self.steps = label, steps
        self.terminal = sys.stderr.isatty()
        self.bar = (
            tqdm(total=steps, desc=label, unit="step", leave=True, dynamic_ncols=True)
            if self.terminal
            else None
        )
        self.started = self.shown = time.monotonic()
        self.first: int | None = None

    def show(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Report the state after `step` steps."""
        if self.bar is not None:
            self.bar.set_postfix_str(
                f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False
            )
            self.bar.update(step - self.bar.n)
            return
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = step, now
        if now - self.shown < LINE_EVERY and step < self.steps:
            return
        self.shown = now
        done = max(1, step - self.first)
        left = (self.steps - step) * (now - self.started) / done
        filled = 20 * step // self.steps
        print(
            f"{self.label:<24} [{'#' * filled}{'.' * (20 - filled)}] "
            f"{step}/{self.steps}  loss {loss:.3f}  "
            f"{tokens_per_second:,.0f} tokens/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self.bar is not None:
            self.bar.close()


class Clock:
    """Seconds since the process began, and why training should stop, if it should.

    `limit` is in seconds, None for none. It is checked after a step, never before the
    first: every attempt takes at least one step, however short its limit.
    """

    def __init__(
        self, limit: float | None, age: Callable[[], float] = machine.process_age
    ) -> None:
        self.limit, self.age = limit, age
        self.longest_step = self.longest_save = 0.0
        self.terminated = False

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around a save: the next one is expected to take as long as the longest."""
        before = time.perf_counter()
        yield
        self.longest_save = max(self.longest_save, time.perf_counter() - before)

    def reason(self, step_seconds: float) -> str | None:
        """Why to stop after a step of `step_seconds`; None if there is no reason."""
        self.longest_step = max(self.longest_step, step_seconds)
        if self.terminated:
            return "at a signal to end"
        if self.limit is None:
            return None
        margin = min(MARGIN, MARGIN_SHARE * self.limit)
        needed = self.longest_step + self.longest_save + margin
        if self.age() + needed <= self.limit:
            return None
        return f"before the time limit of {self.limit / 60:.3g} minutes"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """At SIGTERM stop after the current step; a second one kills as usual.

        Only the main thread of a process can set what a signal does; in other threads
        nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.terminated = True
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        former = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)
