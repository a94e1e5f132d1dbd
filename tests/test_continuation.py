"""What follows a prompt: cross-entropy, and text, with and without elimination."""

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

from conftest import build, sentences
from shallower.errors import UserError
from shallower.evaluation import continuation, generation, perplexity
from shallower.evaluation.continuation import (
    continuation_losses,
    continuation_rows,
    read_windows,
)
from shallower.evaluation.generation import generate, generate_eliminating
from shallower.models.elimination import continuation_loss, prefill
from shallower.models.llama import LlamaLM
from shallower.models.retention import Elimination
from shallower.tokens.shards import TokenStream, write_manifest, write_shard
from shallower.tokens.tokenizer import Tokenizer

CONTEXT, PROMPT = 32, 24
SETTINGS = {"windows": 5, "prompt_tokens": PROMPT, "batch_size": 2}
HOW = Elimination((0.8, 0.3), window=5)
KEEPS = ["sum", "mean_visible", "last_w", "random", "recent"]


def ids(windows: int, length: int = CONTEXT + 1, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, 300, (windows, length), generator=draw)


@pytest.fixture
def split(corpus: Path) -> Path:
    return corpus / "train"


def noted(function: Callable[..., Tensor], seen: list[Any], number: int) -> Any:
    """`function`, noting its argument of this number."""

    def noting(*given: Any) -> Tensor:
        seen.append(given[number])
        return function(*given)

    return noting


# --- cross-entropy --------------------------------------------------------------------


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_rows_are_a_plain_forward_pass(head: str, split: Path) -> None:
    model, stream = build(head, context=CONTEXT), TokenStream.open(split)
    rows = list(continuation_rows(model, split, SETTINGS))
    assert len(rows) == 5
    for number, row in enumerate(rows):
        window = torch.from_numpy(stream.read(number * 33, 33))[None]
        with torch.no_grad():
            logits = model(window[:, :-1])[:, PROMPT - 1 :].float()
        due = F.cross_entropy(logits[0], window[0, PROMPT:]).item()
        place = ("continuation", "", str(number), "cross_entropy")
        assert row[:4] == place
        assert row[4] == pytest.approx(due, rel=1e-6)
        assert row[5] == 32 - 24 + 1


@pytest.mark.parametrize("keep", KEEPS)
def test_elimination_is_that_of_training_and_of_decoding(keep: Any) -> None:
    """Of single windows, since chance is drawn by batch."""
    model, windows, how = build("proposed"), ids(4), replace(HOW, keep=keep)
    plain = continuation_losses(model, windows, PROMPT, 1)
    losses = continuation_losses(model, windows, PROMPT, 1, how)
    assert (losses - plain).abs().max() > 1e-3
    for number, window in enumerate(windows.split(1)):
        seed = continuation.derive(how.seed, f"window {number}")
        drawn = replace(how, seed=seed)
        inputs, targets = window[:, :-1], window[:, 1:]
        due = continuation_loss(model, inputs, targets, PROMPT, drawn).item()
        assert losses[number].item() == pytest.approx(due, rel=1e-6)
        logits, cache = prefill(model, inputs[:, :PROMPT], drawn, CONTEXT - PROMPT)
        parts = [logits]
        with torch.no_grad():
            for place in range(PROMPT, CONTEXT):
                parts.append(model(inputs[:, place : place + 1], cache))
        decoded = F.cross_entropy(torch.cat(parts, 1)[0], window[0, PROMPT:]).item()
        assert losses[number].item() == pytest.approx(decoded, rel=1e-6)


def test_batches_do_not_change_losses() -> None:
    model, windows = build(), ids(7)
    for how in (None, HOW):
        alone = continuation_losses(model, windows, PROMPT, 1, how)
        together = continuation_losses(model, windows, PROMPT, 3, how)
        assert torch.allclose(alone, together, rtol=1e-6)


def test_chance_is_another_in_every_batch() -> None:
    """And another for another seed, and the same again."""
    model, windows = build(), ids(1).expand(4, -1)
    how = replace(HOW, keep="random")
    losses = continuation_losses(model, windows, PROMPT, 1, how)
    assert len(set(losses.tolist())) == 4
    again = continuation_losses(model, windows, PROMPT, 1, how)
    assert torch.equal(losses, again)
    other = continuation_losses(model, windows, PROMPT, 1, replace(how, seed=1))
    assert not set(losses.tolist()) & set(other.tolist())


def test_passes_are_small_and_only_what_is_scored_gets_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, windows = build(), ids(7)
    monkeypatch.setattr(perplexity, "AT_ONCE", 2 * CONTEXT + 5)
    embedded: list[Tensor] = []
    states: list[Tensor] = []
    for part, seen in ((model.embedding, embedded), (model.head, states)):
        monkeypatch.setattr(part, "forward", noted(part.forward, seen, 0))
    for how in (None, HOW):
        embedded.clear(), states.clear()
        continuation_losses(model, windows, PROMPT, 50, how)
        assert [tuple(t.shape) for t in embedded] == [(2, 32)] * 3 + [(1, 32)]
        assert [s.shape[:2].numel() for s in states] == [18, 18, 18, 9]


def test_prompts_of_any_length_within_the_window() -> None:
    model, windows = build(), ids(2)
    for prompt in (1, CONTEXT):
        with torch.no_grad():
            logits = model(windows[:, :-1])
        nats = -logits.log_softmax(-1).gather(2, windows[:, 1:, None])[..., 0]
        due = nats[:, prompt - 1 :].mean(1)
        found = continuation_losses(model, windows, prompt, 2)
        assert torch.allclose(found, due, rtol=1e-6)
    for prompt in (0, CONTEXT + 1):
        with pytest.raises(UserError, match=f"prompt_tokens: {prompt}, expected 1 to"):
            continuation_losses(model, windows, prompt, 2)


def test_windows_are_those_that_the_split_has(tmp_path: Path, corpus: Path) -> None:
    texts = tmp_path / "text.parquet"
    pd.DataFrame({"text": sentences(10)}).to_parquet(texts)
    shard = tmp_path / "test" / "shard-0.bin"
    write_shard(texts, Tokenizer(corpus / "tokenizer.model"), 0, 1, shard)
    manifest = tmp_path / "test" / "manifest.json"
    write_manifest([shard], corpus / "tokenizer.model", manifest)
    stream = TokenStream.open(tmp_path / "test")
    whole = len(stream) // 33
    windows = read_windows(tmp_path / "test", 32, 1000)
    assert windows.shape == (whole, 33)
    assert np.array_equal(windows.flatten(), stream.read(0, whole * 33))
    assert read_windows(tmp_path / "test", len(stream) - 1, 9).shape[0] == 1
    message = f"test: {len(stream)} tokens are no window .* {len(stream) + 1}: expected"
    with pytest.raises(UserError, match=message):
        read_windows(tmp_path / "test", len(stream), 9)


# --- text -----------------------------------------------------------------------------

LENGTHS = [3, 7, 3, 12, 7, 3, 1, 12, 7, 7]


def prompts() -> list[list[int]]:
    rows = ids(len(LENGTHS), 12, seed=3).tolist()
    return [row[:n] for row, n in zip(rows, LENGTHS, strict=True)]


@pytest.mark.parametrize("head", ["baseline", "proposed"])
@pytest.mark.parametrize("stop", [None, "common"])
def test_nothing_eliminated_is_plain_generation(head: str, stop: Any) -> None:
    model, how = build(head), replace(HOW, alpha=0.0)
    free = generate(model, prompts(), 16, None)
    stop = stop and free[0][2]
    due = generate(model, prompts(), 16, stop)
    assert generate_eliminating(model, prompts(), 16, stop, 3, how) == due
    assert generate_eliminating(model, prompts(), 16, stop, 50, how) == due
    # What is eliminated matters to some.
    other = generate_eliminating(model, prompts(), 16, stop, 50, HOW)
    assert other != due
    assert other[6] == due[6]  # of a single token nothing can be eliminated


@pytest.mark.parametrize("keep", ["mean_visible", "last_w", "recent"])
def test_batches_of_one_length_equal_one_by_one(keep: Any) -> None:
    """Each as prefilled and decoded alone, with as many tokens as it can keep."""
    model, how = build("proposed"), replace(HOW, keep=keep)
    stop = generate_eliminating(model, prompts(), 16, None, 50, how)[0][3]
    found = generate_eliminating(model, prompts(), 16, stop, 3, how)
    assert len({len(answer) for answer in found}) > 1
    for prompt, answer in zip(prompts(), found, strict=True):
        assert answer == alone(model, prompt, how, stop)


@torch.no_grad()
def alone(model: LlamaLM, prompt: list[int], how: Elimination, stop: int) -> list[int]:
    logits, cache = prefill(model, torch.tensor([prompt]), how, 16)
    answer: list[int] = []
    while len(answer) < 16:
        token = int(logits[0, -1].argmax())
        if token == stop:
            break
        answer.append(token)
        logits = model(torch.tensor([[token]]), cache)
    return answer


def test_prompts_share_batches_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    seeds: list[Elimination] = []
    plain = generation.eliminating.prefill

    def noting(model: LlamaLM, tokens: Tensor, how: Elimination, new: int) -> Any:
        seen.append(tokens)
        seeds.append(how)
        return plain(model, tokens, how, new)

    monkeypatch.setattr(generation.eliminating, "prefill", noting)
    generate_eliminating(build(), prompts(), 2, None, 3, HOW)
    shapes = sorted(tuple(tokens.shape) for tokens in seen)
    assert shapes == [(1, 1), (1, 7), (2, 12), (3, 3), (3, 7)]
    assert len({how.seed for how in seeds}) == 5  # chance is another in each


def test_prompts_must_fit_the_context() -> None:
    with pytest.raises(UserError, match="exceed the context of 32"):
        generate_eliminating(build(), [[1] * 20], 13, None, 1, HOW)
