"""Whether folding or collapsing a trained model changed what it computes."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.transforms import deploy

SEQUENCES = 4  # documents that are compared


@torch.inference_mode()
def deploy_errors(
    model: LlamaLM, documents: list[np.ndarray], kind: str
) -> dict[str, float]:
    """Largest difference of a logit, over the whole-sequence and the cached path.

    `<kind>_error_float64` in logits, with the model and its deployed form in fp64;
    `<kind>_error_float32` relative to the largest logit, both in fp32. `kind` is
    fold or collapse.
    """
    context = model.config.context
    chosen = [ids[:context] for ids in documents if len(ids) >= 4][:SEQUENCES]
    device = model.embedding.weight.device
    errors = {f"{kind}_error_float64": 0.0, f"{kind}_error_float32": 0.0}
    for dtype in (torch.float64, torch.float32):
        plain = copy.deepcopy(model).to(dtype)
        deployed = deploy(plain)
        for ids in chosen:
            tokens = torch.from_numpy(ids.astype(np.int64))[None].to(device)
            expected = plain(tokens)
            for logits in (deployed(tokens), cached(deployed, tokens)):
                error = (logits - expected).abs().max().item()
                scale = expected.abs().max().item() if dtype == torch.float32 else 1.0
                name = f"{kind}_error_{str(dtype).removeprefix('torch.')}"
                errors[name] = max(errors[name], error / scale)
    return errors


def cached(model: LlamaLM, tokens: Tensor) -> Tensor:
    """Logits of (batch, tokens) by prefilling half and then token by token."""
    cache = KeyValueCache(model, *tokens.shape)
    half = tokens.shape[1] // 2
    parts = [model(tokens[:, :half], cache)]
    parts += [model(tokens[:, i : i + 1], cache) for i in range(half, tokens.shape[1])]
    return torch.cat(parts, dim=1)
