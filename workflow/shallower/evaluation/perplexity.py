"""Cross-entropy of held-out documents, each token scored exactly once."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from shallower.models.llama import LlamaLM

IGNORED = -100  # target of padding


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
    losses = np.zeros(len(documents))
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        longest = len(batch[-1][1]) - 1
        inputs = np.zeros((len(batch), longest), np.int64)
        targets = np.full((len(batch), longest), IGNORED, np.int64)
        for row, (_, ids) in enumerate(batch):
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = ids[1:]
        logits = model(torch.from_numpy(inputs).to(device))
        # Padding stands at the right, where causal attention hides it.
        nats = F.cross_entropy(
            logits.transpose(1, 2).float(),
            torch.from_numpy(targets).to(device),
            reduction="none",
            ignore_index=IGNORED,
        )
        totals = nats.double().sum(dim=1).cpu().numpy()
        np.add.at(losses, [index for index, _ in batch], totals)
    return losses, np.array([len(document) - 1 for document in documents])
