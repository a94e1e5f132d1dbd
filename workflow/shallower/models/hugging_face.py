"""Weights to and from Hugging Face's Llama and T5: the architectures' oracles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from shallower.errors import UserError
from shallower.models.config import (
    FFNVariant,
    HeadVariant,
    LlamaConfig,
    SkippedParts,
    T5Config,
)
from shallower.models.llama import LlamaLM
from shallower.models.t5 import PAD, T5LM

# --- Llama ----------------------------------------------------------------------------

# Ours on the left; where we have one matrix and they have several, in our order.
NAMES = {
    "embedding.weight": ["model.embed_tokens.weight"],
    "norm.weight": ["model.norm.weight"],
    "head.weight": ["lm_head.weight"],
}
BLOCK_NAMES = {
    "attention_norm.weight": ["input_layernorm.weight"],
    "attention.qkv.weight": [
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ],
    "attention.output.weight": ["self_attn.o_proj.weight"],
    "ffn_norm.weight": ["post_attention_layernorm.weight"],
    "ffn.gate_up.weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
    "ffn.down.weight": ["mlp.down_proj.weight"],
}


# Of the family's other members.
OPTIONAL_NAMES = {
    "attention.qkv.bias": [f"self_attn.{letter}_proj.bias" for letter in "qkv"],
    "attention.query_norm.weight": ["self_attn.q_norm.weight"],
    "attention.key_norm.weight": ["self_attn.k_norm.weight"],
}
NORMED = HeadVariant(query_key_norm=True)


def name_map(config: LlamaConfig) -> dict[str, list[str]]:
    """Our parameter name -> Hugging Face's, of a model that they have."""
    names = dict(BLOCK_NAMES)
    for ours, theirs in OPTIONAL_NAMES.items():
        there = config.qkv_bias if "bias" in ours else config.head == NORMED
        if there:
            names[ours] = theirs
    blocks = {
        f"blocks.{i}.{ours}": [f"model.layers.{i}.{name}" for name in theirs]
        for i in range(config.depth)
        for ours, theirs in names.items()
    }
    outer = {k: v for k, v in NAMES.items() if k != "head.weight" or not config.tied}
    return outer | blocks


def difference(config: LlamaConfig) -> str | None:
    """Why Hugging Face's Llama cannot be this model; None if it can.

    A predicate of "Hugging Face's Llama".
    """
    # A wider FFN is a size, not a kind of head.
    if replace(config.head, ffn_matched=False) != HeadVariant():
        return f"has no such heads: {config.head}"
    if config.skip != SkippedParts():
        return f"skips nothing: {config.skip}"
    if config.ffn != FFNVariant():
        return f"has no such FFN: {config.ffn}"
    if config.width % config.heads:
        return f"has a width that {config.heads} heads divide: not {config.width}"
    if config.qkv_bias:
        return "has no biases of queries, keys and values alone"
    if config.rope_divisors:
        return "has no such divisors of rotary frequencies"
    return None


def to_hugging_face(model: LlamaLM) -> Any:
    """A transformers LlamaForCausalLM with the same weights.

    Raises UserError for variants that Hugging Face's Llama does not have.
    """
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM

    config = model.config
    unlike = difference(config)
    if unlike:
        raise UserError(f"Hugging Face's Llama {unlike}")
    theirs: Any = LlamaForCausalLM(
        TheirConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.groups,
            head_dim=config.head_dim,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": config.rope_theta,
            },
            tie_word_embeddings=config.tied,
        )
    )
    theirs = theirs.to(model.embedding.weight.dtype)
    state = model.state_dict()
    sizes = [config.inner, config.kv_inner, config.kv_inner]
    converted: dict[str, Tensor] = {}
    for ours, names in name_map(config).items():
        parts = (
            state[ours].split(sizes)
            if ".qkv." in ours
            else state[ours].chunk(len(names))
        )
        converted |= dict(zip(names, parts, strict=True))
    if config.tied:
        converted["lm_head.weight"] = converted["model.embed_tokens.weight"]
    theirs.load_state_dict(converted)
    return theirs.eval()


# --- T5 -------------------------------------------------------------------------------


def t5_name_map(model: T5LM) -> dict[str, list[str]]:
    """Our parameter name -> Hugging Face's; several where ours is one matrix."""
    names = {"embedding.weight": ["shared.weight"]}
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        names[f"{side}.norm.weight"] = [f"{side}.final_layer_norm.weight"]
        names[f"{side}.positions.weight"] = [
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ]
        for i in range(len(stack.blocks)):
            names |= _t5_block_names(side, i)
    return names


def _t5_block_names(side: str, i: int) -> dict[str, list[str]]:
    names, us = {}, f"{side}.blocks.{i}"
    parts = [("attention", "SelfAttention"), ("cross", "EncDecAttention")]
    parts = parts[: 1 + (side == "decoder")]
    for layer, (ours, theirs) in enumerate(parts):
        them = f"{side}.block.{i}.layer.{layer}"
        names[f"{us}.{ours}_norm.weight"] = [f"{them}.layer_norm.weight"]
        matrices = {"query": "q", "key_value": "kv", "output": "o"}
        for matrix, letters in matrices.items():
            names[f"{us}.{ours}.{matrix}.weight"] = [
                f"{them}.{theirs}.{letter}.weight" for letter in letters
            ]
    them = f"{side}.block.{i}.layer.{len(parts)}"
    names[f"{us}.ffn_norm.weight"] = [f"{them}.layer_norm.weight"]
    names[f"{us}.ffn.up.weight"] = [f"{them}.DenseReluDense.wi.weight"]
    names[f"{us}.ffn.down.weight"] = [f"{them}.DenseReluDense.wo.weight"]
    return names


def t5_counterpart(config: T5Config) -> Any:
    """A transformers T5ForConditionalGeneration of these sizes, with its start values.

    Raises UserError for an FFN that Hugging Face's T5 does not have.
    """
    from transformers import T5Config as TheirConfig
    from transformers import T5ForConditionalGeneration

    if config.ffn != FFNVariant():
        raise UserError(f"Hugging Face's T5 has no such FFN: {config.ffn}")
    sizes: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "d_model": config.width,
        "d_kv": config.head_size,
        "d_ff": config.ffn_hidden,
        "num_layers": config.encoder_depth,
        "num_decoder_layers": config.decoder_depth,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.norm_eps,
        "dropout_rate": 0.0,
        "decoder_start_token_id": PAD,
    }
    theirs: Any = T5ForConditionalGeneration(TheirConfig(**sizes))
    return theirs.eval()


def to_hugging_face_t5(model: T5LM) -> Any:
    """A transformers T5ForConditionalGeneration with the same weights.

    Raises UserError for an FFN that Hugging Face's T5 does not have.
    """
    theirs = t5_counterpart(model.config).to(model.embedding.weight.dtype)
    state = model.state_dict()
    converted: dict[str, Tensor] = {}
    for ours, names in t5_name_map(model).items():
        converted |= dict(zip(names, state[ours].chunk(len(names)), strict=True))
    missing, unexpected = theirs.load_state_dict(converted, strict=False)
    # The embedding again, under the names that share it.
    assert not unexpected
    assert all("embed_tokens" in name or "lm_head" in name for name in missing)
    return theirs
