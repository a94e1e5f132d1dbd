"""What interventions on one model have in common, computed once.

Blocks below the first one that an intervention changes give what they give without it.
So for many interventions on the same text the model goes through it once, and each
intervention from its first changed block on: leaving out the last k sublayers costs the
blocks above them.
"""

from __future__ import annotations

from torch import Tensor

from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.forward import Begin, continuation_features
from shallower.models.llama import LlamaLM


class SharedBlocks:
    """A model's residual stream in front of every block, for `tokens` (batch, T).

    Takes the memory of depth + 1 states (batch, T, width).
    """

    def __init__(self, model: LlamaLM, tokens: Tensor) -> None:
        self.model, self.tokens = model, tokens
        rotary = model.rotary[:, : tokens.shape[1]]
        self.states = [model.embedding(tokens)]
        for index, block in enumerate(model.blocks):
            self.states.append(block(self.states[-1], rotary, None, None, index))

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
        rotary = model.rotary[:, : self.tokens.shape[1]]
        for index in range(start, model.config.depth):
            x = model.blocks[index](x, rotary, None, None, index)
        return model.norm(x[:, prompt - 1 :])


def first_changed(choice: Choice, prompt: int, depth: int) -> int:
    """The first block that a choice changes; `depth` if it changes none."""
    changed = [depth, *choice.skip.attention, *choice.skip.ffn]
    if choice.elimination is not None:
        counts = choice.elimination.counts(prompt)
        changed += [index for index, count in enumerate(counts) if count < prompt]
    return min(changed)
