"""Weights of a checkpoint, tensor by tensor into the memory of the model.

So loading takes hardly more memory than the model itself. A GGUF file's tensors go by
the names that Hugging Face's Llama has for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shallower.errors import UserError
from shallower.models.config import LlamaConfig
from shallower.models.families import on_meta
from shallower.models.hugging_face import name_map
from shallower.models.llama import LlamaLM, rotary_table
from shallower.pretrained.gguf_file import GGUFHeader
from shallower.pretrained.sizes import INDEX, SINGLE

# What some checkpoints hold beside their weights: it follows from the sizes.
DERIVED = ("rotary_emb.inv_freq", "rope_freqs.weight")

GGUF_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
GGUF_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Weights(Protocol):
    """The tensors of a checkpoint under Hugging Face's names."""

    def names(self) -> set[str]:
        """Of all tensors."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, in the precision that the file has."""
        ...


class Safetensors:
    """A Hugging Face folder's weights, in one file or in shards.

    Raises UserError for a missing shard, and for a folder that has pickles alone.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / INDEX
        if index.is_file():
            self.files = _shards(index)
        elif (folder / SINGLE).is_file():
            self.files = dict.fromkeys(_keys(folder / SINGLE), folder / SINGLE)
        else:
            pickles = sorted(p.name for p in folder.glob("*.bin"))
            found = (
                f"found {pickles[0]}, a pickle, which is not read" if pickles else ""
            )
            raise UserError(f"{folder}: expected {SINGLE} or {INDEX}, found {found}")
        for path in dict.fromkeys(self.files.values()):
            if not path.is_file():
                raise UserError(f"{path}: this shard of the checkpoint is missing")
        self._open: dict[Path, safe_open] = {}

    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self.files)

    def read(self, name: str) -> Tensor:
        """One tensor; the file is mapped, not read whole."""
        path = self.files[name]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, "pt")
            file = self._open[path]
            tensor: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: {name} cannot be read ({error})") from None
        return tensor


def _shards(index: Path) -> dict[str, Path]:
    """The shard of each tensor. Raises UserError for one outside the folder."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found = {str(name): str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: expected a weight_map of shards") from None
    for file in found.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(
                f"{index}: shard {file[:80]!r}, expected a safetensors file beside it"
            )
    return {name: index.parent / file for name, file in found.items()}


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None


class GGUF:
    """A GGUF file's weights, dequantised.

    llama.cpp stores the rows of a Llama's queries and keys as interleaved rotary pairs:
    they are put back to halves.
    """

    def __init__(self, header: GGUFHeader, config: LlamaConfig) -> None:
        self.header, self.config = header, config
        self.interleaved = header.metadata["general.architecture"] == "llama"

    def names(self) -> set[str]:
        """Of all tensors; those that Hugging Face has no name for under GGUF's."""
        theirs = {g: hf for hf, g in GGUF_OUTER.items()}
        blocks = {g: hf for hf, g in GGUF_BLOCK.items()}
        found = set()
        for name in self.header.tensors:
            stem, _, kind = name.rpartition(".")
            if stem in theirs:
                found.add(f"{theirs[stem]}.{kind}")
                continue
            _, _, rest = stem.partition(".")
            number, _, part = rest.partition(".")
            known = stem.startswith("blk.") and part in blocks
            found.add(f"model.layers.{number}.{blocks[part]}.{kind}" if known else name)
        return found

    def read(self, name: str) -> Tensor:
        """One tensor in fp32."""
        weights = torch.from_numpy(self.header.tensor(self._own(name)))
        heads = {"q_proj": self.config.heads, "k_proj": self.config.groups}
        for part, count in heads.items():
            if self.interleaved and f".{part}." in name:
                shape = (count, self.config.head_dim // 2, 2)
                pairs = torch.unflatten(weights, 0, shape)
                weights = pairs.transpose(1, 2).flatten(0, 2)
        return weights

    @staticmethod
    def _own(name: str) -> str:
        stem, _, kind = name.rpartition(".")
        if stem in GGUF_OUTER:
            return f"{GGUF_OUTER[stem]}.{kind}"
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{GGUF_BLOCK[part]}.{kind}"


def load(
    config: LlamaConfig, weights: Weights, where: Path, dtype: torch.dtype
) -> LlamaLM:
    """A model of these sizes with a checkpoint's weights, in evaluation mode.

    Raises UserError, naming it, for a tensor that is missing, of another shape, or in
    the file and not in the model.
    """
    model = on_meta(config).to_empty(device="cpu").to(dtype)
    model.tie()
    parameters = dict(model.named_parameters())
    names = name_map(config)
    there = weights.names()
    used = {name for parts in names.values() for name in parts}
    missing = sorted(used - there)
    if missing:
        raise UserError(f"{where}: the tensor {missing[0]} is missing")
    extra = sorted(n for n in there - used if not _ignored(n, config))
    if extra:
        raise UserError(f"{where}: the tensor {extra[0]} belongs to no Llama")
    with torch.no_grad():
        for ours, parts in names.items():
            _fill(
                parameters[ours], ((name, weights.read(name)) for name in parts), where
            )
    # In fp64 and cast once, as everywhere; nothing of it is in the file.
    model.rotary = rotary_table(config).to(dtype)
    return model.eval()


def _ignored(name: str, config: LlamaConfig) -> bool:
    return name.endswith(DERIVED) or (config.tied and name == "lm_head.weight")


def _fill(parameter: Tensor, parts: Iterator[tuple[str, Tensor]], where: Path) -> None:
    row = 0
    for name, part in parts:
        end = row + part.shape[0]
        if end > len(parameter) or part.shape[1:] != parameter.shape[1:]:
            raise UserError(f"{where}: {name} has the shape {tuple(part.shape)}")
        parameter[row:end].copy_(part)
        row = end
    if row != len(parameter):
        raise UserError(f"{where}: {name} has {part.shape[0]} rows, expected more")
