"""Labelled pairs of sentences: cut from articles, or of a labelled source such as MNLI.

Whether two sentences come from the same article can be asked of any text, so that a
model can be fine-tuned and scored where MNLI cannot be had. Each split's pairs are made
of that split's documents alone. What would give the answer away is the same under both
labels, by construction: two pairs of sentences, each from one article (label 1), give
two more by exchanging their second sentences (label 0). Each label thus has the very
same first and the very same second sentences. Pairs exchange within a domain, so that
the topic at large does not tell, and with a neighbour in the order of the second
sentences' lengths, so that the two lengths together do not either.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow
import pyarrow.parquet

from shallower.corpus import readers
from shallower.corpus.documents import clean, digest
from shallower.corpus.items import sentences
from shallower.corpus.settings import ArticlePairs, Pairs
from shallower.corpus.sources import load
from shallower.errors import UserError
from shallower.files import replacing, sha256, write_json

MANIFEST = "manifest.json"
SPLITS = ("train", "validation", "test")
WORDS = 4  # sentences with fewer are dropped: they are mostly fragments

_SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("id", "first", "second")),
        ("label", pyarrow.int64()),
        ("group", pyarrow.string()),
    ]
)


class Pair(NamedTuple):
    """Two sentences; `id` is the SHA-256 of both, `group` their domain or genre."""

    id: str
    first: str
    second: str
    label: int
    group: str


class _Excerpt(NamedTuple):
    """Two sentences of one page, in its order; the group is its domain."""

    id: str
    first: str
    second: str
    group: str
    page: str


_Any = TypeVar("_Any", Pair, _Excerpt)


def build(settings: Pairs, corpus: Path, directory: Path) -> dict[str, Any]:
    """Write `<split>.parquet` and `manifest.json` below `directory`; return the latter.

    `corpus` is the folder of the text corpus, with `text/<split>.parquet`. Two runs on
    the same inputs write the same bytes; the manifest comes last. Raises UserError if a
    source cannot be read or a split remains empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    splits = {}
    with ExitStack() as stack:
        for split in SPLITS:
            path = stack.enter_context(replacing(directory / f"{split}.parquet"))
            found, splits[split] = _split(settings, split, corpus)
            rows = [pair._asdict() for pair in found]
            table = pyarrow.Table.from_pylist(rows, _SCHEMA)
            pyarrow.parquet.write_table(table, path, compression="zstd")
    files = [f"{split}.parquet" for split in SPLITS]
    manifest = {
        "source": settings.data.source,
        "labels": settings.data.labels,
        "splits": splits,
        "files": {name: sha256(directory / name) for name in files},
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def _split(
    settings: Pairs, split: str, corpus: Path
) -> tuple[list[Pair], dict[str, Any]]:
    """A split's pairs, and the manifest's entry for it."""
    data, dropped = settings.data, Counter[str]()
    limit = settings.training_pairs if split == "train" else settings.held_out_pairs
    if isinstance(data, ArticlePairs):
        path = corpus / "text" / f"{split}.parquet"
        records = readers.read(path, "parquet", {"text", "domain", "title", "id"})
        documents = (
            record.values
            for record in records
            if record.values["domain"] not in settings.without
        )
        found, origin = article_pairs(documents, limit, dropped), {}
    else:
        key = f"corpus.pairs.data.{split}"
        loaded = load(getattr(data, split), "pairs", key)
        rows = mnli_pairs(loaded.rows, data.labels, dropped)
        found, origin = _chosen(rows, limit, dropped), loaded.origin
    counts = Counter(pair.label for pair in found)
    reasons = dict(sorted(dropped.items()))
    if not found:
        raise UserError(f"corpus.pairs: no pairs left for {split}, dropped: {reasons}")
    by_label = {str(label): counts[label] for label in range(data.labels)}
    return found, {**origin, "counts": by_label, "dropped": reasons}


# --- from the same article? -----------------------------------------------------------


def article_pairs(
    documents: Iterable[Mapping[str, str]], limit: int | None, dropped: Counter[str]
) -> list[Pair]:
    """Pairs with label 1 (of one article) and, as many, 0 (of two), ordered by id.

    `documents` have `id, text, domain, title`; parts of a page share its title. With a
    `limit`, which pairs are kept depends on a hash. Dropped are, and counted,
    sentences of fewer than four words, documents without two others, the odd one of a
    document's sentences, pairs over the limit, and pairs with which none can exchange.
    """
    half = None if limit is None else limit // 2
    by_domain: dict[str, list[_Excerpt]] = {}
    for excerpt in _chosen(_excerpts(documents, dropped), half, dropped):
        by_domain.setdefault(excerpt.group, []).append(excerpt)
    return sorted(
        pair
        for excerpts in by_domain.values()
        for one, other in _partners(excerpts, dropped)
        for pair in (
            _pair(one, one, 1),
            _pair(other, other, 1),
            _pair(one, other, 0),
            _pair(other, one, 0),
        )
    )


def _excerpts(
    documents: Iterable[Mapping[str, str]], dropped: Counter[str]
) -> Iterator[_Excerpt]:
    """Each document's sentences in twos, put together by a hash, none used twice."""
    for document in documents:
        text = clean(document["text"], collapse=True)
        every = dict.fromkeys(sentences(text))
        kept = [sentence for sentence in every if len(sentence.split()) >= WORDS]
        dropped["sentences_too_short"] += len(every) - len(kept)
        if len(kept) < 2:
            dropped["documents_without_a_pair"] += 1
            continue
        dropped["sentences_left_over"] += len(kept) % 2
        places = sorted(range(len(kept)), key=lambda place: digest(kept[place]))
        for two in zip(places[::2], places[1::2], strict=False):
            # In the document's order: its first sentence tells what it is about, so
            # two first sentences would be known to come from two documents.
            first, second = (kept[place] for place in sorted(two))
            page = document["title"] or document["id"]
            yield _Excerpt(_id(first, second), first, second, document["domain"], page)


def _partners(
    excerpts: list[_Excerpt], dropped: Counter[str]
) -> Iterator[tuple[_Excerpt, _Excerpt]]:
    """Twos of excerpts, of different pages, next to each other by `second`'s length."""
    waiting: deque[_Excerpt] = deque()  # nearly always of one page, if any
    for excerpt in sorted(excerpts, key=lambda each: (len(each.second), each.id)):
        if waiting and _apart(waiting[0], excerpt):
            yield waiting.popleft(), excerpt
        else:
            waiting.append(excerpt)
    dropped["pairs_without_partner"] += len(waiting)


def _apart(one: _Excerpt, other: _Excerpt) -> bool:
    """Whether they are of different pages, and share no sentence that both repeat."""
    sentences_of_one = {one.first, one.second}
    return one.page != other.page and sentences_of_one.isdisjoint(other[1:3])


def _pair(one: _Excerpt, other: _Excerpt, label: int) -> Pair:
    identity = _id(one.first, other.second)
    return Pair(identity, one.first, other.second, label, one.group)


def _id(first: str, second: str) -> str:
    return digest(f"{first}\n{second}")


# --- labelled sources -----------------------------------------------------------------


def mnli_pairs(
    rows: Iterable[Mapping[str, str]], labels: int, dropped: Counter[str]
) -> Iterator[Pair]:
    """Pairs out of rows of kind `pairs`: `first, second, label, group`, all strings.

    MNLI's premise and hypothesis; 0 entailment, 1 neutral, 2 contradiction. Rows with
    label -1 or none, as in GLUE's test splits, and those without a sentence are dropped
    and counted. Raises UserError for any other label that is not below `labels`.
    """
    for number, row in enumerate(rows, start=1):
        first, second = (
            clean(row[name], collapse=True) for name in ("first", "second")
        )
        label = row["label"].strip().removesuffix(".0")
        if label in ("", "-1"):
            dropped["pairs_unlabelled"] += 1
        elif label not in map(str, range(labels)):
            raise UserError(
                f"corpus.pairs: record {number}: label: found {label[:40]!r}, expected "
                f"0 to {labels - 1}"
            )
        elif not first or not second:
            dropped["pairs_without_a_sentence"] += 1
        else:
            group = clean(row["group"], collapse=True)
            yield Pair(_id(first, second), first, second, int(label), group)


def _chosen(
    pairs: Iterable[_Any], limit: int | None, dropped: Counter[str]
) -> list[_Any]:
    """The `limit` pairs with the smallest ids, in their order, each id once."""
    count = 0

    def counted() -> Iterator[_Any]:
        nonlocal count
        for count, pair in enumerate(pairs, start=1):  # noqa: B007
            yield pair

    kept = sorted(counted()) if limit is None else nsmallest(limit, counted())
    dropped["pairs_surplus"] += count - len(kept)
    once = list({pair.id: pair for pair in kept}.values())
    dropped["pairs_repeated"] += len(kept) - len(once)
    return once
