"""Learning rate by step: linear warm-up, then cosine decay."""

from __future__ import annotations

import math


def learning_rate(
    step: int, steps: int, peak: float, warmup_fraction: float, final_fraction: float
) -> float:
    """Rate of a step (0-based): up to `peak`, then down to final_fraction x peak.

    The warm-up ends at the peak after max(1, round(warmup_fraction x steps)) steps;
    the last step has the final rate.
    """
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
