"""What a model's name stands for, by the registries: its heads, its FFN, its system.

Apart from `names.py`, so that a new entry in a registry makes no stage stale that only
takes names apart.
"""

from __future__ import annotations

from shallower.models.registry import FFNS
from shallower.names import PAIR_BASELINES, ModelName, parse_name

# Options by which a model belongs to a system.
OF_SECOND = {"ffn", "heads", "head_size", "teacher"}
OF_THIRD = {"skip", "healed"}
OF_FOURTH = {"tuned", "eliminate"}


def head_of(name: ModelName) -> str:
    """The head variant; that of a model named after its FFN is the baseline."""
    return "baseline" if name.variant in FFNS else name.variant


def ffn_of(name: ModelName) -> str:
    """The FFN variant, or `own` for the family's."""
    named = name.variant in FFNS
    return name.variant if named else str(name.options.get("ffn", "own"))


def systems_of(name: ModelName) -> list[str]:
    """The systems that a model takes something from, beside its depth.

    S1 is other heads; S2 another FFN, other numbers or sizes of heads, a teacher; S3
    sublayers skipped; S4 tokens eliminated. T5 is S2's own family.
    """
    if name.t5_size or name.variant in PAIR_BASELINES:
        return ["S2"]
    first = head_of(name) != "baseline"
    second = name.variant in FFNS or bool(OF_SECOND & set(name.options))
    third, fourth = (bool(keys & set(name.options)) for keys in (OF_THIRD, OF_FOURTH))
    there = {"S1": first, "S2": second, "S3": third, "S4": fourth}
    return [system for system, is_there in there.items() if is_there]


def system_of(model: str) -> str:
    """Which of the systems a model belongs to, by its name; `combined` if to several.

    S1 is heads and depth, so a plain baseline of any depth is S1.
    """
    found = systems_of(parse_name(model)) or ["S1"]
    return found[0] if len(found) == 1 else "combined"
