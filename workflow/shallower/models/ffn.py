"""Feed-forward layers: both families' default, and the linear chains of the thesis.

Every layer's shapes, start values and cost are in its class (see `layers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from shallower.models.config import FFNVariant
from shallower.models.initial import Fill
from shallower.models.layers import Layer, load


class SwiGLU(Layer):
    """down(SiLU(gate x) * up x): Llama's default (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return self.gate_up.weight.numel() + self.down.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y

    def start(self, fill: Fill) -> None:
        """N(0, std), scaled down where it writes to the residual stream."""
        fill.normal(self.gate_up.weight, fill.std)
        fill.normal(self.down.weight, fill.std * fill.residual)


class ReluFFN(Layer):
    """down(ReLU(up x)): T5's default (Raffel et al., arXiv 1910.10683)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return self.up.weight.numel() + self.down.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        y: Tensor = self.down(F.relu(self.up(x)))
        return y

    def start(self, fill: Fill) -> None:
        """N(0, 1 / fan-in), as in Mesh TensorFlow and Hugging Face."""
        for matrix in (self.up, self.down):
            fill.normal(matrix.weight, matrix.in_features**-0.5)


class LinearChain(Layer):
    """One to three matrices in a row, and ReLU or nothing behind a single one.

    Without ReLU the chain is one d x d matrix, over-parameterized for training (Lee,
    section 4.3): `transforms.collapse` multiplies it out.
    """

    def __init__(self, width: int, variant: FFNVariant) -> None:
        super().__init__()
        hidden = variant.hidden(width)
        sizes = [width, *[hidden] * (variant.matrices - 1), width]
        self.matrices = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)
        )
        self.relu = variant.activation == "relu"

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return sum(matrix.weight.numel() for matrix in self.factors)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        for matrix in self.factors:
            x = matrix(x)
        return F.relu(x) if self.relu else x

    @property
    def factors(self) -> list[nn.Linear]:
        """The matrices in the order in which they are applied."""
        return cast(list[nn.Linear], list(self.matrices))

    def product(self) -> Tensor:
        """The one matrix (width, width) that the chain amounts to, in fp64."""
        first, *others = (matrix.weight.detach().double() for matrix in self.factors)
        for factor in others:
            first = factor @ first
        return first

    def start(self, fill: Fill) -> None:
        """Each factor keeps the variance: N(0, 1 / fan-in), the last one x residual.

        So chains of any length begin as the same kind of function.
        """
        for matrix in self.factors:
            std = 1 / math.sqrt(matrix.in_features)
            std *= fill.residual if matrix is self.factors[-1] else 1
            fill.normal(matrix.weight, std)


def feed_forward(
    variant: FFNVariant, default: type[Layer], width: int, hidden: int
) -> Layer | None:
    """A block's feed-forward layer, `default` being the family's; None: it has none."""
    if variant.layer:
        make = cast(Callable[..., Layer], load(variant.layer))
    elif variant.kind == "none":
        return None
    elif variant.kind == "linear":
        return LinearChain(width, variant)
    else:
        make = default
    return make(width, hidden)
