"""What Snakemake keeps in `.snakemake` about the files that its jobs made."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shallower.files import sha256

FOLDER = Path(".snakemake")
LONGEST = 255  # bytes of a file's name; a longer record is in folders named @...


@dataclass(frozen=True)
class Record:
    """How a file was made."""

    inputs: list[str]
    checksums: dict[str, str]  # of small inputs, `sha256:...`
    seconds: float | None  # that its job took

    @classmethod
    def read(cls, output: Path, folder: Path = FOLDER) -> Record | None:
        """That of an output; None where there is none, or an unreadable one."""
        try:
            text = _path(folder / "metadata", output).read_text(encoding="utf-8")
            found: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            return None
        began, ended = found.get("starttime"), found.get("endtime")
        return cls(
            inputs=list(found.get("input") or []),
            checksums=dict(found.get("input_checksums") or {}),
            seconds=ended - began if began and ended else None,
        )

    def newer(self, output: Path) -> list[str]:
        """Inputs that changed after the output was made, as far as files tell.

        A small file with a new time and the recorded content did not change; a missing
        one is not counted, since temporary ones are deleted.
        """
        made, found = output.stat().st_mtime, []
        for name in self.inputs:
            path = Path(name)
            if path.exists() and path.stat().st_mtime > made:
                known = self.checksums.get(name)
                if known is None or known != f"sha256:{sha256(path)}":
                    found.append(name)
        return found


def started(output: Path, folder: Path = FOLDER) -> bool:
    """Whether a job that makes this file was started and has not ended well."""
    return _path(folder / "incomplete", output).exists()


def _path(folder: Path, output: Path) -> Path:
    """The record of an output, named as `snakemake.persistence` names it."""
    name = base64.urlsafe_b64encode(str(output).encode()).decode()
    parts = [name[i : i + LONGEST - 1] for i in range(0, len(name), LONGEST - 1)]
    return folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])
