"""What may happen between attention and concatenation, as plain data.

In the paper's notation (section 3.1), head i of n yields o_i of shape (T, d/n), and
the proposed block replaces it by SiLU(o_i A_i + b_i) before concatenation and W_O.
Free of torch, so that the configuration can use it; `heads.py` builds the modules.
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

    @property
    def folds(self) -> bool:
        """Whether `transforms.fold` has something to fold."""
        return self.linear == "per_head"


TWIN = "__twin=1"  # suffix of the second name of a model that is timed twice (A/A)
