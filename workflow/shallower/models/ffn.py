"""Feed-forward layers: the families' own, and the linear chains that replace them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from shallower.models.variants import FFNVariant


class SwiGLU(nn.Module):
    """down(SiLU(gate x) * up x): Llama's own (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class ReluFFN(nn.Module):
    """down(ReLU(up x)): T5's own (Raffel et al., arXiv 1910.10683)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        return self.down(F.relu(self.up(x)))


class LinearChain(nn.Module):
    """One to three matrices in a row, and an activation or none behind them.

    Without the activation the chain is one d x d matrix, over-parameterized for
    training (Lee, section 4.3): `transforms.collapse` multiplies it out.
    """

    def __init__(self, width: int, variant: FFNVariant) -> None:
        super().__init__()
        hidden = variant.hidden(width)
        sizes = [width, *[hidden] * (variant.matrices - 1), width]
        self.matrices = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)
        )
        self.relu = variant.activation == "relu"

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


def initialise_chain(
    chain: LinearChain, residual: float, fill: Callable[[Tensor, str, float], None]
) -> None:
    """Each factor keeps the variance: N(0, 1 / fan-in), the last one x `residual`.

    So chains of any length begin as the same kind of function. `fill` is called with
    a parameter, its name within the chain and a standard deviation.
    """
    last = len(chain.factors) - 1
    for index, matrix in enumerate(chain.factors):
        std = 1 / math.sqrt(matrix.weight.shape[1])
        std *= residual if index == last else 1
        fill(matrix.weight, f"matrices.{index}.weight", std)
