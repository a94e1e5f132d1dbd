"""Greedy generation: batches, where answers end, and prompts with eliminated tokens."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import sentences
from models_for_tests import build
from shallower.errors import UserError
from shallower.evaluation import generation
from shallower.evaluation.generation import (
    PREFILLED,
    encode_prompt,
    generate,
    generate_all,
)
from shallower.interventions.eliminate import Elimination
from shallower.interventions.forward import prefill
from shallower.models.llama import LlamaLM
from shallower.tokens.tokenizer import Tokenizer

PROMPTS = [[1, 7, 9], [1, 5], [1, 200, 31, 8, 16, 250, 3], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_batched_generation_equals_one_at_a_time(head: str) -> None:
    """And equals the model asked again for every token, without any cache."""
    model = build(head)
    together = generate(model, PROMPTS, 12, stop=None)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        assert generate(model, [prompt], 12, stop=None) == [answer]
        tokens = torch.tensor([prompt])
        for chosen in answer:
            with torch.no_grad():
                assert model(tokens)[0, -1].argmax().item() == chosen
            tokens = torch.cat((tokens, torch.tensor([[chosen]])), 1)
    assert len({tuple(answer) for answer in together}) > 1


def test_generation_ends_before_the_stop_token() -> None:
    model = build()
    free = generate(model, PROMPTS, 12, stop=None)
    stop = free[0][4]
    for before, after in zip(free, generate(model, PROMPTS, 12, stop), strict=True):
        assert after == (before[: before.index(stop)] if stop in before else before)


def test_batches_do_not_change_order_or_answers() -> None:
    model = build()
    whole = generate(model, PROMPTS, 6, stop=None)
    assert generate_all(model, PROMPTS, 6, None, batch_size=3) == whole


def many_prompts(count: int) -> list[list[int]]:
    """Between 2 and 12 tokens, so that prefills of `PREFILLED` differ in length."""
    draw = random.Random(0)
    lengths = [draw.randint(1, 11) for _ in range(count)]
    return [[1, *(draw.randrange(3, 300) for _ in range(n))] for n in lengths]


def batches_seen(model: LlamaLM, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Shapes of the tokens that the model is called with from now on."""
    seen: list[tuple] = []
    forward = model.forward

    def noting(tokens: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(tuple(tokens.shape))
        return forward(tokens, *rest, **more)

    monkeypatch.setattr(model, "forward", noting)
    return seen


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_rows_that_have_ended_leave_the_batch(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = build(head), many_prompts(40)
    free = [generate(model, [prompt], 16, stop=None)[0] for prompt in prompts]
    # Ends most of the answers, at different places.
    stop = Counter(token for answer in free for token in set(answer)).most_common()[0][
        0
    ]
    due = [a[: a.index(stop)] if stop in a else a for a in free]
    assert len({len(answer) for answer in due}) > 3
    seen = batches_seen(model, monkeypatch)
    assert generate(model, prompts, 16, stop) == due
    held = [rows for rows, tokens in seen if tokens == 1]
    assert held == sorted(held, reverse=True)
    # Never more than twice as many as are still running.
    for step, rows in enumerate(held, start=1):
        running = sum(len(answer) >= step for answer in due)
        assert running <= rows
        assert running > rows // 2


def test_prompts_are_padded_to_the_length_of_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prompts = build(), many_prompts(2 * PREFILLED + 3)
    seen = batches_seen(model, monkeypatch)
    generate(model, prompts, 1, stop=None)
    lengths = sorted(map(len, prompts))
    groups = [lengths[i : i + PREFILLED] for i in range(0, len(lengths), PREFILLED)]
    assert seen == [(len(group), group[-1]) for group in groups]


def test_prompts_must_fit_the_context() -> None:
    with pytest.raises(UserError, match="exceed the context of 32"):
        generate(build(), [[1] * 20], 13, stop=None)


def test_long_prompts_keep_their_end(corpus: Path) -> None:
    pieces = Tokenizer(corpus / "tokenizer.model")
    text = sentences(1)[0]
    ids = encode_prompt(pieces, text, 6)
    assert ids == [pieces.bos, *pieces.encode(text)[-5:]]
    assert encode_prompt(pieces, "", 6) == [pieces.bos]
    assert encode_prompt(pieces, text, 1) == [pieces.bos]


@pytest.mark.parametrize("prefix", [[], [7], [7, 8]])
def test_prompts_begin_as_the_tokenizer_has_it(corpus: Path, prefix: list[int]) -> None:
    """A checkpoint's may have no BOS before a text, or something else."""
    pieces = Tokenizer(corpus / "tokenizer.model")
    pieces.prefix, text = prefix, sentences(1)[0]
    ids = pieces.encode(text)
    assert encode_prompt(pieces, text, 100) == [*prefix, *ids]
    assert encode_prompt(pieces, text, 6) == [*prefix, *ids[len(prefix) - 6 :]]
    assert encode_prompt(pieces, "", 6) == (prefix or [pieces.bos])


# --- with eliminated tokens -----------------------------------------------------------

ELIMINATION = Elimination((0.8, 0.3), window=5)
LENGTHS = [3, 7, 3, 12, 7, 3, 1, 12, 7, 7]


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    rows = torch.randint(3, 300, (len(LENGTHS), 12), generator=draw).tolist()
    return [row[:n] for row, n in zip(rows, LENGTHS, strict=True)]


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_nothing_eliminated_is_plain_generation(head: str) -> None:
    model, nothing = build(head), replace(ELIMINATION, alpha=0.0)
    stop = generate(model, prompts(), 16, None)[0][2]
    for end in (None, stop):
        expected = generate(model, prompts(), 16, end)
        for batch_size in (3, 50):
            answers = generate_all(model, prompts(), 16, end, batch_size, nothing)
            assert answers == expected
        others = generate_all(model, prompts(), 16, end, 50, ELIMINATION)
        assert others != expected
        assert others[6] == expected[6]  # of a single token nothing can be eliminated


@pytest.mark.parametrize("ranking", ["mean_visible", "last_w", "recent"])
def test_batches_of_one_length_equal_one_by_one(ranking: Any) -> None:
    """Each as prefilled and decoded alone."""
    model, elimination = build("proposed"), replace(ELIMINATION, ranking=ranking)
    stop = generate_all(model, prompts(), 16, None, 50, elimination)[0][3]
    answers = generate_all(model, prompts(), 16, stop, 3, elimination)
    assert len({len(answer) for answer in answers}) > 1
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert answer == alone(model, prompt, elimination, stop)


@torch.no_grad()
def alone(
    model: LlamaLM, prompt: list[int], elimination: Elimination, stop: int
) -> list[int]:
    logits, cache = prefill(model, torch.tensor([prompt]), elimination, 16)
    answer: list[int] = []
    while len(answer) < 16:
        token = int(logits[0, -1].argmax())
        if token == stop:
            break
        answer.append(token)
        logits = model(torch.tensor([[token]]), cache)
    return answer


def test_prompts_share_batches_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    seeds: set[int] = set()

    def noting(model: LlamaLM, tokens: Tensor, how: Elimination, new: int) -> Any:
        shapes.append(tuple(tokens.shape))
        seeds.add(how.seed)
        return prefill(model, tokens, how, new)

    monkeypatch.setattr(generation.forward, "prefill", noting)
    generate_all(build(), prompts(), 2, None, 3, ELIMINATION)
    assert sorted(shapes) == [(1, 1), (1, 7), (2, 12), (3, 3), (3, 7)]
    assert len(seeds) == 5  # random ranking differs in each


def test_eliminated_prompts_must_fit_the_context_too() -> None:
    with pytest.raises(UserError, match="exceed the context of 32"):
        generate_all(build(), [[1] * 20], 13, None, 1, ELIMINATION)


@pytest.mark.parametrize("elimination", [None, ELIMINATION])
def test_generation_may_end_where_the_caller_says(
    elimination: Elimination | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to there it is the same, and nothing is computed behind the last end."""
    model, steps = build(), []
    free = generate_all(model, PROMPTS, 12, 299, 9, elimination)
    real = LlamaLM.features

    def counted(self: LlamaLM, tokens: Tensor, *rest: Any) -> Tensor:
        steps.append(tokens.shape[1])
        return real(self, tokens, *rest)

    monkeypatch.setattr(LlamaLM, "features", counted)
    ended = generate_all(
        *(model, PROMPTS, 12, 299, 9, elimination), lambda ids: len(ids) == 4
    )
    assert [ids[:4] for ids in ended] == [ids[:4] for ids in free]
    assert any(len(ids) > 4 for ids in free)
    assert steps.count(1) == 3 * (1 if elimination is None else len(PROMPTS))
