"""A small Llama: one decoder-only language model for every variant of the study.

Pre-norm blocks of causal self-attention (rotary positions) and SwiGLU, RMSNorm, no
dropout, untied output head, as in Llama 2 (arXiv 2307.09288) scaled down as in
"Shallower LLMs for Faster Inference", section 3.4. The configuration's `head` says what
is added between attention and concatenation, `ffn` what replaces SwiGLU (`config.py`);
the rest of the Llama family (grouped queries, tied embeddings, biases, scaled rotary
frequencies) is there for pretrained checkpoints.
Rotary embeddings use the half-split convention, so weights move to and from Hugging
Face's Llama unchanged.

There are two paths through the same code: training (whole sequences, no cache) and
inference (a preallocated key-value cache: prefill, then one token at a time).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shallower.models.attention import causal_attention
from shallower.models.config import LlamaConfig
from shallower.models.ffn import SwiGLU, feed_forward
from shallower.models.heads import (
    ACTIVATIONS,
    Heads,
    PerHeadLinear,
    concatenate,
    fold_values,
)
from shallower.models.initial import STD, Fill


class KeyValueCache:
    """Keys and values of the tokens seen so far, preallocated for `capacity` tokens.

    Blocks without attention take no room in it.
    """

    def __init__(self, model: LlamaLM, batch: int, capacity: int) -> None:
        config, weight = model.config, model.embedding.weight
        self.slots = {block: n for n, block in enumerate(config.attending)}
        blocks = len(self.slots)
        shape = (blocks, 2, batch, config.groups, capacity, config.head_dim)
        self.store = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.length = 0  # tokens stored

    def append(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, tokens, head_dim); return all keys and values."""
        store, end = self.store[self.slots[block]], self.length + keys.shape[2]
        store[0, :, :, self.length : end] = keys
        store[1, :, :, self.length : end] = values
        return store[0, :, :, :end], store[1, :, :, :end]

    def held(self, block: int, tokens: int) -> tuple[Tensor, Tensor]:
        """The first keys and values of a block, (batch, kv_heads, tokens, head_dim)."""
        store = self.store[self.slots[block]]
        return store[0, :, :, :tokens], store[1, :, :, :tokens]

    def select(self, rows: Tensor) -> None:
        """Keep these sequences of the batch alone."""
        self.store = self.store[:, :, rows]

    @property
    def nbytes(self) -> int:
        """Bytes allocated, filled or not."""
        return self.store.nbytes


def rotary_table(config: LlamaConfig, device: torch.device | None = None) -> Tensor:
    """Cosines and signed sines of position x frequency: (2, context, head_dim)."""
    # In fp64 and cast once: at large positions fp32 angles would lose digits.
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device=device)
    frequencies = config.rope_theta ** (-pairs / config.head_dim)
    if config.rope_divisors:
        divisors = torch.tensor(config.rope_divisors, dtype=torch.float64)
        frequencies = frequencies / divisors.to(frequencies.device)
    positions = torch.arange(config.context, dtype=torch.float64, device=device)
    angles = torch.outer(positions, frequencies)
    # The pair (i, i + head_dim / 2) turns by one angle; see `rotate` for the sign.
    cosine, sine = angles.cos().repeat(1, 2), angles.sin()
    table = torch.stack((cosine, torch.cat((-sine, sine), dim=-1)))
    return table.to(torch.get_default_dtype())


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn queries or keys (batch, heads, tokens, head_dim) by their positions.

    With halves (a, b): (a cos - b sin, b cos + a sin).
    """
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * rotary[0], swapped, rotary[1])


class Attention(nn.Module):
    """Causal self-attention, with the variant's layer on the heads' outputs."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.groups = config.groups
        variant, d = config.head, config.width
        # Queries, keys and values in one product: small models are bound by calls.
        self.qkv = nn.Linear(d, config.inner + 2 * config.kv_inner, config.qkv_bias)
        self.value_bias = (
            nn.Parameter(torch.empty(config.kv_inner)) if variant.value_bias else None
        )
        self.value_activation = ACTIVATIONS.get(variant.value_activation)
        sizes = (config.head_dim, config.norm_eps)
        self.query_norm = nn.RMSNorm(*sizes) if variant.query_key_norm else None
        self.key_norm = nn.RMSNorm(*sizes) if variant.query_key_norm else None
        self.mix = Heads(variant, config.heads, config.head_dim, d)
        self.output = nn.Linear(config.inner, d, bias=False)
        self.output_activation = ACTIVATIONS.get(variant.output_activation)
        self.folded_start = variant.folded_start

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        block: int,
    ) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        q, k, v = self.project(x, rotary)
        if cache is not None:
            k, v = cache.append(block, k, v)
        return self.join(self.attend(q, k, v, mask), x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention of queries (batch, heads, tokens, head_dim).

        Keys and values (batch, kv_heads, tokens, head_dim) serve heads / kv_heads
        queries each; a `mask` is (batch or 1, 1, tokens, keys) or (tokens, keys).
        """
        if self.groups != self.heads:
            if q.shape[2] == 1:
                # The queries of a group are rows that see the same keys.
                rows = q.view(q.shape[0], self.groups, -1, self.head_dim)
                out = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask)
                return out.view(q.shape)
            k, v = self.for_each_head(k), self.for_each_head(v)
        if mask is None and 1 < q.shape[2] < k.shape[2]:
            # Several tokens behind a filled cache: each sees those up to itself.
            shape, before = (q.shape[2], k.shape[2]), k.shape[2] - q.shape[2]
            mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril(before)
        if mask is not None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        # All tokens so far, which is causal attention, or the last token alone, which
        # sees everything: the same function.
        return causal_attention(q, k, v)

    def for_each_head(self, x: Tensor) -> Tensor:
        """Keys or values (batch, kv_heads, tokens, head_dim) for each query head."""
        repeats = self.heads // self.groups
        return x if repeats == 1 else x.repeat_interleave(repeats, dim=1)

    def join(self, outputs: Tensor, x: Tensor) -> Tensor:
        """The heads' outputs (batch, heads, tokens, head_dim) to x's shape."""
        y = self.output(concatenate(self.mix(outputs, x)))
        return y if self.output_activation is None else self.output_activation(y)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned by their positions, and values.

        (batch, heads, tokens, head_dim) and twice (batch, kv_heads, tokens, head_dim)
        for x (batch, tokens, width).
        """
        heads = self.heads + 2 * self.groups
        qkv = self.qkv(x).unflatten(2, (heads, self.head_dim)).transpose(1, 2)
        qk, v = qkv.split((heads - self.groups, self.groups), dim=1)
        return *self._turned(qk, rotary, self.heads), self._values(v)

    def project_last(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `project`, with the query of the last token alone."""
        inner = self.heads * self.head_dim
        weight, bias = self.qkv.weight, self.qkv.bias
        parts = (None, None) if bias is None else (bias[:inner], bias[inner:])
        q = F.linear(x[:, -1:], weight[:inner], parts[0])
        kv = F.linear(x, weight[inner:], parts[1])
        q = torch.unflatten(q, 2, (self.heads, self.head_dim)).transpose(1, 2)
        kv = torch.unflatten(kv, 2, (2 * self.groups, self.head_dim)).transpose(1, 2)
        k, v = kv.chunk(2, dim=1)
        q, _ = self._turned(q, rotary[..., -1:, :], self.heads)
        _, k = self._turned(k, rotary, 0)
        return q, k, self._values(v)

    def _turned(
        self, qk: Tensor, rotary: Tensor, queries: int
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys, the first `queries` heads of `qk` and the others."""
        if self.query_norm is not None and self.key_norm is not None:
            q, k = qk[:, :queries], qk[:, queries:]
            qk = torch.cat((self.query_norm(q), self.key_norm(k)), dim=1)
        qk = rotate(qk, rotary)
        return qk[:, :queries], qk[:, queries:]

    def _values(self, v: Tensor) -> Tensor:
        if self.value_bias is not None:
            v = v + self.value_bias.view(self.groups, 1, self.head_dim)
        return v if self.value_activation is None else self.value_activation(v)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token of all weights, the scores not counted."""
        added = sum(layer.macs for layer in self.mix.layers.values())
        return self.qkv.weight.numel() + self.output.weight.numel() + added

    @property
    def parallel(self) -> bool:
        """Whether heads share no parameters, so that they can be cut apart."""
        if self.value_bias is not None or self.query_norm is not None:
            return False
        if self.groups != self.heads or self.qkv.bias is not None:
            return False
        return all(layer.parallel == "heads" for layer in self.mix.layers.values())

    def start(self, fill: Fill) -> None:
        """Matrices N(0, std), scaled down where it writes to the residual stream.

        The value bias is 0; layers on the heads have start values of their own.
        """
        fill.normal(self.qkv.weight, fill.std)
        fill.normal(self.output.weight, fill.std * fill.residual * fill.output_scale)
        if self.qkv.bias is not None:
            fill.constant(self.qkv.bias, 0.0)
        if self.value_bias is not None:
            fill.constant(self.value_bias, 0.0)
            if self.folded_start:
                self._fold_start(fill, self.value_bias)

    def _fold_start(self, fill: Fill, value_bias: Tensor) -> None:
        """Start as the proposed block does, with its layer folded into the values."""
        layer = PerHeadLinear(self.heads, self.head_dim).to(self.qkv.weight)
        assert layer.bias is not None
        name = fill.name(self.qkv.weight).replace("qkv.weight", "mix.linear")
        fill.add(layer, name)
        layer.start(fill)
        self.qkv.weight.copy_(fold_values(self.qkv.weight, layer.weight, self.heads))
        value_bias.copy_(layer.bias.reshape(-1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); either may be absent."""

    def __init__(self, config: LlamaConfig, index: int = 0) -> None:
        super().__init__()
        norm = partial(nn.RMSNorm, config.width, eps=config.norm_eps)
        attends = index not in config.skip.attention
        self.attention_norm = norm() if attends else None
        self.attention = Attention(config) if attends else None
        left_out = index in config.skip.ffn
        variant = config.ffn.in_block(index, config.depth)
        self.ffn = (
            None
            if left_out
            else feed_forward(variant, SwiGLU, config.width, config.ffn_width)
        )
        self.ffn_norm = norm() if self.ffn else None

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        block: int,
    ) -> Tensor:
        """(batch, tokens, width) to the same shape."""
        return self.after_ffn(self.after_attention(x, rotary, mask, cache, block))

    def after_attention(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        block: int,
    ) -> Tensor:
        """The first half of the block, (batch, tokens, width) to the same shape."""
        if self.attention is None or self.attention_norm is None:
            return x
        y: Tensor = self.attention(self.attention_norm(x), rotary, mask, cache, block)
        return x + y

    def last_token(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        block: int,
    ) -> Tensor:
        """As `forward`, the last token alone: (batch, tokens, width) to (batch, 1, ..).

        Only its query and its FFN are computed. What the last block of a prefill costs
        beyond the keys and values is then that of one token.
        """
        last = x[:, -1:]
        if self.attention is not None and self.attention_norm is not None:
            attention, normed = self.attention, self.attention_norm(x)
            q, k, v = attention.project_last(normed, rotary)
            if cache is not None:
                k, v = cache.append(block, k, v)
            rows = None if mask is None else mask[..., -1:, :]
            outputs = attention.attend(q, k, v, rows)
            last = last + attention.join(outputs, normed[:, -1:])
        return self.after_ffn(last)

    def after_ffn(self, x: Tensor) -> Tensor:
        """The second half of the block, (batch, tokens, width) to the same shape."""
        if self.ffn is None or self.ffn_norm is None:
            return x
        y: Tensor = self.ffn(self.ffn_norm(x))
        return x + y


class LlamaLM(nn.Module):
    """Token ids to next-token logits."""

    rotary: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.tie()
        self.register_buffer("rotary", rotary_table(config), persistent=False)
        # Keep each block's input only, and compute the block anew for its gradients.
        self.recompute = False

    def start(self, fill: Fill) -> None:
        """Embedding and output head N(0, 0.02); blocks have their own start values.

        The original states nothing; this is ours. Matrices that write to the residual
        stream (attention output, FFN down) are divided by sqrt(2 depth).
        """
        fill.residual = 1 / math.sqrt(2 * self.config.depth)
        fill.normal(self.embedding.weight, STD)
        if not self.config.tied:
            fill.normal(self.head.weight, STD)

    def tie(self) -> None:
        """Let the output head be the embedding, where the configuration says so."""
        if self.config.tied:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        tokens: Tensor,
        cache: KeyValueCache | None = None,
        padding: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits (batch, tokens, vocabulary) for token ids (batch, tokens).

        With a cache, `tokens` continue what it holds. `padding` (batch,) counts
        meaningless tokens at the left of each sequence, which no other token sees.
        `last_only` gives the last token's logits alone, (batch, 1, vocabulary): the
        last block computes nothing else, and the output head neither.
        """
        logits: Tensor = self.head(self.features(tokens, cache, padding, last_only))
        return logits

    def features(
        self,
        tokens: Tensor,
        cache: KeyValueCache | None = None,
        padding: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """What the output head is given, (batch, tokens, width); see `forward`."""
        start = cache.length if cache is not None else 0
        end = start + tokens.shape[1]
        rotary, mask = self._positions(start, end, padding)
        x: Tensor = self.embedding(tokens)
        for index, block in enumerate(self.blocks):
            if last_only and tokens.shape[1] > 1 and index == len(self.blocks) - 1:
                assert isinstance(block, Block)
                x = block.last_token(x, rotary, mask, cache, index)
            elif self.recompute:
                x = checkpoint(
                    *(block, x, rotary, mask, cache, index),
                    use_reentrant=False,
                    preserve_rng_state=False,  # a block draws nothing
                )
            else:
                x = block(x, rotary, mask, cache, index)
        if cache is not None:
            cache.length = end
        if last_only:
            x = x[:, -1:]
        x = self.norm(x)
        return x

    def _positions(
        self, start: int, end: int, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Rotary factors and, where plain causal attention is not it, a mask."""
        if padding is None:
            return self.rotary[:, start:end], None
        index = torch.arange(start, end, device=padding.device)
        positions = (index - padding[:, None]).clamp(min=0)
        return self.rotary_at(positions), self._mask(start, end, padding)

    def rotary_at(self, positions: Tensor) -> Tensor:
        """Rotary factors of positions (batch, tokens) that differ by sequence."""
        return self.rotary[:, positions, None, :].transpose(2, 3)

    def _mask(self, start: int, end: int, padding: Tensor) -> Tensor:
        """True where a query may see a key: (batch, 1, tokens, end)."""
        device = self.rotary.device
        queries = torch.arange(start, end, device=device)[:, None]
        keys = torch.arange(end, device=device)
        real = keys >= padding[:, None, None, None]
        # A padded query sees itself: an empty softmax would yield NaN.
        return ((keys <= queries) & real) | (keys == queries)
