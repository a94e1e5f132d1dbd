"""A small T5: the encoder-decoder in which the thesis of Lee replaced the FFN.

T5 1.0 (Raffel et al., arXiv 1910.10683; Hugging Face's `T5ForConditionalGeneration`
is the oracle): pre-norm blocks with RMS norms (gain only), no biases, attention
without the 1 / sqrt(head size), W2 ReLU(W1 h), and one embedding for both sides and
the output. Positions enter as a learnt bias on the attention scores alone. There is
no dropout, as in the study's Llama.

`ffn` names what stands in the feed-forward place of one side or both (`variants.py`):
the thesis' "Skip FFN" is FFNVariant("none"), "Skip Encoder FFN" the same with
where="encoder", its 1W to 3W are the linear chains of `ffn.py`. A chain keeps the
residual and the norm; `none` drops the norm too, which would norm for nobody, as in
the decoder-only family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shallower.models.ffn import LinearChain, ReluFFN
from shallower.models.heads import concatenate, split
from shallower.models.variants import FFNVariant

Side = Literal["encoder", "decoder"]
OWN_FFN = FFNVariant()  # W2 ReLU(W1 h)
PAD = 0  # also what decoding starts with
IGNORED = -100  # a label that no loss counts, as in Hugging Face
# Added to the scores of what is masked: exp() of it is 0 and, unlike -inf, a row with
# nothing to see stays finite. Mesh TensorFlow's value.
MASKED = -1e9


@dataclass(frozen=True)
class T5Config:
    """Sizes of one model; the thesis' letters (its Table 3.1) in the comments."""

    vocabulary: int
    width: int  # d_model
    encoder_depth: int  # N_L, before the stroke
    decoder_depth: int  # N_L, behind it
    heads: int  # N_H
    head_size: int  # d_kv; all heads together need not be as wide as the model
    ffn_hidden: int  # d_ff
    context: int  # longest sequence the encoder is given; no parameter depends on it
    ffn: FFNVariant = OWN_FFN
    norm_eps: float = 1e-6
    buckets: int = 32  # of relative positions
    max_distance: int = 128  # tokens; all larger distances share a bucket

    def __post_init__(self) -> None:
        if self.ffn.where in ("first_half", "second_half"):
            raise ValueError(f"an encoder-decoder has sides, not a {self.ffn.where}")

    @classmethod
    def parse(cls, sizes: dict[str, Any]) -> T5Config:
        """From plain values, as a run's specification holds them."""
        return cls(**(sizes | {"ffn": FFNVariant(**sizes.get("ffn", {}))}))

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_size


class PositionBias(nn.Module):
    """Bias on attention scores by the distance from query to key, for every head."""

    def __init__(self, config: T5Config, both_ways: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.buckets, config.heads))
        self.max_distance, self.both_ways = config.max_distance, both_ways

    def forward(self, tokens: int) -> Tensor:
        """Bias (heads, queries, keys) for a sequence of so many tokens."""
        distances = torch.arange(1 - tokens, tokens, device=self.weight.device)
        by_distance = self.weight[self.bucket(distances)].T
        # Query i's row is the window of `tokens` distances from -i on.
        return by_distance.unfold(1, tokens, 1).flip(1)

    def bucket(self, distances: Tensor) -> Tensor:
        """Bucket of each distance, key - query: exact when small, then logarithmic.

        Both ways, later keys have half of the buckets to themselves; else no query
        sees them. The logarithm is taken in fp32, as in the original: where it is a
        whole number, rounding decides.
        """
        count = self.weight.shape[0]
        offset = torch.zeros_like(distances)
        if self.both_ways:
            count //= 2
            offset = (distances > 0) * count
            distances = distances.abs()
        else:
            distances = -distances.clamp(max=0)
        exact = count // 2
        # The clamp spares log(0), which `where` then does not take.
        spread = torch.log(distances.clamp(min=1).float() / exact)
        spread = spread / math.log(self.max_distance / exact) * (count - exact)
        large = (exact + spread.long()).clamp(max=count - 1)
        return offset + torch.where(distances < exact, distances, large)


class Attention(nn.Module):
    """Attention of `x` to `memory`, without scale: the start values allow for that."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.inner, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.inner, bias=False)
        self.output = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """(batch, queries, width), (batch, keys, width) to the shape of `x`.

        `bias` broadcasts to (batch, heads, queries, keys) and is added to the scores.
        """
        q = split(self.query(x), self.heads)
        k, v = split(self.key_value(memory), 2 * self.heads).chunk(2, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.output(concatenate(y))


def feed_forward(config: T5Config, side: Side) -> nn.Module | None:
    """What stands in the feed-forward place of a side's blocks; None: nothing."""
    variant = config.ffn.on_side(side)
    if variant.kind == "none":
        return None
    if variant.kind == "linear":
        return LinearChain(config.width, variant)
    return ReluFFN(config.width, config.ffn_hidden)


class Block(nn.Module):
    """x + attention(norm(x)), in the decoder also to the encoder, then x + ffn."""

    def __init__(self, config: T5Config, side: Side) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return nn.RMSNorm(config.width, eps=config.norm_eps)

        self.attention_norm, self.attention = norm(), Attention(config)
        crossed = side == "decoder"
        self.cross_norm = norm() if crossed else None
        self.cross = Attention(config) if crossed else None
        self.ffn = feed_forward(config, side)
        self.ffn_norm = norm() if self.ffn else None

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
    ) -> Tensor:
        """(batch, tokens, width) to the same shape; see `Attention` for the biases."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, bias)
        if self.cross is not None and self.cross_norm is not None:
            x = x + self.cross(self.cross_norm(x), memory, memory_bias)
        if self.ffn is None or self.ffn_norm is None:
            return x
        return x + self.ffn(self.ffn_norm(x))


class Stack(nn.Module):
    """The blocks of one side, with one table of position biases for all of them.

    Hugging Face keeps the table in the first block, which hands the bias on.
    """

    def __init__(self, config: T5Config, side: Side) -> None:
        super().__init__()
        depth = getattr(config, f"{side}_depth")
        self.positions = PositionBias(config, both_ways=side == "encoder")
        self.blocks = nn.ModuleList(Block(config, side) for _ in range(depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        # Keep each block's input only, and compute the block anew for its gradients.
        self.recompute = False

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """(batch, tokens, width) to the same shape.

        The masks are 0 or MASKED and broadcast to (batch, heads, queries, keys).
        """
        bias = self.positions(x.shape[1]) + mask
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(
                    *(block, x, bias, memory, memory_mask),
                    use_reentrant=False,
                    preserve_rng_state=False,  # a block draws nothing
                )
            else:
                x = block(x, bias, memory, memory_mask)
        return self.norm(x)


class T5LM(nn.Module):
    """Token ids of an input, and of the output so far, to next-token logits."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.encoder = Stack(config, "encoder")
        self.decoder = Stack(config, "decoder")

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Logits (batch, T, vocabulary) of `labels` (batch, T), given `inputs`.

        `inputs` (batch, S) are padded with PAD, which no token sees; position t sees
        the labels before t alone. Labels of IGNORED are read as PAD.
        """
        return self.head(self.features(inputs, labels))

    def features(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """What the output head is given, (batch, T, width); see `forward`."""
        return self.decode(shift_right(labels), self.encode(inputs), inputs)

    def head(self, features: Tensor) -> Tensor:
        """Logits (..., vocabulary) of features (..., width): the embedding again."""
        return F.linear(features, self.embedding.weight)

    def encode(self, inputs: Tensor) -> Tensor:
        """The encoder's output (batch, S, width) for token ids (batch, S)."""
        x = self.embedding(inputs)
        return self.encoder(x, _padding_mask(inputs, x))

    def decode(self, tokens: Tensor, memory: Tensor, inputs: Tensor) -> Tensor:
        """Features (batch, T, width) of the decoder's own token ids (batch, T).

        `memory` is what `encode` made of `inputs`, whose padding is masked here too.
        The d_model^-0.5 belongs to the tied head: the embedding starts at N(0, 1).
        """
        x = self.embedding(tokens)
        future = torch.ones(2 * tokens.shape[1:], device=x.device).triu(1) * MASKED
        mask = _padding_mask(inputs, x)
        x = self.decoder(x, future.to(x.dtype), memory, mask)
        return x * self.config.width**-0.5

    @property
    def recompute(self) -> bool:
        """Whether blocks are computed anew for their gradients."""
        return self.encoder.recompute and self.decoder.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.encoder.recompute = self.decoder.recompute = value


def shift_right(labels: Tensor) -> Tensor:
    """What the decoder reads: PAD to start with, then all labels but the last."""
    read = labels.masked_fill(labels == IGNORED, PAD)
    return F.pad(read[:, :-1], (1, 0), value=PAD)


def _padding_mask(inputs: Tensor, like: Tensor) -> Tensor:
    """MASKED where keys are padding, else 0: (batch, 1, 1, keys)."""
    return ((inputs == PAD) * MASKED)[:, None, None].to(like.dtype)
