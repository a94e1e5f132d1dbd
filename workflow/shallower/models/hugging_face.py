"""Baseline weights to and from Hugging Face's Llama: the architecture's oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.models.llama import BASELINE, NOTHING, OWN_FFN, LlamaConfig, LlamaLM

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


def name_map(depth: int) -> dict[str, list[str]]:
    """Our parameter name -> Hugging Face's, for a model of `depth` blocks."""
    blocks = {
        f"blocks.{i}.{ours}": [f"model.layers.{i}.{name}" for name in theirs]
        for i in range(depth)
        for ours, theirs in BLOCK_NAMES.items()
    }
    return NAMES | blocks


def difference(config: LlamaConfig) -> str | None:
    """What Hugging Face's Llama cannot be; None if it can be this model."""
    # A wider FFN is a size of its own, not a kind of head.
    if replace(config.head, ffn_matched=False) != BASELINE:
        return f"has no such heads: {config.head}"
    if config.skip != NOTHING:
        return f"leaves nothing out: {config.skip}"
    if config.ffn != OWN_FFN:
        return f"has no such FFN: {config.ffn}"
    if config.width % config.heads:
        return f"is a multiple of its {config.heads} heads wide: not {config.width}"
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
            head_dim=config.head_dim,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": config.rope_theta,
            },
            tie_word_embeddings=False,
        )
    )
    theirs = theirs.to(model.embedding.weight.dtype)
    state = model.state_dict()
    converted: dict[str, Tensor] = {}
    for ours, names in name_map(config.depth).items():
        parts = state[ours].chunk(len(names))
        converted |= dict(zip(names, parts, strict=True))
    theirs.load_state_dict(converted)
    return theirs.eval()


def from_hugging_face(theirs: Any) -> LlamaLM:
    """The inverse: our model with a transformers LlamaForCausalLM's weights."""
    c = theirs.config
    if c.tie_word_embeddings or c.num_key_value_heads != c.num_attention_heads:
        raise UserError("tied embeddings and grouped-query attention are not supported")
    inner = c.head_dim * c.num_attention_heads
    config = LlamaConfig(
        vocabulary=c.vocab_size,
        width=c.hidden_size,
        depth=c.num_hidden_layers,
        heads=c.num_attention_heads,
        ffn_hidden=c.intermediate_size,
        context=c.max_position_embeddings,
        head_size=None if inner == c.hidden_size else c.head_dim,
        norm_eps=c.rms_norm_eps,
        rope_theta=c.rope_parameters["rope_theta"],
    )
    state: dict[str, Tensor] = theirs.state_dict()
    model = LlamaLM(config).to(next(theirs.parameters()).dtype)
    names = name_map(config.depth)
    model.load_state_dict(
        {ours: torch.cat([state[n] for n in parts]) for ours, parts in names.items()}
    )
    return model.eval()
