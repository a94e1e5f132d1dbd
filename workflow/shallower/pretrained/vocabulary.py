"""The tokenizer of a checkpoint, as its files describe it.

Byte-level BPE by the library `tokenizers`, SentencePiece by its own library. The name
of a control token in a text, such as `<|im_end|>`, is text, as for our own tokenizers.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from shallower.errors import UserError
from shallower.pretrained.gguf_file import GGUFHeader
from shallower.tokens.tokenizer import Tokenizer, TokenizerLike

NONE = -1  # as SentencePiece says that there is no such piece
# Types of a token, in GGUF as in SentencePiece.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4

# How a text is cut before BPE, by the name that llama.cpp has for it: by one pattern
# after the other. From the models' tokenizer.json, as llama.cpp's sources quote them.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("default", "gpt-2"), (GPT2,)),
    "smollm": (r"\p{N}", GPT2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), (LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (QWEN2,)),
    "tekken": (TEKKEN,),
}
# These take a word that is a piece as it is, and begin a text with BOS.
WHOLE_WORDS = ((LLAMA3,), (TEKKEN,))


class BackendTokenizer:
    """A tokenizer of the library `tokenizers`, with the interface of `Tokenizer`.

    A byte-level vocabulary may lack some bytes (SmolLM2's has no U+0004, for example):
    as everywhere, they give no token.
    """

    def __init__(
        self, backend: Backend, size: int, bos: int, eos: int, unknown: int
    ) -> None:
        # The library's threads do not know how many cores a job has.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # control tokens in a text are text
        self.backend, self.size = backend, size
        self.bos, self.eos, self.unknown = bos, eos, unknown
        self.prefix: list[int] = []

    def __len__(self) -> int:
        """Vocabulary size V."""
        return self.size

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without what stands before or behind it."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; on one core, which is what a job has."""
        found = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [each.ids for each in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control tokens give nothing."""
        return self.backend.decode(list(ids), skip_special_tokens=True)


def open_tokenizer(path: str | Path) -> TokenizerLike:
    """The tokenizer of a Hugging Face folder or of a GGUF file.

    Of a folder, tokenizer.json, or else tokenizer.model (SentencePiece). Raises
    UserError for a missing or damaged file, and for a kind that is not known.
    """
    path = Path(path)
    if not path.is_dir():
        return _from_gguf(GGUFHeader.read(path))
    if (path / "tokenizer.json").is_file():
        return _from_json(path)
    if (path / "tokenizer.model").is_file():
        pieces = Tokenizer(path / "tokenizer.model")
        if _json(path / "tokenizer_config.json").get("add_bos_token") is False:
            pieces.prefix = []
        return pieces
    raise UserError(f"{path}: expected tokenizer.json or tokenizer.model")


# --- a folder -------------------------------------------------------------------------


def _json(file: Path) -> dict[str, Any]:
    """An object of a JSON file; {} without the file."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected an object, found {type(values).__name__}")
    return values


def _from_json(folder: Path) -> BackendTokenizer:
    file = folder / "tokenizer.json"
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the library has no narrower one
        raise UserError(f"{file}: not a tokenizer ({_line(error)})") from None
    settings = _json(folder / "tokenizer_config.json")
    stated = {
        name: _id_of(settings.get(f"{name}_token"), backend, folder)
        for name in ("bos", "eos", "unk")
    }
    model = _json(folder / "config.json")
    size = backend.get_vocab_size()
    bos, eos = (
        stated[name] if stated[name] != NONE else _first(model.get(f"{name}_token_id"))
        for name in ("bos", "eos")
    )
    bos, eos = _ends(bos, eos, size, f"{folder}: tokenizer_config.json or config.json")
    tokenizer = BackendTokenizer(backend, size, bos, eos, stated["unk"])
    # As transformers has it: add_bos_token is for tokenizers without this file.
    tokenizer.prefix = _before(backend)
    return tokenizer


def _id_of(token: Any, backend: Backend, folder: Path) -> int:
    """The id of a token as tokenizer_config.json writes it; NONE if it has none."""
    if isinstance(token, dict):
        token = token.get("content")
    if not token:
        return NONE
    found = backend.token_to_id(str(token))
    if found is None:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: {token!r} is not in the vocabulary"
        )
    return int(found)


def _first(ids: Any) -> int:
    """An id of config.json, which may be a list of them."""
    if isinstance(ids, list):
        ids = ids[0] if ids else None
    return ids if isinstance(ids, int) else NONE


def _before(backend: Backend) -> list[int]:
    """What the tokenizer's own post-processor puts before a text."""
    text = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(text) + 1):
        if whole[start : start + len(text)] == text:
            return whole[:start]
    return []


def _ends(bos: int, eos: int, size: int, where: str) -> tuple[int, int]:
    """BOS and EOS. Without a BOS, EOS stands between texts, as GPT-2 has it."""
    if eos == NONE:
        raise UserError(f"{where}: expected an EOS token, found none")
    for token in (bos, eos):
        if not NONE <= token < size:
            raise UserError(f"{where}: the token {token} of {size} does not exist")
    return (eos if bos == NONE else bos), eos


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no reason"


# --- a GGUF file ----------------------------------------------------------------------


def _from_gguf(header: GGUFHeader) -> TokenizerLike:
    start = "tokenizer.ggml."
    values = {
        key.removeprefix(start): value
        for key, value in header.metadata.items()
        if key.startswith(start)
    }
    kind, where = values.get("model"), str(header.path)
    if kind not in ("gpt2", "llama"):
        raise UserError(
            f"{where}: {start}model is {kind!r}, expected 'gpt2' (byte-level BPE) or "
            "'llama' (SentencePiece)"
        )
    tokens: list[str] = _list(values, "tokens", str, where)
    types = values.get("token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise UserError(f"{where}: {len(tokens)} tokens, but {len(types)} token types")
    usual = (1, 2, 0) if kind == "llama" else (NONE, NONE, NONE)
    names = ("bos_token_id", "eos_token_id", "unknown_token_id")
    bos, eos, unknown = (
        int(values.get(name, default))
        for name, default in zip(names, usual, strict=True)
    )
    bos, eos = _ends(bos, eos, len(tokens), where)
    tokenizer: TokenizerLike
    if kind == "llama":
        scores = _list(values, "scores", float, where)
        if len(scores) != len(tokens):
            raise UserError(f"{where}: {len(tokens)} tokens, but {len(scores)} scores")
        model = _sentencepiece(values, tokens, scores, types, (unknown, bos, eos))
        tokenizer, adds = Tokenizer(where, model), True
    else:
        pre = values.get("pre", "default")
        backend = _byte_level(tokens, _list(values, "merges", str, where), pre, where)
        _add_tokens(backend, tokens, types)
        tokenizer = BackendTokenizer(backend, len(tokens), bos, eos, unknown)
        adds = PATTERNS[pre] in WHOLE_WORDS
    tokenizer.prefix = [bos] if values.get("add_bos_token", adds) else []
    return tokenizer


def _list(values: Mapping[str, Any], name: str, kind: type, where: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list) or not found or not isinstance(found[0], kind):
        raise UserError(f"{where}: the tokenizer's {name} are missing")
    return found


def _byte_level(
    tokens: Sequence[str], merges: Sequence[str], pre: str, where: str
) -> Backend:
    """Byte-level BPE. No normalisation, as llama.cpp (Qwen2's own file has NFC)."""
    if pre not in PATTERNS:
        raise UserError(
            f"{where}: tokenizer.ggml.pre is {pre!r}, expected one of "
            f"{', '.join(sorted(PATTERNS))}"
        )
    patterns = PATTERNS[pre]
    try:
        model = BPE(
            {token: i for i, token in enumerate(tokens)},
            [
                (first, second)
                for first, _, second in (m.partition(" ") for m in merges)
            ],
            ignore_merges=patterns in WHOLE_WORDS,
        )
    except Exception as error:  # the library has no narrower one
        raise UserError(
            f"{where}: its merges cannot be used ({_line(error)})"
        ) from None
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(each), "isolated") for each in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: Backend, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Control tokens, and those that are cut out of a text before anything else."""

    def of(kind: int) -> list[AddedToken]:
        special = kind == CONTROL
        return [
            AddedToken(token, normalized=False, special=special)
            for token, each in zip(tokens, types, strict=True)
            if each == kind
        ]

    backend.add_special_tokens(of(CONTROL))
    backend.add_tokens(of(USER_DEFINED))


def _sentencepiece(
    values: Mapping[str, Any],
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    ends: tuple[int, int, int],
) -> bytes:
    """A SentencePiece model (sentencepiece_model.proto) with these pieces.

    A GGUF file has what that model had, so that its library needs no conversion.
    """
    unknown, bos, eos = ends
    kinds = {**dict(enumerate(types)), bos: CONTROL, eos: CONTROL, unknown: UNKNOWN}
    pieces = b"".join(
        _field(1, _field(1, token.encode()) + _real(2, score) + _number(3, kinds[i]))
        for i, (token, score) in enumerate(zip(tokens, scores, strict=True))
    )
    names = [(45, unknown), (46, bos), (47, eos)]
    trainer = (
        _number(3, 2)  # BPE
        + _number(35, 6 in types)  # byte fallback
        + b"".join(_field(number, tokens[i].encode()) for number, i in names)
    )
    normalizer = (
        _field(1, b"identity")
        + _number(3, bool(values.get("add_space_prefix", True)))
        + _number(4, bool(values.get("remove_extra_whitespaces", False)))
    )
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(int(value))


def _real(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
