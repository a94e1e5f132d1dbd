"""A learned scale for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shallower.models.initial import Fill
from shallower.models.layers import Layer


class HeadScale(Layer):
    """o_i -> s_i o_i, with one number for each head.

    From NormFormer (Shleifer et al., arXiv 2110.09456): lets a model weigh
    its heads, for n parameters a block. It starts as the identity.
    """

    parallel = "heads"

    def __init__(self, heads: int, head_dim: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(heads))

    def forward(self, outputs: Tensor, x: Tensor | None = None) -> Tensor:
        """(batch, heads, tokens, head_dim) to the same shape."""
        return outputs * self.scale[:, None, None]

    def start(self, fill: Fill) -> None:
        """All ones."""
        fill.constant(self.scale, 1.0)
