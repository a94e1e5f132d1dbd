"""A checkpoint's model, from a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from shallower.models.llama import LlamaLM
from shallower.pretrained.gguf_file import GGUFHeader
from shallower.pretrained.sizes import sizes
from shallower.pretrained.weights import GGUF, Safetensors, Weights, load

Precision = Literal["float32", "bfloat16"]


def open_model(
    path: str | Path,
    context: int | None = None,
    precision: Precision | torch.dtype = "float32",
) -> LlamaLM:
    """The checkpoint's model on the CPU, in evaluation mode.

    Takes at most a tensor's memory more than the weights. Raises UserError as `sizes`,
    and for missing, altered or unreadable tensors.
    """
    path, config = Path(path), sizes(path, context)
    dtype = getattr(torch, precision) if isinstance(precision, str) else precision
    weights: Weights
    if path.is_dir():
        weights = Safetensors(path)
    else:
        weights = GGUF(GGUFHeader.read(path), config)
    return load(config, weights, path, dtype)
