"""Progress of a run: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class Progress:
    """Steps done, loss, tokens per second and time left, on standard error."""

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
