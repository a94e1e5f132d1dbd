"""What interventions on one model have in common, computed once.

Blocks below the first one that an intervention changes give what they give without it.
So for many interventions on the same text the model goes through it once, and each
intervention from its first changed block on: leaving out the last k sublayers costs the
blocks above them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.forward import Begin, continuation_features, prefill
from shallower.models.llama import Block, KeyValueCache, LlamaLM


class SharedBlocks:
    """A model's residual stream in front of every block, for `tokens` (batch, T).

    Takes the memory of depth + 1 states (batch, T, width), and with `cached` of the
    keys and values, which `prefill` needs.
    """

    def __init__(self, model: LlamaLM, tokens: Tensor, cached: bool = False) -> None:
        self.model, self.tokens = model, tokens
        batch, length = tokens.shape
        self.cache = KeyValueCache(model, batch, length) if cached else None
        self.rotary = model.rotary[:, :length]
        self.states = [model.embedding(tokens)]
        for index, block in enumerate(model.blocks):
            x = block(self.states[-1], self.rotary, None, self.cache, index)
            self.states.append(x)

    @torch.no_grad()
    def prefill(
        self, choice: Choice, new_tokens: int
    ) -> tuple[LlamaLM, Tensor, KeyValueCache]:
        """The model under a choice, its logits behind `tokens`, and its cache.

        The logits are (batch, 1, vocabulary); the cache has room for `new_tokens`.
        """
        model, elimination = apply(self.model, choice), choice.elimination
        batch, length = self.tokens.shape
        depth = model.config.depth
        start = first_changed(choice, length, depth)
        cache: KeyValueCache
        if elimination is not None:
            begin = Begin(start, self.states[start])
            logits, cache = prefill(model, self.tokens, elimination, new_tokens, begin)
        else:
            cache = KeyValueCache(model, batch, length + new_tokens)
            x = self.states[start]
            for index in range(start, depth):
                block = model.blocks[index]
                assert isinstance(block, Block)
                # The last block for the last token alone.
                last = index == depth - 1
                forward: Callable[..., Tensor] = block.last_token if last else block
                x = forward(x, self.rotary, None, cache, index)
            logits = model.head(model.norm(x[:, -1:]))
        assert self.cache is not None
        cache.length = 0
        for index in range(start):
            if index in model.config.attending:
                cache.append(index, *self.cache.held(index, length))
        cache.length = length
        return model, logits, cache

    def continuation(self, choice: Choice, prompt: int) -> Tensor:
        """The output head's input from the prompt's last token on, under a choice.

        (batch, T - prompt + 1, width), to the bit that of the whole forward pass.
        """
        model, elimination = apply(self.model, choice), choice.elimination
        start = first_changed(choice, prompt, model.config.depth)
        x = self.states[start]
        if elimination is not None:
            begin = Begin(start, x)
            return continuation_features(model, self.tokens, prompt, elimination, begin)
        for index in range(start, model.config.depth):
            x = model.blocks[index](x, self.rotary, None, None, index)
        features: Tensor = model.norm(x[:, prompt - 1 :])
        return features


def first_changed(choice: Choice, prompt: int, depth: int) -> int:
    """The first block that a choice changes; `depth` if it changes none."""
    changed = [depth, *choice.skip.attention, *choice.skip.ffn]
    if choice.elimination is not None:
        counts = choice.elimination.counts(prompt)
        changed += [index for index, count in enumerate(counts) if count < prompt]
    return min(changed)
