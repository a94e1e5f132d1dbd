"""What a person sees of a run: the plan, the stages, the end, and what failed.

The Snakefile names its study here; Snakemake's log handler, in the same process, asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shallower.study.study import Study

_described: list[Study] = []


def describe(study: Study) -> None:
    """Say which study this process of Snakemake runs."""
    _described[:] = [study]


def described() -> Study | None:
    """The study that the Snakefile named; None before it was read."""
    return _described[0] if _described else None
