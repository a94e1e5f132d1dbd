"""What a model's name stands for, by the registries: its heads, its FFN, its system.

Apart from `names.py`, so that a new entry in a registry makes no stage stale that only
takes names apart.
"""

from __future__ import annotations

from shallower.models.registry import FFNS
from shallower.names import PAIR_BASELINES, T5_PREFIX, ModelName, split_name


def head_of(name: ModelName) -> str:
    """The head variant; that of a model named after its FFN is the baseline."""
    return "baseline" if name.variant in FFNS else name.variant


def ffn_of(name: ModelName) -> str:
    """The FFN variant, or `own` for the family's."""
    named = name.variant in FFNS
    return name.variant if named else str(name.options.get("ffn", "own"))


def system_of(model: str) -> str:
    """Which of the systems a model belongs to, by its name: S1 or S2.

    S1 is heads and depth; S2 the feed-forward layer, its heads' sizes, distillation.
    """
    variant, _, options = split_name(model)
    second = {"ffn", "heads", "head_size", "teacher"} & set(options)
    t5 = variant.startswith(T5_PREFIX) or variant in PAIR_BASELINES
    return "S2" if t5 or variant in FFNS or second else "S1"
