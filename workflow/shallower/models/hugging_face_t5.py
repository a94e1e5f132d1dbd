"""Weights of a T5 with its own FFN, to Hugging Face's: that architecture's oracle."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shallower.errors import UserError
from shallower.models.t5 import OWN_FFN, PAD, T5LM, T5Config


def name_map(model: T5LM) -> dict[str, list[str]]:
    """Our parameter name -> Hugging Face's; several where ours is one matrix."""
    names = {"embedding.weight": ["shared.weight"]}
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        names[f"{side}.norm.weight"] = [f"{side}.final_layer_norm.weight"]
        names[f"{side}.positions.weight"] = [
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ]
        for i in range(len(stack.blocks)):
            names |= _block_names(side, i)
    return names


def _block_names(side: str, i: int) -> dict[str, list[str]]:
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


def counterpart(config: T5Config) -> Any:
    """A transformers T5ForConditionalGeneration of these sizes, drawn by itself.

    Raises UserError for an FFN that Hugging Face's T5 does not have.
    """
    from transformers import T5Config as TheirConfig
    from transformers import T5ForConditionalGeneration

    if config.ffn != OWN_FFN:
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
    theirs = counterpart(model.config).to(model.embedding.weight.dtype)
    state = model.state_dict()
    converted: dict[str, Tensor] = {}
    for ours, names in name_map(model).items():
        converted |= dict(zip(names, state[ours].chunk(len(names)), strict=True))
    missing, unexpected = theirs.load_state_dict(converted, strict=False)
    # The embedding again, under the names that share it.
    assert not unexpected
    assert all("embed_tokens" in name or "lm_head" in name for name in missing)
    return theirs
