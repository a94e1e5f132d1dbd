"""Batches of encoder-decoders: T5's span corruption, and labelled pairs of sentences.

In span corruption noise spans give way to sentinels, and are what is predicted. As in
Raffel et al. (2020), section 3.1.4, and `random_spans_noise_mask` of google-research's
text-to-text-transfer-transformer: 15 % of a window's tokens are noise, in spans of 3 on
average. How many of each follows from the window's length alone, so all windows of a
batch have equal lengths and none is padded. Spans alternate, beginning without noise
and thus ending with it; of such masks all are equally likely. (Up to 30 tokens hold one
span, which is then at the end, in the reference as here.)

Ids: 0 to `pieces` - 1 are the tokenizer's, `pieces` + k is the k-th sentinel from the
left, and a task's labels come behind the `SENTINELS`. Padding is id 0, as in T5. With
our tokenizers that is the unknown piece, which byte fallback never lets occur, so no
piece need be moved out of its way.

A task is text to text: the encoder reads the first sentence, BOS, the second sentence,
EOS; BOS occurs only there. The decoder writes the id of the label and EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.models.config import SENTINELS  # enough for contexts up to 1,809
from shallower.randomness import derive
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.batches import Epochs, part_rows

if TYPE_CHECKING:
    import pandas as pd

NOISE = 0.15  # part of a window's tokens
SPAN = 3.0  # tokens in a span of noise, on average
PADDING = 0

_Number = TypeVar("_Number", int, np.ndarray)


class SpanBatches:
    """Corrupted windows, each once an epoch; in each epoch with other noise.

    A pure function of the step, like `Batches`: the seed and a window's place in the
    sequence of all windows seen give its noise, whatever the batch size or `part`.
    """

    def __init__(
        self,
        stream: TokenStream,
        context: int,
        batch_size: int,
        seed: int,
        pieces: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.batch_size, self.rows = batch_size, part_rows(batch_size, part)
        self.windows = CorruptedWindows(stream, context, seed, pieces)
        self._order = Epochs(len(self.windows), seed)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Encoder inputs (rows, context) and labels (rows, T) of a step, int64."""
        indices = [step * self.batch_size + row for row in self.rows]
        return self.windows([(self._order(index), index) for index in indices])


class CorruptedWindows:
    """A stream's consecutive windows, corrupted to `context` ids with sentinels, EOS.

    Tokens of the stream behind the last full window are not read.
    """

    def __init__(
        self, stream: TokenStream, context: int, seed: int, pieces: int
    ) -> None:
        """Raises UserError if stream, context and tokenizer do not go together."""
        self.stream, self.seed, self.pieces = stream, seed, pieces
        self.raw, self.inputs, self.targets = span_lengths(context)
        self.eos = stream.manifest["eos"]
        if sentinels_needed(context) > SENTINELS:
            raise UserError(
                f"context {context} needs {sentinels_needed(context)} sentinels, but "
                f"there are {SENTINELS}"
            )
        if unknown := stream.manifest["unknown_tokens"]:
            raise UserError(
                f"{unknown:,} tokens are unknown pieces, whose id is that of padding; "
                "span corruption needs a tokenizer with byte fallback"
            )
        if len(self) < 1:
            raise UserError(
                f"a split of {len(stream)} tokens, but one corrupted window of context "
                f"{context} is made of {self.raw}"
            )

    def __len__(self) -> int:
        """Full windows of raw tokens in the stream."""
        return len(self.stream) // self.raw

    def __call__(self, chosen: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Inputs (rows, context) and labels (rows, T) of (window, noise) numbers."""
        tokens = [self.stream.read(window * self.raw, self.raw) for window, _ in chosen]
        masks = [
            noise_mask(self.raw, np.random.default_rng(derive(self.seed, f"noise {n}")))
            for _, n in chosen
        ]
        inputs, labels = corrupt(
            np.stack(tokens), np.stack(masks), self.pieces, self.eos
        )
        return torch.from_numpy(inputs), torch.from_numpy(labels)


def span_lengths(context: int) -> tuple[int, int, int]:
    """Ids in a raw window, and in the inputs and targets it is corrupted into.

    The longest window whose inputs, with sentinels and EOS, fit into `context`; they
    fill it. The reference's `random_spans_helper`. Raises UserError below 3.
    """
    if context < 3:
        raise UserError(f"context {context} is too short: corruption needs 3")
    raw = context - 1
    while _corrupted(raw + 1)[0] <= context:
        raw += 1
    return raw, *_corrupted(raw)


def label_id(pieces: int, label: _Number) -> _Number:
    """The id of a task's label (0, 1, ...) in a model's vocabulary.

    A model that learns a task thus has label_id(pieces, number of labels) ids in all.
    """
    return pieces + SENTINELS + label


def sentinels_needed(context: int) -> int:
    """Spans of noise in a window that is corrupted into `context` ids."""
    return _noise(span_lengths(context)[0])[1]


def _noise(raw: int) -> tuple[int, int]:
    """Tokens of noise in a window of `raw`, and spans they come in."""
    noise = min(max(round(raw * NOISE), 1), raw - 1)
    return noise, max(round(noise / SPAN), 1)


def _corrupted(raw: int) -> tuple[int, int]:
    """Lengths of inputs and targets: a sentinel a span, and EOS."""
    noise, spans = _noise(raw)
    return raw - noise + spans + 1, noise + spans + 1


def noise_mask(raw: int, generator: np.random.Generator) -> np.ndarray:
    """Which tokens of a window are noise: (raw,) booleans."""
    noise, spans = _noise(raw)
    lengths = np.empty(2 * spans, np.int64)
    lengths[0::2] = _segments(raw - noise, spans, generator)
    lengths[1::2] = _segments(noise, spans, generator)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _segments(total: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` positive lengths that add up to `total`; all are equally likely."""
    cuts = generator.choice(total - 1, count - 1, replace=False) + 1
    return np.diff(np.sort(cuts), prepend=0, append=total)


def corrupt(
    tokens: np.ndarray, noise: np.ndarray, pieces: int, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of windows and their masks, both (rows, raw).

    In the inputs the k-th sentinel replaces the k-th span of noise, in the targets the
    text before it. All rows must have equally much noise in equally many spans.
    """
    inputs = _replaced(tokens, noise, pieces, eos)
    return inputs, _replaced(tokens, ~noise, pieces, eos)


def _replaced(
    tokens: np.ndarray, gone: np.ndarray, pieces: int, eos: int
) -> np.ndarray:
    """Each run of `gone` tokens becomes one sentinel; EOS comes last."""
    before = np.zeros_like(gone)
    before[:, 1:] = gone[:, :-1]
    first = gone & ~before
    marked = np.where(first, pieces - 1 + np.cumsum(first, axis=1), tokens)
    left = marked[~gone | first].reshape(len(tokens), -1)
    return np.pad(left, ((0, 0), (0, 1)), constant_values=eos)


# --- pairs ----------------------------------------------------------------------------


class PairBatches:
    """Pairs of a table (`first, second, label`), each once an epoch, ordered by seed.

    A pure function of the step, like `Batches`. Sentences are encoded when their batch
    is read: this takes milliseconds, and no memory for a million pairs.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        tokenizer: Tokenizer,
        context: int,
        batch_size: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Raises UserError if there is no pair, or the tokenizer uses padding's id."""
        if not len(table):
            raise UserError("the training split has no pairs")
        self.tokenizer, self.context = tokenizer, context
        self.batch_size, self.rows = batch_size, part_rows(batch_size, part)
        self._first, self._second = list(table["first"]), list(table["second"])
        self._labels = label_id(len(tokenizer), table["label"].to_numpy(np.int64))
        self._order = Epochs(len(table), seed)
        check_padding(tokenizer)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Encoder inputs (rows, context) and labels (rows, 2) of a step, int64."""
        start = step * self.batch_size
        chosen = [self._order(start + row) for row in self.rows]
        first = [self._first[pair] for pair in chosen]
        second = [self._second[pair] for pair in chosen]
        inputs = encode_pairs(self.tokenizer, first, second, self.context)
        labels = np.full((len(chosen), 2), self.tokenizer.eos)
        labels[:, 0] = self._labels[chosen]
        return inputs, torch.from_numpy(labels)


def check_padding(tokenizer: Tokenizer) -> None:
    """Raise UserError if id 0, which is padding, is also a piece of text."""
    pieces = tokenizer.pieces
    if not (pieces.is_unknown(PADDING) or pieces.is_control(PADDING)):
        raise UserError(
            f"the tokenizer's piece {PADDING} is {pieces.id_to_piece(PADDING)!r}, but "
            "that id is padding: expected the unknown piece or a control piece"
        )


def encode_pairs(
    tokenizer: Tokenizer, first: Sequence[str], second: Sequence[str], context: int
) -> Tensor:
    """Encoder inputs (pairs, context), int64, padded at the right.

    If two sentences do not fit, the longer one loses its end. If both need more than
    half of the context, both do. Raises UserError for a context below 4.
    """
    if context < 4:
        raise UserError(f"context {context} is too short for two sentences")
    inputs = np.full((len(first), context), PADDING, np.int64)
    room = context - 2
    for row, one, other in zip(
        inputs,
        tokenizer.encode_all(list(first)),
        tokenizer.encode_all(list(second)),
        strict=True,
    ):
        second_room = min(len(other), max(room // 2, room - len(one)))
        one, other = one[: room - second_room], other[:second_room]
        ids = [*one, tokenizer.bos, *other, tokenizer.eos]
        row[: len(ids)] = ids
    return torch.from_numpy(inputs)
