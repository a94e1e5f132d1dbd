"""Cross-entropy of documents and behind prompts, with and without elimination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import sentences
from models_for_tests import build
from shallower.errors import UserError
from shallower.evaluation import cross_entropy
from shallower.evaluation.cross_entropy import (
    continuation_losses,
    continuation_rows,
    document_losses,
    read_windows,
)
from shallower.interventions.eliminate import Elimination
from shallower.interventions.forward import prefill
from shallower.randomness import derive
from shallower.tokens.shards import TokenStream, write_manifest, write_shard
from shallower.tokens.tokenizer import Tokenizer

CONTEXT, PROMPT = 32, 24
ELIMINATION = Elimination((0.8, 0.3), window=5)


def ids(windows: int, length: int = CONTEXT + 1, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, 300, (windows, length), generator=draw)


# --- documents ------------------------------------------------------------------------


def test_document_losses_score_every_token_once() -> None:
    """Against a plain loop over tokens, with documents shorter and longer than T."""
    model = build("proposed", context=16)
    draw = np.random.default_rng(0)
    documents = [draw.integers(3, 300, n) for n in (5, 2, 17, 16, 60, 33)]
    losses, counts = document_losses(model, documents, batch_size=3)
    assert counts.tolist() == [len(document) - 1 for document in documents]
    for document, loss in zip(documents, losses, strict=True):
        expected = 0.0
        for position in range(1, len(document)):
            start = (position - 1) // 16 * 16
            seen = torch.from_numpy(document[start:position])[None]
            with torch.no_grad():
                logits = model(seen)[0, -1]
            expected -= torch.log_softmax(logits, -1)[document[position]].item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_losses_do_not_depend_on_what_shares_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, draw = build("proposed", context=16), np.random.default_rng(1)
    documents = [draw.integers(3, 300, n) for n in (9, 40, 2, 16, 17, 5)]
    alone = [document_losses(model, [d], batch_size=1)[0][0] for d in documents]
    states: list[Tensor] = []
    monkeypatch.setattr(model.head, "forward", noting(model.head.forward, states))
    for tokens, batch_size in ((16, 9), (32, 9), (2048, 4), (2048, 9)):
        monkeypatch.setattr(cross_entropy, "CPU_TOKENS", tokens)
        states.clear()
        losses, counts = document_losses(model, documents, batch_size)
        assert losses == pytest.approx(alone, rel=1e-12)
        rows = [state.numel() // state.shape[-1] for state in states]
        assert sum(rows) == counts.sum()  # padding gets no logits
        assert max(rows) <= tokens


def noting(function: Callable[[Tensor], Tensor], seen: list[Tensor]) -> Any:
    """`function`, noting its argument."""

    def noted(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return function(tensor)

    return noted


# --- continuations --------------------------------------------------------------------


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_rows_are_a_plain_forward_pass(head: str, corpus: Path) -> None:
    split = corpus / "train"
    model, stream = build(head, context=CONTEXT), TokenStream.open(split)
    windows = read_windows(split, CONTEXT, 5)
    rows = list(continuation_rows(model, windows, PROMPT, 2))
    assert len(rows) == 5
    for number, row in enumerate(rows):
        window = torch.from_numpy(stream.read(number * 33, 33))[None]
        with torch.no_grad():
            logits = model(window[:, :-1])[:, PROMPT - 1 :].float()
        expected = F.cross_entropy(logits[0], window[0, PROMPT:]).item()
        assert row[:4] == ("continuation", "", str(number), "cross_entropy")
        assert row.value == pytest.approx(expected, rel=1e-6)
        assert row.weight == 32 - 24 + 1


@pytest.mark.parametrize(
    "ranking", ["sum", "mean_visible", "last_w", "random", "recent"]
)
def test_losses_with_elimination_are_those_of_decoding(ranking: Any) -> None:
    """Of single windows, since random ranking is drawn by batch."""
    model, windows = build("proposed"), ids(4)
    elimination = replace(ELIMINATION, ranking=ranking)
    plain = continuation_losses(model, windows, PROMPT, 1)
    losses = continuation_losses(model, windows, PROMPT, 1, elimination)
    assert (losses - plain).abs().max() > 1e-3
    for number, window in enumerate(windows.split(1)):
        seed = derive(elimination.seed, f"window {number}")
        drawn = replace(elimination, seed=seed)
        prompt, answer = window[:, :PROMPT], window[:, PROMPT:-1]
        logits, cache = prefill(model, prompt, drawn, CONTEXT - PROMPT)
        parts = [logits]
        with torch.no_grad():
            parts += [model(token, cache) for token in answer.split(1, dim=1)]
        decoded = F.cross_entropy(torch.cat(parts, 1)[0], window[0, PROMPT:]).item()
        assert losses[number].item() == pytest.approx(decoded, rel=1e-6)


def test_batches_do_not_change_losses() -> None:
    model, windows = build(), ids(7)
    for elimination in (None, ELIMINATION):
        alone = continuation_losses(model, windows, PROMPT, 1, elimination)
        together = continuation_losses(model, windows, PROMPT, 3, elimination)
        assert torch.allclose(alone, together, rtol=1e-6)


def test_random_ranking_differs_in_every_batch_and_for_every_seed() -> None:
    model, windows = build(), ids(1).expand(4, -1)
    elimination = replace(ELIMINATION, ranking="random")
    losses = continuation_losses(model, windows, PROMPT, 1, elimination)
    assert len(set(losses.tolist())) == 4
    again = continuation_losses(model, windows, PROMPT, 1, elimination)
    assert torch.equal(losses, again)
    other = replace(elimination, seed=1)
    others = continuation_losses(model, windows, PROMPT, 1, other)
    assert not set(losses.tolist()) & set(others.tolist())


def test_passes_are_small_and_only_scored_tokens_get_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, windows = build(), ids(7)
    monkeypatch.setattr(cross_entropy, "CPU_TOKENS", 2 * CONTEXT + 5)
    embedded: list[Tensor] = []
    states: list[Tensor] = []
    for part, seen in ((model.embedding, embedded), (model.head, states)):
        monkeypatch.setattr(part, "forward", noting(part.forward, seen))
    for elimination in (None, ELIMINATION):
        embedded.clear(), states.clear()
        continuation_losses(model, windows, PROMPT, 50, elimination)
        assert [tuple(t.shape) for t in embedded] == [(2, 32)] * 3 + [(1, 32)]
        assert [s.shape[:2].numel() for s in states] == [18, 18, 18, 9]


def test_prompts_of_any_length_within_the_window() -> None:
    model, windows = build(), ids(2)
    for prompt in (1, CONTEXT):
        with torch.no_grad():
            logits = model(windows[:, :-1])
        nats = -logits.log_softmax(-1).gather(2, windows[:, 1:, None])[..., 0]
        expected = nats[:, prompt - 1 :].mean(1)
        losses = continuation_losses(model, windows, prompt, 2)
        assert torch.allclose(losses, expected, rtol=1e-6)
    for prompt in (0, CONTEXT + 1):
        with pytest.raises(UserError, match=f"prompt_tokens: {prompt}, expected 1 to"):
            continuation_losses(model, windows, prompt, 2)


def test_windows_are_as_many_as_the_split_has(tmp_path: Path, corpus: Path) -> None:
    texts = tmp_path / "text.parquet"
    pd.DataFrame({"text": sentences(10)}).to_parquet(texts)
    shard = tmp_path / "test" / "shard-0.bin"
    write_shard(texts, Tokenizer(corpus / "tokenizer.model"), 0, 1, shard)
    manifest = tmp_path / "test" / "manifest.json"
    write_manifest([shard], corpus / "tokenizer.model", manifest)
    stream = TokenStream.open(tmp_path / "test")
    count = len(stream) // 33
    windows = read_windows(tmp_path / "test", 32, 1000)
    assert windows.shape == (count, 33)
    assert np.array_equal(windows.flatten(), stream.read(0, count * 33))
    assert read_windows(tmp_path / "test", len(stream) - 1, 9).shape[0] == 1
    message = f"test: {len(stream)} tokens are no window .* {len(stream) + 1}: expected"
    with pytest.raises(UserError, match=message):
        read_windows(tmp_path / "test", len(stream), 9)
