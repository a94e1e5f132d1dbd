"""Greedy generation with the key-value cache, many prompts at once."""

from __future__ import annotations

import torch

from shallower.errors import UserError
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.tokens.tokenizer import Tokenizer


def encode_prompt(tokenizer: Tokenizer, text: str, room: int) -> list[int]:
    """BOS and the last pieces of `text`, at most `room` ids in all.

    A prompt longer than its room loses its beginning, as a sliding window would.
    """
    pieces = tokenizer.encode(text)
    return [tokenizer.bos, *pieces[max(0, len(pieces) - room + 1) :]]


@torch.inference_mode()
def generate(
    model: LlamaLM, prompts: list[list[int]], new_tokens: int, stop: int | None
) -> list[list[int]]:
    """Continue each prompt greedily by at most `new_tokens` ids.

    A continuation ends before the id `stop`. Prompts of different length are padded
    at the left; no prompt sees the padding, so each gets what it would get alone.
    Raises UserError if prompt and continuation exceed the model's context.
    """
    longest = max(map(len, prompts))
    if longest + new_tokens > model.config.context:
        raise UserError(
            f"a prompt of {longest} tokens and {new_tokens} new ones exceed the "
            f"context of {model.config.context}"
        )
    device = model.embedding.weight.device
    padding = torch.tensor([longest - len(p) for p in prompts], device=device)
    # The padded ids are arbitrary, since nothing attends to them.
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts]).to(device)
    cache = KeyValueCache(model, len(prompts), longest + new_tokens)
    padded = padding if bool(padding.any()) else None
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    columns: list[torch.Tensor] = []
    for _ in range(new_tokens):
        logits = model(tokens, cache, padded, last_only=True)
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        columns.append(tokens[:, 0])
        if stop is not None:
            finished |= columns[-1] == stop
            if bool(finished.all()):
                break
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: row.index(stop)] if stop in row else row for row in rows]


def generate_all(
    model: LlamaLM,
    prompts: list[list[int]],
    new_tokens: int,
    stop: int | None,
    batch_size: int,
) -> list[list[int]]:
    """`generate` in batches of prompts of similar length, results in given order."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: dict[int, list[int]] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = generate(model, [prompts[i] for i in chosen], new_tokens, stop)
        results.update(zip(chosen, batch, strict=True))
    return [results[i] for i in range(len(prompts))]
