"""Encoding word by word gives what SentencePiece gives for the whole text."""

from __future__ import annotations

import io
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, sentences
from shallower.corpus import packages
from shallower.corpus.settings import PackageFile
from shallower.errors import UserError
from shallower.files import read_json
from shallower.tokens import shards, words
from shallower.tokens.shards import Check, write_shard
from shallower.tokens.tokenizer import Tokenizer
from test_tokenizer_sources import PACKAGE

# Single spaces, runs of them, the mark itself, and what other white space might do.
ALPHABET = "  \u2581\n\t\u00a0\u3000\0aAbé1234.,'-漢字Ж🙂\u0301"
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(ALPHABET, max_size=40),
    st.lists(st.sampled_from(["the", "of", "The", "1999,", "", " ", "\n"])).map(
        " ".join
    ),
)
PROSE = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def model(path: Path, texts: list[str], **options: Any) -> Tokenizer:
    """A tokenizer trained like the project's own, but for `options`."""
    written, own = (
        io.BytesIO(),
        {
            "model_type": "bpe",
            "vocab_size": 600,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "hard_vocab_limit": False,
        },
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        minloglevel=2,
        **(own | options),
    )
    path.write_bytes(written.getvalue())
    return Tokenizer(path)


def prose() -> list[str]:
    """This project's documents by line; some are indented."""
    return [line for path in PROSE for line in path.read_text().split("\n") if line]


def encoded(
    tokenizer: Tokenizer, text: str, encoder: words.WordEncoder | None = None
) -> list[int]:
    dtype = shards.token_dtype(len(tokenizer))
    encoder = encoder or words.WordEncoder(tokenizer, dtype)
    [raw] = encoder.encode([text])
    return np.frombuffer(raw, dtype).tolist()


def counting(tokenizer: Tokenizer, calls: list[str]) -> words.WordEncoder:
    """An encoder; `calls` gets every word that it has SentencePiece encode."""
    encode_all = tokenizer.encode_all

    def noted(texts: list[str]) -> list[list[int]]:
        calls.extend(texts)
        return encode_all(texts)

    tokenizer.encode_all = noted  # type: ignore[method-assign]
    return words.WordEncoder(tokenizer, np.dtype(np.uint16))


@pytest.fixture(scope="module", params=["own", "runs", "symbols", "mistral"])
def fast(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """Tokenizers whose words stand alone."""
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    if request.param == "mistral":
        try:
            located = packages.locate(PackageFile(**PACKAGE), "key")
        except UserError as error:
            pytest.skip(str(error))
        [path] = located.paths.values()
        return Tokenizer(path)
    options: dict[str, dict[str, Any]] = {
        "own": {"split_digits": True, "vocab_size": 2_000},
        "runs": {"allow_whitespace_only_pieces": True},
        "symbols": {"user_defined_symbols": ["the", "é1", "\u2581The"]},
    }
    return model(path, prose(), **options[request.param])


@pytest.fixture(scope="module")
def encoder(fast: Tokenizer) -> words.WordEncoder:
    """Knows more words from example to example."""
    assert words.words_stand_alone(fast)
    return words.WordEncoder(fast, shards.token_dtype(len(fast)))


@settings(max_examples=300)
@given(text=TEXTS)
def test_any_text_has_the_same_ids(
    fast: Tokenizer, encoder: words.WordEncoder, text: str
) -> None:
    assert encoded(fast, text, encoder) == fast.encode(text)


def test_real_text_has_the_same_ids(
    fast: Tokenizer, encoder: words.WordEncoder
) -> None:
    for path in PROSE:
        text = path.read_text()
        assert encoded(fast, text, encoder) == fast.encode(text)


@settings(max_examples=100)
@given(texts=st.lists(TEXTS))
def test_texts_of_a_batch_do_not_mix(
    fast: Tokenizer, encoder: words.WordEncoder, texts: list[str]
) -> None:
    found = [np.frombuffer(raw, np.uint16).tolist() for raw in encoder.encode(texts)]
    assert found == [fast.encode(text) for text in texts]


def test_a_word_is_encoded_once(corpus: Path) -> None:
    calls: list[str] = []
    encoder = counting(Tokenizer(corpus / "tokenizer.model"), calls)
    encoder.encode(["the cat the dog", "dog the"])
    encoder.encode(["cat dog ", ""])
    assert sorted(calls) == ["", "cat", "dog", "dog ", "the"]


# --- tokenizers that need the plain path ------------------------------------------

SLOW: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram"},
    "normalised": {"normalization_rule_name": "nmt_nfkc"},
    "squeezed": {"remove_extra_whitespaces": True},
    "no prefix": {"add_dummy_prefix": False},
    "suffix": {"treat_whitespace_as_suffix": True},
    "phrases": {"split_by_whitespace": False},
    "symbol with a space": {"user_defined_symbols": ["dog ran"]},
    "symbol over two words": {"user_defined_symbols": ["g\u2581r"]},
}
NEEDED = {"no prefix", "phrases", "symbol over two words"}


def slow(path: Path, name: str) -> Tokenizer:
    return model(path / "t.model", [*sentences(300), *prose()], **SLOW[name])


@pytest.mark.parametrize("name", SLOW)
def test_other_tokenizers_take_the_plain_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = slow(tmp_path, name)
    assert not words.words_stand_alone(tokenizer)
    texts = ["the dog ran on", " a  cat ", "", "\uff21 \u2581x", *sentences(20)]
    for text in texts:
        assert encoded(tokenizer, text) == tokenizer.encode(text)
    # Some would go wrong without; of the others it is not known that none would.
    monkeypatch.setattr(words, "words_stand_alone", lambda _: True)
    differ = any(encoded(tokenizer, text) != tokenizer.encode(text) for text in texts)
    assert differ or name not in NEEDED


def test_an_unknown_space_takes_the_plain_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SentencePiece makes one piece of a run of unknown characters."""
    known = model(tmp_path / "known", sentences(300), byte_fallback=False)
    assert words.words_stand_alone(known)
    assert encoded(known, "Ж Ж a") == known.encode("Ж Ж a")
    piece, other = (b"\x0a\x03" + character.encode() for character in "\u2581\u2192")
    content = (tmp_path / "known").read_bytes()
    assert content.count(piece) == 1
    (tmp_path / "unknown").write_bytes(content.replace(piece, other))
    tokenizer = Tokenizer(tmp_path / "unknown")
    assert not words.words_stand_alone(tokenizer)
    assert encoded(tokenizer, "Ж Ж a") == tokenizer.encode("Ж Ж a")
    monkeypatch.setattr(words, "words_stand_alone", lambda _: True)
    assert encoded(tokenizer, "Ж Ж a") != tokenizer.encode("Ж Ж a")


@pytest.mark.parametrize(
    "appended",
    [
        b"\x12\x02\x18\x01",  # model_type: unigram
        b"\x12\x03\xc0\x01\x01",  # treat_whitespace_as_suffix
        b"\x1a\x02\x18\x00",  # add_dummy_prefix: false
        b"\x1a\x02\x20\x01",  # remove_extra_whitespaces
        b"\x1a\x02\x28\x00",  # escape_whitespaces: false
    ],
)
def test_every_setting_is_looked_at(tmp_path: Path, appended: bytes) -> None:
    """What a model says a second time, at its end, replaces what it said first."""
    assert words.words_stand_alone(model(tmp_path / "t.model", sentences(300)))
    with (tmp_path / "t.model").open("ab") as file:
        file.write(appended)
    tokenizer = Tokenizer(tmp_path / "t.model")
    assert not words.words_stand_alone(tokenizer)
    for text in ["the dog  ran on", *sentences(20)]:
        assert encoded(tokenizer, text) == tokenizer.encode(text)


def test_an_unused_space_takes_the_plain_path(tmp_path: Path) -> None:
    model(tmp_path / "t.model", sentences(300))
    content = (tmp_path / "t.model").read_bytes()
    start = content.index(b"\x0a\x03\xe2\x96\x81\x15") - 2
    piece = content[start : start + 12]
    assert piece[:2] == b"\x0a\x0a"  # the first of a repeated field, of ten bytes
    unused = b"\x0a\x0c" + piece[2:] + b"\x18\x05"  # type: UNUSED
    (tmp_path / "t.model").write_bytes(content.replace(piece, unused))
    tokenizer = Tokenizer(tmp_path / "t.model")
    assert tokenizer.pieces.is_unused(tokenizer.pieces.piece_to_id(words.SPACE))
    assert not words.words_stand_alone(tokenizer)


def test_runs_of_spaces_and_the_mark_are_needed(fast: Tokenizer) -> None:
    """Plain splitting would not do where a piece is a run of spaces."""
    assert words.words("a  b c ") == ["a", " b", "c "]
    assert words.words("  a") == ["  a"]
    assert words.words("a\u2581 b") == ["a\u2581 b"]
    assert words.words("") == [""]
    naive = [i for word in ("a", "", "", "", "b") for i in fast.encode(word)]
    assert naive != fast.encode("a    b")


# --- memory -----------------------------------------------------------------------


def test_memory_has_a_bound(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CAPACITY", 100)
    calls: list[str] = []
    tokenizer = Tokenizer(corpus / "tokenizer.model")
    encoder, draw, most = counting(tokenizer, calls), random.Random(0), 0
    for _ in range(2_000):
        text = " ".join(str(int(draw.paretovariate(0.5))) for _ in range(10))
        [raw] = encoder.encode([text])
        assert np.frombuffer(raw, np.uint16).tolist() == tokenizer.encode(text)
        most = max(most, len(encoder._known) + len(encoder._elder))
    assert 100 < most < 2 * (100 + 10)
    assert calls.count("1") == 1  # what is frequent stays
    assert len(calls) > 2_000
    long = "0" * words.LONGEST + "7"
    for text in (long, "a", long):
        encoder.encode([text])
    assert calls.count(long) == 2  # what is long does not


# --- shards -----------------------------------------------------------------------


def plain_shard(
    texts: list[str], tokenizer: Tokenizer
) -> tuple[bytes, list[int], dict]:
    """A shard's bytes, offsets and check, said anew and simply."""
    check, ids, offsets = Check(), [], [0]
    for row, text in enumerate(texts):
        own = tokenizer.encode(text)
        ids += [tokenizer.bos, *own, tokenizer.eos]
        offsets.append(len(ids))
        check.characters += len(text)
        check.bytes += len(text.encode())
        check.unknown_tokens += own.count(tokenizer.unknown)
        if row % 10 == 0:
            check.checked_documents += 1
            check.round_trip_failures += tokenizer.decode(own) != text
    dtype = np.uint16 if len(tokenizer) <= 65_535 else np.uint32
    return np.asarray(ids, dtype).tobytes(), offsets, asdict(check)


@pytest.mark.parametrize("name", ["fast", *SLOW])
def test_shards_are_the_plain_ones(tmp_path: Path, name: str) -> None:
    if name == "fast":
        tokenizer = model(tmp_path / "t.model", prose(), byte_fallback=False)
    else:
        tokenizer = slow(tmp_path, name)
    draw, known = random.Random(name), " ".join(sentences(5) + prose()[:50]).split()
    texts = [
        draw.choice([" ", " ", "  ", "\n"]).join(
            draw.choices(known, k=draw.randrange(9))
        )
        + draw.choice(["", "", " ", "\u2581 Ж"])
        for _ in range(95)
    ]
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    path = tmp_path / "shard-0.bin"
    write_shard(tmp_path / "t.parquet", tokenizer, 0, 1, path)
    raw, offsets, check = plain_shard(texts, tokenizer)
    assert path.read_bytes() == raw
    assert np.load(tmp_path / "shard-0.offsets.npy").tolist() == offsets
    assert read_json(tmp_path / "shard-0.check.json") == check


def test_other_pieces_word_by_word_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the condition wrong for some tokenizer, it would not pass in silence."""
    tokenizer = slow(tmp_path, "no prefix")
    table = pyarrow.table({"text": ["a  cat"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    monkeypatch.setattr(words, "words_stand_alone", lambda _: True)
    with pytest.raises(UserError, match="document 0 has other pieces word by word"):
        write_shard(tmp_path / "t.parquet", tokenizer, 0, 1, tmp_path / "shard-0.bin")
    assert not (tmp_path / "shard-0.bin").exists()


def test_wide_vocabularies_are_written_wide(fast: Tokenizer) -> None:
    text, dtype = "the whole of it", np.dtype(np.uint32)
    [raw] = words.WordEncoder(fast, dtype).encode([text])
    assert np.frombuffer(raw, dtype).tolist() == fast.encode(text)
