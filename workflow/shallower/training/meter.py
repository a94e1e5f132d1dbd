"""How far a run is, and how fast: time in steps, waiting for data, saving."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from shallower.training.batches import Prefetch

START_UP = 2  # first steps of a process, which may compile: not in the steady speed


@dataclass
class State:
    """What a resumed run needs beside the weights and the optimizer; times in seconds.

    `steady_` counts only intervals after the start-up of a process.
    """

    step: int = 0  # steps taken
    seconds: float = 0.0  # in steps, over all restarts
    waited: float = 0.0  # of it, waiting for data
    steady_steps: int = 0
    steady_seconds: float = 0.0
    steady_waited: float = 0.0
    saving_seconds: float = 0.0  # for checkpoints, not in `seconds`
    restarts: int = 0
    losses: list[list[float]] = field(default_factory=list)  # rows of losses.csv
    diagnostics: list[list[Any]] = field(default_factory=list)  # see `activations.py`


class Meter:
    """Adds the time of steps to a state, without the time of checkpoints.

    Read at logged steps, after waiting for the loss: at any other moment a GPU may
    still be computing the steps before.
    """

    def __init__(self, state: State, ahead: Prefetch) -> None:
        self.state, self.ahead = state, ahead
        self.first = state.step  # of this process
        # At the start of the interval since the last reading: step, seconds waited.
        self.step, self.waited = state.step, 0.0
        self.seconds = 0.0  # in steps of the interval
        self.start()

    def start(self) -> None:
        """Go on after `stop`."""
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Leave out what comes until `start`."""
        now = time.perf_counter()
        self.state.seconds += now - self.started
        self.seconds += now - self.started

    def read(self) -> float:
        """Steps per second since the last reading."""
        self.stop()
        self.start()
        state, steps = self.state, self.state.step - self.step
        waited = self.ahead.waited - self.waited
        state.waited += waited
        if self.step >= self.first + START_UP:
            state.steady_steps += steps
            state.steady_seconds += self.seconds
            state.steady_waited += waited
        speed = steps / self.seconds
        self.step, self.waited, self.seconds = state.step, self.ahead.waited, 0.0
        return speed


def speeds(
    state: State, step_tokens: int, flops_per_token: int, peak: float | None
) -> dict[str, float | None]:
    """Tokens per second, share of the time spent waiting for data, MFU.

    Over the intervals between logged rows that began after the first START_UP steps of
    their process; over everything, with start-up, where a run is too short for that.
    MFU is model FLOPs utilisation: FLOPs of the forward and backward passes, without
    those that are computed twice, over the device's `peak` (FLOP/s); None without one.
    """
    steps, seconds, waited = (
        (state.steady_steps, state.steady_seconds, state.steady_waited)
        if state.steady_steps
        else (state.step, state.seconds, state.waited)
    )
    rate = steps * step_tokens / seconds
    return {
        "tokens_per_second": rate,
        "data_wait_share": waited / seconds,
        "mfu": None if peak is None else rate * flops_per_token / peak,
    }
