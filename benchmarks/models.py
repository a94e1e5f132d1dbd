"""The same model three times: ours, Hugging Face's, and a plain loop's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from snakemake.common.configfile import load_configfile
from torch import Tensor, nn
from torch.nn import functional as F

from shallower.models.config import LlamaConfig
from shallower.models.hugging_face import to_hugging_face
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.pretrained.checkpoint import open_model
from shallower.study.schema import Training
from shallower.study.study import load_study

ROOT = Path(__file__).resolve().parents[1]

STUDY = {"vocabulary": 2048, "width": 128, "heads": 8, "ffn_hidden": 344}
WIDER = {"vocabulary": 2048, "width": 256, "heads": 8, "ffn_hidden": 688}
PAPER = {"vocabulary": 32_000, "width": 1024, "heads": 8, "ffn_hidden": 2752}


def settings(precision: str = "float32", compiled: str = "never") -> Training:
    """How every implementation trains; the steps are counted by the benchmarks."""
    values = {"precision": precision, "compile": compiled}
    return Training(steps=2, batch_size=1, learning_rate=1e-3, **values)


def ours(depth: int, context: int, **sizes: int) -> LlamaLM:
    """A baseline with its first weights."""
    config = LlamaConfig(**sizes, depth=depth, context=context)
    return initialise(LlamaLM(config), 0)


def smollm2(context: int) -> LlamaLM:
    """The checkpoint of the default study, in fp32."""
    configuration = load_configfile(ROOT / "config.yaml")
    study = load_study(configuration)
    path = study.pretrained.chosen["smollm2-135m"].path("smollm2-135m")
    return open_model(path, context)


def hugging_face(model: LlamaLM) -> Any:
    """The same weights in `LlamaForCausalLM`."""
    return to_hugging_face(model)


class Plain(nn.Module):
    """As a tutorial writes it: one module a matrix, nothing fused, ours for weights.

    nanoGPT's way (separate modules, `F.scaled_dot_product_attention`), with Llama's
    rotary positions, RMSNorm and SwiGLU.
    """

    def __init__(self, model: LlamaLM) -> None:
        super().__init__()
        c, self.config = model.config, model.config
        self.embedding = nn.Embedding(c.vocabulary, c.width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.RMSNorm(c.width, eps=c.norm_eps),
                    "qkv": nn.Linear(c.width, 3 * c.width, bias=False),
                    "out": nn.Linear(c.width, c.width, bias=False),
                    "norm2": nn.RMSNorm(c.width, eps=c.norm_eps),
                    "gate": nn.Linear(c.width, c.ffn_hidden, bias=False),
                    "up": nn.Linear(c.width, c.ffn_hidden, bias=False),
                    "down": nn.Linear(c.ffn_hidden, c.width, bias=False),
                }
            )
            for _ in range(c.depth)
        )
        self.norm = nn.RMSNorm(c.width, eps=c.norm_eps)
        self.head = nn.Linear(c.width, c.vocabulary, bias=False)
        angles = model.rotary
        half = c.head_dim // 2
        self.cos, self.sin = angles[0][:, :half], angles[1][:, half:]
        self.load_state_dict(_plain_state(model))

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        x, c = self.embedding(tokens), self.config
        for block in self.blocks:
            parts = block["qkv"](block["norm1"](x)).split(c.width, dim=2)
            q, k, v = (p.unflatten(2, (c.heads, -1)).transpose(1, 2) for p in parts)
            q, k = self.rotate(q), self.rotate(k)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["out"](y.transpose(1, 2).flatten(2))
            h = block["norm2"](x)
            x = x + block["down"](F.silu(block["gate"](h)) * block["up"](h))
        return self.head(self.norm(x))


def _plain_state(model: LlamaLM) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    names = {
        "attention_norm": "norm1",
        "attention.qkv": "qkv",
        "attention.output": "out",
        "ffn_norm": "norm2",
        "ffn.down": "down",
    }
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if "gate_up" in name:
            place = name.removesuffix("ffn.gate_up.weight")
            gate, up = tensor.chunk(2)
            plain |= {f"{place}gate.weight": gate, f"{place}up.weight": up}
            continue
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        plain[name] = tensor
    return plain
