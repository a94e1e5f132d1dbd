"""Files that are either complete or absent, and their checksums."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shallower.errors import UserError

RECORDS = ".sha256"  # in each folder of results: checksums of the files beside it
TAIL = 4096  # bytes of a log or a list of losses that are looked at for its last line
ALWAYS_HASHED = 2**28  # bytes up to which a file is always read to compare it


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if all went well.

    The content is flushed to disk before the rename, so that after a crash or a
    kill the final name holds the old content, the new content, or nothing. Within a
    study's results the checksum is noted (see `changed`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    in_study = _in_study(path)
    if in_study:  # a result has one writer: what a killed one left is nobody's
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}"):
            left.unlink(missing_ok=True)
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
        digest = sha256(temporary) if in_study else None
        temporary.replace(path)
        if digest:
            note(path, digest)
    except Exception as error:
        # Libraries say it in many ways, some with a traceback of C++.
        if _is_full(path.parent):
            raise UserError(f"{path}: no space left on its disk") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _is_full(folder: Path) -> bool:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < 2**16 or (
        disk.f_files > 0 and disk.f_favail == 0
    )


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
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
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


def find_a_cache() -> None:
    """Where the home cannot be written, or is none: a cache in `.snakemake`.

    Snakemake and matplotlib make folders in `~/.cache`, and Snakemake ends with a
    traceback if it cannot. They and the jobs read XDG_CACHE_HOME.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return
    except (OSError, RuntimeError):  # a file, or read-only; or nobody's home is known
        pass
    os.environ["XDG_CACHE_HOME"] = str(Path(".snakemake", "cache").absolute())


def expanded(path: str) -> Path:
    """A path as people write it: `~/` is their home, and `~.txt` a file's name."""
    return Path(path).expanduser() if path.startswith("~/") else Path(path)


def tail(path: str | Path) -> list[str]:
    """The last lines that have text, of 4 KB; none without the file.

    A bar that overwrites itself has a line behind each \\r. The first may be cut.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    return [line for line in lines if line]


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(source: str | Path, path: str | Path) -> None:
    """Copy a file's bytes, all or nothing."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


# --- files that somebody edited, damaged or deleted -----------------------------------


def record_of(path: str | Path) -> Path:
    """The file that has the checksum of a result."""
    path = Path(path)
    return path.parent / RECORDS / f"{path.name}.json"


def note(path: str | Path, digest: str) -> None:
    """Note what a result's checksum is to be, with its size and time."""
    now = Path(path).stat()
    content = {"sha256": digest, "bytes": now.st_size, "mtime_ns": now.st_mtime_ns}
    _write_record(path, content)
    if Path(path).suffix == ".pt":  # checkpoints come and go
        for other in record_of(path).parent.glob("*.pt.json"):
            if not Path(path).with_name(other.stem).exists():
                other.unlink(missing_ok=True)


def _write_record(path: str | Path, content: dict[str, Any]) -> None:
    record = record_of(path)
    record.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=record.parent, prefix=f".{record.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())  # a new name may outlive what is in the file
        Path(name).replace(record)
    finally:
        Path(name).unlink(missing_ok=True)


def doubt(path: str | Path) -> None:
    """Have the next `changed` read a result, though its size and time are as noted."""
    found = _record(path)
    if found is not None:
        _write_record(path, found | {"mtime_ns": 0})


def noted(path: str | Path) -> str | None:
    """The checksum that was noted when a result was made; None if none was."""
    found = _record(path)
    return None if found is None else str(found["sha256"])


def changed(path: str | Path, limit: float = ALWAYS_HASHED) -> str | None:
    """What is wrong with a result since it was made; None if nothing is, or was noted.

    A file of more than `limit` bytes whose size and time are as noted is not read.
    """
    found = _record(path)
    if found is None:
        return None
    try:
        now = Path(path).stat()
    except FileNotFoundError:
        return "missing"
    same = (now.st_size, now.st_mtime_ns) == (found["bytes"], found["mtime_ns"])
    if same and now.st_size > limit:
        return None
    return None if sha256(path) == found["sha256"] else "changed since it was made"


def check(paths: Iterable[str | Path]) -> None:
    """Raise UserError, naming the file, if a result is not what was made.

    The next start of Snakemake makes it again.
    """
    for path in paths:
        problem = changed(path)
        if problem not in (None, "missing"):
            doubt(path)
            raise UserError(f"{path}: {problem}; the same command makes it again")


def _record(path: str | Path) -> dict[str, Any] | None:
    try:
        found = json.loads(record_of(path).read_text(encoding="utf-8"))
        return {key: found[key] for key in ("sha256", "bytes", "mtime_ns")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # damaged itself: nothing can be trusted
        return {"sha256": "", "bytes": -1, "mtime_ns": 0}


def _in_study(path: Path) -> bool:
    """Whether a file is a result: in the folder of a study."""
    return any((folder / "study.json").is_file() for folder in path.parents[:8])
