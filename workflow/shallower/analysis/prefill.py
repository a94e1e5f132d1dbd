"""How much faster an arm's prefill should be, by arithmetic: what TTFT is held against.

Multiply-accumulates of the blocks for a prompt (see `models.retention`). Choosing the
tokens, embedding and output head are not counted, so short prompts gain less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from shallower.models.retention import Elimination, prefill_products
from shallower.models.variants import Skip


def predicted_prefill(
    model: dict[str, Any], entry: Mapping[str, Any], tokens: int
) -> float:
    """Speed-up of an arm over its run for a prompt of `tokens`.

    `model` is the run's, as deployed and as a specification holds it; `entry` the
    arm's in `arms.json`, or in `wanted.paper_scale`.
    """
    everything = [tokens] * model["depth"]
    held, left_out = Skip.parse(model.get("skip", {})), Skip.parse(entry["skip"])
    reduced = model | {
        "skip": {
            "attention": held.attention + left_out.attention,
            "ffn": held.ffn + left_out.ffn,
        }
    }
    counts, how = everything, entry["elimination"]
    if how is not None:
        profile = tuple(how["profile"])
        counts = Elimination(**(how | {"profile": profile})).counts(tokens)
    whole = prefill_products(model, everything, tokens)
    return whole / prefill_products(reduced, counts, tokens)


def prefill_table(
    model: dict[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    lengths: Sequence[int],
) -> pd.DataFrame:
    """`model, tokens, predicted`: every arm over a run, and prompts of each length."""
    rows = [
        (arm, tokens, predicted_prefill(model, entry, tokens))
        for arm, entry in arms.items()
        for tokens in lengths
    ]
    return pd.DataFrame(rows, columns=["model", "tokens", "predicted"])
