"""Batches of labelled pairs of sentences, as text to text: a label is a token.

The encoder reads the first sentence, BOS, the second sentence, EOS; BOS occurs only
there. The decoder writes the id of the label and EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.batches import Epochs, part_rows
from shallower.training.spans import PADDING, label_id

if TYPE_CHECKING:
    import pandas as pd


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
