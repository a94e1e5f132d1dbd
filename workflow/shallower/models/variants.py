"""What may happen to the heads' outputs and around them, as plain data.

In the paper's notation (section 3.1), head i of n yields o_i of shape (T, d/n), and
the proposed block replaces it by SiLU(o_i A_i + b_i) before concatenation and W_O.
Free of torch, so that the configuration can use it; `heads.py` builds the modules.
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


def entry(variant: HeadVariant) -> dict[str, Any]:
    """What differs from plain attention, as a run's specification holds it.

    Only that, so that a new switch makes no finished run stale.
    """
    plain = asdict(HeadVariant())
    return {k: v for k, v in asdict(variant).items() if v != plain[k]}


TWIN = "__twin=1"  # suffix of the second name of a model that is timed twice (A/A)
