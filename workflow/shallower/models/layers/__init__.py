"""Layers with parameters of their own: one module here, one line in the registry.

`HeadVariant(layer="head_scale.HeadScale")` puts the class `HeadScale` of
`head_scale.py` on the heads' outputs, behind the variant's activation;
`FFNVariant(layer=...)` puts a class in the place of the feed-forward layer.

A layer is a subclass of `Layer`. Its docstring says why it exists. Its constructor is
called as

- `HeadLayer(heads, head_dim, width)`, with `width` that of the block's input. Its
  `forward(outputs, x)` gets the heads' outputs (batch, heads, tokens, head_dim) and the
  attention's input (batch, tokens, width) and returns the outputs' shape. Where
  `parallel` is "heads", `x` may be missing, and the heads a part of all.
- `FFNLayer(width, hidden)`. Its `forward(x)` maps (batch, tokens, width) to the same
  shape. Residual connection and norm are the block's.
"""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from typing import Literal

from torch import nn

from shallower.models.initial import Fill


class Layer(nn.Module):
    """A layer that says what it costs, how it is cut, and what it starts with."""

    # "heads": each head has parameters of its own, along the first dimension of all of
    # them, so that the layer can be cut by head (tensor parallelism). None: it cannot.
    parallel: Literal["heads"] | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates per token, of matrix products alone."""
        return 0

    def start(self, fill: Fill) -> None:
        """Give every parameter of the layer a start value (see `initial`)."""


def load(path: str) -> type[Layer]:
    """The class `<module>.<class>` of this package.

    Raises ValueError for anything else, such as a module from elsewhere.
    """
    match = re.fullmatch(r"([a-z]\w*)\.([A-Z]\w*)", path)
    name = f"{__name__}.{match[1]}" if match else ""
    if match and find_spec(name) is not None:
        layer = getattr(importlib.import_module(name), match[2], None)
        if isinstance(layer, type) and issubclass(layer, Layer):
            return layer
    raise ValueError(f"found layer {path!r}, expected <module>.<class> of {__name__}")
