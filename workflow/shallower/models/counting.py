"""Parameters and FLOPs, counted on the model's own tensors on the meta device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shallower.models.llama import LlamaConfig, LlamaLM
from shallower.models.transforms import deploy


def on_meta(config: LlamaConfig) -> LlamaLM:
    """A model without storage: every shape, no memory."""
    with torch.device("meta"):
        return LlamaLM(config)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_deployed(model: LlamaLM) -> int:
    """Parameters left after `deploy`."""
    return count_parameters(deploy(model))


def count_read(model: LlamaLM) -> int:
    """Weights that a deployed model reads to generate a token at batch 1.

    All but the input embedding, of which one row is read.
    """
    unread = model.embedding.weight.numel() - model.config.width
    return count_deployed(model) - unread


def predicted_speedup(model: LlamaLM, reduced: LlamaLM) -> float:
    """How much faster `reduced` decodes if reading weights is all that takes time.

    The cache is left out: at the lengths studied it is a hundredth of the weights.
    """
    return count_read(model) / count_read(reduced)


def count_flops_per_token(model: LlamaLM) -> int:
    """FLOPs of one forward pass over a full context, per token.

    Two per multiply-accumulate, matrix products only; attention counts all pairs of
    tokens, masked or not, as is usual.
    """
    context = model.config.context
    tokens = torch.zeros(1, context, dtype=torch.long, device="meta")
    return count_flops(model, tokens) // context


def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """FLOPs of one forward pass, counted as in `count_flops_per_token`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()
