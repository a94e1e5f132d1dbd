"""The registry of head variants: what happens between attention and concatenation.

Declarative and free of torch, so that the configuration can check names quickly;
`heads.py` turns an entry into a module. Add a variant by adding an entry here.

In the paper's notation (section 3.1), head i of n yields o_i of shape (T, d/n), and
the proposed block replaces it by SiLU(o_i A_i + b_i) before concatenation and W_O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HeadVariant:
    """One way to treat the heads' outputs, in the order of application."""

    value_bias: bool = False  # a bias on the value projection: d parameters
    linear: Literal["none", "per_head"] = "none"  # per_head: A_i and b_i for each head
    activation: Literal["identity", "silu"] = "identity"
    folds_to: str | None = None  # the variant that `transforms.fold` turns it into
    label: str = ""  # for figures and tables


HEADS: dict[str, HeadVariant] = {
    "baseline": HeadVariant(label="baseline"),
    "proposed": HeadVariant(
        linear="per_head",
        activation="silu",
        folds_to="value_bias_silu",
        label="proposed",
    ),
    "silu": HeadVariant(activation="silu", label="SiLU only"),
    "value_bias_silu": HeadVariant(
        value_bias=True, activation="silu", label="value bias + SiLU"
    ),
}

TWIN = "__twin=1"  # suffix of the second name of a model that is timed twice (A/A)
