"""Every random stream is named: seeded by (seed, purpose), never by call order."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose, the same on every machine and in every run.

    Two models with the same seed thus draw the same batches, and the same values
    for parameters of the same name, which makes their paired difference precise.
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
