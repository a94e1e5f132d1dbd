"""A tiny checkpoint with its tokenizer, as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from test_pretrained import make

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "to"]
WORDS += ["old", "house", "by", "sea"]


def article(number: int, words: int = 120) -> str:
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words))


def save_checkpoint(folder: Path) -> None:
    """Random weights of three blocks with grouped queries; 300 pieces of bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([article(n) for n in range(20)], trainer)
    make("grouped", folder)
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
