"""A SentencePiece model as Hugging Face's tokenizer, with the same ids.

`transformers` 5 has converters of its own; they drop a first space and read `<s>` in a
text as BOS, and one of them silently gives an empty tokenizer. So the rules are written
out here, and checked on text before anything is exported.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from shallower.errors import UserError
from shallower.models.config import SENTINELS
from shallower.tokens.tokenizer import Tokenizer

SPACE = "▁"  # what SentencePiece writes for one
# Real text has these, and converters get them wrong.
DIFFICULT = (
    *("", " ", "  two  spaces ", "a\nb\n\n c\t", "<s>no BOS</s><unk><0x41>"),
    *(f"{SPACE}x", "aaaaaaaaaaa=====-----", "3.14159 2,048"),
    *("naïve café — Ærø", "日本語のテキスト", "🙂👍🏽é"),
)


def write_tokenizer(path: Path, folder: Path, extra: int | None, context: int) -> None:
    """Write the tokenizer of a SentencePiece model to `folder`, and that model.

    `extra` is None for a decoder: BOS, then the text. For an encoder-decoder it counts
    the ids behind the pieces, sentinels and then labels: the text, or a first text, BOS
    and a second one, then EOS. Texts may be as long as `context`. Raises UserError if
    the file's rules are not BPE's, with or without byte fallback.
    """
    ours = Tokenizer(path)
    backend = bpe(ours)
    check(ours, backend, path)
    bos, eos, unknown = (
        ours.pieces.id_to_piece(i) for i in (ours.bos, ours.eos, ours.unknown)
    )
    single, pair = f"{bos} $A", f"{bos} $A $B:1"
    if extra is not None:
        single, pair = f"$A {eos}", f"$A {bos} $B:1 {eos}"
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in (unknown, bos, eos)]
    )
    backend.add_tokens(behind_the_pieces(extra or 0))
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(bos, ours.bos), (eos, ours.eos)]
    )
    _fast(backend, bos, eos, unknown, extra is None, context).save_pretrained(folder)
    # For tools that read nothing else, such as converters to other formats.
    shutil.copyfile(path, folder / "tokenizer.model")


def _fast(
    backend: Backend, bos: str, eos: str, unknown: str, decoder: bool, context: int
) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
        # Byte fallback leaves no text for it, and masks of EOS would hide ends.
        pad_token=unknown,
        padding_side="left" if decoder else "right",
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        # `<s>` in a text is text, as it was in training.
        split_special_tokens=True,
    )


def behind_the_pieces(count: int) -> list[AddedToken]:
    """Names, as T5's, of the sentinels and labels that have no piece."""
    names = [f"<extra_id_{i}>" for i in range(min(count, SENTINELS))]
    names += [f"<label_{i}>" for i in range(count - len(names))]
    return [AddedToken(name, normalized=False, special=False) for name in names]


def bpe(ours: Tokenizer) -> Backend:
    """Hugging Face's backend by the rules of SentencePiece's BPE."""
    sp = ours.pieces
    pieces = [sp.id_to_piece(i) for i in range(len(ours))]
    ids = {piece: i for i, piece in enumerate(pieces)}
    merged = [i for i in range(len(ours)) if _is_text(sp, i)]
    known = {pieces[i] for i in merged}
    merges: list[tuple[str, str]] = []
    # SentencePiece joins the pair whose piece has the best score, whatever its halves.
    for i in sorted(merged, key=lambda i: (-sp.get_score(i), i)):
        cuts = [(pieces[i][:k], pieces[i][k:]) for k in range(1, len(pieces[i]))]
        merges += [cut for cut in cuts if known.issuperset(cut)]
    backend = Backend(
        BPE(
            ids,
            merges,
            unk_token=pieces[ours.unknown],
            fuse_unk=True,
            byte_fallback=any(sp.is_byte(i) for i in range(len(ours))),
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


def _is_text(sp: Any, i: int) -> bool:
    return not (
        sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i) or sp.is_unused(i)
    )


def check(ours: Tokenizer, backend: Backend, path: Path) -> None:
    """Raise UserError unless both give the same ids and the same text back.

    On difficult texts, and on lines drawn from the pieces themselves.
    """
    draw, sp = random.Random(0), ours.pieces
    pieces = [sp.id_to_piece(i) for i in range(len(ours)) if _is_text(sp, i)]
    lines = ["".join(draw.choices(pieces, k=40)) for _ in range(200)]
    for text in (*DIFFICULT, *(line.replace(SPACE, " ") for line in lines)):
        due, found = ours.encode(text), backend.encode(text).ids
        if due != found or ours.decode(due) != backend.decode(found):
            raise UserError(
                f"{path}: cannot be exported: {text[:30]!r} has other ids by the rules "
                "of BPE without normalisation, expected a SentencePiece model of "
                "that kind, as the study trains"
            )
