"""The base of every section of the configuration, and limits that hold for all."""

from __future__ import annotations

import math
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

LARGEST = 10**12  # of any number; no size or count of a study comes near
LONGEST = 4000  # characters of any text
DEEPEST = 20  # sections within sections


class Strict(BaseModel):
    """Unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Int = Annotated[int, Field(strict=True)]  # neither true, nor 1.0, nor text
# YAML reads 1e-3 as text, so that text is taken for a number where one is expected.
Float = Annotated[float, BeforeValidator(_no_truth)]


def _one_line(value: str) -> str:
    if "\n" in value or "\t" in value:
        raise ValueError("expected a single line")
    return value


def _words(value: str) -> str:
    return " ".join(value.split())


Line = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]  # paths, names
# Sentences and the like, which YAML may fold over several lines.
Words = Annotated[str, AfterValidator(_words), Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def check_plain(value: Any, key: str = "", depth: int = DEEPEST) -> None:
    """Raises ValueError, naming the key, for a value that belongs in no configuration.

    Those are numbers that are NaN or huge, endless texts, characters that nobody can
    see, keys that are no text, and endless nesting.
    """
    if isinstance(value, dict | list | tuple):
        if not depth:
            raise ValueError(f"{key}: expected at most {DEEPEST} levels")
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, entry in entries:
            if isinstance(value, dict):
                _check_key(name, key)
            check_plain(entry, f"{key}.{name}" if key else str(name), depth - 1)
    elif isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) > LARGEST:
            shown = f"{value:.3g}" if abs(value) < 1e300 else "a huge number"
            raise ValueError(f"{key}: found {shown}, expected one within +-10^12")
    elif isinstance(value, str):
        _check_text(value, key)
    elif isinstance(value, bytes | set):
        raise ValueError(f"{key}: found {type(value).__name__}, expected text")


def _check_key(name: Any, section: str) -> None:
    if not isinstance(name, str):
        where = f"{section}: " if section else ""
        raise ValueError(f"{where}found the key {name!r}, expected text")
    _check_text(name, f"{section}: a key" if section else "a key")


def _check_text(text: str, key: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"{key}: {len(text)} characters, expected {LONGEST} at most")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text if c not in "\n\t"):
        raise ValueError(f"{key}: found {text[:40]!r}, expected no control characters")
