"""Attention in blocks against torch's own, in value, gradient and error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import build
from shallower.models import attention
from shallower.models.attention import causal_attention


def inputs(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys, values (2, 3, tokens, 8), and a gradient for the output."""
    draw = torch.Generator().manual_seed(tokens)
    shape = (2, tokens, 3, 8)  # as a projection leaves them: not contiguous
    made = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(4)]
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in made]


def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def results(function, tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    *qkv, g = tensors
    output = function(*qkv)
    return [output, *torch.autograd.grad(output, qkv, g.detach())]


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200, 256])
def test_blocks_equal_torchs_own(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LEAST", 1)
    tensors = inputs(tokens)
    found = results(causal_attention, tensors)
    assert "InBlocks" in type(found[0].grad_fn).__name__
    for ours, theirs in zip(found, results(own, tensors), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_about_as_exact_as_torchs_own(dtype: torch.dtype) -> None:
    tensors = inputs(300, dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    due = results(own, exact)
    for name, ours, theirs, right in zip(
        ("output", "q", "k", "v"),
        results(causal_attention, tensors),
        results(own, tensors),
        due,
        strict=True,
    ):
        error, usual = (((x.double() - right).norm()).item() for x in (ours, theirs))
        assert error < 2.5 * usual, name


def test_who_computes_in_blocks() -> None:
    """Who needs gradients, of long sequences in fp32 or any in bfloat16."""
    q, k, v, _ = inputs(64)
    assert "InBlocks" not in type(causal_attention(q, k, v).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        result = causal_attention(q, k, v)
    assert "InBlocks" in type(result.grad_fn).__name__
    assert result.dtype == torch.bfloat16
    with torch.no_grad():
        assert causal_attention(*inputs(256)[:3]).grad_fn is None


def test_a_model_has_the_gradients_of_the_ordinary_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = torch.randint(300, (2, 32), generator=torch.Generator().manual_seed(0))
    grads = []
    for least in (1, 10**9):
        monkeypatch.setattr(attention, "LEAST", least)
        model = build("proposed")
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in grads[0].items():
        assert (gradient - grads[1][name]).abs().max() < 1e-12, name
