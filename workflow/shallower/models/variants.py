"""What may stand in a block, as plain data: around the heads, as feed-forward, or not.

In the paper's notation (section 3.1), head i of n yields o_i of shape (T, d/n), and
the proposed block replaces it by SiLU(o_i A_i + b_i) before concatenation and W_O.
Free of torch, so that the configuration can use it; `heads.py` and `ffn.py` build the
modules.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

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
Initial = Literal["default", "identity", "zero_bias", "matched_bias"]


@dataclass(frozen=True)
class HeadVariant:
    """One way to treat the heads' outputs, in the order of application.

    value_bias, value_activation act on the values before attention; norm, linear,
    activation and gate on the heads' outputs; output_activation behind W_O.
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
    linear_start: Initial = "default"
    activation: Activation = "identity"
    # Sigmoid gate on the result, computed from the block's input (head: one number a
    # head; element: one a feature) or from the result itself (self).
    gate: Literal["none", "head", "element", "self"] = "none"
    output_activation: Activation = "identity"
    ffn_matched: bool = False  # FFN widened by as many parameters as `proposed` adds

    @property
    def folds(self) -> bool:
        """Whether `transforms.fold` has something to fold."""
        linear_on_values = self.linear in ("per_head", "no_bias", "shared")
        return (
            linear_on_values and not self.norm and self.value_activation == "identity"
        )


@dataclass(frozen=True)
class FFNVariant:
    """What stands in a block's feed-forward place (thesis of Lee, chapter 4).

    `own` is the family's: SwiGLU in Llama, W2 ReLU(W1 h) in T5. `none` leaves it out,
    with its norm. `linear` is a chain of one to three matrices without biases,
    W h, W_b W_a h or W_c W_b W_a h, all but the outer sides ratio x d wide, with an
    activation behind a single one at most. Those without collapse into one d x d.
    """

    kind: Literal["own", "none", "linear"] = "own"
    matrices: int = 1
    activation: Literal["identity", "relu"] = "identity"
    ratio: float = 4.0
    # Blocks it applies to; the others keep the family's own. A decoder has halves, an
    # encoder-decoder sides.
    where: Literal["all", "first_half", "second_half", "encoder", "decoder"] = "all"

    @property
    def collapses(self) -> bool:
        """Whether `transforms.collapse` has something to multiply out."""
        return self.kind == "linear" and self.matrices > 1

    def hidden(self, width: int) -> int:
        """Inner width of the chain: ratio x d, cut to a whole number."""
        return int(self.ratio * width + 1e-9)

    def in_block(self, index: int, depth: int) -> FFNVariant:
        """What block `index` of `depth` gets: this, or the family's own."""
        half = {"first_half": index < depth // 2, "second_half": index >= depth // 2}
        return self if half.get(self.where, True) else FFNVariant()

    def on_side(self, side: Literal["encoder", "decoder"]) -> FFNVariant:
        """What a side of an encoder-decoder gets: this, or the family's own."""
        return self if self.where in ("all", side) else FFNVariant()


@dataclass(frozen=True)
class Skip:
    """Blocks, counted from 0, whose attention or FFN is left out with its norm.

    A block that stands in both is the identity (Tyukin, arXiv 2404.05741).
    """

    attention: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Skip:
        """From lists, as a run's specification holds them."""
        return cls(**{kind: tuple(blocks) for kind, blocks in entry.items()})


def entry(variant: HeadVariant | FFNVariant | Skip) -> dict[str, Any]:
    """What differs from the plain block, as a run's specification holds it.

    Only that, so that a new switch makes no finished run stale.
    """
    plain = asdict(type(variant)())
    return {k: v for k, v in asdict(variant).items() if v != plain[k]}


SENTINELS = 100  # ids kept for them behind the pieces, as in T5
TWIN = "__twin=1"  # suffix of the second name of a model that is timed twice (A/A)
