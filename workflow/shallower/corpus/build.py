"""Build a study's corpus: documents by split, evaluation sets, and the manifest."""

from __future__ import annotations

import sys
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
    HeldOutText,
    Kind,
)
from shallower.corpus.sources import load
from shallower.errors import UserError
from shallower.files import replacing, sha256, without_home, write_json

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
    counts: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def entry(self) -> dict[str, Any]:
        dropped = dict(sorted(self.dropped.items()))
        characters = {"characters": dict(self.characters)} if self.characters else {}
        return {
            **self.origin,
            "considered": sum(self.counts.values()) + sum(dropped.values()),
            "counts": dict(self.counts),
            **characters,
            "dropped": dropped,
        }

    def add(self, split: str, document: Document) -> None:
        """Count a document that was written."""
        self.counts[split] += 1
        self.characters[split] += len(document.text)


@dataclass
class _Text:
    """The text while it is built: an entry a source, and one of a test source."""

    sources: list[_Part]
    test: _Part | None
    domains: list[str | None]  # by source; the first may have none

    def of(self, document: Document, split: Split) -> _Part:
        """The entry that counts a document."""
        if split == "test" and self.test:
            return self.test
        later = document.domain in self.domains[1:]
        return self.sources[self.domains.index(document.domain) if later else 0]

    def entries(self) -> dict[str, _Part]:
        """By name; of several sources `text` has the sums, and lists each."""
        text = self.sources[0]
        if len(self.sources) > 1:
            entries = [part.entry() for part in self.sources]
            text = _Part({"source": text.origin["source"], "sources": entries})
            for part in self.sources:
                text.counts.update(part.counts)  # `+` would drop zeros
                text.characters.update(part.characters)
                text.dropped.update(part.dropped)
        return {"text": text} | ({"test": self.test} if self.test else {})


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
        "datasets": {name: without_home(part.entry()) for name, part in parts.items()},
        "files": {name: sha256(directory / name) for name in _OUTPUTS},
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def _build(corpus: Corpus, outputs: dict[str, Path]) -> dict[str, _Part]:
    """Fill the output files; the entries of all data sets, by name."""
    text, held = _split_text(corpus, outputs)
    sets: dict[str, _Part] = {}
    candidates: dict[str, list[Item]] = {}
    for name, settings in corpus.sets.items():
        part, made = _items(corpus, name, text, held)
        candidates[name] = items.candidates(
            made, settings.minimum_reference_characters, settings.items, part.dropped
        )
        sets[name] = part
    everything = [item for made in candidates.values() for item in made]
    training = read_texts(outputs["text/train.parquet"])
    documents_gone, items_gone = _contaminated(held["test"], everything, training)

    for part in [text.test] if text.test else text.sources:
        part.dropped["contaminated"] += 0
    kept: dict[Split, list[Document]] = {"test": [], "questions": held["questions"]}
    for document in held["test"]:
        if document.id in documents_gone:
            text.of(document, "test").dropped["contaminated"] += 1
        else:
            kept["test"].append(document)
    for split, documents_kept in kept.items():
        with Writer(outputs[f"text/{split}.parquet"], Document._fields) as writer:
            for document in documents_kept:
                writer.add(document)
                text.of(document, split).add(split, document)
    parts = text.entries()
    _require(parts["text"], "corpus.text", "train", "validation")
    tested = "test" if text.test else "text"
    _require(parts[tested], f"corpus.{tested}", "test")
    for name in EVALUATION_SETS:
        chosen: list[Item] = []
        if name in sets:
            part = sets[name]
            # Without this, an item could outlive the test document it was cut from.
            gone = items_gone | (documents_gone if part.origin.get("split") else set())
            limit = corpus.sets[name].items
            chosen = items.choose(candidates[name], gone, limit, part.dropped)
            part.counts["test"] = len(chosen)
            _require_items(part, name)
        # Of a set that is left out a file without rows: stages after this one read it.
        with Writer(outputs[f"{name}/test.parquet"], Item._fields) as writer:
            for item in chosen:
                writer.add(item)
    return parts | sets


def _require_items(part: _Part, name: str) -> None:
    """A set of its own data must have items; one that is cut from the text need not."""
    if part.counts["test"] or "split" not in part.origin:
        _require(part, f"corpus.{name}", "test")
        return
    reasons = ", ".join(f"{n} {why}" for why, n in sorted(part.dropped.items()) if n)
    print(
        f"note: the evaluation set {name} is left out, since the text gives no items "
        f"for it (dropped: {reasons or 'none'})",
        file=sys.stderr,
    )


def _split_text(
    corpus: Corpus, outputs: dict[str, Path]
) -> tuple[_Text, dict[Split, list[Document]]]:
    """Write what trains and validates; give back what is held out for evaluation.

    Only held-out documents are in memory; all else streams from source to file.
    """
    limit, seen = corpus.held_out_documents, set[bytes]()
    held = {split: Held(limit, "corpus.text") for split in SPLITS if split != "train"}
    text = _Text([], None, [source.domain for source in corpus.text])
    unused: set[Split] = set()
    if corpus.qa is None or not isinstance(corpus.qa.data, HeldOutText):
        unused.add("questions")
    if corpus.test:
        # Read first: a text that is in both is kept out of training, not out of test.
        text.test, held["test"] = _test_source(corpus.test, corpus, seen)
        unused.add("test")
    with (
        Writer(outputs["text/train.parquet"], Document._fields) as train,
        Writer(outputs["text/validation.parquet"], Document._fields) as validation,
    ):

        def write(split: Split, document: Document) -> None:
            (train if split == "train" else validation).add(document)
            text.of(document, split).add(split, document)

        for number in range(len(corpus.text)):
            for document in _source(corpus, number, text, seen):
                split = split_of(document, unused)
                if split == "train" or (split == "validation" and limit is None):
                    write(split, document)
                else:
                    for surplus in held[split].add(document):
                        write("train", surplus)
            unused.add("questions")  # questions are about the first source's titles
        for document in held.pop("validation").documents:
            write("validation", document)
    return text, {name: kept.documents for name, kept in held.items()}


def _source(
    corpus: Corpus, number: int, text: _Text, seen: set[bytes]
) -> Iterator[Document]:
    """The documents of one of the text's sources, which gets its entry."""
    source, several = corpus.text[number], len(corpus.text) > 1
    key = f"corpus.text.{source.source}.{number}" if several else "corpus.text"
    loaded = load(source, "documents", key)
    # In the order of the manifest; a test source has the test split.
    splits = [split for split in SPLITS if not (text.test and split == "test")]
    zeros = dict.fromkeys(map(str, splits), 0)
    part = _Part(loaded.origin, Counter(zeros), Counter(zeros), loaded.dropped)
    text.sources.append(part)
    for document in documents(
        loaded.rows, corpus.minimum_characters, part.dropped, seen
    ):
        if document.domain != source.domain and document.domain in text.domains[1:]:
            raise UserError(
                f"{key}: a document's domain is {document.domain}, expected one that "
                "no other source has"
            )
        yield document


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
    text: _Text,
    held: dict[Split, list[Document]],
) -> tuple[_Part, Iterable[Item]]:
    """One evaluation set's possible items, lazily, with its manifest entry."""
    settings = corpus.sets[name]
    key, source = f"corpus.{name}.data", settings.data
    if isinstance(source, HeldOutText):
        if name == "chat":
            raise UserError(f"{key}.source: text holds no conversations")
        split: Split = "test" if name == "completion" else "questions"
        origin = text.test if text.test and split == "test" else text.sources[0]
        licence = origin.origin["licence"]
        part = _Part({"source": "text", "split": split, "licence": licence})
        # Of several sources the first: a later one changes no set's meaning.
        own = [each for each in held[split] if text.of(each, split) is origin]
        if isinstance(settings, CompletionSet):
            return part, _completions(settings, own, part)
        asked = items.questions(own, part.dropped)
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
