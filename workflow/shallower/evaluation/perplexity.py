"""Cross-entropy of held-out documents, each token scored exactly once."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from shallower.models.llama import LlamaLM

# Tokens a pass on a CPU: what a block makes of more of them leaves the caches.
AT_ONCE = 2048


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
    if device.type == "cpu":
        batch_size = max(1, min(batch_size, AT_ONCE // context))
    losses = np.zeros(len(documents))
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
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
    # Padding stands at the right, where causal attention hides it; it gets no logits.
    states = model.features(torch.from_numpy(inputs).to(device))
    real = torch.cat([row[:n] for row, n in zip(states, lengths, strict=True)])
    due = np.concatenate([ids[1:] for ids in windows]).astype(np.int64)
    nats = F.cross_entropy(
        model.head(real).float(), torch.from_numpy(due).to(device), reduction="none"
    )
    sums = [part.sum() for part in nats.double().split(lengths)]
    return torch.stack(sums).cpu().numpy()
