"""Causal attention for training on a CPU: blocks of queries, and what backward needs.

torch's fused attention is made for long sequences: its CPU kernel forms the weights
again in the backward pass and multiplies in small tiles. At a study's lengths the
weights fit in memory, so here they are saved, and all products are batched ones over
blocks of queries, each of which meets only the keys up to its own end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64  # queries; 32 to 128 differ by less than 10 % at 256 and 512 tokens
LEAST = 256  # tokens from which blocks are faster in fp32; in bfloat16 they always are


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of each token to itself and those before it.

    All (batch, heads, tokens, head_dim); scores are scaled by 1 / sqrt(head_dim).
    """
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # As autocast does for torch's own.
        dtype = torch.get_autocast_dtype("cpu")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if _in_blocks(q):
        with torch.autocast("cpu", enabled=False):
            outputs: Tensor = _InBlocks.apply(q, k, v)  # type: ignore[no-untyped-call]
            return outputs
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)


def _in_blocks(q: Tensor) -> bool:
    """Whether gradients are due, and blocks are the faster way to them."""
    plain = q.device.type == "cpu" and type(q) is Tensor
    fits = q.shape[2] >= LEAST or q.dtype == torch.bfloat16
    return plain and fits and torch.is_grad_enabled() and q.requires_grad


def _blocks(tokens: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(0, tokens, BLOCK), tokens]))


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, scale = q.shape, q.shape[-1] ** -0.5
        q, k, v = (x.flatten(0, 1).contiguous() for x in (q, k, v))
        # Scores are sums that a softmax is sensitive to: at least fp32.
        exact = torch.promote_types(q.dtype, torch.float32)
        hidden = torch.full((BLOCK, BLOCK), -torch.inf, dtype=exact).triu(1)
        outputs, saved = [], []
        for start, end in _blocks(shape[2]):
            keys = (k[:, :end].to(exact) * scale).transpose(1, 2)
            scores = torch.bmm(q[:, start:end].to(exact), keys)
            scores[:, :, start:] += hidden[: end - start, : end - start]
            shares = scores.softmax(-1).to(q.dtype)
            outputs.append(torch.bmm(shares, v[:, :end]))
            saved.append(shares)
        output = torch.cat(outputs, dim=1)
        ctx.save_for_backward(q, k, v, output, *saved)
        return output.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, output, *saved = ctx.saved_tensors
        shape, scale = gradients[0].shape, q.shape[-1] ** -0.5
        g = gradients[0].flatten(0, 1).contiguous()
        dq, dk, dv = [], torch.zeros_like(k), torch.zeros_like(v)
        # A row's mean gradient by its shares, which softmax takes off.
        mean = (g * output).sum(-1, keepdim=True)
        for (start, end), shares in zip(_blocks(q.shape[1]), saved, strict=True):
            part = g[:, start:end]
            dv[:, :end].baddbmm_(shares.transpose(1, 2), part)
            ds = torch.bmm(part, v[:, :end].transpose(1, 2))
            ds = ds.sub_(mean[:, start:end]).mul_(shares).mul_(scale)
            dq.append(torch.bmm(ds, k[:, :end]))
            dk[:, :end].baddbmm_(ds.transpose(1, 2), q[:, start:end])
        dq_, dk, dv = (x.view(shape) for x in (torch.cat(dq, dim=1), dk, dv))
        return dq_, dk, dv
