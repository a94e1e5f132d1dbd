"""Modules for the head variants of `variants.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shallower.models.variants import HeadVariant

Function = Callable[[Tensor], Tensor]


def silu_even(x: Tensor) -> Tensor:
    """x tanh(x/2) / 2, the even part of SiLU: SiLU(x) = x/2 + this."""
    return 0.5 * x * torch.tanh(0.5 * x)


ACTIVATIONS: dict[str, Function] = {
    "silu": F.silu,
    "silu_even": silu_even,
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "half": lambda x: 0.5 * x,
    "absolute": torch.abs,
    "square": torch.square,
}  # "identity" is absent: nothing is called


class PerHeadLinear(nn.Module):
    """o_i -> o_i A_i + b_i for each head i: the paper's d^2/n + d parameters.

    Maps (batch, heads, tokens, head_dim) to the same shape. No head sees another
    (section 3.2), and no parameter is shared across heads unless `copies` is 1.
    """

    def __init__(self, copies: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(copies, head_dim, head_dim))  # in x out
        self.bias = nn.Parameter(torch.empty(copies, head_dim)) if bias else None

    def forward(self, outputs: Tensor) -> Tensor:
        """One batched matrix product over the heads."""
        weight = self.weight.expand(outputs.shape[1], -1, -1)
        mixed = torch.einsum("bhti,hij->bhtj", outputs, weight)
        return mixed if self.bias is None else mixed + self.bias[:, None, :]


class Heads(nn.Module):
    """What a variant does to the heads' outputs (batch, heads, tokens, head_dim).

    `width` is that of the attention's input.
    """

    def __init__(
        self, variant: HeadVariant, heads: int, head_dim: int, width: int
    ) -> None:
        super().__init__()
        copies = 1 if variant.linear == "shared" else heads
        inner = heads * head_dim
        self.linear = (
            PerHeadLinear(copies, head_dim, bias=variant.linear != "no_bias")
            if variant.linear in ("per_head", "no_bias", "shared")
            else None
        )
        self.full = nn.Linear(inner, inner) if variant.linear == "full" else None
        self.norm = nn.RMSNorm(head_dim, eps=1e-5) if variant.norm else None
        self.activation = ACTIVATIONS.get(variant.activation)
        gates = {"none": 0, "head": heads, "element": inner, "self": inner}
        size = gates[variant.gate]
        self.gates_itself = variant.gate == "self"
        source = inner if self.gates_itself else width
        self.gate = nn.Linear(source, size, bias=False) if size else None

    def forward(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Norm, linear, activation, gate; each may be absent.

        `x` (batch, tokens, width) is the attention's input, which gates look at.
        """
        if self.norm is not None:
            outputs = self.norm(outputs)
        if self.linear is not None:
            outputs = self.linear(outputs)
        if self.full is not None:
            outputs = split(self.full(concatenate(outputs)), outputs.shape[1])
        if self.activation is not None:
            outputs = self.activation(outputs)
        if self.gate is not None:
            source = concatenate(outputs) if self.gates_itself else x
            outputs = outputs * split(self.gate(source).sigmoid(), outputs.shape[1])
        return outputs


def concatenate(outputs: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) to (batch, tokens, width)."""
    return outputs.transpose(1, 2).flatten(2)


def split(features: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads x size) to (batch, heads, tokens, size)."""
    return features.unflatten(2, (heads, -1)).transpose(1, 2)


def initialise_heads(
    mix: Heads, variant: HeadVariant, fill: Callable[[Tensor, str, float], None]
) -> None:
    """Start values of the linear layer on the heads; the original states none.

    default: nn.Linear's, uniform within 1/sqrt(fan-in), with `fill(parameter, name,
    bound)`. At small widths the bias then drowns the layer's input, hence the other
    starts: identity (A = I, b = 0), zero_bias, and matched_bias (b scaled to be as
    large as o A is at the start).
    """
    layer = mix.linear if mix.linear is not None else mix.full
    if layer is not None:
        bound = 1 / math.sqrt(layer.weight.shape[1])
        fill(layer.weight, "weight", bound)
        if layer.bias is not None:
            fill(layer.bias, "bias", bound)
        with torch.no_grad():
            if variant.linear_start == "identity":
                layer.weight.copy_(torch.eye(layer.weight.shape[-1]))
            if layer.bias is not None:
                _scale_bias(layer.bias, variant.linear_start)
    if mix.norm is not None:
        nn.init.constant_(mix.norm.weight, 0.05)


def _scale_bias(bias: Tensor, start: str) -> None:
    if start in ("identity", "zero_bias"):
        bias.zero_()
    elif start == "matched_bias":
        # Measured at d = 128 in the first block: RMS(o A) = .015 against RMS(b) = .144
        # under the default start.
        bias.mul_(0.015 / 0.144)
