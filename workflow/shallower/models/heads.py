"""Modules for the head variants of `variants.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shallower.models.variants import HeadVariant

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu}


class PerHeadLinear(nn.Module):
    """o_i -> o_i A_i + b_i for each head i: the paper's d^2/n + d parameters.

    Maps (batch, heads, tokens, head_dim) to the same shape. No parameter is shared
    across heads, and no head sees another (section 3.2).
    """

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, head_dim, head_dim))  # in x out
        self.bias = nn.Parameter(torch.empty(heads, head_dim))

    def initialise(self, fill: Callable[[Tensor, str, float], None]) -> None:
        """nn.Linear's default, uniform within +-1/sqrt(head_dim): ours to choose."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        fill(self.weight, "weight", bound)
        fill(self.bias, "bias", bound)

    def forward(self, outputs: Tensor) -> Tensor:
        """One batched matrix product over the heads."""
        mixed = torch.einsum("bhti,hij->bhtj", outputs, self.weight)
        return mixed + self.bias[:, None, :]


class Heads(nn.Module):
    """What a variant does to the heads' outputs (batch, heads, tokens, head_dim)."""

    def __init__(self, variant: HeadVariant, heads: int, head_dim: int) -> None:
        super().__init__()
        self.linear = (
            PerHeadLinear(heads, head_dim) if variant.linear == "per_head" else None
        )
        self.activation = ACTIVATIONS.get(variant.activation)

    def forward(self, outputs: Tensor) -> Tensor:
        """Linear, then activation; either may be absent."""
        if self.linear is not None:
            outputs = self.linear(outputs)
        return outputs if self.activation is None else self.activation(outputs)
