"""A small T5: the encoder-decoder in which the thesis of Lee replaced the FFN.

T5 1.0 (Raffel et al., arXiv 1910.10683; Hugging Face's `T5ForConditionalGeneration`
is the oracle): pre-norm blocks with RMS norms (gain only), no biases, attention
without the 1 / sqrt(head size), W2 ReLU(W1 h), and one embedding for both sides and
the output. Positions enter as a learnt bias on the attention scores alone. There is
no dropout, as in the study's Llama.

The configuration's `ffn` replaces the feed-forward layer of one side or both
(`config.py`): the thesis' "Skip FFN" is FFNVariant("none"), "Skip Encoder FFN" the same
with where="encoder", its 1W to 3W are the linear chains of `ffn.py`. A chain leaves
the residual connection and the norm; `none` drops the norm too, as in the decoder-only
family.

Start values are those of Mesh TensorFlow and Hugging Face: N(0, 1 / fan-in), queries
also divided by sqrt(head size) in place of the scores, position biases
N(0, 1 / d_model), the embedding N(0, 1), gains 1. Nothing is scaled by depth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shallower.models.config import Side, T5Config
from shallower.models.ffn import ReluFFN, feed_forward
from shallower.models.heads import concatenate, split
from shallower.models.initial import Fill

PAD = 0  # also what decoding starts with
IGNORED = -100  # a label that no loss counts, as in Hugging Face
# Added to the scores of what is masked: exp() of it is 0 and, unlike -inf, a row with
# nothing to see stays finite. Mesh TensorFlow's value.
MASKED = -1e9


class PositionBias(nn.Module):
    """Bias on attention scores by the distance from query to key, for every head."""

    def __init__(self, config: T5Config, both_ways: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.buckets, config.heads))
        self.max_distance, self.both_ways = config.max_distance, both_ways
        self.width = config.width

    def start(self, fill: Fill) -> None:
        """N(0, 1 / d_model)."""
        fill.normal(self.weight, self.width**-0.5)

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
        y: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        y = self.output(concatenate(y))
        return y

    def start(self, fill: Fill) -> None:
        """N(0, 1 / fan-in), queries divided by sqrt(head size) as well."""
        width, inner = self.query.in_features, self.output.in_features
        fill.normal(self.query.weight, (width * (inner // self.heads)) ** -0.5)
        fill.normal(self.key_value.weight, width**-0.5)
        fill.normal(self.output.weight, inner**-0.5)


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
        variant = config.ffn.on_side(side)
        self.ffn = feed_forward(variant, ReluFFN, config.width, config.ffn_hidden)
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
        y: Tensor = self.ffn(self.ffn_norm(x))
        return x + y


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
        x = self.norm(x)
        return x


class T5LM(nn.Module):
    """Token ids of an input, and of the output so far, to next-token logits."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.encoder = Stack(config, "encoder")
        self.decoder = Stack(config, "decoder")

    def start(self, fill: Fill) -> None:
        """The embedding N(0, 1); blocks and positions have their own start values."""
        fill.normal(self.embedding.weight, 1.0)

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
        x: Tensor = self.embedding(inputs)
        x = self.encoder(x, _padding_mask(inputs, x))
        return x

    def decode(self, tokens: Tensor, memory: Tensor, inputs: Tensor) -> Tensor:
        """Features (batch, T, width) of the decoder's own token ids (batch, T).

        `memory` is what `encode` made of `inputs`, whose padding is masked here too.
        The d_model^-0.5 belongs to the tied head: the embedding starts at N(0, 1).
        """
        x: Tensor = self.embedding(tokens)
        future = torch.ones(2 * tokens.shape[1:], device=x.device).triu(1) * MASKED
        mask = _padding_mask(inputs, x)
        x = self.decoder(x, future.to(x.dtype), memory, mask)
        scale: float = self.config.width**-0.5
        return x * scale

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
