"""Tokenizer and shards: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import sentences
from shallower.errors import UserError
from shallower.files import read_json
from shallower.tokens import tokenizer
from shallower.tokens.shards import (
    TokenStream,
    token_dtype,
    write_manifest,
    write_shard,
)
from shallower.tokens.tokenizer import Tokenizer


def shard_into(corpus: Path, parts: int, folder: Path) -> TokenStream:
    pieces = Tokenizer(corpus / "tokenizer.model")
    paths = [folder / f"shard-{part}.bin" for part in range(parts)]
    for part, path in enumerate(paths):
        write_shard(corpus / "text.parquet", pieces, part, parts, path)
    write_manifest(paths, corpus / "tokenizer.model", folder / "manifest.json")
    return TokenStream.open(folder)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_survives_the_tokenizer(corpus: Path, text: str) -> None:
    pieces = Tokenizer(corpus / "tokenizer.model")
    assert pieces.decode(pieces.encode(text)) == text


def test_shards_hold_the_documents(corpus: Path) -> None:
    pieces = Tokenizer(corpus / "tokenizer.model")
    texts = pd.read_parquet(corpus / "text.parquet")["text"]
    documents = TokenStream.open(corpus / "train").documents()
    assert [pieces.decode(d[1:-1].tolist()) for d in documents] == list(texts)
    assert all(d[0] == pieces.bos and d[-1] == pieces.eos for d in documents)


def test_shards_are_what_sentencepiece_gives(corpus: Path, tmp_path: Path) -> None:
    """Bytes, offsets and check, computed anew with the library alone."""
    pieces = sentencepiece.SentencePieceProcessor(str(corpus / "tokenizer.model"))
    spaces = ["", " ", "two  spaces ", "\u2581x \u0416", "a\n\n b\t", "3.14 \U0001f642"]
    texts = [f"{a}{b}" for a in spaces for b in [*spaces, *sentences(3)]]
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "text.parquet")
    shutil.copy(corpus / "tokenizer.model", tmp_path)
    stream = shard_into(tmp_path, 1, tmp_path)
    ids = [[pieces.bos_id(), *pieces.encode(t), pieces.eos_id()] for t in texts]
    raw = np.concatenate(ids).astype(np.uint16).tobytes()
    assert (tmp_path / "shard-0.bin").read_bytes() == raw
    assert [d.tolist() for d in stream.documents()] == ids
    changed = [pieces.decode(row[1:-1]) != t for row, t in zip(ids, texts, strict=True)]
    assert stream.manifest["round_trip_failures"] == sum(changed[::10]) > 0
    assert stream.manifest["checked_documents"] == len(changed[::10])


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_parts_make_no_difference(corpus: Path, tmp_path: Path, parts: int) -> None:
    stream, other = (
        shard_into(corpus, parts, tmp_path),
        TokenStream.open(corpus / "train"),
    )
    assert len(stream) == len(other)
    assert np.array_equal(stream.read(0, len(stream)), other.read(0, len(other)))


def test_a_part_may_be_empty(corpus: Path, tmp_path: Path) -> None:
    pd.DataFrame({"text": sentences(2)}).to_parquet(tmp_path / "text.parquet")
    shutil.copy(corpus / "tokenizer.model", tmp_path)
    stream = shard_into(tmp_path, 5, tmp_path / "shards")
    assert stream.manifest["documents"] == 2
    assert len(stream.read(0, len(stream))) == len(stream)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_reads_cross_shards(corpus: Path, data: st.DataObject) -> None:
    stream = TokenStream.open(corpus / "train", verify=False)
    whole = np.concatenate([np.asarray(s, np.int64) for s in stream.shards])
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    assert np.array_equal(stream.read(start, count), whole[start : start + count])
    with pytest.raises(IndexError):
        stream.read(start, len(whole) - start + 1)


def test_reads_cross_many_shards_and_empty_ones() -> None:
    sizes = [0, 3, 0, 0, 1, 5, 0, 2, 0]
    whole, ends = np.arange(sum(sizes), dtype=np.uint16), np.cumsum(sizes)
    shards = [whole[e - s : e] for e, s in zip(ends, sizes, strict=True)]
    stream = TokenStream(shards, [], {"tokens": len(whole)})
    for start in range(len(whole) + 1):
        for count in range(len(whole) - start + 1):
            assert stream.read(start, count).tolist() == list(
                range(start, start + count)
            )


@pytest.mark.parametrize("name", ["shard-1.bin", "shard-0.offsets.npy"])
def test_a_flipped_byte_is_detected(corpus: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "train"
    shutil.copytree(corpus / "train", folder)
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        TokenStream.open(folder)


def test_missing_and_short_shards_are_named(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(corpus / "train", folder)
    shard = folder / "shard-0.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"shard-0\.bin: \d+ bytes, the manifest says"):
        TokenStream.open(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-0\.bin: .*missing"):
        TokenStream.open(folder)


def test_wide_vocabularies_take_four_bytes() -> None:
    assert token_dtype(65_535) == np.uint16
    assert token_dtype(65_536) == np.uint32


def test_manifest_says_what_lies_there(corpus: Path) -> None:
    manifest = read_json(corpus / "train" / "manifest.json")
    assert manifest["dtype"] == "uint16"
    assert manifest["documents"] == 300
    sizes = [(corpus / "train" / s["file"]).stat().st_size for s in manifest["shards"]]
    assert sum(sizes) == 2 * manifest["tokens"]


def test_same_text_same_tokenizer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tokenizer.train(sentences(100), 290, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_given_tokenizer_must_have_the_stated_size(
    corpus: Path, tmp_path: Path
) -> None:
    tokenizer.adopt(corpus / "tokenizer.model", 300, tmp_path / "copy.model")
    assert len(Tokenizer(tmp_path / "copy.model")) == 300
    with pytest.raises(UserError, match="300 pieces"):
        tokenizer.adopt(corpus / "tokenizer.model", 32_000, tmp_path / "other.model")
    assert not (tmp_path / "other.model").exists()


def test_impossible_vocabulary_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocabulary: 5000"):
        tokenizer.train(sentences(5), 5000, tmp_path / "no.model")
    assert list(tmp_path.iterdir()) == []


def test_not_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"x\.model"):
        Tokenizer(tmp_path / "x.model")
