"""Every source as a `datasets.Dataset` with our own column names.

Three kinds of records exist: documents (`text, domain, title`), conversations
(`conversation, group`; hh-rlhf's form) and answers (`question, sentence, label,
title`; a candidate sentence with label 1 if it answers the question). All columns are
strings, empty where a source has nothing to say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shallower.corpus import packages, readers
from shallower.corpus.settings import FilesSource, HubSource, PackageSource
from shallower.errors import UserError
from shallower.files import sha256

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["documents", "conversations", "answers"]

# By kind, our columns with the names they are recognised by. Dots walk into nested
# fields. In order: our own, SlimPajama, hh-rlhf, WikiQA from the hub, WikiQA's files.
COLUMNS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "documents": {
        "text": ("text",),
        "domain": ("domain", "meta.redpajama_set_name"),
        "title": ("title",),
    },
    "conversations": {
        "conversation": ("conversation", "chosen"),
        "group": ("group",),
    },
    "answers": {
        "question": ("question", "Question"),
        "sentence": ("sentence", "answer", "Sentence"),
        "label": ("label", "Label"),
        "title": ("title", "document_title", "DocumentTitle"),
    },
}
_OPTIONAL = frozenset({"domain", "title", "group"})
_LABELS = {"1": "1", "1.0": "1", "true": "1", "0": "0", "0.0": "0", "false": "0"}
_PACKAGE_KINDS: dict[str, Kind] = {
    "wikipedia_summaries": "documents",
    "chatterbot": "conversations",
}
_ABSENT = object()


@dataclass
class Loaded:
    """A source's rows, where they come from, and what the source itself dropped."""

    dataset: Dataset
    origin: dict[str, Any]
    dropped: Counter[str]

    def rows(self) -> Iterator[dict[str, str]]:
        """Every row, from the Dataset's own files, a batch at a time.

        A Dataset maps its files into memory, so that to iterate it would count the
        whole corpus as this process's memory.
        """
        import pyarrow

        for file in self.dataset.cache_files:
            with (
                pyarrow.OSFile(file["filename"]) as stream,
                pyarrow.ipc.open_stream(stream) as batches,
            ):
                for batch in batches:
                    yield from batch.to_pylist()


@dataclass
class _Tally:
    """What is known only after the last record was read."""

    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    files: dict[str, str] = field(default_factory=dict)


def load(
    source: PackageSource | FilesSource | HubSource, kind: Kind, key: str, cache: Path
) -> Loaded:
    """Read a source into a Dataset that is memory-mapped from below `cache`.

    `key` is where the source stands in the configuration, for error messages.
    Raises UserError for whatever is missing, unreadable or of another kind.
    """
    if isinstance(source, HubSource):
        raise UserError(
            f"{key}.source: hub data ({source.repository}) are not available in this "
            "version; download them and give the same data with `source: files`"
        )
    tally = _Tally()
    if isinstance(source, PackageSource):
        rows, origin = _package(source, kind, key, tally)
    else:
        rows, origin = _files(source, kind, key, tally)
    dataset = _dataset(rows, kind, key, cache)
    if tally.files:
        origin["files"] = tally.files
    return Loaded(dataset, origin | {"records": tally.records}, tally.dropped)


Rows = Callable[[], Iterator[dict[str, str]]]


def _dataset(rows: Rows, kind: Kind, key: str, cache: Path) -> Dataset:
    """Run the generator into a Dataset in a folder of its own.

    The folder is new, so that nothing an earlier run cached is ever taken for this
    source's rows.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    datasets.disable_progress_bars()
    names = COLUMNS[kind]
    features = datasets.Features({name: datasets.Value("string") for name in names})
    iterator = rows()
    first = next(iterator, None)
    if first is None:
        raise UserError(f"{key}: no records found")
    try:
        # `datasets` only hashes the generator to name its folder; the iterator is
        # read once. A fixed fingerprint keeps it from pickling what it cannot.
        return datasets.Dataset.from_generator(
            lambda: itertools.chain([first], iterator),
            features=features,
            cache_dir=str(cache / key),
            fingerprint=key,
            writer_batch_size=100,  # rows held in memory; one may be of megabytes
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _package(
    source: PackageSource, kind: Kind, key: str, tally: _Tally
) -> tuple[Rows, dict[str, Any]]:
    found = _PACKAGE_KINDS[source.layout]
    if found != kind:
        raise UserError(f"{key}.layout: {source.layout} holds {found}, expected {kind}")
    located = packages.locate(source, key)

    def rows() -> Iterator[dict[str, str]]:
        records = packages.read(source, located)
        for record in itertools.islice(records, source.limit):
            tally.records += 1
            if record.row is None:
                tally.dropped[record.dropped] += 1
            else:
                yield record.row

    origin = source.model_dump(exclude={"sha256", "limit", "layout"})
    return rows, origin | {"sha256": located.combined, "files": located.sha256}


def _files(
    source: FilesSource, kind: Kind, key: str, tally: _Tally
) -> tuple[Rows, dict[str, Any]]:
    known = COLUMNS[kind]
    for name in source.columns:
        if name not in known:
            expected = ", ".join(known)
            raise UserError(f"{key}.columns.{name}: no such column of ours: {expected}")
    theirs = known | {ours: (name,) for ours, name in source.columns.items()}
    paths = readers.expand(source.paths, f"{key}.paths")
    formats = [
        readers.format_of(path) if source.format == "auto" else source.format
        for path in paths
    ]
    # A file has the top of a nested field, or a name with dots in it.
    wanted = {
        part
        for names in theirs.values()
        for name in names
        for part in (name, name.partition(".")[0])
    }

    def rows() -> Iterator[dict[str, str]]:
        unseen, record = set(source.columns), None
        for path, file_format in zip(paths, formats, strict=True):
            if source.limit is not None and tally.records >= source.limit:
                break
            tally.files[str(path)] = sha256(path)
            left = None if source.limit is None else source.limit - tally.records
            records = readers.read(path, file_format, wanted)
            for record in itertools.islice(records, left):
                tally.records += 1
                row, absent = _row(record, theirs, key)
                unseen &= absent
                yield row
        if record is not None and unseen:
            name = min(unseen)
            raise UserError(
                f"{key}.columns.{name}: no record has {source.columns[name]!r}; "
                f"the last one has {_listed(record)}"
            )

    return rows, source.model_dump(exclude={"limit", "format"})


def _row(
    record: readers.Record, theirs: dict[str, tuple[str, ...]], key: str
) -> tuple[dict[str, str], set[str]]:
    """One record in our columns, and which of ours it lacks."""
    row, absent = {}, set()
    for ours, names in theirs.items():
        values = (_walk(record.values, name) for name in names)
        value = next((value for value in values if value is not _ABSENT), _ABSENT)
        if value is _ABSENT:
            if ours not in _OPTIONAL:
                raise UserError(
                    f"{record.where}: no column {' or '.join(map(repr, names))}, found "
                    f"{_listed(record)}; name yours under {key}.columns.{ours}"
                )
            absent.add(ours)
            value = ""
        row[ours] = _string(value, f"{record.where}: {ours}")
    if "label" in row:
        label = _LABELS.get(row["label"].strip().casefold())
        if label is None:
            found = row["label"][:40]
            raise UserError(f"{record.where}: label: found {found!r}, expected 0 or 1")
        row["label"] = label
    return row, absent


def _walk(values: Any, name: str) -> Any:
    """The value under a name; dots lead into nested fields unless part of the name."""
    if isinstance(values, dict) and name in values:
        return values[name]
    head, dot, rest = name.partition(".")
    if dot and isinstance(values, dict) and head in values:
        return _walk(values[head], rest)
    return _ABSENT


def _string(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list | bytes):
        raise UserError(f"{where}: expected text, found a {type(value).__name__}")
    text = str(value)
    # JSON can escape half of a surrogate pair, which no UTF-8 file can hold.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _listed(record: readers.Record) -> str:
    return ", ".join(map(str, record.names)) or "no columns"
