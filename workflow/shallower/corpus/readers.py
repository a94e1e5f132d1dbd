"""Records out of JSON lines, Parquet, CSV and TSV files, plain or compressed.

Files are streamed: memory does not grow with their size. Whatever is wrong with a file
becomes a UserError that names the file and, if it has lines, the line.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from shallower.errors import UserError

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
}
COMPRESSIONS = (".gz", ".zst")


class Record(NamedTuple):
    """One record: its place in the file, its values, and the names of all columns."""

    where: str
    values: dict[str, Any]
    names: Collection[str]


def matching(pattern: str) -> list[Path]:
    """All files that match, sorted: the file of just that name if there is one.

    A name may hold brackets, which mean something else in a pattern.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    paths = map(Path, sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207
    return [path for path in paths if path.is_file()]


def expand(patterns: list[str], key: str) -> list[Path]:
    """The files of all patterns, each once.

    Raises UserError, naming `key`, if a pattern matches no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        files = matching(pattern)
        if not files:
            folder = Path(pattern).is_dir()
            what = "is a directory, expected files" if folder else "no such file"
            raise UserError(f"{key}: {pattern}: {what}")
        found.update(dict.fromkeys(files))
    return list(found)


def format_of(path: Path) -> str:
    """The format a file's name tells. Raises UserError if it tells none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in SUFFIXES:
        raise UserError(
            f"{path}: unknown file type; expected {', '.join(SUFFIXES)} "
            f"(also followed by {' or '.join(COMPRESSIONS)}), or set `format`"
        )
    return SUFFIXES[suffixes[-1]]


def read(path: Path, file_format: str, wanted: Collection[str]) -> Iterator[Record]:
    """Yield the file's records in order; `wanted` columns at least, if it has them.

    Raises UserError for content that is not what the format says.
    """
    if file_format == "parquet":
        yield from _parquet(path, wanted)
    else:
        reader: Callable[[Path, IO[bytes]], Iterator[Record]] = (
            _jsonl if file_format == "jsonl" else _separated(file_format)
        )
        with _opened(path) as stream:
            yield from reader(path, stream)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A decompressed binary stream; trouble with the file becomes a UserError."""
    import pyarrow

    try:
        with path.open("rb") as raw:
            stream: Any = raw
            if path.suffix.lower() == ".gz":
                stream = gzip.GzipFile(fileobj=raw)
            elif path.suffix.lower() == ".zst":
                # Reads several frames, and raises for one that is cut off.
                frames: Any = pyarrow.CompressedInputStream(raw, "zstd")
                stream = io.BufferedReader(frames)
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _jsonl(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 ({error.reason})") from None
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not a JSON object on one line ({error.msg} "
                f"at column {error.colno})"
            ) from None
        if not isinstance(values, dict):
            found = type(values).__name__
            raise UserError(f"{where}: expected a JSON object, found a {found}")
        yield Record(where, values, values)


def _separated(file_format: str) -> Callable[[Path, IO[bytes]], Iterator[Record]]:
    """A reader of CSV, or of TSV as WikiQA writes it: there, a quote is a quote."""

    def read_rows(path: Path, stream: IO[bytes]) -> Iterator[Record]:
        csv.field_size_limit(sys.maxsize)
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            if file_format == "tsv":
                rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.reader(text, strict=True)
            try:
                yield from _with_header(path, rows)
            except csv.Error as error:
                raise UserError(f"{path}:{rows.line_num}: {error}") from None
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}: not UTF-8 after line {rows.line_num} ({error.reason})"
                ) from None

    return read_rows


def _with_header(path: Path, rows: Any) -> Iterator[Record]:
    names: list[str] = next(rows, [])
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}:1: column {repeated[0]!r} occurs {names.count(repeated[0])} times "
            "in the header, expected each name once"
        )
    for row in rows:
        where = f"{path}:{rows.line_num}"
        if not row:
            continue
        if len(row) != len(names):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(names)} as in the header"
            )
        yield Record(where, dict(zip(names, row, strict=True)), names)


def _parquet(path: Path, wanted: Collection[str]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name in wanted]
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}: row {number}", values, names)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from None
