"""A checkpoint on disk: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from shallower.errors import UserError
from shallower.models.config import LlamaConfig
from shallower.models.llama import LlamaLM
from shallower.pretrained.gguf_file import GGUFHeader
from shallower.pretrained.sizes import from_config_json, from_gguf
from shallower.pretrained.weights import GGUF, Safetensors, Weights, load

Precision = Literal["float32", "bfloat16"]
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
FACTORS = "rope_freqs.weight"  # Llama 3's divisors, as llama.cpp stores them


def sizes(path: str | Path, context: int | None = None) -> LlamaConfig:
    """The sizes of a checkpoint, from its header; of its context at most `context`.

    Raises UserError for an architecture outside the Llama family, and for files that
    are no checkpoint.
    """
    path = Path(path)
    found = _sizes(path)
    if context is not None and context < found.context:
        found = replace(found, context=context)
    return found


def _sizes(path: Path) -> LlamaConfig:
    if path.is_dir():
        file = path / "config.json"
        if not file.is_file():
            raise UserError(f"{path}: expected config.json in a checkpoint's folder")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: not JSON ({error})") from None
        return from_config_json(values, str(file))
    _refuse_pickle(path)
    header = GGUFHeader.read(path)
    if EMBEDDING not in header.tensors:
        raise UserError(f"{path}: the tensor {EMBEDDING} is missing")
    factors = ()
    if FACTORS in header.tensors:
        factors = tuple(header.tensor(FACTORS).tolist())
    rows = header.tensors[EMBEDDING].shape[0]
    tied = HEAD not in header.tensors
    return from_gguf(header.metadata, rows, tied, factors, str(path))


def _refuse_pickle(path: Path) -> None:
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise UserError(f"{path}: a pickle, which is not read; expected safetensors")


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
