"""The tokenizer: SentencePiece BPE with byte fallback, trained or given."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import sentencepiece

from shallower.errors import UserError
from shallower.files import replacing


class TokenizerLike(Protocol):
    """What a model needs of its tokenizer, ours or a checkpoint's."""

    bos: int
    eos: int
    unknown: int  # -1 if every text has tokens
    prefix: list[int]  # what stands before a text by the model's convention

    def __len__(self) -> int:
        """Vocabulary size V."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone."""
        ...

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; on one core, which is what a job has."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; BOS and EOS give nothing."""
        ...


class Tokenizer:
    """Text to piece ids and back, with BOS and EOS as the model sees them.

    `content` is a SentencePiece model that `path`, a file of another format, describes.
    """

    def __init__(self, path: str | Path, content: bytes | None = None) -> None:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such tokenizer model")
        source = {"model_proto": content} if content else {"model_file": str(path)}
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(**source)
        except RuntimeError as error:
            hint = "; expected a file such as tokenizer.model, not tokenizer.json"
            raise UserError(
                f"{path}: not a SentencePiece model ({error}){'' if content else hint}"
            ) from None
        self.bos, self.eos = self.pieces.bos_id(), self.pieces.eos_id()
        self.unknown = self.pieces.unk_id()
        if self.bos < 0 or self.eos < 0:
            raise UserError(f"{path}: the tokenizer needs BOS and EOS pieces")
        self.prefix = [self.bos]

    def __len__(self) -> int:
        """Vocabulary size V."""
        return self.pieces.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Piece ids of `text`, without BOS and EOS."""
        ids: list[int] = self.pieces.encode(text)
        return ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Piece ids of each text; on one core, which is what a job has."""
        ids: list[list[int]] = self.pieces.encode(texts, num_threads=1)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of piece ids; BOS and EOS give nothing."""
        text: str = self.pieces.decode(list(ids))
        return text


def train(texts: Iterable[str], vocabulary: int, path: str | Path) -> None:
    """Train a tokenizer of `vocabulary` pieces on `texts` and write it to `path`.

    Ids as in Llama: unknown 0, BOS 1, EOS 2. Text is kept as it is (no normalisation,
    white space preserved), so that decoding gives back what was encoded.
    Raises UserError if the text cannot yield that many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            max_sentence_length=1 << 16,
            # Pinned, since the pieces must not depend on the machine's cores.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"tokenizer.vocabulary: {vocabulary} pieces cannot be had from this text "
            f"({str(error).splitlines()[-1].strip()})"
        ) from None
    with replacing(path) as temporary:
        temporary.write_bytes(model.getvalue())


def adopt(source: str | Path, vocabulary: int, path: str | Path) -> None:
    """Copy a given tokenizer to `path`. Raises UserError unless its size is right."""
    found = len(Tokenizer(source))
    if found != vocabulary:
        raise UserError(
            f"tokenizer.vocabulary: {source} has {found} pieces, "
            f"the configuration says {vocabulary}"
        )
    with replacing(path) as temporary:
        shutil.copyfile(os.fspath(source), temporary)
