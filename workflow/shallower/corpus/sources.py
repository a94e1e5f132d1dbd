"""Every source as a `datasets.Dataset` with our own column names.

Four kinds of records exist: documents (`text, domain, title`), conversations
(`conversation, group`; hh-rlhf's form), answers (`question, sentence, label, title`; a
candidate sentence with label 1 if it answers the question) and pairs (`first, second,
label, group`; two sentences, the label a number). All columns are strings, empty where
a source has nothing to say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shallower.corpus import downloaded, packages, readers
from shallower.corpus.settings import FilesSource, HubSource, Kind, PackageSource
from shallower.errors import UserError
from shallower.files import sha256

if TYPE_CHECKING:
    from datasets import Dataset

# By kind, our columns with the names they are recognised by. Dots walk into nested
# fields. In order: our own, SlimPajama, hh-rlhf, WikiQA from the hub, WikiQA's files;
# GLUE's MNLI, MNLI's own files.
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
    "pairs": {
        "first": ("first", "premise", "sentence1"),
        "second": ("second", "hypothesis", "sentence2"),
        "label": ("label",),
        "group": ("group", "genre"),
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
    tally = _Tally()
    if isinstance(source, PackageSource):
        rows, origin = _package(source, kind, key, tally)
    elif isinstance(source, HubSource):
        rows, origin = _hub(source, kind, key, tally)
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
    columns = Columns(source.columns, kind, key)
    paths = readers.expand(source.paths, f"{key}.paths")
    formats = [
        readers.format_of(path) if source.format == "auto" else source.format
        for path in paths
    ]
    rows = _from_files(paths, formats, columns, source.limit, tally)
    return rows, source.model_dump(exclude={"limit", "format"})


def _hub(
    source: HubSource, kind: Kind, key: str, tally: _Tally
) -> tuple[Rows, dict[str, Any]]:
    """What `hub.py` downloaded: Parquet files, with our own columns already."""
    manifest, parts = downloaded.finished(source, kind, key)
    columns = Columns({}, kind, key)
    rows = _from_files(parts, ["parquet"] * len(parts), columns, None, tally)
    origin = source.model_dump(exclude={"limit"})
    return rows, origin | {key: manifest[key] for key in ("revision", "sha256")}


def _from_files(
    paths: Sequence[Path],
    formats: Sequence[str],
    columns: Columns,
    limit: int | None,
    tally: _Tally,
) -> Rows:
    def rows() -> Iterator[dict[str, str]]:
        for path, file_format in zip(paths, formats, strict=True):
            if limit is not None and tally.records >= limit:
                break
            tally.files[str(path)] = sha256(path)
            left = None if limit is None else limit - tally.records
            records = readers.read(path, file_format, columns.wanted)
            for record in itertools.islice(records, left):
                tally.records += 1
                yield columns.row(record)
        columns.require_all_seen()

    return rows


class Columns:
    """From a source's columns to ours, by `named` ones and those we recognise."""

    def __init__(self, named: dict[str, str], kind: Kind, key: str) -> None:
        known = COLUMNS[kind]
        for name in named:
            if name not in known:
                expected = ", ".join(known)
                raise UserError(
                    f"{key}.columns.{name}: no such column of ours: {expected}"
                )
        self._named, self._kind, self._key = named, kind, key
        self._theirs = known | {ours: (name,) for ours, name in named.items()}
        self._unseen = set(named)
        self._last: readers.Record | None = None

    @property
    def wanted(self) -> set[str]:
        """What a file may call them: the top of a nested field, or a name with dots."""
        return {
            part
            for names in self._theirs.values()
            for name in names
            for part in (name, name.partition(".")[0])
        }

    def row(self, record: readers.Record) -> dict[str, str]:
        """One record in our columns. Raises UserError if one that must be is absent."""
        row, self._last = {}, record
        for ours, names in self._theirs.items():
            values = (_walk(record.values, name) for name in names)
            value = next((value for value in values if value is not _ABSENT), _ABSENT)
            if value is not _ABSENT:
                self._unseen.discard(ours)
            elif ours in _OPTIONAL:
                value = ""
            else:
                raise UserError(
                    f"{record.where}: no column {' or '.join(map(repr, names))}, found "
                    f"{_listed(record)}; name yours under {self._key}.columns.{ours}"
                )
            row[ours] = _string(value, f"{record.where}: {ours}")
        if self._kind == "answers":
            row["label"] = _label(row["label"], record.where)
        return row

    def require_all_seen(self) -> None:
        """Raise UserError if a column that was named is in none of the records."""
        if self._last and self._unseen:
            name = min(self._unseen)
            raise UserError(
                f"{self._key}.columns.{name}: no record has {self._named[name]!r}; "
                f"the last one has {_listed(self._last)}"
            )


def _label(value: str, where: str) -> str:
    label = _LABELS.get(value.strip().casefold())
    if label is None:
        raise UserError(f"{where}: label: found {value[:40]!r}, expected 0 or 1")
    return label


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
