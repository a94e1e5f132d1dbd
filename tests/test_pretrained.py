"""Checkpoints of the Llama family, against transformers and the package gguf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from models_for_tests import cached, token_ids
from shallower.errors import UserError
from shallower.models.costs import cache_bytes, count_parameters, weights_read
from shallower.models.llama import LlamaLM
from shallower.pretrained.checkpoint import open_model
from shallower.pretrained.gguf_file import GGUFHeader
from shallower.pretrained.sizes import from_config_json, sizes
from shallower.pretrained.weights import GGUF_BLOCK, GGUF_OUTER

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # So short that a head of 8 has waves on all three sides.
    "original_max_position_embeddings": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"model_type": "llama", "num_key_value_heads": 4},
    "grouped": {"model_type": "llama", "tie_word_embeddings": True},
    "one_kv_head": {"model_type": "llama", "num_key_value_heads": 1},
    "own_head_size": {"model_type": "llama", "head_dim": 16},
    "llama3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
}


def make(kind: str, folder: Path, shard: str = "5GB") -> Any:
    """A model of transformers with random weights, biases and gains; saved."""
    values = SIZES | KINDS[kind]
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    theirs.save_pretrained(folder, max_shard_size=shard)
    return theirs


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs, tokens = make(kind, tmp_path), token_ids()
    # transformers computes rotary angles in fp32, which bounds the agreement.
    ours = open_model(tmp_path, precision=torch.float64)
    with torch.no_grad():
        expected = theirs.double()(tokens).logits
        assert expected.std() > 0.2
        assert (ours(tokens) - expected).abs().max() < 2e-5
        assert (cached(ours, tokens) - ours(tokens)).abs().max() < 1e-10
        single = open_model(tmp_path)(tokens)
        assert (single - theirs.float()(tokens).logits).abs().max() < 1e-4
    assert count_parameters(ours) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("kind", ["grouped", "qwen2", "qwen3"])
def test_padding_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs, tokens = make(kind, tmp_path), token_ids()
    padding = torch.tensor([0, 3, 9])
    mask = (torch.arange(24) >= padding[:, None]).long()
    ours = open_model(tmp_path)
    with torch.no_grad():
        expected = theirs(
            tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        ).logits
        for mine in (ours(tokens, padding=padding), ours(tokens, None, padding)):
            real = mask.bool()
            assert (mine - expected)[real].abs().max() < 1e-4
        last = ours(tokens, padding=padding, last_only=True)
        assert (last[:, 0] - expected[:, -1]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["grouped", "qwen2", "qwen3", "llama3"])
def test_the_last_block_for_the_last_token_alone(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path)
    model, tokens = open_model(tmp_path, precision=torch.float64), token_ids()
    with torch.no_grad():
        whole = model(tokens)[:, -1:]
        assert (model(tokens, last_only=True) - whole).abs().max() < 1e-12


def test_costs_count_heads_of_keys_and_values(tmp_path: Path) -> None:
    make("grouped", tmp_path)
    model = open_model(tmp_path)
    config = model.config
    assert cache_bytes(config, 10) == 3 * 10 * 2 * 2 * 8 * 4
    # Tied: the embedding is read as the output head.
    assert weights_read(model) == count_parameters(model)
    assert model.head.weight is model.embedding.weight


# --- GGUF -----------------------------------------------------------------------------


def write_gguf(theirs: Any, path: Path, kind: str, quantisation: str) -> None:
    """As llama.cpp's converter does: a Llama's queries and keys interleaved."""
    c = theirs.config
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_token_list(["piece"] * c.vocab_size)
    if kind == "qwen3":
        writer.add_key_length(c.head_dim)
    for name, values in theirs.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        array = values.numpy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2)
            array = np.ascontiguousarray(array).reshape(values.shape)
        stem, _, end = name.rpartition(".")
        if stem in GGUF_OUTER:
            own = f"{GGUF_OUTER[stem]}.{end}"
        else:
            _, _, number, part = stem.split(".", 3)
            own = f"blk.{number}.{GGUF_BLOCK[part]}.{end}"
        if array.ndim == 1:
            writer.add_tensor(own, array)
            continue
        stored = gguf.GGMLQuantizationType[quantisation]
        writer.add_tensor(own, gguf.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("quantisation", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("kind", ["grouped", "qwen2", "qwen3"])
def test_gguf_files(kind: str, quantisation: str, tmp_path: Path) -> None:
    theirs, path = make(kind, tmp_path / "hf"), tmp_path / "model.gguf"
    architecture = "llama" if kind == "grouped" else kind
    write_gguf(theirs, path, architecture, quantisation)
    ours, tokens = open_model(path), token_ids()
    stored = gguf.GGMLQuantizationType[quantisation]
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                rounded = gguf.dequantize(
                    gguf.quantize(parameter.numpy(), stored), stored
                )
                parameter.copy_(torch.from_numpy(rounded.reshape(parameter.shape)))
        difference = ours(tokens) - theirs(tokens).logits
    assert difference.abs().max() < 1e-4


def test_a_header_is_read_as_the_package_does(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(make("grouped", tmp_path / "hf"), path, "llama", "Q8_0")
    reader, header = gguf.GGUFReader(path), GGUFHeader.read(path)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            assert header.metadata[key] == field.contents()
    for tensor in reader.tensors:
        place = header.tensors[tensor.name]
        assert place.offset == tensor.data_offset
        assert list(place.shape) == tensor.shape.tolist()[::-1]


@pytest.mark.slow
def test_smollm_is_that_of_transformers(smollm: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(
        smollm.parent, gguf_file=smollm.name, dtype=torch.float32
    ).eval()
    ours = open_model(smollm, 2048)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(ours.config.vocabulary, (2, 64), generator=draw)
    with torch.no_grad():
        expected = theirs(tokens).logits
        difference = ours(tokens) - expected
    assert difference.abs().max() < 1e-4 * expected.abs().max()
    assert count_parameters(ours) == theirs.num_parameters() == 134_515_008


# --- what is refused ------------------------------------------------------------------


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is outside the Llama family"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu', expected 'silu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn' is not supported"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide', expected a whole number"),
        ({"num_key_value_heads": 3}, "4 heads: expected a multiple of 3 kv_heads"),
    ],
)
def test_other_architectures_are_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make("grouped", tmp_path)
    change(tmp_path, **values)
    with pytest.raises(UserError, match=message) as error:
        sizes(tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    make("plain", tmp_path, shard="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    open_model(tmp_path)
    content = shards[0].read_bytes()
    shards[0].write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=shards[0].name):
        open_model(tmp_path)
    shards[0].unlink()
    with pytest.raises(UserError, match="this shard of the checkpoint is missing"):
        open_model(tmp_path)


def test_a_missing_tensor_and_one_too_many(tmp_path: Path) -> None:
    make("plain", tmp_path)
    change(tmp_path, num_hidden_layers=4)
    with pytest.raises(UserError, match=r"model.layers.3.* is missing"):
        open_model(tmp_path)
    change(tmp_path, num_hidden_layers=2)
    with pytest.raises(UserError, match=r"model.layers.2.* belongs to no Llama"):
        open_model(tmp_path)
    change(tmp_path, num_hidden_layers=3, intermediate_size=60)
    with pytest.raises(UserError, match=r"mlp.\w+.weight has the shape"):
        open_model(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    make("plain", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin, a pickle"):
        open_model(tmp_path)
    with pytest.raises(UserError, match="a pickle, which is not read"):
        sizes(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("kept", [3, 40, 0.02, 0.5, 0.99])
def test_truncated_gguf_files_are_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(make("grouped", tmp_path / "hf"), path, "llama", "Q8_0")
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])  # type: ignore[misc]
    with pytest.raises(UserError, match=str(path)):
        open_model(path)


def test_a_model_is_folded_skipped_and_saved_like_any_other(tmp_path: Path) -> None:
    from shallower.interventions.apply import skip
    from shallower.models.config import SkippedParts
    from shallower.models.transforms import deploy

    theirs = make("grouped", tmp_path)
    model, tokens = open_model(tmp_path), token_ids()
    assert deploy(model) is model
    reduced = skip(model, SkippedParts(attention=(1,)))
    assert isinstance(reduced, LlamaLM)
    assert reduced.head.weight is reduced.embedding.weight
    # The oracle: that layer's attention gives zeros.
    layer = theirs.model.layers[1].self_attn

    def zeros(module: Any, inputs: Any, output: tuple[Tensor, Any]) -> Any:
        return torch.zeros_like(output[0]), *output[1:]

    handle = layer.register_forward_hook(zeros)
    with torch.no_grad():
        assert (reduced(tokens) - theirs(tokens).logits).abs().max() < 1e-4
    handle.remove()


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "rms_norm_eps"])
def test_a_stated_size_that_is_no_number_is_named(key: str) -> None:
    stated = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 64}
    stated |= {"max_position_embeddings": 128, "vocab_size": 300}
    stated |= {"num_hidden_layers": 2, "intermediate_size": 100, "rope_theta": 5e5}
    hidden = {"rope_parameters": {"rope_type": "default", "rope_theta": None}}
    assert from_config_json(stated | hidden, "x").rope_theta == 5e5
    with pytest.raises(UserError, match=f"{key} is True"):
        from_config_json(stated | {key: True}, "x")
