"""Small tokenizers of every kind that checkpoints have, and difficult texts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from conftest import sentences

DIFFICULT = [
    *(
        "",
        " ",
        "  two  spaces ",
        "a\nb\n\n c\t",
        "\r\n\r\n x",
        " \t\n 1",
        "\u00a0\u2003y",
    ),
    *("3.14159 2,048 1234567", "a  12", "x²³½ ٣٤ Ⅷ", "it's I'LL they've 'tis don'T"),
    *(
        "naïve café — Ærø",
        "日本語のテキスト。中文",
        "한국어",
        "हिन्दी में",
        "עברית",
        "🙂👍🏽e\u0301",
    ),
    *(
        "👨\u200d👩\u200d👧",
        "aaaaaaaaaaa=====-----",
        "▁x <0x41> <unk>",
        "<s>no BOS</s>",
    ),
    *("<|im_start|>user\n<|endoftext|>", "<think> yes</think>", "\x00\x01\x7f\x1b[0m"),
    *(
        "def f(x):\n    return x[1:]  # 42\n\n\n",
        "\u2028\u2029\x85",
        "Ġ Ċ Â",
        "x" * 300,
    ),
]


def random_texts(count: int) -> list[str]:
    """Of letters, digits, white space and code points of all planes."""
    draw, texts = random.Random(0), []
    usual = " \n\t  aeiouAEIOU'.,0123456789-()²日é🙂"
    for _ in range(count):
        letters = draw.choices(usual, k=30) + [
            chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000))))
            for _ in range(5)
        ]
        draw.shuffle(letters)
        texts.append("".join(letters))
    return texts


Changes = dict[str, Any]
CONTROLS = ["<|begin|>", "<|end|>"]
WORDS = [
    "the model's 2,048 tokens",
    "Don't! I'LL  pay $3.50",
    "naïve 日本\n\n\n  x",
    "a/b/c",
]


def train_byte_level(added: Sequence[str] = ()) -> Tokenizer:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=330,
        special_tokens=CONTROLS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*sentences(50), *WORDS * 20], trainer)
    backend.add_tokens([AddedToken(each, normalized=False) for each in added])
    return backend


def write_byte_level(path: Path, pre: str, change: Callable[[Changes], Any]) -> None:
    values = json.loads(train_byte_level().to_str())["model"]
    tokens = sorted(values["vocab"], key=values["vocab"].get)
    contents = {
        "tokens": [*tokens, "<think>"],
        "types": [3, 3, *[1] * (len(tokens) - 2), 4],
        "merges": [" ".join(merge) for merge in values["merges"]],
        "bos": 0,
        "eos": 1,
        "model": "gpt2",
    }
    change(contents)
    writer = gguf.GGUFWriter(path, "qwen2" if pre == "qwen2" else "llama")
    writer.add_tokenizer_model(contents["model"])
    writer.add_tokenizer_pre(pre)
    for name in ("block_count", "context_length", "embedding_length", "head_count"):
        getattr(writer, f"add_{name}")(2)
    if contents["tokens"]:
        writer.add_token_list(contents["tokens"])
    writer.add_token_types(contents["types"])
    writer.add_token_merges(contents["merges"])
    for end in ("bos", "eos"):
        if contents[end] is not None:
            getattr(writer, f"add_{end}_token_id")(contents[end])
    if "add_bos" in contents:
        writer.add_add_bos_token(contents["add_bos"])
    save(writer)


def save(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_folder(folder: Path, settings: Changes, template: bool) -> None:
    backend = train_byte_level(["<think>"])
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    # As some folders have it: it must not cut a document.
    backend.enable_truncation(16)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {"model_type": "llama", "bos_token_id": 0, "eos_token_id": [1, 0]}
    (folder / "config.json").write_text(json.dumps(config))


def train_pieces(path: Path, **changes: Any) -> sentencepiece.SentencePieceProcessor:
    settings = {
        "model_type": "bpe",
        "vocab_size": 400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<think>", "▁▁▁"],
        "control_symbols": ["<ctl>"],
        "num_threads": 1,
        "minloglevel": 2,
    }
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*sentences(100), *WORDS * 3]),
            model_writer=file,
            **(settings | changes),
        )
    return sentencepiece.SentencePieceProcessor(str(path))


def piece_type(pieces: sentencepiece.SentencePieceProcessor, i: int) -> int:
    kinds = (pieces.is_unknown, pieces.is_control, pieces.is_unused, pieces.is_byte)
    for kind, number in zip(kinds, (2, 3, 5, 6), strict=True):
        if kind(i):
            return number
    return 4 if pieces.id_to_piece(i) in ("<think>", "▁▁▁") else 1


def write_pieces(path: Path, pieces: Any, change: Callable[[Changes], Any]) -> None:
    numbers = range(pieces.get_piece_size())
    contents = {
        "tokens": [pieces.id_to_piece(i) for i in numbers],
        "scores": [pieces.get_score(i) for i in numbers],
        "types": [piece_type(pieces, i) for i in numbers],
    }
    change(contents)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(contents["tokens"])
    if contents["scores"]:
        writer.add_token_scores(contents["scores"])
    writer.add_token_types(contents["types"])
    if "space" in contents:
        writer.add_add_space_prefix(contents["space"])
    if "add_bos" in contents:
        writer.add_add_bos_token(contents["add_bos"])
    save(writer)
