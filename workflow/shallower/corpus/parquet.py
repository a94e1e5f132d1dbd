"""Documents and items in Parquet files, written and read a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet

# A row group holds this much at most, and readers hold one row group at a time. Most
# have the 1000 rows; the other bound is for documents of megabytes.
ROWS = 1000
CHARACTERS = 16_000_000


class Row(Protocol):
    """A named tuple of strings with a text, such as a document or an item.

    Not named as such: training reads tokens by way of this module, and must not depend
    on how documents are cleaned.
    """

    @property
    def text(self) -> str: ...  # noqa: D102

    def _asdict(self) -> dict[str, Any]: ...


class Writer:
    """Appends rows to a Parquet file, a batch at a time."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
        self._file = pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._batch: list[Row] = []
        self._waiting = 0  # characters of the batch
        self.rows = 0
        self.characters = 0

    def add(self, row: Row) -> None:
        """Append one row."""
        size = len(row.text)
        self._batch.append(row)
        self._waiting += size
        self.rows += 1
        self.characters += size
        if len(self._batch) == ROWS or self._waiting >= CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        rows = [row._asdict() for row in self._batch]
        self._file.write_table(pyarrow.Table.from_pylist(rows, self._schema))
        self._batch, self._waiting = [], 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._batch:
            self._flush()
        self._file.close()


def read_texts(path: Path, first: int = 0, last: int | None = None) -> Iterator[str]:
    """The `text` of rows [first, last), by default of all, in order.

    Only the row groups that hold such rows are read.
    """
    with pyarrow.parquet.ParquetFile(path) as file:
        last = file.metadata.num_rows if last is None else last
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            begin, end = max(first - start, 0), min(last - start, rows)
            start += rows
            if begin < end:
                yield from _group_texts(file, group, begin, end)


def _group_texts(
    file: pyarrow.parquet.ParquetFile, group: int, begin: int, end: int
) -> Iterator[str]:
    """Texts of rows [begin, end) of a row group; it may be another program's, huge."""
    start = 0
    for batch in file.iter_batches(ROWS, row_groups=[group], columns=["text"]):
        low, high = max(begin - start, 0), min(end - start, batch.num_rows)
        start += batch.num_rows
        if low < high:
            yield from batch.column("text")[low:high].to_pylist()
