"""What a model does to the plain baseline, by its name: taken apart, and in words.

A model's changes are its head, FFN, teacher, skipped sublayers and eliminated tokens.
Depth is none of them: it is what every change has to beat.
"""

from __future__ import annotations

from collections.abc import Mapping

from shallower.models.choices import CHANCE, parse_elimination, parse_skip
from shallower.models.registry import FFNS
from shallower.names import ModelName, Value
from shallower.systems import ffn_of, head_of

# Change -> the options that say it, and go with it.
OPTIONS = {
    "ffn": ("ffn", "ratio", "where"),
    "teacher": ("teacher", "alpha", "temperature"),
    "skip": ("skip", "healed", "by"),
    "eliminate": ("tuned", "eliminate"),
}
PARTS = {"attention": "attention", "ffn": "FFN", "block": "all"}
PLACES = {
    "latter": "of the last {}",
    "latter_keep_last": "of {} before the last",
    "early": "of the first {}",
    "cosine": "of {}, least changed by it,",
    "greedy": "of {}, chosen one by one,",
}
RANKED = {
    "acc": "by attention paid to them",
    "sum": "by attention of all queries",
    "mean_visible": "by attention of those that see them",
    "random": "by chance",
    "recent": "by age",
    "window": "by age, the first too",
    "linear": "with a linear profile",
    "uniform": "in the first block alone",
}


# --- apart --------------------------------------------------------------------------


def changes_of(name: ModelName) -> list[str]:
    """The changes a name says: of head, ffn, teacher, skip, eliminate."""
    there = {"head": head_of(name) != "baseline", "ffn": ffn_of(name) != "own"}
    there |= {
        change: bool({*keys} & {*name.options})
        for change, keys in OPTIONS.items()
        if change != "ffn"
    }
    return [change for change, is_there in there.items() if is_there]


def without(name: ModelName, change: str) -> ModelName:
    """The model without one of its changes.

    A model with the baseline's heads is named after its FFN: without its heads,
    `proposed-8__ffn=none` is `none-8`, and that without its FFN `baseline-8`.
    """
    if change == "head":
        options = dict(name.options)
        variant = str(options.pop("ffn", "baseline"))
        return ModelName(variant, name.depth, options)
    kept = name.without(*OPTIONS[change])
    if change == "ffn" and name.variant in FFNS:
        return ModelName("baseline", name.depth, kept.options)
    return kept


def is_plain(name: ModelName) -> bool:
    """Whether it is a baseline of some depth and nothing else."""
    return name.variant == "baseline" and not name.options


# --- in words -----------------------------------------------------------------------


def phrase(name: ModelName, deepest: int) -> str:
    """A short phrase of what is changed in the deepest baseline."""
    options = name.options
    parts = [] if name.depth == deepest else [_count(name.depth, "block")]
    if head_of(name) != "baseline":
        parts.append(f"{head_of(name).replace('_', ' ')} heads")
    if ffn_of(name) != "own":
        parts.append(_ffn(name))
    if "heads" in options:
        parts.append(f"{options['heads']} heads")
    if "head_size" in options:
        parts.append(f"heads of {options['head_size']}")
    if "teacher" in options:
        parts.append(_taught(options))
    if "tuned" in options:
        parts.append(f"tuned on {_percent(options['tuned'])} of the steps")
    if "skip" in options:
        parts.append(_skipped(options))
    if "eliminate" in options:
        choice = parse_elimination(str(options["eliminate"]))
        ranked = RANKED[choice.rule]
        parts.append(f"tokens dropped {ranked}, prefill {choice.speedup:g} times")
    return ", ".join(parts) or "none"


def _ffn(name: ModelName) -> str:
    ffn, options = ffn_of(name), name.options
    words = "no FFN" if ffn == "none" else f"{ffn.replace('_', ' ')} as FFN"
    if "ratio" in options:
        words += f" of ratio {options['ratio']}"
    if "where" in options:
        words += f" in the {str(options['where']).replace('_', ' ')}"
    return words


def _taught(options: Mapping[str, Value]) -> str:
    settings = [f"{k} {options[k]}" for k in ("alpha", "temperature") if k in options]
    how = f" ({', '.join(settings)})" if settings else ""
    return f"taught by {options['teacher']}{how}"


def _skipped(options: Mapping[str, Value]) -> str:
    choice = parse_skip(str(options["skip"]))
    blocks = _count(choice.k, "block")
    if choice.k == 1 and choice.rule in ("latter", "early"):
        blocks = "block"
    place = "of {} by chance" if choice.rule.startswith(CHANCE) else PLACES[choice.rule]
    words = f"{PARTS[choice.part]} {place.format(blocks)} skipped"
    if "healed" in options:
        words += f", healed on {_percent(options['healed'])} of the steps"
    return words + (" by its whole self" if options.get("by") == "self" else "")


def _percent(share: Value) -> str:
    return f"{100 * float(share):g} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
