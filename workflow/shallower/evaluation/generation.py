"""Greedy generation with the key-value cache, many prompts at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.interventions import forward
from shallower.interventions.eliminate import Elimination
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.randomness import derive
from shallower.tokens.tokenizer import TokenizerLike

# Prompts prefilled together. Of 64 with 20 to 60 tokens in one batch, a third was
# padding. Fewer at a time would make the matrix products too small.
PREFILLED = 16

Ends = Callable[[list[int]], bool]  # whether a continuation so far is all of it


def encode_prompt(tokenizer: TokenizerLike, text: str, room: int) -> list[int]:
    """The tokenizer's prefix and the last pieces of `text`, at most `room` ids in all.

    A longer prompt loses its beginning, as in a sliding window. Without a prefix, an
    empty text is BOS alone: a prompt has at least one id.
    """
    pieces, prefix = tokenizer.encode(text), tokenizer.prefix
    left = max(0, room - len(prefix))
    return [*prefix, *pieces[max(0, len(pieces) - left) :]] or [tokenizer.bos]


@torch.inference_mode()
def generate(
    model: LlamaLM,
    prompts: list[list[int]],
    new_tokens: int,
    stop: int | None,
    ends: Ends | None = None,
) -> list[list[int]]:
    """Continue each prompt greedily by at most `new_tokens` ids.

    A continuation ends before the id `stop`; one for which `ends` is true may go on.
    Prompts of different length are padded at the left; no prompt sees the padding, so
    each gets what it would get alone.
    Raises UserError if prompt and continuation exceed the model's context.
    """
    longest = longest_prompt(model, prompts, new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    ordered = [prompts[i] for i in order]
    cache = KeyValueCache(model, len(prompts), longest + new_tokens)
    logits = prefill(model, ordered, cache)
    padding = padding_of(ordered).to(logits.device)
    answers = decode_greedily(model, logits, cache, padding, new_tokens, stop, ends)
    by_prompt = dict(zip(order, answers, strict=True))
    return [by_prompt[i] for i in range(len(prompts))]


def longest_prompt(model: LlamaLM, prompts: list[list[int]], new_tokens: int) -> int:
    """The longest prompt. Raises UserError if it leaves no room for the new tokens."""
    longest = max(map(len, prompts), default=0)
    if longest + new_tokens > model.config.context:
        raise UserError(
            f"a prompt of {longest} tokens and {new_tokens} new ones exceed the "
            f"context of {model.config.context}"
        )
    return longest


def of_one_length(prompts: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts with as many tokens, at most `batch_size` at a time."""
    lengths: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(index)
    for indices in lengths.values():
        for first in range(0, len(indices), batch_size):
            yield indices[first : first + batch_size]


def decode_greedily(
    model: LlamaLM,
    logits: Tensor,
    cache: KeyValueCache,
    padding: Tensor,
    new_tokens: int,
    stop: int | None,
    ends: Ends | None = None,
) -> list[list[int]]:
    """Greedy continuations of the sequences that `cache` holds, in its order.

    `logits` (batch, tokens, vocabulary) are those behind the prompts, `padding`
    (batch,) counts the padded tokens at the left of each. Without `stop`, `ends` is not
    asked.
    """
    # Row r of the batch continues sequence rows[r]; rows that have ended are removed.
    rows = torch.arange(len(logits), device=logits.device)
    padded, ended = bool(padding.any()), torch.zeros_like(rows, dtype=torch.bool)
    answers = torch.full((len(rows), new_tokens), -1 if stop is None else stop)
    answers = answers.to(logits.device)
    for column in range(new_tokens):
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        answers[rows, column] = tokens[:, 0]
        if stop is not None:
            ended |= tokens[:, 0] == stop
            if ends is not None:
                so_far = answers[rows, : column + 1].tolist()
                ended |= torch.tensor(
                    [ends(ids) for ids in so_far], device=ended.device
                )
            running = len(rows) - int(ended.sum())
            if running == 0:
                break
            # At most half are copied, so all copies together are no more than a cache.
            if running <= len(rows) // 2:
                left = (~ended).nonzero()[:, 0]
                cache.select(left)
                tokens, padding, rows = tokens[left], padding[left], rows[left]
                ended = ended[left]
        if column + 1 < new_tokens:
            logits = model(tokens, cache, padding if padded else None, last_only=True)
    ids = answers.tolist()
    return [row[: row.index(stop)] if stop in row else row for row in ids]


def padding_of(prompts: list[list[int]]) -> Tensor:
    """By how many tokens each prompt is shorter than the longest."""
    longest = max(map(len, prompts))
    return torch.tensor([longest - len(prompt) for prompt in prompts])


def prefill(model: LlamaLM, prompts: list[list[int]], cache: KeyValueCache) -> Tensor:
    """Fill the cache with `prompts`, sorted by length; the last tokens' logits.

    All prompts end in the same column of the cache. A few at a time are padded to the
    longest of them alone.
    """
    longest, device = len(prompts[-1]), model.embedding.weight.device
    logits = []
    for first in range(0, len(prompts), PREFILLED):
        group = prompts[first : first + PREFILLED]
        width, padding = len(group[-1]), padding_of(group).to(device)
        # The padded ids are arbitrary, since nothing attends to them.
        tokens = torch.tensor([[0] * (width - len(p)) + p for p in group]).to(device)
        part = copy.copy(cache)  # a view of the group's rows and columns
        part.store = cache.store[:, :, first : first + len(group), :, longest - width :]
        padded = padding if bool(padding.any()) else None
        logits.append(model(tokens, part, padded, last_only=True))
    cache.length = longest
    return torch.cat(logits)


@torch.inference_mode()
def generate_all(
    model: LlamaLM,
    prompts: list[list[int]],
    new_tokens: int,
    stop: int | None,
    batch_size: int,
    elimination: Elimination | None = None,
    ends: Ends | None = None,
) -> list[list[int]]:
    """`generate` in batches, with tokens of the prompts eliminated if asked for.

    Batches are of prompts of similar length. How many tokens are eliminated depends on
    a prompt's length: then those of one length share a batch.
    """
    answers: dict[int, list[int]] = {}
    if elimination is None:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            asked = [prompts[i] for i in chosen]
            batch = generate(model, asked, new_tokens, stop, ends)
            answers.update(zip(chosen, batch, strict=True))
        return [answers[i] for i in range(len(prompts))]
    longest_prompt(model, prompts, new_tokens)
    device = model.embedding.weight.device
    for chosen in of_one_length(prompts, batch_size):
        tokens = torch.tensor([prompts[i] for i in chosen], device=device)
        # Random ranking is drawn anew for each batch.
        seed = derive(elimination.seed, f"prompt {chosen[0]}")
        drawn = replace(elimination, seed=seed)
        logits, cache = forward.prefill(model, tokens, drawn, new_tokens)
        padding = torch.zeros(len(chosen), dtype=torch.long, device=device)
        batch = decode_greedily(model, logits, cache, padding, new_tokens, stop, ends)
        answers.update(zip(chosen, batch, strict=True))
    return [answers[i] for i in range(len(prompts))]
