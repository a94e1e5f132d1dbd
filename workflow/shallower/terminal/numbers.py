"""Numbers and verdicts as the terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping

STYLES = {"supported": "green", "not supported": "red", "inconclusive": "yellow"}


def effect(row: Mapping[str, str]) -> str:
    """A claim's effect with its interval and unit, as `0.020 [−0.010, 0.050] nats`."""
    if not row["effect"]:
        return ""
    values = [row[key] for key in ("effect", "ci_low", "ci_high") if row[key]]
    numbers = [number(float(value)) for value in values]
    interval = f" [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else ""
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"{numbers[0]}{interval}{unit}"


def number(value: float) -> str:
    """Three decimals, or three digits of a tiny number; a true minus."""
    if not math.isfinite(value):
        return "n/a"
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif value != round(value) and abs(value) >= 0.001:
        text = f"{value:.3f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
