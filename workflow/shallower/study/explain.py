"""What is wrong with a configuration, in the words of whoever wrote it."""

from __future__ import annotations

import difflib
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ValidationError

from shallower.corpus.settings import KINDS


def suggestion(word: str, known: list[str]) -> str:
    """', did you mean ...?' where a known word is close to this one."""
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line per problem: the key, what was found, what was expected.

    `model` is what was validated; among its keys a misspelt one's neighbour is sought.
    """
    lines = []
    for problem in error.errors():
        key = ".".join(map(str, _place(problem["loc"])))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key{_suggest_key(problem['loc'], model)}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = problem["input"]
            shown = (
                ""
                if isinstance(found, dict | BaseModel)
                else f" (found {_short(found)})"
            )
            lines.append(f"{key}: {message}{shown}" if key else message)
    return " ".join("; ".join(lines).split())


def _short(value: Any) -> str:
    """A value as it was written, cut where it is long."""
    written = repr(value)
    return written if len(written) <= 100 else f"{written[:97]}..."


def _place(location: tuple[int | str, ...]) -> list[int | str]:
    """Where it is in the file.

    The kind of a source, which pydantic puts into the location, is also the name of its
    section, and a list of sources is below that.
    """
    place = list(location)
    if location[:2] == ("pretrained", "models"):
        # A checkpoint has no section of its source's name.
        return place[:3] + place[4:]
    for n, (part, kind) in enumerate(pairwise(location)):
        if isinstance(part, int) and kind in KINDS:
            place[n : n + 2] = kind, part
    return place


def _suggest_key(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """', did you mean ...?' for a misspelt key, from its section."""
    section: Any = model
    for part in location[:-1]:
        if part in KINDS:
            section = KINDS[str(part)]
            continue
        field = getattr(section, "model_fields", {}).get(str(part))
        annotation = field.annotation if field else None
        section = annotation if isinstance(annotation, type) else None
    return suggestion(str(location[-1]), list(getattr(section, "model_fields", {})))
