"""Records out of plain text, JSON lines, Parquet, CSV and TSV, plain or compressed.

Files are streamed: memory does not grow with their size. Whatever is wrong with a file
becomes a UserError that names the file and, if it has lines, the line.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from shallower.errors import UserError
from shallower.files import expanded

SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
}
COMPRESSIONS = (".gz", ".zst")
LONGEST_LINE = 2**28  # bytes, or characters; more is no record but fills the memory
# Plain text without blank lines is cut at a space after so many times `cut` characters.
WITHOUT_BLANK_LINE = 4


class Record(NamedTuple):
    """One record: its place in the file, its values, and the names of all columns."""

    where: str
    values: dict[str, Any]
    names: Collection[str]


def matching(pattern: str) -> list[Path]:
    """All files that match, sorted: the file of just that name if there is one.

    A name may hold brackets, which mean something else in a pattern. Of a folder those
    files, at any depth, whose names tell a format; what is hidden is left out.
    """
    given = expanded(pattern)
    if given.is_file():
        return [given]
    if given.is_dir():
        return sorted(_within(given))
    paths = map(Path, sorted(glob.glob(str(given), recursive=True)))  # noqa: PTH207
    return [path for path in paths if path.is_file()]


def _within(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and _suffix(path) in SUFFIXES:
                yield path


def expand(patterns: list[str], key: str) -> list[Path]:
    """The files of all patterns, each once.

    Raises UserError, naming `key`, if a pattern matches no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        files = matching(pattern)
        if not files:
            what = "no such file"
            if expanded(pattern).is_dir():
                what = f"no file in this folder ends in {', '.join(SUFFIXES)}"
            raise UserError(f"{key}: {pattern}: {what}")
        found.update(dict.fromkeys(files))
    return list(found)


def format_of(path: Path) -> str:
    """The format a file's name tells. Raises UserError if it tells none."""
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise UserError(
            f"{path}: unknown file type; expected {', '.join(SUFFIXES)} "
            f"(also followed by {' or '.join(COMPRESSIONS)}), or set `format`"
        )
    return SUFFIXES[suffix]


def _suffix(path: Path) -> str:
    """The ending that tells the format, in lower case; that of a compression aside."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read(
    path: Path, file_format: str, wanted: Collection[str], cut: int | None = None
) -> Iterator[Record]:
    """Yield the file's records in order; `wanted` columns at least, if it has them.

    Plain text is cut into documents of at least `cut` characters, at blank lines;
    without it, it is one document, and the file's name is the title. Raises UserError
    for content that is not what the format says.
    """
    if file_format == "parquet":
        yield from _parquet(path, wanted)
    elif file_format == "text":
        with _opened(path) as stream:
            yield from _text(path, stream, cut)
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


Line = TypeVar("Line", str, bytes)


def _lines(path: Path, stream: IO[Line]) -> Iterator[Line]:
    """The lines of a file. Raises UserError for one that does not fit in memory."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}:{number}: a line of more than {LONGEST_LINE:,} characters, "
                "expected a record"
            )
        yield line


def _text(path: Path, stream: IO[bytes], cut: int | None) -> Iterator[Record]:
    """Documents of a plain text, from blank line to blank line."""
    names = ("text", "title")
    title = path.name.partition(".")[0] if cut is None else ""

    def record(text: str) -> Record:
        return Record(f"{path}:{begun}", {"text": text, "title": title}, names)

    text, begun, number = "", 1, 0
    most = sys.maxsize if cut is None else WITHOUT_BLANK_LINE * cut
    with io.TextIOWrapper(stream, encoding="utf-8-sig") as decoded:
        try:
            for number, line in enumerate(_lines(path, decoded), start=1):
                if not line.strip() and cut is not None and len(text) >= cut:
                    yield record(text)
                    text, begun = "", number + 1
                text += line
                while len(text) > most:
                    end = text.rfind(" ", 0, most) + 1 or most
                    yield record(text[:end])
                    text, begun = text[end:], number
                if len(text) > LONGEST_LINE:
                    raise UserError(
                        f"{path}: more than {LONGEST_LINE:,} characters, expected a "
                        "document; set `cut`"
                    )
        except UnicodeDecodeError as error:
            raise _not_utf8(path, f"{path}: after line {number}", error) from None
    if text:
        yield record(text)


def _jsonl(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(_lines(path, stream), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            values = json.loads(
                line.decode("utf-8-sig"),
                object_pairs_hook=_each_once,
                parse_constant=_no_number,
            )
        except UnicodeDecodeError as error:
            raise _not_utf8(path, where, error) from None
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not a JSON object on one line ({error.msg} "
                f"at column {error.colno}){_advice(line)}"
            ) from None
        except RecursionError:
            raise UserError(
                f"{where}: not a JSON object of a record (nested too deeply)"
            ) from None
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from None
        if not isinstance(values, dict):
            found = type(values).__name__
            raise UserError(
                f"{where}: expected a JSON object, found a {found}{_advice(line)}"
            )
        yield Record(where, values, values)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:40]!r} occurs more than once")
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON, expected null")


def _advice(line: bytes) -> str:
    """What to do with JSON that is not an object a line."""
    if line.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return "; of an array, `jq -c '.[]'` makes an object a line"
    if b"\r" in line.strip():
        return "; lines end in CR alone, `tr '\\r' '\\n'` makes them end in LF"
    if line.strip() == b"{":
        return "; an object on several lines, `jq -c .` writes it on one"
    return ""


def _not_utf8(path: Path, where: str, error: UnicodeDecodeError) -> UserError:
    with path.open("rb") as file:
        start = file.read(2)
    found = "UTF-16" if start in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
    return UserError(
        f"{where}: {found} ({error.reason}), expected UTF-8: `iconv -t utf-8` "
        "converts it"
    )


def _separated(file_format: str) -> Callable[[Path, IO[bytes]], Iterator[Record]]:
    """A reader of CSV, or of TSV as WikiQA writes it: there, a quote is a quote."""

    def read_rows(path: Path, stream: IO[bytes]) -> Iterator[Record]:
        csv.field_size_limit(LONGEST_LINE)
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            if file_format == "tsv":
                rows = csv.reader(
                    _lines(path, text), delimiter="\t", quoting=csv.QUOTE_NONE
                )
            else:
                rows = csv.reader(_lines(path, text), strict=True)
            try:
                yield from _with_header(path, rows)
            except csv.Error as error:
                raise UserError(f"{path}:{rows.line_num}: {error}") from None
            except UnicodeDecodeError as error:
                where = f"{path}: after line {rows.line_num}"
                raise _not_utf8(path, where, error) from None

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
            twice = [name for name, n in Counter(columns).items() if n > 1]
            if twice:
                raise UserError(
                    f"{path}: column {twice[0]!r} occurs more than once, expected each "
                    "name once"
                )
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}: row {number}", values, names)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from None
