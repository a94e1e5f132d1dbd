"""Batches of pairs: what the model reads, fair cuts, a pure function of the step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import sentences
from shallower.errors import UserError
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.pairs import PairBatches, encode_pairs
from shallower.training.spans import SENTINELS, label_id

CONTEXT = 48


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return Tokenizer(corpus / "tokenizer.model")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    texts = sentences(60, seed=5)
    label = np.arange(30) % 2
    return pd.DataFrame({"first": texts[:30], "second": texts[30:], "label": label})


def test_what_is_read_and_written(tokenizer: Tokenizer) -> None:
    table = pd.DataFrame({"first": ["the cat"], "second": ["a dog"], "label": [1]})
    [inputs], [labels] = PairBatches(table, tokenizer, CONTEXT, 1, 0)(0)
    one, other = tokenizer.encode("the cat"), tokenizer.encode("a dog")
    ids = [*one, tokenizer.bos, *other, tokenizer.eos]
    assert inputs.tolist() == ids + [0] * (CONTEXT - len(ids))
    assert labels.tolist() == [len(tokenizer) + SENTINELS + 1, tokenizer.eos]
    assert inputs.dtype == labels.dtype == torch.int64


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 80))
def test_cuts_are_fair(one: int, other: int, context: int) -> None:
    class Letters:
        """A piece a letter: ids 3 and 4."""

        bos, eos = 1, 2

        def encode_all(self, texts: list[str]) -> list[list[int]]:
            return [[3 + "ab".index(letter) for letter in text] for text in texts]

    [row] = encode_pairs(Letters(), ["a" * one], ["b" * other], context).tolist()
    kept = row.count(3), row.count(4)
    ids = [3] * kept[0] + [1] + [4] * kept[1] + [2]
    assert row == ids + [0] * (context - len(ids))
    room = context - 2
    assert sum(kept) == min(one + other, room)
    # Neither loses anything while it has no more than half of the room.
    assert kept[0] >= min(one, room // 2)
    assert kept[1] >= min(other, room // 2)


def test_batches_are_a_function_of_the_step(
    table: pd.DataFrame, tokenizer: Tokenizer
) -> None:
    first, second = (PairBatches(table, tokenizer, CONTEXT, 4, 0) for _ in "ab")
    seen = [first(step) for step in range(20)]
    for step in (17, 0, 8):
        for found, expected in zip(second(step), seen[step], strict=True):
            assert torch.equal(found, expected)
    other = PairBatches(table, tokenizer, CONTEXT, 4, 1)
    assert not torch.equal(other(0)[0], seen[0][0])


def test_each_pair_once_an_epoch_with_its_label(
    table: pd.DataFrame, tokenizer: Tokenizer
) -> None:
    batches = PairBatches(table, tokenizer, CONTEXT, 5, 3)
    rows = encode_pairs(tokenizer, table["first"], table["second"], CONTEXT).tolist()
    labels = label_id(len(tokenizer), table["label"].to_numpy()).tolist()
    due = sorted(zip(rows, labels, strict=True))
    orders = []
    for epoch in range(2):
        found = [batches(step) for step in range(6 * epoch, 6 * epoch + 6)]
        inputs = torch.cat([inputs for inputs, _ in found]).tolist()
        written = torch.cat([labels[:, 0] for _, labels in found]).tolist()
        orders.append(inputs)
        assert sorted(zip(inputs, written, strict=True)) == due
    assert orders[0] != orders[1]


def test_parts_make_up_the_batch(table: pd.DataFrame, tokenizer: Tokenizer) -> None:
    whole, *parts = (
        PairBatches(table, tokenizer, CONTEXT, 6, 0, part)
        for part in [(0, 1), (0, 2), (1, 2)]
    )
    for side in (0, 1):
        joined = torch.cat([batches(3)[side] for batches in parts])
        assert torch.equal(joined, whole(3)[side])


def test_what_cannot_be_batched(table: pd.DataFrame, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no pairs"):
        PairBatches(table[:0], tokenizer, CONTEXT, 4, 0)
    with pytest.raises(UserError, match="too short"):
        PairBatches(table, tokenizer, 3, 4, 0)(0)


def test_padding_must_be_no_text(table: pd.DataFrame, tmp_path: Path) -> None:
    import sentencepiece

    text = tmp_path / "text"
    text.write_text("\n".join(sentences(50)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "m"),
        vocab_size=60,
        model_type="bpe",
        unk_id=3,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="that id is padding"):
        PairBatches(table, Tokenizer(tmp_path / "m.model"), CONTEXT, 4, 0)
