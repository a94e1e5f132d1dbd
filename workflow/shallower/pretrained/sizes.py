"""From what a checkpoint says about itself to a `LlamaConfig`. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from shallower.errors import UserError
from shallower.models.config import HeadVariant, LlamaConfig
from shallower.models.config_names import CONFIG_NAMES
from shallower.pretrained.gguf_file import GGUFHeader

# Files of a folder: its sizes, its weights, or the list of their shards.
CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FAMILY = ("llama", "mistral", "qwen2", "qwen3")
PLAIN = HeadVariant()
NORMED = HeadVariant(query_key_norm=True)  # Qwen3
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
FACTORS = "rope_freqs.weight"  # Llama 3's divisors, as llama.cpp stores them


def sizes(path: str | Path, context: int | None = None) -> LlamaConfig:
    """The sizes of a checkpoint, from its header; of its context at most `context`.

    Raises UserError for an architecture outside the Llama family, and for files that
    are no checkpoint.
    """
    return up_to(_sizes(Path(path)), context)


def up_to(config: LlamaConfig, context: int | None) -> LlamaConfig:
    """The same model with a context of at most `context` tokens."""
    if context is None or config.context <= context:
        return config
    return replace(config, context=context)


def check(stated: LlamaConfig, path: Path, key: str) -> None:
    """Raise UserError, naming it, for the first size that the checkpoint has otherwise.

    `key` is where the sizes are stated.
    """
    found = sizes(path, stated.context)
    for field in fields(LlamaConfig):
        due, there = getattr(stated, field.name), getattr(found, field.name)
        if not _equal(due, there):
            name = CONFIG_NAMES.get(field.name, field.name)
            raise UserError(f"{key}: {name} is {due}, but {path} has {there}")


def _equal(one: Any, other: Any) -> bool:
    """Whether two sizes are the same, real numbers up to the rounding of fp32."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _sizes(path: Path) -> LlamaConfig:
    if path.is_dir():
        file = path / CONFIG
        if not file.is_file():
            raise UserError(f"{path}: expected {CONFIG} in a checkpoint's folder")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: not JSON ({error})") from None
        return from_config_json(values, str(file))
    _refuse_pickle(path)
    header = GGUFHeader.read(path)
    if EMBEDDING not in header.tensors:
        raise UserError(f"{path}: the tensor {EMBEDDING} is missing")
    factors = ()
    if FACTORS in header.tensors:
        factors = tuple(header.tensor(FACTORS).tolist())
    rows = header.tensors[EMBEDDING].shape[0]
    tied = HEAD not in header.tensors
    return from_gguf(header.metadata, rows, tied, factors, str(path))


def _refuse_pickle(path: Path) -> None:
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise UserError(f"{path}: a pickle, which is not read; expected safetensors")


def from_config_json(values: Mapping[str, Any], where: str) -> LlamaConfig:
    """The sizes that a Hugging Face config.json states; `where` names it in errors.

    Raises UserError for an architecture outside the family, or a part that `LlamaLM`
    does not have.
    """
    kind = values.get("model_type")
    if kind not in FAMILY:
        raise UserError(
            f"{where}: model_type {kind!r} is outside the Llama family "
            f"({', '.join(FAMILY)})"
        )
    if kind in ("llama", "qwen3") and values.get("attention_bias"):
        raise UserError(f"{where}: attention_bias is not supported")
    if values.get("mlp_bias"):
        raise UserError(f"{where}: mlp_bias is not supported")
    activation = values.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"{where}: hidden_act {activation!r}, expected 'silu'")
    heads = _number(values, "num_attention_heads", where)
    width = _number(values, "hidden_size", where)
    usual = 128 if kind == "qwen3" else width // heads
    head_size = _optional(values, "head_dim", where) or usual
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    stated = values if rope.get("rope_theta") is None else rope
    theta = _real(stated, "rope_theta", 1e4, where)
    context = _number(values, "max_position_embeddings", where)
    if values.get("sliding_window") and values.get("use_sliding_window", True):
        # Within the window every token sees all before it.
        context = min(context, _number(values, "sliding_window", where))
    tied = values.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise UserError(f"{where}: tie_word_embeddings is {tied!r}, expected a bool")
    return _checked(
        where,
        vocabulary=_number(values, "vocab_size", where),
        width=width,
        depth=_number(values, "num_hidden_layers", where),
        heads=heads,
        kv_heads=_optional(values, "num_key_value_heads", where),
        head_size=head_size,
        ffn_hidden=_number(values, "intermediate_size", where),
        context=context,
        norm_eps=_real(values, "rms_norm_eps", 1e-6, where),
        rope_theta=theta,
        rope_divisors=_divisors(rope, head_size, theta, where),
        tied=tied,
        qkv_bias=kind == "qwen2",
        head=NORMED if kind == "qwen3" else PLAIN,
    )


def from_gguf(
    values: Mapping[str, Any],
    vocabulary: int,
    tied: bool,
    factors: tuple[float, ...],
    where: str,
) -> LlamaConfig:
    """The sizes that a GGUF file's metadata state; `where` names it in errors.

    `vocabulary` are the embedding's rows, `factors` the tensor `rope_freqs`, if it is
    there. Raises UserError for an architecture outside the family.
    """
    kind = values.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise UserError(
            f"{where}: architecture {kind!r} is outside the Llama family "
            "(llama, qwen2, qwen3)"
        )
    if values.get(f"{kind}.expert_count"):
        raise UserError(f"{where}: a mixture of experts is not supported")
    own = {
        key.removeprefix(f"{kind}."): value
        for key, value in values.items()
        if key.startswith(f"{kind}.")
    }
    heads = _number(own, "attention.head_count", where)
    width = _number(own, "embedding_length", where)
    head_size = _optional(own, "attention.key_length", where) or width // heads
    theta = _real(own, "rope.freq_base", 1e4, where)
    rope = {
        "rope_type": own.get("rope.scaling.type", "default"),
        "factor": own.get("rope.scaling.factor", 1.0),
    }
    if rope["rope_type"] == "none":
        rope["rope_type"] = "default"
    return _checked(
        where,
        vocabulary=vocabulary,
        width=width,
        depth=_number(own, "block_count", where),
        heads=heads,
        kv_heads=_optional(own, "attention.head_count_kv", where) or heads,
        head_size=head_size,
        ffn_hidden=_number(own, "feed_forward_length", where),
        context=_number(own, "context_length", where),
        norm_eps=_real(own, "attention.layer_norm_rms_epsilon", 1e-6, where),
        rope_theta=theta,
        rope_divisors=factors or _divisors(rope, head_size, theta, where),
        tied=tied,
        qkv_bias=kind == "qwen2",
        head=NORMED if kind == "qwen3" else PLAIN,
    )


def _number(values: Mapping[str, Any], key: str, where: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: {key} is {value!r}, expected a whole number above 0")
    return value


def _optional(values: Mapping[str, Any], key: str, where: str) -> int | None:
    return None if values.get(key) is None else _number(values, key, where)


def _real(values: Mapping[str, Any], key: str, usual: float, where: str) -> float:
    value = values.get(key)
    if value is None:
        return usual
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise UserError(f"{where}: {key} is {value!r}, expected a number above 0")
    return float(value)


def _checked(where: str, **values: Any) -> LlamaConfig:
    width, heads = values["width"], values["heads"]
    # As short as a model of ours: what is usual is not stated.
    if values["head_size"] * heads == width:
        values["head_size"] = None
    if values["kv_heads"] == heads:
        values["kv_heads"] = None
    try:
        return LlamaConfig(**values)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"{where}: {error}") from None


def _divisors(
    rope: Mapping[str, Any], head_size: int, theta: float, where: str
) -> tuple[float, ...]:
    """What each rotary frequency is divided by; () where nothing is scaled."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return ()
    try:
        if kind == "linear":
            factor = float(rope["factor"])
            return () if factor == 1 else (factor,) * (head_size // 2)
        if kind == "llama3":
            return _llama3(rope, head_size, theta)
    except KeyError as error:
        raise UserError(f"{where}: RoPE scaling {kind} without {error}") from None
    raise UserError(
        f"{where}: RoPE scaling {kind!r} is not supported, expected default, linear or "
        "llama3"
    )


def _llama3(rope: Mapping[str, Any], head_size: int, theta: float) -> tuple[float, ...]:
    """Llama 3's: long waves are `factor` times as long, short ones as they were.

    From `apply_scaling` of Meta's reference code (llama-models), written as divisors.
    """
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    before = float(rope["original_max_position_embeddings"])
    divisors = []
    for pair in range(0, head_size, 2):
        turns = before * theta ** (-pair / head_size) / (2 * math.pi)
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / (share + (1 - share) / factor))
    return tuple(divisors)


def count_weights(config: LlamaConfig) -> int:
    """Parameters of a checkpoint of these sizes, without torch.

    For what must be quick; `models.costs.count_parameters` counts any model's.
    """
    d, normed = config.width, config.head.query_key_norm
    qkv = config.inner + 2 * config.kv_inner
    block = d * (qkv + config.inner) + 3 * d * config.ffn_hidden + 2 * d
    block += (qkv if config.qkv_bias else 0) + (2 * config.head_dim if normed else 0)
    embeddings = (1 if config.tied else 2) * config.vocabulary * d
    return config.depth * block + embeddings + d
