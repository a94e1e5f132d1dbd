"""Checkpoints that survive a kill at any moment.

They are no outputs of the workflow: Snakemake deletes a failed job's outputs, and a
killed run must not lose its work. The folder's name carries a fingerprint of
everything the run depends on, so a checkpoint is never continued by another run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from shallower.errors import UserError
from shallower.files import replacing

NEWEST = 2  # checkpoints of a run: the last one, and one to fall back to


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits over JSON-able values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def lock(self) -> None:
        """Lock the folder until this process ends, however it ends.

        Raises UserError if the run is being trained already: after a kill of the
        workflow its jobs may live on.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{self.directory}: another process is training this run; wait for it "
                "or stop it first"
            ) from None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, then drop all but the newest two."""
        with replacing(self._path(step)) as temporary:
            torch.save(state, temporary)
        for old in self._all()[:-NEWEST]:
            old.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The newest state that loads, or None. A damaged file is passed over."""
        for path in reversed(self._all()):
            # weights_only: a checkpoint is data and must not run code.
            with contextlib.suppress(
                RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError
            ):
                state: dict[str, Any] = torch.load(
                    path, map_location="cpu", weights_only=True
                )
                return state
        return None

    def remove(self) -> None:
        """Delete the run's checkpoints: its final weights are safe."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}.pt"

    def _all(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.pt"))
