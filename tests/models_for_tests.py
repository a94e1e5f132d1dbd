"""Small decoders, for the tests of models and interventions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shallower.models.config import FFNVariant, LlamaConfig
from shallower.models.initial import initialise
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.registry import HEADS

ORIGINAL: dict[str, Any] = {  # the original's sizes; 5 to 8 blocks
    "vocabulary": 32_000,
    "width": 1024,
    "heads": 8,
    "ffn_hidden": 2752,
    "context": 512,
}


def tiny(
    head: str = "baseline", ffn: FFNVariant | None = None, **changes: Any
) -> LlamaConfig:
    sizes = {
        "vocabulary": 300,
        "width": 32,
        "depth": 2,
        "heads": 4,
        "ffn_hidden": 64,
        "context": 32,
    }
    return LlamaConfig(**(sizes | changes), head=HEADS[head], ffn=ffn or FFNVariant())


def build(
    head: str = "baseline",
    seed: int = 0,
    ffn: FFNVariant | None = None,
    **changes: Any,
) -> LlamaLM:
    """A model in fp64 whose weights are large enough for every part to matter."""
    model = initialise(LlamaLM(tiny(head, ffn, **changes)), seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "matrices" not in name:
                parameter.mul_(4)
    return model.eval()


def token_ids(batch: int = 3, length: int = 24, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(300, (batch, length), generator=draw)


@torch.no_grad()
def cached(model: LlamaLM, tokens: Tensor) -> Tensor:
    """Logits of all positions: a prefill, a chunk behind it, then single tokens."""
    batch, length = tokens.shape
    cache = KeyValueCache(model, batch, length)
    parts = [model(tokens[:, :10], cache), model(tokens[:, 10:14], cache)]
    parts += [model(tokens[:, i : i + 1], cache) for i in range(14, length)]
    return torch.cat(parts, 1)
