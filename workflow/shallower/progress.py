"""How far a long job is, on standard error, where its log and the terminal find it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS = 2.0  # between two lines at least
# The thread by which tqdm looks after slow bars would run beside what is timed.
tqdm.monitor_interval = 0
_before: list[str] = []


def set_part(text: str) -> None:
    """What stands before every bar of this process: `session 2 of 3`."""
    _before[:] = [text]


def track(items: Iterable[Item], what: str, total: int | None = None) -> tqdm[Item]:
    """Iterate over `items` and report, at most every two seconds, how many are done.

    A bar of one line that overwrites itself. `total` is needed where items have no
    length.
    """
    return tqdm(
        items,
        desc=", ".join([*_before, what]),
        total=total,
        file=sys.stderr,
        mininterval=SECONDS,
        ascii=True,
        bar_format="{desc}: {n_fmt}/{total_fmt}",
    )
