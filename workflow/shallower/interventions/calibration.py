"""What choices are made by: measured on a trained model and windows of text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shallower.interventions.eliminate import Score
from shallower.interventions.forward import after_attention, scores
from shallower.models.llama import Block, LlamaLM


@dataclass(frozen=True)
class Importance:
    """1 - cosine of input and output of a part, 0 to 2, by block."""

    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    block: tuple[float, ...]


@torch.inference_mode()
def importance(model: LlamaLM, windows: Tensor, batch_size: int = 8) -> Importance:
    """How far each attention, FFN and block turns the residual stream.

    Mean over tokens of 1 - cos(x, x + part(norm x)), as in He et al. (arXiv
    2406.15786), on calibration `windows` (windows, tokens) of token ids. An absent part
    has 0.
    """
    totals = torch.zeros(3, model.config.depth, dtype=torch.float64)
    for tokens in torch.split(windows, batch_size):
        x, rotary = model.embedding(tokens), model.rotary[:, : tokens.shape[1]]
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            middle = block.after_attention(x, rotary, None, None, index)
            end = block.after_ffn(middle)
            for part, (a, b) in enumerate(((x, middle), (middle, end), (x, end))):
                # In fp64: for a part that hardly turns x this is 1 minus almost 1.
                turned = 1 - F.cosine_similarity(a.double(), b.double(), dim=-1)
                totals[part, index] += turned.sum().cpu()
            x = end
    rows = (totals / windows.numel()).tolist()
    return Importance(*(tuple(row) for row in rows))


def contribution(
    model: LlamaLM,
    windows: Tensor,
    tau: float = 0.9,
    score: Score = "last_w",
    window: int = 32,
    batch_size: int = 8,
) -> list[float]:
    """ACC_l of each block, mean over calibration `windows` (windows, tokens)."""
    rows = contributions(model, windows, tau, score, window, batch_size)
    return [sum(block) / len(block) for block in zip(*rows, strict=True)]


@torch.inference_mode()
def contributions(
    model: LlamaLM,
    windows: Tensor,
    tau: float = 0.9,
    score: Score = "last_w",
    window: int = 32,
    batch_size: int = 8,
) -> list[list[float]]:
    """ACC_l of each block, for each window: the share of tokens that carries `tau`.

    The fewest tokens whose scores add up to `tau` of all attention, over the number of
    tokens. Nothing is eliminated here. A block without attention has the value of the
    block before it, or 1.
    """
    found: list[list[float]] = []
    for tokens in torch.split(windows, batch_size):
        x, rotary = model.embedding(tokens), model.rotary[:, : tokens.shape[1]]
        needed = torch.full((len(tokens),), tokens.shape[1])
        blocks = []
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x, q, k = after_attention(block, x, rotary, None, index)
            if q is not None and k is not None:
                needed = carriers(scores(q, k, score, window), tau)
            blocks.append(needed.double().cpu() / tokens.shape[1])
            x = block.after_ffn(x)
        found += torch.stack(blocks, dim=1).tolist()
    return found


def carriers(scored: Tensor, tau: float) -> Tensor:
    """How many of the largest scores (batch, tokens) make `tau` of their sum."""
    shares = scored.double() / scored.double().sum(1, keepdim=True)
    sums = shares.sort(dim=1, descending=True).values.cumsum(1)
    # A sum that reaches tau but for rounding has reached it.
    short = (sums < tau - 1e-9).sum(1)
    return (short + 1).clamp(max=scored.shape[1])
