"""Cross-entropy behind a prompt: what every decoder and every arm is compared by.

A window is a context of tokens and the one behind it, of which the first are the
prompt. What is eliminated from the prompt has no prediction, so that only those from
its last token on are scored, of all models alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shallower.errors import UserError
from shallower.evaluation import perplexity
from shallower.models.elimination import continuation_features
from shallower.models.llama import LlamaLM
from shallower.models.retention import Elimination
from shallower.randomness import derive
from shallower.tokens.shards import TokenStream

Row = tuple[str, str, str, str, float, float]


def continuation_rows(
    model: LlamaLM,
    tokens: Path,
    settings: dict[str, Any],
    elimination: Elimination | None = None,
) -> Iterator[Row]:
    """A row a window: nats a token of the first `windows` of the split `tokens`.

    `settings` also has `prompt_tokens` and `batch_size`. Raises UserError if the split
    has no window of the model's context.
    """
    windows = read_windows(tokens, model.config.context, settings["windows"])
    prompt, at_once = settings["prompt_tokens"], settings["batch_size"]
    losses = continuation_losses(model, windows, prompt, at_once, elimination)
    scored = float(windows.shape[1] - prompt)
    for number, nats in enumerate(losses.tolist()):
        place = ("continuation", "", str(number))
        yield (*place, "cross_entropy", nats, scored)


def read_windows(tokens: Path, context: int, count: int) -> Tensor:
    """Up to `count` windows (windows, context + 1) from a split's beginning.

    They do not overlap, and are as many as the split has. Raises UserError if there is
    not a whole one.
    """
    stream, length = TokenStream.open(tokens), context + 1
    found = min(count, len(stream) // length)
    if found == 0:
        raise UserError(
            f"{tokens}: {len(stream)} tokens are no window of the model's context, "
            f"which takes {length}: expected more text in this split, or a shorter "
            "model.context"
        )
    return torch.from_numpy(stream.read(0, found * length)).view(found, length)


@torch.inference_mode()
def continuation_losses(
    model: LlamaLM,
    windows: Tensor,
    prompt: int,
    batch_size: int,
    elimination: Elimination | None = None,
) -> Tensor:
    """Mean nats of each window's tokens behind its prompt, (windows,) in fp64.

    Of `windows` (windows, T + 1) the last T - prompt + 1 are predicted, the first of
    them by the prompt's last token. Raises UserError for a prompt beyond the window.
    """
    context, device = windows.shape[1] - 1, model.embedding.weight.device
    if not 0 < prompt <= context:
        raise UserError(f"prompt_tokens: {prompt}, expected 1 to {context}, a context")
    found, done = [], 0
    for batch in windows.split(pass_size(device, context, batch_size)):
        inputs, due = batch[:, :-1].to(device), batch[:, prompt:].to(device)
        if elimination is None:
            states = model.features(inputs)[:, prompt - 1 :]
        else:
            # What is drawn by chance is drawn anew for each batch.
            seed = derive(elimination.seed, f"window {done}")
            how = replace(elimination, seed=seed)
            states = continuation_features(model, inputs, prompt, how)
        logits = model.head(states).float()
        nats = F.cross_entropy(logits.flatten(0, 1), due.flatten(), reduction="none")
        found.append(nats.double().view_as(due).mean(1).cpu())
        done += len(batch)
    return torch.cat(found)


def pass_size(device: torch.device, context: int, batch_size: int) -> int:
    """How many windows go through the model at once."""
    if device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, perplexity.AT_ONCE // context))
