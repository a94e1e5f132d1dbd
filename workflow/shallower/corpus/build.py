"""Build a study's corpus: documents by split, evaluation sets, and the manifest."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from shallower.corpus import EVALUATION_SETS, items
from shallower.corpus.cleaning import Document, documents
from shallower.corpus.items import Item
from shallower.corpus.overlap import CHARACTERS, WORDS, Overlap, character_runs
from shallower.corpus.settings import CompletionSet, Corpus, EvaluationSet, HeldOutText
from shallower.corpus.sources import Kind, load
from shallower.corpus.splits import SPLITS, split_of
from shallower.errors import UserError
from shallower.files import replacing, sha256, write_json

MANIFEST = "manifest.json"
# A test document is contaminated if this part of its runs of words is in the training
# text. A stock phrase is shared by many documents and gives none of them away.
DOCUMENT_SHARE = 0.5

_OUTPUTS = [f"text/{split}.parquet" for split in SPLITS]
_OUTPUTS += [f"{name}/test.parquet" for name in EVALUATION_SETS]
_KINDS: dict[str, Kind] = {
    "completion": "documents",
    "chat": "conversations",
    "qa": "answers",
}
_BATCH = 1000  # rows written, or read back, at a time


@dataclass
class _Part:
    """One data set while it is built: the manifest's entry for it."""

    origin: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    characters: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def entry(self) -> dict[str, Any]:
        dropped = dict(sorted(self.dropped.items()))
        total = sum(self.counts.values()) + sum(dropped.values())
        return {
            **self.origin,
            "considered": total,
            "counts": self.counts,
            **({"characters": self.characters} if self.characters else {}),
            "dropped": dropped,
        }


def build(corpus: Corpus, directory: Path) -> dict[str, Any]:
    """Write Parquet files and `manifest.json` below `directory`; return the manifest.

    Two runs on the same inputs write the same bytes. Nothing appears under a final
    name unless everything was built, the manifest last. Raises UserError, naming the
    key or file, if a source cannot be read or a set remains empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".building-", dir=directory) as cache,
        ExitStack() as stack,
    ):
        outputs = {
            name: stack.enter_context(replacing(directory / name)) for name in _OUTPUTS
        }
        parts = _build(corpus, outputs, Path(cache))
    manifest = {
        "contamination": {
            "words": WORDS,
            "characters": CHARACTERS,
            "document_share": DOCUMENT_SHARE,
        },
        "datasets": {name: part.entry() for name, part in parts.items()},
        "files": {name: sha256(directory / name) for name in _OUTPUTS},
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def _build(corpus: Corpus, outputs: dict[str, Path], cache: Path) -> dict[str, _Part]:
    """Fill the output files; the entries of all data sets, by name."""
    text, held = _split_text(corpus, outputs, cache)
    parts = {"text": text}
    candidates: dict[str, list[Item]] = {}
    for name in EVALUATION_SETS:
        settings: EvaluationSet = getattr(corpus, name)
        part, made = _items(corpus, name, text, held, cache)
        candidates[name] = items.candidates(
            made, settings.minimum_reference_characters, settings.items, part.dropped
        )
        parts[name] = part
    everything = [item for name in EVALUATION_SETS for item in candidates[name]]
    test = held["test"]
    training = _read_texts(outputs["text/train.parquet"])
    documents_gone, items_gone = _contaminated(test, everything, training)

    kept = [document for document in test if document.id not in documents_gone]
    text.dropped["contaminated"] += len(test) - len(kept)
    for split, rows in (("test", kept), ("questions", held["questions"])):
        _write(outputs[f"text/{split}.parquet"], Document, rows, text, split)
    _require(text, "corpus.text", "train", "validation", "test")
    for name in EVALUATION_SETS:
        part, limit = parts[name], getattr(corpus, name).items
        # Without this, an item could outlive the test document it was cut from.
        gone = items_gone | (documents_gone if part.origin.get("split") else set())
        chosen = items.choose(candidates[name], gone, limit, part.dropped)
        _write(outputs[f"{name}/test.parquet"], Item, chosen, part, "test")
        _require(part, f"corpus.{name}", "test")
    return parts


def _split_text(
    corpus: Corpus, outputs: dict[str, Path], cache: Path
) -> tuple[_Part, dict[str, list[Document]]]:
    """Write what trains and validates; give back what is held out for evaluation."""
    loaded = load(corpus.text, "documents", "corpus.text", cache)
    part = _Part(loaded.origin, dropped=loaded.dropped)
    held: dict[str, list[Document]] = {"test": [], "questions": []}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                _Writer(outputs[f"text/{split}.parquet"], Document)
            )
            for split in ("train", "validation")
        }
        rows = documents(loaded.dataset, corpus.minimum_characters, part.dropped)
        for document in rows:
            split = split_of(document)
            if split in held:
                held[split].append(document)
            else:
                writers[split].add(document)
    for name, writer in writers.items():
        part.counts[name] = writer.rows
        part.characters[name] = writer.characters
    return part, held


def _items(
    corpus: Corpus,
    name: str,
    text: _Part,
    held: dict[str, list[Document]],
    cache: Path,
) -> tuple[_Part, Iterable[Item]]:
    """One evaluation set's possible items, lazily, with its manifest entry."""
    settings: EvaluationSet = getattr(corpus, name)
    key, source = f"corpus.{name}.data", settings.data
    if isinstance(source, HeldOutText):
        if name == "chat":
            raise UserError(f"{key}.source: text holds no conversations")
        split = "test" if name == "completion" else "questions"
        licence = text.origin["licence"]
        part = _Part({"source": "text", "split": split, "licence": licence})
        if isinstance(settings, CompletionSet):
            return part, _completions(settings, held[split], part)
        asked = items.questions(held[split], part.dropped)
        return part, items.answers(asked, part.dropped)
    loaded = load(source, _KINDS[name], key, cache)
    part = _Part(loaded.origin, dropped=loaded.dropped)
    rows = loaded.dataset
    if isinstance(settings, CompletionSet):
        whole = documents(rows, corpus.minimum_characters, part.dropped)
        return part, _completions(settings, whole, part)
    if name == "chat":
        return part, items.replies(rows, part.dropped)
    return part, items.answers(items.wikiqa(rows), part.dropped)


def _completions(
    settings: CompletionSet, rows: Iterable[Document], part: _Part
) -> Iterator[Item]:
    words = settings.prompt_words, settings.reference_words
    return items.completions(rows, *words, part.dropped)


def _contaminated(
    test: list[Document], candidates: list[Item], training: Iterable[str]
) -> tuple[set[str], set[str]]:
    """The ids of test documents and of items that overlap with the training text.

    One shared run is enough for an item, half of the runs for a document.
    """
    texts = [item.text for item in candidates]
    by_words = Overlap([*texts, *(document.text for document in test)])
    by_characters = Overlap(texts, character_runs)
    for text in training:
        by_words.see(text)
        by_characters.see(text)
    words, characters = by_words.shares(), by_characters.shares()
    of_items = zip(candidates, words, characters, strict=False)
    of_documents = zip(test, words[len(candidates) :], strict=True)
    return (
        {document.id for document, share in of_documents if share >= DOCUMENT_SHARE},
        {item.id for item, *either in of_items if any(either)},
    )


def _require(part: _Part, key: str, *splits: str) -> None:
    for split in splits:
        if not part.counts[split]:
            entry = part.entry()
            reasons = ", ".join(
                f"{n} {why}" for why, n in entry["dropped"].items() if n
            )
            what, hint = "items", ""
            if key == "corpus.text":
                what = "documents"
                hint = "; one document in twenty goes to each held-out split"
            raise UserError(
                f"{key}: no {what} left for {split}.parquet, out of "
                f"{entry['considered']} considered (dropped: {reasons or 'none'}){hint}"
            )


# --- Parquet ----------------------------------------------------------------------


class _Writer:
    """Appends named tuples of strings to a Parquet file, a batch at a time."""

    def __init__(self, path: Path, row: type[Document] | type[Item]) -> None:
        schema = pyarrow.schema([(name, pyarrow.string()) for name in row._fields])
        self._file = pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._batch: list[Document | Item] = []
        self.rows = 0
        self.characters = 0

    def add(self, row: Document | Item) -> None:
        self._batch.append(row)
        self.rows += 1
        self.characters += len(row.text)
        if len(self._batch) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        rows = [row._asdict() for row in self._batch]
        self._file.write_table(pyarrow.Table.from_pylist(rows, self._schema))
        self._batch = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._batch:
            self._flush()
        self._file.close()


def _write(
    path: Path,
    row: type[Document] | type[Item],
    rows: Iterable[Document] | Iterable[Item],
    part: _Part,
    split: str,
) -> None:
    """Write one file and enter what it holds into the manifest's entry."""
    with _Writer(path, row) as writer:
        for each in rows:
            writer.add(each)
    part.counts[split] = writer.rows
    if row is Document:
        part.characters[split] = writer.characters


def _read_texts(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH, columns=["text"]):
            yield from batch.column(0).to_pylist()
