"""Span corruption: nothing is lost, lengths are fixed, and noise is as T5 has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shallower.errors import UserError
from shallower.tokens.shards import TokenStream
from shallower.training.spans import (
    PADDING,
    SENTINELS,
    CorruptedWindows,
    SpanBatches,
    corrupt,
    noise_mask,
    sentinels_needed,
    span_lengths,
)

PIECES, EOS = 300, 2
CONTEXT = 32


def mask(raw: int, seed: int) -> np.ndarray:
    return noise_mask(raw, np.random.default_rng(seed))


def merged(inputs: list[int], labels: list[int], pieces: int = PIECES) -> list[int]:
    """The raw window: each sentinel of the inputs gives way to what it stands for."""
    assert inputs[-1] == labels[-1] == EOS
    spans: dict[int, list[int]] = {}
    # In the targets, sentinel k is followed by the k-th span of noise.
    for token in labels[:-1]:
        if token >= pieces:
            spans[token] = current = []
        else:
            current.append(token)
    assert list(spans) == list(range(pieces, pieces + len(spans)))
    assert [token for token in inputs if token >= pieces] == list(spans)
    return [each for token in inputs[:-1] for each in spans.get(token, [token])]


def stream(corpus: Path) -> TokenStream:
    return TokenStream.open(corpus / "train")


# --- lengths ----------------------------------------------------------------------


def test_lengths_are_the_references() -> None:
    """What `random_spans_helper` of T5 gives; 568 and 114 are well known."""
    assert span_lengths(512) == (568, 512, 114)
    assert span_lengths(1024) == (1137, 1024, 229)
    assert sentinels_needed(512) == 28


def test_windows_fill_the_context() -> None:
    for context in range(16, 601):
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
        assert corrupted.shape == (1, inputs)
        assert labels.shape == (1, targets)
        # One token more would not fit any longer.
        more, _ = corrupt(window, mask(raw + 1, 0)[None], PIECES, EOS)
        assert more.shape[1] == context + 1


def test_contexts_that_do_not_go() -> None:
    assert span_lengths(3) == (2, 3, 3)
    with pytest.raises(UserError, match="3 at least"):
        span_lengths(2)
    assert sentinels_needed(1809) == SENTINELS
    assert sentinels_needed(1840) > SENTINELS


# --- corruption -------------------------------------------------------------------


def test_an_example_by_hand() -> None:
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


def test_share_and_spans_of_the_noise() -> None:
    masks = np.stack([mask(568, seed) for seed in range(300)])
    assert masks.mean() == pytest.approx(0.15, abs=0.001)
    starts = (np.diff(masks.astype(int), axis=1, prepend=0) == 1).sum()
    assert masks.sum() / starts == pytest.approx(3, abs=0.05)


def test_all_masks_are_equally_likely() -> None:
    """40 tokens: 6 of noise in 2 spans, so 33 x 5 masks, each once in 165 draws."""
    found = [mask(40, seed).tobytes() for seed in range(165 * 60)]
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 165
    # Chi-squared with 164 degrees of freedom: above 236 once in 5,000 times.
    assert ((counts - 60) ** 2 / 60).sum() < 236


# --- batches ----------------------------------------------------------------------


def test_batches_are_a_function_of_the_step(corpus: Path) -> None:
    first, second = (SpanBatches(stream(corpus), CONTEXT, 4, 0, PIECES) for _ in "ab")
    steps = [9, 0, 31, 3]  # in another order, over several epochs
    seen = {step: first(step) for step in range(40)}
    for step in steps:
        inputs, labels = second(step)
        assert torch.equal(inputs, seen[step][0])
        assert torch.equal(labels, seen[step][1])
        assert inputs.shape == (4, CONTEXT)
        assert labels.shape == (4, span_lengths(CONTEXT)[2])
        assert inputs.dtype == labels.dtype == torch.int64
    other = SpanBatches(stream(corpus), CONTEXT, 4, 1, PIECES)
    assert not torch.equal(other(0)[0], first(0)[0])


def test_parts_make_up_the_batch(corpus: Path) -> None:
    whole, *parts = (
        SpanBatches(stream(corpus), CONTEXT, 6, 0, PIECES, part)
        for part in [(0, 1), (0, 3), (1, 3), (2, 3)]
    )
    for step in (0, 5):
        for side in (0, 1):
            joined = torch.cat([batches(step)[side] for batches in parts])
            assert torch.equal(joined, whole(step)[side])


def test_noise_does_not_depend_on_the_batch_size(corpus: Path) -> None:
    small, large = (SpanBatches(stream(corpus), CONTEXT, n, 0, PIECES) for n in (3, 6))
    assert torch.equal(torch.cat([small(2)[0], small(3)[0]]), large(1)[0])


def test_each_window_once_an_epoch_with_new_noise(corpus: Path) -> None:
    batches = SpanBatches(stream(corpus), CONTEXT, 1, 0, PIECES)
    raw, count = batches.windows.raw, len(batches.windows)
    first, second = {}, {}
    for step in range(2 * count):
        inputs, labels = batches(step)
        window = tuple(merged(inputs[0].tolist(), labels[0].tolist()))
        (first if step < count else second)[window] = inputs
    tokens = stream(corpus).read(0, count * raw).reshape(count, raw).tolist()
    assert set(first) == set(second) == set(map(tuple, tokens))
    changed = sum(not torch.equal(first[window], second[window]) for window in first)
    assert changed > 0.9 * len(first)


def test_no_padding_among_inputs_and_labels(corpus: Path) -> None:
    batches = SpanBatches(stream(corpus), CONTEXT, 8, 0, PIECES)
    for step in range(10):
        for ids in batches(step):
            assert (ids != PADDING).all()
            assert ids.max() < PIECES + sentinels_needed(CONTEXT)


def test_streams_that_do_not_go(corpus: Path) -> None:
    whole = stream(corpus)
    with pytest.raises(UserError, match="is made of"):
        CorruptedWindows(
            TokenStream([], [], {**whole.manifest, "tokens": 30}), 32, 0, 300
        )
    unknown = TokenStream([], [], {**whole.manifest, "unknown_tokens": 7})
    with pytest.raises(UserError, match="7 tokens are unknown"):
        CorruptedWindows(unknown, 32, 0, 300)
    with pytest.raises(UserError, match="sentinels"):
        CorruptedWindows(whole, 2000, 0, 300)
