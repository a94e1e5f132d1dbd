"""The same weights in llama.cpp, through its Python package, where that is installed.

`pip install --no-deps llama-cpp-python==0.3.36 gguf==0.19.0 diskcache==5.6.3` builds it
from source (18 minutes of one busy core here), so the set-up leaves it out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shallower.models.config import LlamaConfig
from shallower.models.llama import LlamaLM

TOLERANCE = 1e-3  # of a logit in fp32, against ours on the same prompt


def installed() -> bool:
    """Whether it can be measured."""
    return all(find_spec(name) for name in ("llama_cpp", "gguf"))


def decoder(model: LlamaLM, prompt: Tensor, new: int) -> Callable[[], float]:
    """An implementation: microseconds a token behind the prompt's, greedy, one thread.

    Raises if the logits behind the prompt are not the model's.
    """
    import llama_cpp

    folder = Path(tempfile.mkdtemp())
    write(model, folder / "model.gguf")
    theirs = llama_cpp.Llama(
        str(folder / "model.gguf"),
        n_ctx=prompt.shape[1] + new,
        n_threads=1,
        n_threads_batch=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )

    def logits() -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(theirs._ctx.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(model.config.vocabulary,))

    def call() -> float:
        theirs.reset()
        theirs.eval(prompt[0].tolist())
        token = int(logits().argmax())
        before = time.perf_counter()
        for _ in range(new - 1):
            theirs.eval([token])
            token = int(logits().argmax())
        return 1e6 * (time.perf_counter() - before) / (new - 1)

    theirs.eval(prompt[0].tolist())
    with torch.inference_mode():
        due = model(prompt, last_only=True)[0, -1].float().numpy()
    if np.abs(logits() - due).max() > TOLERANCE:
        raise AssertionError("llama.cpp gives other logits")
    return call


def write(model: LlamaLM, path: Path) -> None:
    """The model as GGUF in fp32, without a vocabulary."""
    import gguf

    c = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.depth)
    writer.add_feed_forward_length(c.ffn_hidden)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.heads)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_vocab_size(c.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in tensors(model).items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model: LlamaLM) -> dict[str, Tensor]:
    """llama.cpp's name -> weights."""
    state: dict[str, Any] = model.state_dict()
    found = {
        "token_embd": state["embedding.weight"],
        "output_norm": state["norm.weight"],
        "output": state["head.weight"],
    }
    for i in range(model.config.depth):
        part = {n: state[f"blocks.{i}.{n}.weight"] for n in BLOCK}
        q, k, v = part["attention.qkv"].chunk(3)
        gate, up = part["ffn.gate_up"].chunk(2)
        block = {
            "attn_norm": part["attention_norm"],
            "attn_q": interleaved(q, model.config),
            "attn_k": interleaved(k, model.config),
            "attn_v": v,
            "attn_output": part["attention.output"],
            "ffn_norm": part["ffn_norm"],
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": part["ffn.down"],
        }
        found |= {f"blk.{i}.{name}": tensor for name, tensor in block.items()}
    return {f"{name}.weight": tensor for name, tensor in found.items()}


BLOCK = ("attention_norm", "attention.qkv", "attention.output")
BLOCK += ("ffn_norm", "ffn.gate_up", "ffn.down")


def interleaved(weight: Tensor, config: LlamaConfig) -> Tensor:
    """Rows in Meta's order: llama.cpp turns pairs (2i, 2i + 1), we (i, i + half)."""
    halves = weight.view(config.heads, 2, config.head_dim // 2, config.width)
    return halves.transpose(1, 2).reshape(config.width, config.width)
