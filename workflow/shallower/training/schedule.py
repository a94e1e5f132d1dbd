"""Learning rate by step: linear warm-up, then a decay or none."""

from __future__ import annotations

import math


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    warmup_fraction: float,
    final_fraction: float,
    schedule: str = "cosine",
) -> float:
    """Rate of a step (0-based): linearly up to `peak`, then by the schedule.

    The warm-up ends at the peak after max(1, round(warmup_fraction x steps)) steps.
    cosine: down to final_fraction x peak at the last step. inverse_sqrt: peak x
    sqrt(warm-up / step), the thesis' for pretraining (its section 3.2; T5's own has a
    constant rate in place of the warm-up). constant: the peak, as in its fine-tuning.
    """
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(warmup / (step + 1))
    progress = (step - warmup + 1) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
