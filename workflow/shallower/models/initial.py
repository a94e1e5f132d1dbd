"""Start values of every parameter, each from a stream named by (seed, name).

Models of one seed thus share the start values of all that they have in common.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shallower.models.ffn import LinearChain, initialise_chain
from shallower.models.heads import PerHeadLinear, initialise_heads
from shallower.models.llama import Attention, LlamaLM
from shallower.randomness import derive

STD = 0.02


def initialise(
    model: LlamaLM, seed: int, std: float = STD, output_scale: float = 1.0
) -> LlamaLM:
    """Fill every parameter in place. The original states nothing; this is ours.

    Matrices N(0, 0.02), those of the blocks N(0, std); those that write to the
    residual stream (attention output, FFN down) are divided by sqrt(2 depth), and
    the attention output is multiplied by `output_scale`. Gains 1, value bias 0, the
    layers on the heads as in `heads.initialise_heads`, chains of matrices in place of
    the FFN as in `ffn.initialise_chain`.
    """
    residual = 1 / math.sqrt(2 * model.config.depth)
    for name, parameter in model.named_parameters():
        if any(part in name for part in (".mix.linear.", ".mix.full.", ".matrices.")):
            continue
        if parameter.ndim == 1:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        scale = std if name.startswith("blocks.") else STD
        if name.endswith(("attention.output.weight", "ffn.down.weight")):
            scale *= residual
        if name.endswith("attention.output.weight"):
            scale *= output_scale
        generator = _generator(seed, name, parameter)
        nn.init.normal_(parameter, std=scale, generator=generator)
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            _initialise_attention(module, name, model, seed)
        if isinstance(module, LinearChain):
            _initialise_chain(module, name, residual, seed)
    return model


def _initialise_chain(
    chain: LinearChain, name: str, residual: float, seed: int
) -> None:
    def normal(parameter: Tensor, suffix: str, std: float) -> None:
        generator = _generator(seed, f"{name}.{suffix}", parameter)
        nn.init.normal_(parameter, std=std, generator=generator)

    initialise_chain(chain, residual, normal)


def _initialise_attention(
    attention: Attention, name: str, model: LlamaLM, seed: int
) -> None:
    def uniform(parameter: Tensor, suffix: str, bound: float) -> None:
        generator = _generator(seed, f"{name}.mix.linear.{suffix}", parameter)
        nn.init.uniform_(parameter, -bound, bound, generator=generator)

    variant = model.config.head
    initialise_heads(attention.mix, variant, uniform)
    if variant.folded_start:
        assert attention.value_bias is not None
        bound = 1 / math.sqrt(attention.head_dim)
        layer = PerHeadLinear(attention.heads, attention.head_dim, bias=True)
        layer = layer.to(attention.qkv.weight)
        assert layer.bias is not None
        uniform(layer.weight, "weight", bound)
        uniform(layer.bias, "bias", bound)
        with torch.no_grad():
            folded = fold_values(attention.qkv.weight, layer.weight, attention.heads)
            attention.qkv.weight.copy_(folded)
            attention.value_bias.copy_(layer.bias.reshape(-1))


def fold_values(qkv: Tensor, matrix: Tensor, heads: int) -> Tensor:
    """The fused projection (3 inner, d) with its values multiplied by A.

    `matrix` is (heads or 1, head_dim in, head_dim out). In fp64, cast once.
    """
    inner = qkv.shape[0] // 3
    queries_keys, values = qkv.split((2 * inner, inner))
    per_head = values.double().unflatten(0, (heads, -1))
    product = matrix.double().transpose(1, 2) @ per_head
    return torch.cat((queries_keys, product.flatten(0, 1).to(qkv)))


def _generator(seed: int, name: str, parameter: Tensor) -> torch.Generator:
    generator = torch.Generator(device=parameter.device)
    return generator.manual_seed(derive(seed, f"parameter {name}"))
