"""Names of models for people: a figure's key, the first column of a table.

`baseline-8__skip=attention.latter.2__eliminate=acc.2` is `baseline 8, skip attention 2,
ACC ×2`. Every model of a study has a label of its own.
"""

from __future__ import annotations

from shallower.models.choices import CHANCE, parse_elimination, parse_skip
from shallower.names import ModelName, Value, parse_name, short
from shallower.reporting.ffn import LABELS
from shallower.reporting.latex import escape
from shallower.systems import ffn_of, head_of

SYSTEMS = {  # system -> what it is about
    "S1": "heads",
    "S2": "FFN, teachers",
    "S3": "skipping",
    "S4": "elimination",
    "combined": "combined",
}
RULES = {  # of skipping -> words; nothing for the usual one
    "latter": "",
    "latter_keep_last": ", not the last",
    "early": " early",
    "cosine": " by cosine",
    "greedy": " greedily",
}
ELIMINATIONS = {  # rule -> words
    "acc": "ACC",
    "sum": "ACC (sum)",
    "mean_visible": "ACC (mean)",
    "random": "random",
    "recent": "recent",
    "window": "window",
    "linear": "linear",
    "uniform": "uniform",
}


def label(model: str | ModelName) -> str:
    """A model in words, as short as they can be."""
    name = parse_name(model) if isinstance(model, str) else model
    return ", ".join([f"{_kind(name)} {name.depth}", *_others(name), *done(name)])


def printed(model: str | ModelName) -> str:
    """The same for LaTeX; lines break between the parts alone."""
    parts = (escape(part).replace(" ", "~") for part in label(model).split(", "))
    return ", ".join(parts)


def done(name: ModelName) -> list[str]:
    """What is done to a trained model, in words, in the order in which it is done."""
    options, found = name.options, []
    if "tuned" in options:
        found.append(f"tuned {percent(options['tuned'])}")
    if "skip" in options:
        found.append(skipped(str(options["skip"])))
    if "healed" in options:
        by = " by itself" if options.get("by") == "self" else ""
        found.append(f"healed {percent(options['healed'])}{by}")
    if "eliminate" in options:
        found.append(eliminated(str(options["eliminate"])))
    return found


def skipped(text: str) -> str:
    """`attention.latter.2` as skip attention 2."""
    choice = parse_skip(text)
    part = {"ffn": "FFN", "block": "block"}.get(choice.part, choice.part)
    if choice.rule.startswith(CHANCE):
        rule = f" at random ({choice.rule.removeprefix(CHANCE)})"
    else:
        rule = RULES[choice.rule]
    return f"skip {part} {choice.k}{rule}"


def eliminated(text: str) -> str:
    """`acc.1.5` as ACC ×1.5."""
    choice = parse_elimination(text)
    return f"{ELIMINATIONS[choice.rule]} ×{choice.speedup:g}"


def percent(share: Value) -> str:
    """0.1 as 10 %."""
    return f"{100 * float(share):g} %"


def _kind(name: ModelName) -> str:
    """Heads and FFN: baseline, proposed, 3W, proposed 3W."""
    head, ffn = head_of(name).replace("_", " "), ffn_of(name)
    if ffn == "own":
        return head
    words = LABELS.get(ffn, ffn)
    return words if head == "baseline" else f"{head} {words}"


def _others(name: ModelName) -> list[str]:
    """Options that are no part of the kind, nor done to a trained model."""
    later = ("ffn", "tuned", "skip", "healed", "by", "eliminate")
    left = {k: v for k, v in name.options.items() if k not in later}
    found = []
    for key, value in left.items():
        if key == "teacher":
            found.append(f"from {str(value).replace('-', ' ')}")
        else:
            found.append(f"{key.replace('_', ' ')} {short(value)}")
    return found
