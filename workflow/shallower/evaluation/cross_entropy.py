"""Cross-entropy of held-out text: of whole documents, and behind a prompt.

Perplexity is that of documents, whose tokens are each scored exactly once. All decoders
and interventions are compared by continuations: a window is a context of tokens and the
one behind it, of which the first are the prompt. Eliminated tokens of the prompt have
no prediction, so only those from its last token on are scored, of all models alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shallower.errors import UserError
from shallower.evaluation.table import Row
from shallower.interventions.base import Choice
from shallower.interventions.eliminate import Elimination
from shallower.interventions.shared import SharedBlocks
from shallower.models.llama import LlamaLM
from shallower.progress import track
from shallower.randomness import derive
from shallower.tokens.shards import TokenStream

# Tokens of a pass on a CPU: with more, a block's results do not fit its caches.
CPU_TOKENS = 2048


def pass_size(device: torch.device, context: int, batch_size: int) -> int:
    """How many windows go through the model at once."""
    if device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, CPU_TOKENS // context))


# --- documents ------------------------------------------------------------------------


@torch.inference_mode()
def document_losses(
    model: LlamaLM, documents: list[np.ndarray], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood in nats, and number of scored tokens, per document.

    A document (BOS, pieces, EOS) is cut into consecutive windows of the model's
    context; every id but BOS is predicted once, from the ids before it in its
    window. All models with the same context thus score the same windows. Perplexity
    is exp(sum of losses / sum of tokens).
    """
    context, device = model.config.context, model.embedding.weight.device
    windows = [
        (index, document[start : start + context + 1])
        for index, document in enumerate(documents)
        for start in range(0, len(document) - 1, context)
    ]
    # Windows of similar length share a batch, so that little is padded.
    windows.sort(key=lambda window: len(window[1]))
    at_once = pass_size(device, context, batch_size)
    losses = np.zeros(len(documents))
    for first in range(0, len(windows), at_once):
        batch = windows[first : first + at_once]
        totals = window_losses(model, [ids for _, ids in batch])
        np.add.at(losses, [index for index, _ in batch], totals)
    return losses, np.array([len(document) - 1 for document in documents])


def window_losses(model: LlamaLM, windows: list[np.ndarray]) -> np.ndarray:
    """Sum of the negative log-likelihoods of each window's ids but the first."""
    lengths = [len(ids) - 1 for ids in windows]
    inputs = np.zeros((len(windows), max(lengths)), np.int64)
    for row, ids in enumerate(windows):
        inputs[row, : len(ids) - 1] = ids[:-1]
    device = model.embedding.weight.device
    # Padding is at the right, where causal attention hides it; it gets no logits.
    states = model.features(torch.from_numpy(inputs).to(device))
    real = torch.cat([row[:n] for row, n in zip(states, lengths, strict=True)])
    targets = np.concatenate([ids[1:] for ids in windows]).astype(np.int64)
    nats = F.cross_entropy(
        model.head(real).float(), torch.from_numpy(targets).to(device), reduction="none"
    )
    sums = [part.sum() for part in torch.split(nats.double(), lengths)]
    return torch.stack(sums).cpu().numpy()


# --- continuations --------------------------------------------------------------------


def continuation_rows(
    model: LlamaLM,
    windows: Tensor,
    prompt: int,
    batch_size: int,
    elimination: Elimination | None = None,
) -> Iterator[Row]:
    """A row per window (windows, T + 1): nats per token behind its prompt."""
    losses = continuation_losses(model, windows, prompt, batch_size, elimination)
    scored = float(windows.shape[1] - prompt)
    for number, nats in enumerate(losses.tolist()):
        yield Row("continuation", "", str(number), "cross_entropy", nats, scored)


def read_windows(tokens: Path, context: int, count: int) -> Tensor:
    """Up to `count` windows (windows, context + 1) from a split's beginning.

    They do not overlap. Raises UserError if the split does not have a whole one.
    """
    stream, length = TokenStream.open(tokens), context + 1
    windows = min(count, len(stream) // length)
    if windows == 0:
        raise UserError(
            f"{tokens}: {len(stream)} tokens are no window of the model's context, "
            f"which takes {length}: expected more text in this split, or a shorter "
            "model.context"
        )
    return torch.from_numpy(stream.read(0, windows * length)).view(windows, length)


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
    choices = [Choice(elimination=elimination)]
    return losses_of_choices(model, windows, prompt, batch_size, choices)[0]


@torch.inference_mode()
def losses_of_choices(
    model: LlamaLM,
    windows: Tensor,
    prompt: int,
    batch_size: int,
    choices: Sequence[Choice],
) -> Tensor:
    """As `continuation_losses` of a model under each choice, (choices, windows).

    What the choices have in common is computed once (see `interventions.shared`).
    """
    context, device = windows.shape[1] - 1, model.embedding.weight.device
    if not 0 < prompt <= context:
        raise UserError(f"prompt_tokens: {prompt}, expected 1 to {context}, a context")
    losses, done = [], 0
    batches = torch.split(windows, pass_size(device, context, batch_size))
    for batch in track(batches, f"windows under {len(choices)} interventions"):
        inputs, targets = batch[:, :-1].to(device), batch[:, prompt:].to(device)
        shared, of_batch = SharedBlocks(model, inputs), []
        for choice in choices:
            drawn = choice
            if choice.elimination is not None:
                # Random ranking is drawn anew for each batch.
                seed = derive(choice.elimination.seed, f"window {done}")
                elimination = replace(choice.elimination, seed=seed)
                drawn = replace(choice, elimination=elimination)
            logits = model.head(shared.continuation(drawn, prompt)).float()
            nats = F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none"
            )
            of_batch.append(nats.double().view_as(targets).mean(1).cpu())
        losses.append(torch.stack(of_batch))
        done += len(batch)
    return torch.cat(losses, dim=1)
