"""Build a study's corpus: documents by split, evaluation sets, and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shallower.corpus import EVALUATION_SETS, items
from shallower.corpus.documents import (
    SPLITS,
    Document,
    Held,
    Split,
    documents,
    split_of,
)
from shallower.corpus.items import Item
from shallower.corpus.overlap import CHARACTERS, WORDS, Overlap, character_runs
from shallower.corpus.parquet import Writer, read_texts
from shallower.corpus.settings import (
    CompletionSet,
    Corpus,
    DocumentSource,
    EvaluationSet,
    HeldOutText,
)
from shallower.corpus.sources import Kind, load
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
    with ExitStack() as stack:
        outputs = {
            name: stack.enter_context(replacing(directory / name)) for name in _OUTPUTS
        }
        parts = _build(corpus, outputs)
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


def _build(corpus: Corpus, outputs: dict[str, Path]) -> dict[str, _Part]:
    """Fill the output files; the entries of all data sets, by name."""
    parts, held = _split_text(corpus, outputs)
    text, tested = parts["text"], parts.get("test", parts["text"])
    candidates: dict[str, list[Item]] = {}
    for name in EVALUATION_SETS:
        settings: EvaluationSet = getattr(corpus, name)
        part, made = _items(corpus, name, parts, held)
        candidates[name] = items.candidates(
            made, settings.minimum_reference_characters, settings.items, part.dropped
        )
        parts[name] = part
    everything = [item for name in EVALUATION_SETS for item in candidates[name]]
    test = held["test"]
    training = read_texts(outputs["text/train.parquet"])
    documents_gone, items_gone = _contaminated(test, everything, training)

    kept = [document for document in test if document.id not in documents_gone]
    tested.dropped["contaminated"] += len(test) - len(kept)
    _write(outputs["text/test.parquet"], Document, kept, tested, "test")
    questions = held["questions"]
    _write(outputs["text/questions.parquet"], Document, questions, text, "questions")
    _require(text, "corpus.text", "train", "validation")
    _require(tested, "corpus.test" if corpus.test else "corpus.text", "test")
    for name in EVALUATION_SETS:
        part, limit = parts[name], getattr(corpus, name).items
        # Without this, an item could outlive the test document it was cut from.
        gone = items_gone | (documents_gone if part.origin.get("split") else set())
        chosen = items.choose(candidates[name], gone, limit, part.dropped)
        _write(outputs[f"{name}/test.parquet"], Item, chosen, part, "test")
        _require(part, f"corpus.{name}", "test")
    return parts


def _split_text(
    corpus: Corpus, outputs: dict[str, Path]
) -> tuple[dict[str, _Part], dict[Split, list[Document]]]:
    """Write what trains and validates; give back what is held out for evaluation.

    Only held-out documents are in memory; all else streams from source to file.
    """
    limit, seen = corpus.held_out_documents, set[bytes]()
    held = {split: Held(limit, "corpus.text") for split in SPLITS if split != "train"}
    parts: dict[str, _Part] = {}
    unused: set[Split] = set()
    if not isinstance(corpus.qa.data, HeldOutText):
        unused.add("questions")
    if corpus.test:
        # Read first: a text that is in both is kept out of training, not out of test.
        parts["test"], held["test"] = _test_source(corpus.test, corpus, seen)
        unused.add("test")
    loaded = load(corpus.text, "documents", "corpus.text")
    part = _Part(loaded.origin, dropped=loaded.dropped)
    rows = documents(loaded.rows, corpus.minimum_characters, part.dropped, seen)
    with (
        Writer(outputs["text/train.parquet"], Document._fields) as train,
        Writer(outputs["text/validation.parquet"], Document._fields) as validation,
    ):
        for document in rows:
            split = split_of(document, unused)
            if split == "train":
                train.add(document)
            elif split == "validation" and limit is None:
                validation.add(document)
            else:
                for surplus in held[split].add(document):
                    train.add(surplus)
        for document in held.pop("validation").documents:
            validation.add(document)
    for name, writer in (("train", train), ("validation", validation)):
        part.counts[name] = writer.rows
        part.characters[name] = writer.characters
    return {"text": part} | parts, {name: kept.documents for name, kept in held.items()}


def _test_source(
    source: DocumentSource, corpus: Corpus, seen: set[bytes]
) -> tuple[_Part, Held]:
    """The documents of a test split that has a source of its own."""
    loaded = load(source, "documents", "corpus.test")
    part = _Part(loaded.origin, dropped=loaded.dropped)
    held = Held(corpus.held_out_documents, "corpus.test")
    rows = documents(loaded.rows, corpus.minimum_characters, part.dropped, seen)
    for document in rows:
        part.dropped["surplus"] += len(held.add(document))
    return part, held


def _items(
    corpus: Corpus,
    name: str,
    parts: dict[str, _Part],
    held: dict[Split, list[Document]],
) -> tuple[_Part, Iterable[Item]]:
    """One evaluation set's possible items, lazily, with its manifest entry."""
    settings: EvaluationSet = getattr(corpus, name)
    key, source = f"corpus.{name}.data", settings.data
    if isinstance(source, HeldOutText):
        if name == "chat":
            raise UserError(f"{key}.source: text holds no conversations")
        split: Split = "test" if name == "completion" else "questions"
        licence = parts.get(split, parts["text"]).origin["licence"]
        part = _Part({"source": "text", "split": split, "licence": licence})
        if isinstance(settings, CompletionSet):
            return part, _completions(settings, held[split], part)
        asked = items.questions(held[split], part.dropped)
        return part, items.answers(asked, part.dropped)
    loaded = load(source, _KINDS[name], key)
    part = _Part(loaded.origin, dropped=loaded.dropped)
    rows = loaded.rows
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
            what = "documents" if key in ("corpus.text", "corpus.test") else "items"
            hint = ""
            if key == "corpus.text":
                hint = "; one document in twenty goes to each held-out split"
            raise UserError(
                f"{key}: no {what} left for {split}.parquet, out of "
                f"{entry['considered']} considered (dropped: {reasons or 'none'}){hint}"
            )


def _write(
    path: Path,
    row: type[Document] | type[Item],
    rows: Iterable[Document] | Iterable[Item],
    part: _Part,
    split: str,
) -> None:
    """Write one file and enter what it holds into the manifest's entry."""
    with Writer(path, row._fields) as writer:
        for each in rows:
            writer.add(each)
    part.counts[split] = writer.rows
    if row is Document:
        part.characters[split] = writer.characters
