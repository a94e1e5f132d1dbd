"""Every source as rows with our own column names.

Four kinds of records exist: documents (`text, domain, title`), conversations
(`conversation, group`; hh-rlhf's form), answers (`question, sentence, label, title`; a
candidate sentence with label 1 if it answers the question) and pairs (`first, second,
label, group`; two sentences, the label a number). All columns are strings, empty where
a source has no value.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from shallower.corpus import downloaded, packages, readers
from shallower.corpus.settings import FilesSource, HubSource, Kind, PackageSource
from shallower.errors import UserError
from shallower.files import sha256

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
    "speeches": "documents",
    "chatterbot": "conversations",
}
_ABSENT = object()


@dataclass
class Source:
    """A source's rows, and what the manifest says of it.

    `origin` and `dropped` are complete once all rows were read, which can be done once.
    """

    rows: Iterator[dict[str, str]]
    origin: dict[str, Any]
    dropped: Counter[str] = field(default_factory=Counter)


def load(
    source: PackageSource | FilesSource | HubSource, kind: Kind, key: str
) -> Source:
    """Open a source; its rows are read as they are asked for, and never held.

    `key` is the source's in the configuration, for error messages. Raises UserError,
    here or from the rows, for whatever is missing, unreadable or of another kind, and
    after the last row if there was none.
    """
    if source.domain is not None and kind != "documents":
        raise UserError(f"{key}.domain: {source.domain}, but {kind} have none")
    loaded = _load(source, kind, key)
    if source.domain is None:
        del loaded.origin["domain"]
        return loaded
    given = {"domain": source.domain}
    return replace(loaded, rows=(row | given for row in loaded.rows))


def _load(
    source: PackageSource | FilesSource | HubSource, kind: Kind, key: str
) -> Source:
    if isinstance(source, PackageSource):
        return _package(source, kind, key)
    if isinstance(source, FilesSource):
        paths = readers.expand(source.paths, f"{key}.paths")
        formats = [
            readers.format_of(path) if source.format == "auto" else source.format
            for path in paths
        ]
        aside = {"limit", "format"} | ({"name"} if source.name is None else set())
        origin = source.model_dump(exclude=aside | {"cut"})
    else:
        manifest, paths = downloaded.finished(source, kind, key)
        formats = [readers.format_of(path) for path in paths]
        origin = source.model_dump(exclude={"limit"})
        origin |= {name: manifest[name] for name in ("revision", "sha256")}
    columns = Columns(source.columns, kind, key)
    opened = Opened(paths, formats, getattr(source, "cut", None))
    rows = _from_files(opened, columns, source.limit, origin, key)
    return Source(rows, origin)


def _package(source: PackageSource, kind: Kind, key: str) -> Source:
    found = _PACKAGE_KINDS[source.layout]
    if found != kind:
        raise UserError(f"{key}.layout: {source.layout} holds {found}, expected {kind}")
    located = packages.locate(source, key)
    origin = source.model_dump(exclude={"sha256", "limit", "layout"})
    origin |= {"sha256": located.combined, "files": located.sha256}
    dropped = Counter[str]()

    def rows() -> Iterator[dict[str, str]]:
        read = given = 0
        for record in itertools.islice(packages.read(source, located), source.limit):
            read += 1
            if record.row is None:
                dropped[record.dropped] += 1
            else:
                given += 1
                yield record.row
        _require_any(given, key)
        origin["records"] = read

    return Source(rows(), origin, dropped)


class Opened(NamedTuple):
    """Files of a source, the format of each, and how plain text is cut."""

    paths: Sequence[Path]
    formats: Sequence[str]
    cut: int | None


def _from_files(
    opened: Opened,
    columns: Columns,
    limit: int | None,
    origin: dict[str, Any],
    key: str,
) -> Iterator[dict[str, str]]:
    files, number = {}, 0
    for path, file_format in zip(opened.paths, opened.formats, strict=True):
        left = None if limit is None else limit - number
        if left == 0:
            break
        files[str(path)] = sha256(path)
        records = readers.read(path, file_format, columns.wanted, opened.cut)
        for record in itertools.islice(records, left):
            number += 1
            yield columns.row(record)
    columns.require_all_seen()
    _require_any(number, key)
    origin |= {"files": files, "records": number}


def _require_any(rows: int, key: str) -> None:
    if not rows:
        raise UserError(f"{key}: no records found")


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
            if ours == "label" and isinstance(value, bool):
                value = int(value)
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
    if isinstance(value, float) and not math.isfinite(value):
        return ""  # what is missing, as pandas writes it
    if isinstance(value, dict | list | bytes | bool):
        truth = isinstance(value, bool)
        found = str(value).lower() if truth else f"a {type(value).__name__}"
        raise UserError(f"{where}: expected text, found {found}")
    text = str(value)
    # JSON can escape half of a surrogate pair, which no UTF-8 file can hold.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _listed(record: readers.Record) -> str:
    return ", ".join(map(str, record.names)) or "no columns"
