"""The same weights in llama.cpp, through xllamacpp, where that is installed.

`make bench` installs it (`envs/bench.lock`). Its wheel is built for every x86-64
processor with AVX2: without AVX-512, which a build for this machine alone would use.
Times are by llama.cpp's own clock, one thread, in fp32 but for the weights' kind.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shallower.models.config import LlamaConfig
from shallower.models.llama import LlamaLM

Kind = Literal["F32", "Q8_0"]  # of the matrices; gains are in fp32
# Of a logarithm of a probability, against ours on the same prompt.
TOLERANCE: dict[Kind, float] = {"F32": 1e-3, "Q8_0": 0.3}


def installed() -> bool:
    """Whether it can be measured."""
    return all(find_spec(name) for name in ("xllamacpp", "gguf"))


class LlamaCpp:
    """A model in llama.cpp, with room for so many tokens."""

    def __init__(self, model: LlamaLM, kind: Kind, capacity: int) -> None:
        import xllamacpp

        self.kind, self.name = kind, f"llama.cpp, {kind}"
        params = xllamacpp.CommonParams()
        params.n_ctx, params.n_parallel = capacity, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Its fused attention has sums in fp16.
        attention = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = attention.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.fit_params = params.warmup = False
        params.verbosity = -1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write(model, kind, path)
            params.model.path = str(path)
            self.server = xllamacpp.Server(params)

    def ask(self, prompt: Tensor, new: int, **more: Any) -> dict[str, Any]:
        """Continue a prompt (1, tokens) greedily, with nothing left from before."""
        ids = prompt[0].tolist()
        request = {
            **{"prompt": ids, "n_predict": new, "ignore_eos": True},
            **{"samplers": ["top_k"], "top_k": 1, "cache_prompt": False},
        }
        answer = self.server.handle_completions(request | more)
        counted = answer.get("timings", answer)  # without them it says what is wrong
        if (counted.get("prompt_n"), counted.get("predicted_n")) != (len(ids), new):
            raise AssertionError(f"{self.name}: {counted}")
        return answer

    def decode(self, prompt: Tensor, new: int) -> float:
        """Microseconds a token behind the first."""
        timings = self.ask(prompt, new)["timings"]
        return 1000 * timings["predicted_ms"] / (new - 1)

    def prefill(self, prompt: Tensor) -> float:
        """Milliseconds of a prompt."""
        return self.ask(prompt, 1)["timings"]["prompt_ms"]

    def check(self, model: LlamaLM, prompt: Tensor) -> None:
        """Raise if its likeliest tokens behind the prompt are not the model's."""
        answer = self.ask(prompt, 1, n_probs=5)["choices"][0]
        likely = answer["logprobs"]["content"][0]["top_logprobs"]
        with torch.inference_mode():
            due = model(prompt, last_only=True)[0, -1].float().log_softmax(-1)
        gap = max(abs(token["logprob"] - due[token["id"]]) for token in likely)
        if gap > TOLERANCE[self.kind]:
            raise AssertionError(f"{self.name}: log-probabilities differ by {gap:.2g}")


def write(model: LlamaLM, kind: Kind, path: Path) -> None:
    """The model as GGUF, with a made-up vocabulary, which the server asks for."""
    import gguf

    c = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.depth)
    writer.add_feed_forward_length(c.ffn_hidden)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.groups)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_vocab_size(c.vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>" for i in range(c.vocabulary)])
    writer.add_token_scores([0.0] * c.vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL] * c.vocabulary)
    for name, tensor in tensors(model).items():
        weights = tensor.contiguous().numpy()
        stored = gguf.GGMLQuantizationType[kind if tensor.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(weights, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model: LlamaLM) -> dict[str, Tensor]:
    """llama.cpp's name -> weights."""
    state: dict[str, Any] = model.state_dict()
    c = model.config
    found = {
        "token_embd": state["embedding.weight"],
        "output_norm": state["norm.weight"],
    }
    if not c.tied:
        found["output"] = state["head.weight"]
    for i in range(c.depth):
        part = {n: state[f"blocks.{i}.{n}.weight"] for n in BLOCK}
        q, k, v = part["attention.qkv"].split((c.inner, c.kv_inner, c.kv_inner))
        gate, up = part["ffn.gate_up"].chunk(2)
        block = {
            "attn_norm": part["attention_norm"],
            "attn_q": interleaved(q, c),
            "attn_k": interleaved(k, c),
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
    halves = weight.unflatten(0, (-1, 2, config.head_dim // 2))
    return halves.transpose(1, 2).flatten(0, 2)
