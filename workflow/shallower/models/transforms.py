"""Pure functions model -> model that change its form and not what it computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from shallower.models.config import (
    FFNVariant,
    HeadVariant,
    LlamaConfig,
    ModelConfig,
)
from shallower.models.ffn import LinearChain
from shallower.models.heads import PerHeadLinear, fold_values
from shallower.models.llama import Attention, LlamaLM
from shallower.models.t5 import T5LM

Form = Literal["trained", "folded", "collapsed"]
Model = TypeVar("Model", LlamaLM, T5LM)


def fold(model: LlamaLM) -> LlamaLM:
    """Fold each per-head linear layer into the value projection, exactly.

    The rows of causal softmax attention p sum to one, hence
    (sum_s p_s v_s) A + b = sum_s p_s (v_s A + b): the layer may as well act on the
    values, where it merges with W_V and leaves a bias. The cache then holds the
    folded values, and the deployed block has d instead of d^2/n + d added parameters.

    Returns a new model that shares every other tensor with `model`; a model whose
    variant has nothing to fold is returned unchanged. The products are taken in
    fp64 and cast once.
    """
    head = model.config.head
    if not head.folds:
        return model
    biased = head.value_bias or head.linear != "no_bias"
    target = replace(head, linear="none", linear_start="default", value_bias=biased)
    with torch.device("meta"):
        folded = LlamaLM(replace(model.config, head=target))
    state = {k: v for k, v in model.state_dict().items() if ".mix.linear." not in k}
    for index, block in enumerate(model.blocks):
        attention = block.attention
        if attention is None:
            continue
        assert isinstance(attention, Attention)
        layer, name = attention.mix.linear, f"blocks.{index}.attention"
        assert layer is not None
        state[f"{name}.qkv.weight"] = fold_values(
            attention.qkv.weight.detach(), layer.weight.detach(), model.config.heads
        )
        if biased:
            heads = (model.config.heads, -1)
            state[f"{name}.value_bias"] = (
                _folded_bias(attention, layer).expand(heads).reshape(-1)
            )
    return adopt(folded, state, model)


def _folded_bias(attention: Attention, layer: PerHeadLinear) -> Tensor:
    """Bias of the folded values, (copies or heads, head_dim): b_V A + b."""
    matrix = layer.weight.detach().double()
    bias = torch.zeros_like(matrix[:, 0])
    if attention.value_bias is not None:
        values = attention.value_bias.detach().double().view(attention.heads, 1, -1)
        bias = (values @ matrix).squeeze(1)
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double()
    return bias.to(layer.weight)


def collapse(model: Model) -> Model:
    """Multiply the matrices of each linear chain out, exactly (Lee, section 4.3).

    W_c W_b W_a h is W h: what was three matrices in training is one d x d when it is
    deployed. For models of either family: returns a new one that shares every other
    tensor with `model`; a model without a chain to collapse is returned unchanged.
    Products in fp64, cast once.
    """
    if not model.config.ffn.collapses:
        return model
    # The ratio no longer means anything.
    single = replace(model.config.ffn, matrices=1, ratio=FFNVariant().ratio)
    with torch.device("meta"):
        collapsed = type(model)(replace(model.config, ffn=single))
    state = {k: v for k, v in model.state_dict().items() if ".ffn.matrices." not in k}
    for name, chain in model.named_modules():
        if isinstance(chain, LinearChain):
            product = chain.product().to(chain.factors[0].weight)
            state[f"{name}.matrices.0.weight"] = product
    return adopt(collapsed, state, model)


def deployed_form(config: ModelConfig) -> Form:
    """What `deploy` makes of a model: trained (nothing), folded, or collapsed."""
    if config.ffn.collapses:
        return "collapsed"
    folds = isinstance(config, LlamaConfig) and config.head.folds
    return "folded" if folds else "trained"


def deploy(model: LlamaLM) -> LlamaLM:
    """The model as it would be put to use: folded and collapsed, if it can be."""
    return collapse(fold(model))


def first_blocks(model: LlamaLM, depth: int, head: HeadVariant) -> LlamaLM:
    """The first `depth` blocks of `model` under the head variant `head`.

    Shares every tensor with `model`, which must have all that the variant needs: the
    baseline can be made of any model. Not the same function as `model`, but the same
    cost as a model of that depth and variant.
    """
    with torch.device("meta"):
        part = LlamaLM(replace(model.config, depth=depth, head=head))
    state = model.state_dict()
    return adopt(part, {name: state[name] for name in part.state_dict()}, model)


def adopt(empty: Model, state: dict[str, Tensor], source: Model) -> Model:
    """Give a model without storage its tensors, without copying them."""
    empty.load_state_dict(state, strict=True, assign=True)
    if isinstance(empty, LlamaLM) and isinstance(source, LlamaLM):
        empty.tie()
        empty.rotary = source.rotary  # a buffer, which no state has
    return empty.train(source.training)
