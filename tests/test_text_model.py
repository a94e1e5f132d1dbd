"""The benchmarks' text: seeded, and as rich in new words as the corpus it continues."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from benchmarks.text_model import Row, WordModel, write_text

from shallower.corpus.parquet import Writer, read_texts


def corpus(documents: int = 2_000) -> list[str]:
    """Words by Zipf's law, so that half of the corpus has words the other lacks."""
    draw = np.random.default_rng(0)
    ranks = draw.zipf(1.5, (documents, 30)) % 1_000_000
    return [" ".join(f"w{rank}" for rank in row) for row in ranks.tolist()]


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    with Writer(tmp_path / "corpus", Row._fields) as writer:
        for index, text in enumerate(corpus(200)):
            writer.add(Row(str(index), text))
    sizes = [
        write_text(tmp_path / "corpus", 300_000, tmp_path / str(n), seed)
        for n, seed in enumerate([0, 0, 1])
    ]
    assert 300_000 <= min(sizes) <= max(sizes) < 301_000
    one, same, other = (tmp_path.joinpath(str(n)).read_bytes() for n in range(3))
    assert one == same != other
    texts = list(read_texts(tmp_path / "0"))
    assert sum(len(text.encode()) for text in texts) == sizes[0]
    assert not any("  " in text or text != text.strip() for text in texts)


@pytest.mark.parametrize("seed", range(3))
def test_new_words_come_as_in_the_corpus(seed: int) -> None:
    """Half of a corpus is continued; the other half says how new that should be."""
    texts = corpus(4_000)
    random.Random(seed).shuffle(texts)
    seen, held_out = texts[:2_000], texts[2_000:]
    known = {word for text in seen for word in text.split(" ")}
    size = sum(map(len, held_out))
    made = list(WordModel(seen, seed).documents(size))

    def new(texts: list[str]) -> float:
        words = " ".join(texts).split(" ")
        return len(set(words) - known) / len(words)

    assert new(held_out) > 0.01
    assert new(made) == pytest.approx(new(held_out), rel=0.25)
    lengths = [text.count(" ") + 1 for text in made]
    assert set(lengths) == {30}
