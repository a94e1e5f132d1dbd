"""Sizes and variants of both families as plain data, free of torch.

In the paper's notation (section 3.1), head i of n yields o_i of shape (T, d/n), and
the proposed block replaces it by SiLU(o_i A_i + b_i) before concatenation and W_O.
`heads.py` and `ffn.py` build the modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Activation = Literal[
    "identity",
    "silu",
    "silu_even",
    "gelu",
    "relu",
    "tanh",
    "half",
    "absolute",
    "square",
]
LinearStart = Literal["default", "identity", "zero_bias", "matched_bias"]
Side = Literal["encoder", "decoder"]

SENTINELS = 100  # T5: ids behind the tokenizer's pieces, kept for span corruption


class _Strict:
    """Unknown keys in a file are errors: read by pydantic (see `study.runs`)."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class HeadVariant(_Strict):
    """One way to treat the heads' outputs, in the order of application.

    value_bias, value_activation act on the values before attention; norm, linear,
    activation, layer and gate on the heads' outputs; output_activation behind W_O.
    """

    value_bias: bool = False  # a bias on the value projection: d parameters
    # Start at the function that the proposed block starts at, with its layer folded.
    folded_start: bool = False
    value_activation: Activation = "identity"
    query_key_norm: bool = False  # RMSNorm with gain on each head's queries and keys
    norm: bool = False  # RMSNorm on each head's output, gain starting at 0.05
    # per_head: A_i, b_i for each head; no_bias: A_i alone; shared: one A, b for all
    # heads; full: a d x d matrix and bias over the concatenated heads.
    linear: Literal["none", "per_head", "no_bias", "shared", "full"] = "none"
    linear_start: LinearStart = "default"
    activation: Activation = "identity"
    # Sigmoid gate on the result, computed from the block's input (head: one number a
    # head; element: one a feature) or from the result itself (self).
    gate: Literal["none", "head", "element", "self"] = "none"
    output_activation: Activation = "identity"
    ffn_matched: bool = False  # FFN widened by as many parameters as `proposed` adds
    layer: str = ""  # a layer of its own: `<module of models.layers>.<class>`

    @property
    def folds(self) -> bool:
        """Whether `transforms.fold` has something to fold."""
        on_values = self.linear in ("per_head", "no_bias", "shared")
        return on_values and not self.norm and self.value_activation == "identity"


@dataclass(frozen=True)
class FFNVariant(_Strict):
    """What replaces a block's feed-forward layer (thesis of Lee, chapter 4).

    `default` is the family's: SwiGLU in Llama, W2 ReLU(W1 h) in T5. `none` leaves it
    out, with its norm. `linear` is a chain of one to three matrices without biases,
    W h, W_b W_a h or W_c W_b W_a h, all but the outer sides ratio x d wide, with an
    activation behind a single one at most. Those without collapse into one d x d.
    """

    kind: Literal["default", "none", "linear"] = "default"
    matrices: int = 1
    activation: Literal["identity", "relu"] = "identity"
    ratio: float = 4.0
    # Blocks it applies to; the others keep the family's default. A decoder has halves,
    # an encoder-decoder sides.
    where: Literal["all", "first_half", "second_half", "encoder", "decoder"] = "all"
    # A layer of its own instead of the default: `<module of models.layers>.<class>`.
    layer: str = ""

    def __post_init__(self) -> None:
        if self.layer and self.kind != "default":
            raise ValueError(f"kind {self.kind} with layer {self.layer}: expected one")

    @property
    def collapses(self) -> bool:
        """Whether `transforms.collapse` has something to multiply out."""
        return self.kind == "linear" and self.matrices > 1

    def hidden(self, width: int) -> int:
        """Inner width of the chain: ratio x d, cut to a whole number."""
        return int(self.ratio * width + 1e-9)

    def in_block(self, index: int, depth: int) -> FFNVariant:
        """What block `index` of `depth` gets: this, or the family's default."""
        half = {"first_half": index < depth // 2, "second_half": index >= depth // 2}
        return self if half.get(self.where, True) else FFNVariant()

    def on_side(self, side: Side) -> FFNVariant:
        """What a side of an encoder-decoder gets: this, or the family's default."""
        return self if self.where in ("all", side) else FFNVariant()


@dataclass(frozen=True)
class SkippedParts(_Strict):
    """Blocks, counted from 0, whose attention or FFN is left out with its norm.

    A block in both lists is the identity (Tyukin, arXiv 2404.05741).
    """

    attention: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()

    def __or__(self, other: SkippedParts) -> SkippedParts:
        """All that either leaves out, ascending."""
        return SkippedParts(
            tuple(sorted({*self.attention, *other.attention})),
            tuple(sorted({*self.ffn, *other.ffn})),
        )


@dataclass(frozen=True)
class LlamaConfig(_Strict):
    """Sizes of one decoder; the paper's letters in the comments."""

    vocabulary: int  # V
    width: int  # d
    depth: int  # L, number of blocks
    heads: int  # n
    ffn_hidden: int  # H
    context: int  # T, longest sequence
    head: HeadVariant = HeadVariant()
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    ffn: FFNVariant = FFNVariant()
    head_size: int | None = None  # of a head, where it is not d/n
    skip: SkippedParts = SkippedParts()
    # What the models of the study do not have, but others of the family do.
    kv_heads: int | None = None  # of keys and values, where fewer than of queries
    tied: bool = False  # the output head is the embedding
    qkv_bias: bool = False  # biases of queries, keys and values, as in Qwen2
    # What each of a head's rotary frequencies is divided by; none: by 1.
    rope_divisors: tuple[float, ...] = ()
    family: Literal["llama"] = "llama"

    def __post_init__(self) -> None:
        if self.heads % self.groups:
            raise ValueError(
                f"{self.heads} heads: expected a multiple of {self.groups} kv_heads"
            )
        if self.groups != self.heads and self.head.folds:
            raise ValueError(
                f"{self.groups} kv_heads for {self.heads} heads: a layer on each head "
                "cannot be folded into values that heads share"
            )
        if len(self.rope_divisors) not in (0, self.head_dim // 2):
            raise ValueError(
                f"{len(self.rope_divisors)} rope_divisors: expected "
                f"{self.head_dim // 2}, one for each pair of a head"
            )

    @property
    def groups(self) -> int:
        """Heads of keys and values: n, unless several queries share one."""
        return self.kv_heads or self.heads

    @property
    def kv_inner(self) -> int:
        """Width of all keys, or all values, of a token."""
        return self.groups * self.head_dim

    @property
    def head_dim(self) -> int:
        """d/n, unless the heads have a size of their own."""
        return self.head_size or self.width // self.heads

    @property
    def inner(self) -> int:
        """Width of all heads together: d, unless heads have a size of their own."""
        return self.heads * self.head_dim

    @property
    def ffn_width(self) -> int:
        """H; for the parameter-matched baseline plus what the added layer would cost.

        A hidden unit has 3d parameters, the layer d^2/n + d: 43 units at the original's
        size.
        """
        matched = round((self.head_dim + 1) / 3) if self.head.ffn_matched else 0
        return self.ffn_hidden + matched

    @property
    def attending(self) -> list[int]:
        """Blocks with attention: those that keep keys and values."""
        return [i for i in range(self.depth) if i not in self.skip.attention]


@dataclass(frozen=True)
class T5Config(_Strict):
    """Sizes of one encoder-decoder; the thesis' letters (its Table 3.1) in comments."""

    vocabulary: int
    width: int  # d_model
    encoder_depth: int  # N_L, before the stroke
    decoder_depth: int  # N_L, behind it
    heads: int  # N_H
    head_size: int  # d_kv; all heads together need not be as wide as the model
    ffn_hidden: int  # d_ff
    context: int  # longest sequence the encoder is given; no parameter depends on it
    ffn: FFNVariant = FFNVariant()
    norm_eps: float = 1e-6
    buckets: int = 32  # of relative positions
    max_distance: int = 128  # tokens; all larger distances share a bucket
    family: Literal["t5"] = "t5"

    def __post_init__(self) -> None:
        if self.ffn.where in ("first_half", "second_half"):
            raise ValueError(f"an encoder-decoder has sides, not a {self.ffn.where}")

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_size


ModelConfig = LlamaConfig | T5Config
