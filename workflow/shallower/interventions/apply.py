"""Applying an intervention to a model, without training (Tyukin, arXiv 2404.05741).

A skipped sublayer is not there: no weights, no norm, no keys and values. So a skipped
model is an ordinary one, which can be folded, collapsed, compiled and trained on.
Eliminated tokens are a matter of the forward pass (`forward.py`).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from shallower.interventions.base import Choice
from shallower.models.config import SkippedParts
from shallower.models.llama import LlamaLM
from shallower.models.transforms import adopt


def apply(model: LlamaLM, choice: Choice) -> LlamaLM:
    """`model` in any form, without what `choice` skips; shares every tensor with it.

    If the choice eliminates tokens, give its `elimination` to the functions of
    `forward.py` along with the returned model. Raises ValueError as `skip` does.
    """
    return skip(model, choice.skip)


def skip(model: LlamaLM, parts: SkippedParts) -> LlamaLM:
    """`model` without these sublayers and their norms; shares every tensor with it.

    The model itself if there is nothing to leave out. Adds to what it skips already.
    Raises ValueError for a block that the model does not have.
    """
    depth = model.config.depth
    both = model.config.skip | parts
    for kind, blocks in (("attention", both.attention), ("ffn", both.ffn)):
        missing = [block for block in blocks if not 0 <= block < depth]
        if missing:
            raise ValueError(f"skip {kind} of blocks {missing}: the model has {depth}")
    if both == model.config.skip:
        return model
    with torch.device("meta"):
        reduced = LlamaLM(replace(model.config, skip=both))
    state = model.state_dict()
    return adopt(reduced, {name: state[name] for name in reduced.state_dict()}, model)
