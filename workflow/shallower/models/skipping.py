"""Leaving attention, FFNs or whole blocks out of a model that is there (Tyukin, 2024).

Inference-time and without training (arXiv 2404.05741, 2407.15516); `selection.py` has
the rules that name blocks. What is left out is not there: no weights, no norm, no keys
and values. So a skipped model is an ordinary one, which can be folded, collapsed,
compiled and trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from shallower.models.llama import Block, LlamaLM
from shallower.models.transforms import adopt
from shallower.models.variants import Skip


def skip(
    model: LlamaLM,
    attention: Iterable[int] = (),
    ffn: Iterable[int] = (),
    block: Iterable[int] = (),
) -> LlamaLM:
    """`model` without attention or FFN, with their norms, in some of its blocks.

    Blocks are counted from 0; `block` leaves both out. Shares every tensor with
    `model` and adds to what that skips already. Raises ValueError for a block that
    the model has not.
    """
    depth, held, whole = model.config.depth, model.config.skip, set(block)
    parts = {
        "attention": whole.union(attention, held.attention),
        "ffn": whole.union(ffn, held.ffn),
    }
    for kind, blocks in parts.items():
        if not blocks <= set(range(depth)):
            missing = sorted(blocks - set(range(depth)))
            raise ValueError(f"skip {kind} of blocks {missing}: the model has {depth}")
    what = Skip(**{kind: tuple(sorted(blocks)) for kind, blocks in parts.items()})
    with torch.device("meta"):
        reduced = LlamaLM(replace(model.config, skip=what))
    state = model.state_dict()
    return adopt(reduced, {name: state[name] for name in reduced.state_dict()}, model)


@dataclass(frozen=True)
class Importance:
    """1 - cosine of what goes into a part of each block and what comes out, 0 to 2."""

    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    block: tuple[float, ...]


@torch.inference_mode()
def importance(model: LlamaLM, windows: Tensor, batch_size: int = 8) -> Importance:
    """How far each attention, FFN and block turns the residual stream.

    Mean over tokens of 1 - cos(x, x + part(norm x)), as in He et al. (arXiv
    2406.15786), on calibration `windows` (windows, tokens) of token ids. A part that is
    absent has 0.
    """
    totals = torch.zeros(3, model.config.depth, dtype=torch.float64)
    for tokens in windows.split(batch_size):
        x, rotary = model.embedding(tokens), model.rotary[:, : tokens.shape[1]]
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            middle = block.after_attention(x, rotary, None, None, index)
            end = block.after_ffn(middle)
            for kind, (a, b) in enumerate(((x, middle), (middle, end), (x, end))):
                # In fp64: what a part hardly turns is 1 minus almost 1.
                turned = 1 - F.cosine_similarity(a.double(), b.double(), dim=-1)
                totals[kind, index] += turned.sum().cpu()
            x = end
    rows = (totals / windows.numel()).tolist()
    return Importance(*(tuple(row) for row in rows))
