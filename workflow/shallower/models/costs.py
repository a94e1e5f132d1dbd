"""What a model costs: parameters, weights read, FLOPs and cache bytes.

FLOPs are counted by torch on the model's own operations, on the meta device: two per
multiply-accumulate, matrix products only. Attention counts all pairs of tokens, masked
or not, as is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shallower.interventions.eliminate import BlockCosts
from shallower.models.config import (
    FFNVariant,
    LlamaConfig,
    ModelConfig,
    SkippedParts,
    T5Config,
)
from shallower.models.families import on_meta
from shallower.models.llama import Block, LlamaLM
from shallower.models.transforms import deploy

FP32 = 4  # bytes per number, in which caches are compared
BACKWARD = 2  # the backward pass takes two products for each of the forward pass


# --- parameters -----------------------------------------------------------------------


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_read(model: LlamaLM) -> int:
    """Weights that the deployed model reads to generate a token at batch 1.

    All but the input embedding, of which one row is read, unless it is the output
    head as well.
    """
    unread = model.embedding.weight.numel() - model.config.width
    if model.config.tied:
        unread = 0
    return count_parameters(deploy(model)) - unread


# --- FLOPs ----------------------------------------------------------------------------


@cache  # a study has many runs of one model
def forward_flops(config: ModelConfig, targets: int | None = None) -> int:
    """FLOPs of a forward pass over a full context, per token of the inputs.

    An encoder-decoder's rows of labels have `targets` tokens (None: the context), whose
    FLOPs are included.
    """
    if isinstance(config, LlamaConfig):
        # Blocks of a kind are counted once: a study has many models made of them.
        everything = SkippedParts(attention=(0,), ffn=(0,))
        head = _pass_flops(replace(config, depth=1, skip=everything, ffn=FFNVariant()))
        blocks = [_pass_flops(alone(config, i)) - head for i in range(config.depth)]
        return (head + sum(blocks)) // config.context
    return _pass_flops(config, targets) // config.context


@cache
def _pass_flops(config: ModelConfig, targets: int | None = None) -> int:
    lengths = [config.context]
    if isinstance(config, T5Config):
        lengths.append(targets or config.context)
    rows = [torch.zeros(1, n, dtype=torch.long, device="meta") for n in lengths]
    return count_flops(on_meta(config), *rows)


def alone(config: LlamaConfig, index: int) -> LlamaConfig:
    """The decoder that has one block, like block `index` of this one."""
    ffn = replace(config.ffn.in_block(index, config.depth), where="all")
    skip = SkippedParts(
        attention=(0,) if index in config.skip.attention else (),
        ffn=(0,) if index in config.skip.ffn else (),
    )
    return replace(config, depth=1, ffn=ffn, skip=skip)


def training_flops(
    config: ModelConfig,
    targets: int | None = None,
    teacher: ModelConfig | None = None,
) -> int:
    """FLOPs of training, per token of the inputs: with the teacher's forward pass.

    `targets` as in `forward_flops`.
    """
    own = (1 + BACKWARD) * forward_flops(config, targets)
    return own + (forward_flops(teacher, targets) if teacher else 0)


def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """FLOPs of one forward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()


def block_costs(model: LlamaLM) -> BlockCosts:
    """Multiply-accumulates of each block, from its layers' own `macs`."""
    attention, key_value, ffn = [], [], []
    shared = 2 * model.config.width * model.config.kv_inner
    for block in model.blocks:
        assert isinstance(block, Block)
        attention.append(block.attention.macs if block.attention else 0)
        key_value.append(shared if block.attention else 0)
        ffn.append(block.ffn.macs if block.ffn else 0)
    return BlockCosts(
        tuple(attention), tuple(key_value), tuple(ffn), model.config.inner
    )


# --- memory of decoding ---------------------------------------------------------------


def cache_bytes(
    config: LlamaConfig, tokens: int | Sequence[int], item: int = FP32
) -> int:
    """Bytes of a sequence's keys and values, `item` per number.

    `tokens` are those in the cache of each block, or of all blocks alike. Blocks
    without attention have none.
    """
    by_block = [tokens] * config.depth if isinstance(tokens, int) else tokens
    total = sum(by_block[block] for block in config.attending)
    return 2 * total * config.kv_inner * item
