"""A claim: what somebody says, and how we judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shallower.analysis.evidence import Evidence
from shallower.analysis.verdicts import Finding


@dataclass(frozen=True)
class Claim:
    """What a source says, and how we judge it."""

    id: str
    claim: str
    unit: str
    judge: Callable[[Evidence], Finding]
    source: str = "S1"


def absent(what: str) -> Finding:
    """Nothing to judge by in this study."""
    nan = float("nan")
    return Finding(nan, nan, nan, nan, "not tested", f"{what}: not in this study")
