"""What a head variant does to the heads' outputs between attention and W_O.

In the paper's notation (section 3.1), head i of n yields o_i of shape (T, d/n), and
the proposed block replaces it by SiLU(o_i A_i + b_i) before concatenation and W_O.
Every layer's shapes, start values and cost are in its class (see `layers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shallower.models.config import HeadVariant, LinearStart
from shallower.models.initial import Fill
from shallower.models.layers import Layer, load

# Measured at d = 128 in the first block under the default start: the root mean square
# of o A over that of b. At small widths the bias drowns the layer's input.
MATCHED_BIAS = 0.015 / 0.144


def silu_even(x: Tensor) -> Tensor:
    """x tanh(x/2) / 2, the even part of SiLU: SiLU(x) = x/2 + this."""
    return 0.5 * x * torch.tanh(0.5 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "silu_even": silu_even,
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "half": lambda x: 0.5 * x,
    "absolute": torch.abs,
    "square": torch.square,
}  # "identity" is absent: nothing is called


class PerHeadLinear(Layer):
    """o_i -> o_i A_i + b_i for each head i: the paper's d^2/n + d parameters.

    No head sees another (section 3.2), and no parameter is shared across heads, unless
    `shared`: then one A and b serve all heads.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        bias: bool = True,
        shared: bool = False,
        start: LinearStart = "default",
    ) -> None:
        super().__init__()
        copies = 1 if shared else heads
        self.weight = nn.Parameter(torch.empty(copies, head_dim, head_dim))  # in x out
        self.bias = nn.Parameter(torch.empty(copies, head_dim)) if bias else None
        self.heads, self.start_kind = heads, start
        self.parallel = None if shared else "heads"

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return self.heads * self.weight[0].numel()

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> Tensor:
        """(batch, heads, tokens, head_dim) to the same shape: one batched product."""
        weight = self.weight.expand(outputs.shape[1], -1, -1)
        mixed = torch.einsum("bhti,hij->bhtj", outputs, weight)
        return mixed if self.bias is None else mixed + self.bias[:, None, :]

    def start(self, fill: Fill) -> None:
        """As `start_linear`; fan-in is head_dim."""
        start_linear(self, fill, self.start_kind)


class FullLinear(nn.Linear, Layer):
    """A d x d matrix and bias over the concatenated heads: every head sees all others.

    An upper bound on what the per-head layer could gain by mixing heads.
    """

    def __init__(self, inner: int, start: LinearStart = "default") -> None:
        super().__init__(inner, inner)
        self.start_kind = start

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return self.weight.numel()

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> Tensor:
        """(batch, heads, tokens, head_dim) to the same shape."""
        return split(super().forward(concatenate(outputs)), outputs.shape[1])

    def start(self, fill: Fill) -> None:
        """As `start_linear`; fan-in is the heads' width."""
        start_linear(self, fill, self.start_kind)


class HeadNorm(nn.RMSNorm, Layer):
    """RMSNorm of each head's output, whose gain starts at 0.05 (ours).

    An alternative reason for what the proposed layer does: a scale for each feature.
    """

    parallel = None  # all heads share the gain

    def forward(self, outputs: Tensor, x: Tensor | None = None, /) -> Tensor:
        """(batch, heads, tokens, head_dim) to the same shape."""
        return super().forward(outputs)

    def start(self, fill: Fill) -> None:
        """About the size that heads' outputs have at the start without it."""
        fill.constant(self.weight, 0.05)


class Gate(nn.Linear, Layer):
    """A sigmoid gate on the outputs, computed from the block's input or from them.

    `size` is one number a head, or one a feature. From gated attention (Qiu et al.,
    arXiv 2505.06708), the published neighbour of the proposed layer.
    """

    def __init__(self, source: int, size: int, gates_itself: bool) -> None:
        super().__init__(source, size, bias=False)
        self.gates_itself = gates_itself

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return self.weight.numel()

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> Tensor:
        """(batch, heads, tokens, head_dim) and (batch, tokens, width) to the former."""
        source = concatenate(outputs) if self.gates_itself else x
        assert source is not None
        gate = super().forward(source).sigmoid()
        return outputs * split(gate, outputs.shape[1])

    def start(self, fill: Fill) -> None:
        """N(0, std), as the block's other matrices."""
        fill.normal(self.weight, fill.std)


class Heads(nn.Module):
    """All that a variant does to the heads' outputs; `width` is the block's input's."""

    def __init__(
        self, variant: HeadVariant, heads: int, head_dim: int, width: int
    ) -> None:
        super().__init__()
        inner, start = heads * head_dim, variant.linear_start
        self.linear = (
            PerHeadLinear(
                *(heads, head_dim),
                bias=variant.linear != "no_bias",
                shared=variant.linear == "shared",
                start=start,
            )
            if variant.linear in ("per_head", "no_bias", "shared")
            else None
        )
        self.full = FullLinear(inner, start) if variant.linear == "full" else None
        self.norm = HeadNorm(head_dim, eps=1e-5) if variant.norm else None
        self.activation = ACTIVATIONS.get(variant.activation)
        make = (
            cast(Callable[..., Layer], load(variant.layer)) if variant.layer else None
        )
        self.layer = make(heads, head_dim, width) if make else None
        size = {"none": 0, "head": heads, "element": inner, "self": inner}[variant.gate]
        itself = variant.gate == "self"
        source = inner if itself else width
        self.gate = Gate(source, size, itself) if size else None

    @property
    def layers(self) -> dict[str, Layer]:
        """Those with parameters, by attribute, in the order of application."""
        names = ("norm", "linear", "full", "layer", "gate")
        layers = {name: getattr(self, name) for name in names}
        return {name: layer for name, layer in layers.items() if layer is not None}

    def forward(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Norm, linear, activation, own layer, gate; each may be absent.

        `outputs` (batch, heads, tokens, head_dim) to the same shape; `x` (batch,
        tokens, width) is the attention's input, for gates.
        """
        if self.norm is not None:
            outputs = self.norm(outputs)
        if self.linear is not None:
            outputs = self.linear(outputs)
        if self.full is not None:
            outputs = self.full(outputs)
        if self.activation is not None:
            outputs = self.activation(outputs)
        if self.layer is not None:
            outputs = self.layer(outputs, x)
        if self.gate is not None:
            outputs = self.gate(outputs, x)
        return outputs


def concatenate(outputs: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) to (batch, tokens, width)."""
    return outputs.transpose(1, 2).flatten(2)


def split(features: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads x size) to (batch, heads, tokens, size)."""
    return torch.unflatten(features, 2, (heads, -1)).transpose(1, 2)


def start_linear(
    layer: PerHeadLinear | FullLinear, fill: Fill, start: LinearStart
) -> None:
    """Start values of the linear layer on the heads; the original states none.

    default: nn.Linear's, uniform within 1 / sqrt(fan-in). At small widths the bias then
    drowns the layer's input, hence the others: identity (A = I, b = 0), zero_bias, and
    matched_bias (b as large as o A is at the start).
    """
    bound = 1 / math.sqrt(layer.weight.shape[1])

    def uniform(parameter: Tensor) -> None:
        # One stream for both layers, of which a model has one.
        stream = fill.name(parameter).replace(".mix.full.", ".mix.linear.")
        fill.uniform(parameter, bound, stream)

    uniform(layer.weight)
    if start == "identity":
        layer.weight.copy_(torch.eye(layer.weight.shape[-1]))
    if layer.bias is None:
        return
    uniform(layer.bias)
    if start in ("identity", "zero_bias"):
        layer.bias.zero_()
    elif start == "matched_bias":
        layer.bias.mul_(MATCHED_BIAS)


def fold_values(qkv: Tensor, matrix: Tensor, heads: int) -> Tensor:
    """The fused projection (3 inner, d) with its values multiplied by A.

    `matrix` is (heads or 1, head_dim in, head_dim out). In fp64, cast once.
    """
    inner = qkv.shape[0] // 3
    queries_keys, values = torch.split(qkv, [2 * inner, inner])
    per_head = torch.unflatten(values.double(), 0, (heads, -1))
    product = matrix.double().transpose(1, 2) @ per_head
    return torch.cat((queries_keys, product.flatten(0, 1).to(qkv)))
