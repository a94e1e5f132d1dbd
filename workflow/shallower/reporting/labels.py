"""Models in words, for people: a figure's key, the first column of a table."""

from __future__ import annotations

from shallower.interventions import eliminate, skip
from shallower.reporting.latex import escape
from shallower.study.names import ModelName, short
from shallower.study.study import Study

SYSTEMS = {  # system -> what it is about
    "S1": "heads",
    "S2": "FFN, teachers",
    "S3": "skipping",
    "S4": "elimination",
    "combined": "combined",
}
FFNS = {  # variant -> as it is printed
    "none": "no FFN",
    "one_matrix": "1W",
    "one_matrix_relu": "1W + ReLU",
    "two_matrices": "2W",
    "three_matrices": "3W",
}


def label(name: ModelName) -> str:
    """A model, as short as can be: `proposed 8, skip attention of the last 2`."""
    head, ffn = name.head.replace("_", " "), FFNS.get(name.ffn, name.ffn)
    if name.ffn == "default":
        ffn = ""
    elif head == "baseline":
        head = ""
    kind = " ".join(part for part in (head, ffn) if part)
    if name.pretrained:
        return ", ".join([name.variant.replace("_", " "), *_applied(name)])
    if name.t5_size:
        return ", ".join([f"T5 {name.t5_size} {ffn}".rstrip(), *_others(name)])
    return ", ".join([f"{kind} {name.depth}", *_others(name), *_applied(name)])


def printed(name: ModelName) -> str:
    """The same for LaTeX."""
    return escape(label(name))


def contrasts_are_long(study: Study) -> bool:
    """Whether contrasts have models with options: such names need a page's width."""
    sides = {side for each in study.contrasts for side in (each.left, each.right)}
    return any(study.models[side].options for side in sides)


def applied(name: ModelName) -> str:
    """What is done to a trained model or a checkpoint; empty for nothing."""
    return ", ".join(_applied(name))


def _others(name: ModelName) -> list[str]:
    """Options that are no part of the kind, nor done to a trained model."""
    later = ("ffn", "task", "tuned", "skip", "healed", "by", "eliminate")
    found = []
    for key, value in name.options.items():
        if key == "teacher":
            found.append(f"from {str(value).replace('-', ' ')}")
        elif key == "where":
            found.append(f"{str(value).replace('_', ' ')} only")
        elif key not in later:
            found.append(f"{key.replace('_', ' ')} {short(value)}")
    return found


def _applied(name: ModelName) -> list[str]:
    """What is done to a trained model, in the order in which it is done."""
    options, found = name.options, []
    if "tuned" in options:
        found.append(f"tuned {percent(options['tuned'])}")
    if "skip" in options:
        choice = skip.Skip.parse(str(options["skip"]))
        part = {"ffn": "FFN", "block": "blocks"}.get(choice.part, choice.part)
        place = skip.RULES[choice.rule].words.format(choice.k)
        draw = f" ({choice.draw})" if skip.RULES[choice.rule].numbered else ""
        found.append(f"skip {part}{':' if part == 'blocks' else ' of'} {place}{draw}")
    if "healed" in options:
        by = " by itself" if options.get("by") == "self" else ""
        found.append(f"healed {percent(options['healed'])}{by}")
    if "eliminate" in options:
        chosen = eliminate.Eliminate.parse(str(options["eliminate"]))
        words = eliminate.RULES[chosen.rule].words
        found.append(f"eliminate ×{chosen.speedup:g} {words.replace(', ', ' and ')}")
    return found


def percent(share: float | int | str) -> str:
    """0.1 as 10 %."""
    return f"{100 * float(share):g} %"
