"""The same model with its products written as loops, for compiled decoding on a CPU.

With one token at batch 1 every product of a model is one row times a matrix. A library
built for matrices reads the weights below the machine's bandwidth there (a third of it
in bfloat16, here), and is called once a product. Written as multiply and sum, the
products become loops of the one kernel that `torch.compile` makes of a block.
Not compiled, this form is slow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shallower.models.heads import PerHeadLinear
from shallower.models.llama import Attention, LlamaLM
from shallower.models.transforms import adopt


def one_row(model: LlamaLM) -> LlamaLM:
    """The model for inputs (1, 1) on a CPU; shares every tensor with `model`."""
    with torch.device("meta"):
        looped = LlamaLM(model.config)
    adopt(looped, model.state_dict(), model)
    forms = {nn.Linear: _Linear, PerHeadLinear: _PerHeadLinear, Attention: _Attention}
    for module in looped.modules():
        # Another class for the same attributes: nothing is initialised again.
        module.__class__ = forms.get(type(module), type(module))
    return looped


def _exact(x: Tensor) -> Tensor:
    """At least fp32, in which sums are taken whatever the weights are stored in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kept(x: Tensor) -> Tensor:
    """`x` as a buffer: else what yields it is computed anew for each row of weights."""
    if not torch.compiler.is_compiling():
        return x
    return torch.ops.prims.inductor_force_stride_order.default(x, x.stride())


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        row = _kept(_exact(x))
        y = (row * _exact(self.weight)).sum(-1)
        if self.bias is not None:
            y = y + self.bias
        return y.view(1, 1, -1).to(x.dtype)


class _PerHeadLinear(PerHeadLinear):
    def forward(self, outputs: Tensor) -> Tensor:
        columns = _kept(_exact(outputs)).transpose(2, 3)  # (1, heads, head_dim, 1)
        mixed = (columns * _exact(self.weight)).sum(2, keepdim=True)
        if self.bias is not None:
            mixed = mixed + self.bias[:, None, :]
        return mixed.to(outputs.dtype)


class _Attention(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention of one query, (1, heads, 1, head_dim)."""
        assert mask is not None
        query = _kept(_exact(q) * self.head_dim**-0.5)
        scores = (query * _exact(k)).sum(-1)  # (1, heads, capacity)
        shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return (shares[..., None] * _exact(v)).sum(2, keepdim=True).to(q.dtype)
