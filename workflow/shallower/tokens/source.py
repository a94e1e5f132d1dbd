"""Where a study's tokenizer comes from: given, a package's, or trained on its text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from shallower.corpus import packages
from shallower.corpus.parquet import read_texts
from shallower.errors import UserError
from shallower.files import expanded
from shallower.randomness import derive
from shallower.study.schema import Tokenizer as Settings
from shallower.tokens import tokenizer

# SentencePiece skips what it takes for a line if that is longer than 65,536 bytes,
# which are at least 16,384 characters.
_LONGEST = 16_384


def obtain(settings: Settings, given: Path | None, text: Path, output: Path) -> None:
    """Write the tokenizer to `output`: adopted if there is one, else trained.

    `given` is a local file in place of the one that the settings name, such as what was
    downloaded from the hub, `text` the training split's Parquet. Raises UserError if
    the tokenizer is missing, damaged or of another size.
    """
    given = given or (expanded(settings.model) if settings.model else None)
    if settings.package:
        source, key = settings.package, "tokenizer.package"
        found = list(packages.locate(source, key).paths.values())
        if len(found) > 1:
            raise UserError(
                f"{key}.file: {source.file} matches {len(found)} files, expected one"
            )
        given = Path(found[0])
    if settings.hub and not given:
        raise UserError("tokenizer.hub: expected the downloaded file with --given")
    if given:
        tokenizer.adopt(given, settings.vocabulary, output)
    else:
        texts = sample(text, settings.training_characters)
        tokenizer.train(texts, settings.vocabulary, output)


def sample(documents: Path, characters: int) -> Iterator[str]:
    """Texts of about `characters` characters in all, and never more, in their order.

    If there are more, each document is chosen with the same probability, by a seed
    that is always the same. Long documents come in pieces. The texts are read twice,
    and never held.
    """
    total = sum(map(len, read_texts(documents)))
    draw = random.Random(derive(0, "tokenizer"))
    left = characters
    for text in read_texts(documents):
        if total > characters and draw.random() * total >= characters:
            continue
        text = text[:left]
        left -= len(text)
        for start in range(0, len(text), _LONGEST):
            yield text[start : start + _LONGEST]
