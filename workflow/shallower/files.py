"""Files that are either complete or absent, and their checksums."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shallower.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if all went well.

    The content is flushed to disk before the rename, so that after a crash or a
    kill the final name holds the old content, the new content, or nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; results are for everyone the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(
    path: str | Path,
    columns: Iterable[str],
    rows: Iterable[Iterable[Any]],
    float_format: str | None = None,
) -> None:
    """Write a table as pandas would, which takes half a second to load.

    Floats in full, or by `float_format`; what is not a number is left empty.
    """

    def shown(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        if value != value:
            return ""
        return float_format % value if float_format else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([shown(value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON to `path`, all or nothing."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UserError if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def without_home(content: Any) -> Any:
    """Plain values with `~` for the user's home, wherever a text begins with it.

    For what is published: a path tells who has run it.
    """
    if isinstance(content, dict):
        return {
            without_home(key): without_home(value) for key, value in content.items()
        }
    if isinstance(content, list):
        return [without_home(value) for value in content]
    home = os.path.expanduser("~").rstrip("/")  # noqa: PTH111  raises nothing
    if isinstance(content, str) and home and f"{content}/".startswith(f"{home}/"):
        return f"~{content[len(home) :]}"
    return content


def check_programs_run(folder: Path) -> None:
    """Raise UserError if nothing in a folder for temporary files may be executed.

    torch.compile builds programs there, and would find out after hours of training.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            program = Path(name) / "program"
            program.write_text("#!/bin/sh\n")
            program.chmod(0o700)
            subprocess.run([program], check=True)
    except PermissionError:
        raise UserError(
            f"TMPDIR: programs in {folder} are not run (noexec), expected a folder in "
            "which they are, since torch.compile puts some there; set TMPDIR"
        ) from None
    except OSError as error:
        raise UserError(f"TMPDIR: {folder} cannot be used ({error})") from None


def expanded(path: str) -> Path:
    """A path as people write it: `~/` is their home, and `~.txt` a file's name."""
    return Path(path).expanduser() if path.startswith("~/") else Path(path)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
