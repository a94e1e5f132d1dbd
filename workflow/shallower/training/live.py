"""Losses of a run while it is trained: `live.jsonl` in its folder, a line for each.

`losses.csv` has the same when the run has ended. Any tracker can read the lines
(docs/cookbook.md); nothing of a study depends on them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from shallower.errors import UserError
from shallower.files import tail, write_text

FILE = "live.jsonl"


class LiveLosses:
    """Appends `{"step", "steps", "tokens", "loss", "tokens_per_second", "time"}`.

    `time` is in seconds since 1970. A run that is resumed repeats the steps after its
    last checkpoint: their first lines go.
    """

    def __init__(self, folder: str | Path, steps: int, step_tokens: int) -> None:
        self.path, self.steps = Path(folder) / FILE, steps
        self.step_tokens = step_tokens
        self.begun = False

    def show(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Write the state after `step` steps; a disk that is full stops no training."""
        row = {
            "step": step,
            "steps": self.steps,
            "tokens": step * self.step_tokens,
            "loss": loss,
            "tokens_per_second": round(tokens_per_second, 1),
            "time": round(time.time(), 3),
        }
        try:
            if not self.begun:
                before = [r for r in read_live(self.path) if r["step"] < step]
                text = "".join(json.dumps(each) + "\n" for each in before)
                write_text(self.path, text)
                self.begun = True
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except (OSError, UserError):
            pass


def read_live(path: str | Path) -> list[dict[str, Any]]:
    """Every whole line; none if there is no file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [row for line in lines if (row := _row(line)) is not None]


def last_line(folder: str | Path) -> dict[str, Any] | None:
    """The newest state of a run; None if it has none."""
    rows = [
        row for line in tail(Path(folder) / FILE) if (row := _row(line)) is not None
    ]
    return rows[-1] if rows else None


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return row if isinstance(row, dict) and "step" in row else None
    except ValueError:
        return None  # cut off by a kill
