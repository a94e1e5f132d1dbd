"""Batches: a pure function of the step; text, corrupted text, pairs of sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import sentences
from shallower.errors import UserError
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.batches import Batches
from shallower.training.t5 import (
    PADDING,
    SENTINELS,
    CorruptedWindows,
    PairBatches,
    SpanBatches,
    corrupt,
    encode_pairs,
    label_id,
    noise_mask,
    sentinels_needed,
    span_lengths,
)

PIECES, EOS = 300, 2
CONTEXT = 32
Make = Callable[..., Batches | SpanBatches | PairBatches]


@pytest.fixture(scope="module")
def stream(corpus: Path) -> TokenStream:
    return TokenStream.open(corpus / "train")


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return Tokenizer(corpus / "tokenizer.model")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    texts, labels = sentences(60, seed=5), np.arange(30) % 2
    return pd.DataFrame({"first": texts[:30], "second": texts[30:], "label": labels})


@pytest.fixture(params=["text", "spans", "pairs"])
def make(
    request: pytest.FixtureRequest,
    stream: TokenStream,
    table: pd.DataFrame,
    tokenizer: Tokenizer,
) -> Make:
    """(batch size, seed, part) to batches of one kind."""

    def made(size: int, seed: int = 0, part: tuple[int, int] = (0, 1)):
        if request.param == "text":
            return Batches(stream, CONTEXT, size, seed, part)
        if request.param == "spans":
            return SpanBatches(stream, CONTEXT, size, seed, PIECES, part)
        return PairBatches(table, tokenizer, CONTEXT, size, seed, part)

    return made


def equal(one: tuple, other: tuple) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_depend_on_step_and_seed_alone(make: Make) -> None:
    first, second = make(4), make(4)
    seen = [first(step) for step in range(40)]  # over several epochs
    for step in (31, 0, 9):
        assert equal(second(step), seen[step])
    assert all(ids.dtype == torch.int64 for ids in seen[0])
    assert seen[0][0].shape == (4, CONTEXT)
    assert not torch.equal(make(4, seed=1)(0)[0], seen[0][0])


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_are_the_batch(make: Make, parts: int) -> None:
    batches, shared = make(6), [make(6, part=(n, parts)) for n in range(parts)]
    for step in (0, 7):
        pieces = zip(*(part(step) for part in shared), strict=True)
        assert equal(batches(step), tuple(map(torch.cat, pieces)))


def test_items_do_not_depend_on_the_batch_size(make: Make) -> None:
    small, large = make(3), make(6)
    pieces = zip(small(2), small(3), strict=True)
    assert equal(tuple(map(torch.cat, pieces)), large(1))


# --- text -----------------------------------------------------------------------------


def test_an_epoch_shows_every_window_once(stream: TokenStream) -> None:
    batches = Batches(stream, CONTEXT, 1, seed=0)
    count = batches.windows
    windows = [tuple(stream.read(CONTEXT * i, CONTEXT).tolist()) for i in range(count)]
    orders = []
    for epoch in range(2):
        found = [batches(epoch * count + step) for step in range(count)]
        assert all(torch.equal(x[:, 1:], y[:, :-1]) for x, y in found)
        orders.append([tuple(inputs[0].tolist()) for inputs, _ in found])
        assert sorted(orders[-1]) == sorted(windows)
    assert orders[0] != orders[1] != windows


def test_too_little_text_is_an_error(stream: TokenStream) -> None:
    with pytest.raises(UserError, match="context 1000000"):
        Batches(stream, 1_000_000, 1, 0)


# --- corrupted text -------------------------------------------------------------------


def mask(raw: int, seed: int) -> np.ndarray:
    return noise_mask(raw, np.random.default_rng(seed))


def merged(inputs: list[int], labels: list[int]) -> list[int]:
    """The raw window: each sentinel of the inputs replaced by what follows it."""
    assert inputs[-1] == labels[-1] == EOS
    spans: dict[int, list[int]] = {}
    for token in labels[:-1]:
        if token >= PIECES:
            spans[token] = current = []
        else:
            current.append(token)
    assert list(spans) == list(range(PIECES, PIECES + len(spans)))
    assert [token for token in inputs if token >= PIECES] == list(spans)
    return [each for token in inputs[:-1] for each in spans.get(token, [token])]


def test_lengths_are_those_of_the_reference() -> None:
    """What `random_spans_helper` of T5 gives; 568 and 114 are well known."""
    assert span_lengths(512) == (568, 512, 114)
    assert span_lengths(1024) == (1137, 1024, 229)
    assert span_lengths(3) == (2, 3, 3)
    assert sentinels_needed(512) == 28
    assert sentinels_needed(1809) == SENTINELS
    assert sentinels_needed(1840) > SENTINELS
    with pytest.raises(UserError, match="corruption needs 3"):
        span_lengths(2)


def test_windows_fill_the_context() -> None:
    for context in range(16, 601, 3):
        raw, inputs, targets = span_lengths(context)
        spans = sentinels_needed(context)
        assert inputs == context
        found = mask(raw, context)
        noise = int(found.sum())
        assert int((np.diff(found.astype(int), prepend=0) == 1).sum()) == spans
        assert spans == max(1, round(noise / 3)) <= SENTINELS
        assert noise == pytest.approx(0.15 * raw, abs=0.5 + 1e-9)
        window = np.arange(raw + 1)[None] % PIECES
        corrupted, labels = corrupt(window[:, :-1], found[None], PIECES, EOS)
        assert (corrupted.shape, labels.shape) == ((1, inputs), (1, targets))
        # With one token more the inputs do not fit.
        more, _ = corrupt(window, mask(raw + 1, 0)[None], PIECES, EOS)
        assert more.shape[1] == context + 1


def test_corruption_by_hand() -> None:
    window = np.array([[11, 12, 13, 14, 15, 16, 17]])
    noise = np.array([[0, 1, 1, 0, 0, 0, 1]], bool)
    inputs, labels = corrupt(window, noise, PIECES, EOS)
    assert inputs.tolist() == [[11, 300, 14, 15, 16, 301, EOS]]
    assert labels.tolist() == [[300, 12, 13, 301, 17, EOS]]


@given(st.integers(3, 700), st.integers(0, 2**32), st.integers(1, 4), st.data())
def test_nothing_is_lost(context: int, seed: int, rows: int, data: st.DataObject):
    raw, inputs, targets = span_lengths(context)
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    windows = draw.integers(0, PIECES, (rows, raw))
    masks = np.stack([mask(raw, seed + row) for row in range(rows)])
    assert not masks[:, 0].any()
    assert masks[:, -1].all()
    corrupted, labels = corrupt(windows, masks, PIECES, EOS)
    assert corrupted.shape == (rows, inputs)
    assert labels.shape == (rows, targets)
    for row in range(rows):
        back = merged(corrupted[row].tolist(), labels[row].tolist())
        assert back == windows[row].tolist()


def test_all_masks_are_equally_likely() -> None:
    """40 tokens: 6 of noise in 2 spans, so 33 x 5 masks, each once in 165 draws."""
    found = [mask(40, seed).tobytes() for seed in range(165 * 60)]
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 165
    # Chi-squared with 164 degrees of freedom: above 236 once in 5,000 times.
    assert ((counts - 60) ** 2 / 60).sum() < 236


def test_each_window_once_an_epoch_with_new_noise(stream: TokenStream) -> None:
    batches = SpanBatches(stream, CONTEXT, 1, 0, PIECES)
    raw, count = batches.windows.raw, len(batches.windows)
    epochs: list[dict] = [{}, {}]
    for step in range(2 * count):
        inputs, labels = batches(step)
        assert (inputs != PADDING).all()
        assert (labels != PADDING).all()
        window = tuple(merged(inputs[0].tolist(), labels[0].tolist()))
        epochs[step // count][window] = inputs
    tokens = stream.read(0, count * raw).reshape(count, raw).tolist()
    assert set(epochs[0]) == set(epochs[1]) == set(map(tuple, tokens))
    changed = [not torch.equal(epochs[0][w], epochs[1][w]) for w in epochs[0]]
    assert np.mean(changed) > 0.9


def test_text_that_cannot_be_corrupted(stream: TokenStream) -> None:
    for changes, context, message in (
        ({"tokens": 30}, 32, "is made of"),
        ({"unknown_tokens": 7}, 32, "7 tokens are unknown"),
        ({}, 2000, "sentinels"),
    ):
        other = TokenStream([], [], {**stream.manifest, **changes})
        with pytest.raises(UserError, match=message):
            CorruptedWindows(other, context, 0, PIECES)


# --- pairs ----------------------------------------------------------------------------


def test_ids_of_a_pair(tokenizer: Tokenizer) -> None:
    table = pd.DataFrame({"first": ["the cat"], "second": ["a dog"], "label": [1]})
    [inputs], [labels] = PairBatches(table, tokenizer, 48, 1, 0)(0)
    one, other = tokenizer.encode("the cat"), tokenizer.encode("a dog")
    row = [*one, tokenizer.bos, *other, tokenizer.eos]
    assert inputs.tolist() == row + [0] * (48 - len(row))
    assert labels.tolist() == [len(tokenizer) + SENTINELS + 1, tokenizer.eos]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 80))
def test_the_longer_sentence_is_cut(one: int, other: int, context: int) -> None:
    class Letters:
        """A piece a letter: ids 3 and 4."""

        bos, eos = 1, 2

        def encode_all(self, texts: list[str]) -> list[list[int]]:
            return [[3 + "ab".index(letter) for letter in text] for text in texts]

    [row] = encode_pairs(Letters(), ["a" * one], ["b" * other], context).tolist()
    left = row.count(3), row.count(4)
    written = [3] * left[0] + [1] + [4] * left[1] + [2]
    assert row == written + [0] * (context - len(written))
    room = context - 2
    assert sum(left) == min(one + other, room)
    # Neither loses anything while it needs no more than half of the room.
    assert left[0] >= min(one, room // 2)
    assert left[1] >= min(other, room // 2)


def test_each_pair_once_an_epoch_with_its_label(
    table: pd.DataFrame, tokenizer: Tokenizer
) -> None:
    batches = PairBatches(table, tokenizer, 48, 5, 3)
    rows = encode_pairs(tokenizer, table["first"], table["second"], 48).tolist()
    labels = label_id(len(tokenizer), table["label"].to_numpy()).tolist()
    orders = []
    for epoch in range(2):
        found = [batches(step) for step in range(6 * epoch, 6 * epoch + 6)]
        inputs = torch.cat([inputs for inputs, _ in found]).tolist()
        written = torch.cat([labels[:, 0] for _, labels in found]).tolist()
        orders.append(inputs)
        pairs = zip(inputs, written, strict=True)
        assert sorted(pairs) == sorted(zip(rows, labels, strict=True))
    assert orders[0] != orders[1]


def test_pairs_that_cannot_be_read(
    table: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no pairs"):
        PairBatches(table[:0], tokenizer, CONTEXT, 4, 0)
    with pytest.raises(UserError, match="too short"):
        PairBatches(table, tokenizer, 3, 4, 0)(0)
    # A tokenizer whose id 0 is text: the unknown piece is elsewhere.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(50)),
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
