"""A tiny checkpoint with its tokenizer, as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from test_pretrained import make

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "to"]
WORDS += ["old", "house", "by", "sea"]


def article(number: int, words: int = 120) -> str:
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words))


def save_checkpoint(folder: Path, kind: str = "grouped", bos: bool = False) -> None:
    """Random weights of three blocks, and a tokenizer."""
    make(kind, folder)
    save_tokenizer(folder, bos)


def save_tokenizer(folder: Path, bos: bool = False) -> None:
    """Byte-level BPE of 300 tokens, which puts BOS first where asked."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([article(n) for n in range(20)], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_documents(folder: Path) -> None:
    """Held-out documents of two domains, one of them too short."""
    for split, first in (("validation", 0), ("test", 100)):
        rows = [
            {"id": f"{split}{n}", "text": article(first + n), "domain": domain}
            for n, domain in enumerate(["tales"] * 5 + ["speeches"] * 3)
        ]
        rows.append({"id": "short", "text": "the cat", "domain": "tales"})
        path = folder / "text" / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(path)
