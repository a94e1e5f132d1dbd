"""Rows of an evaluation table: one per sample and metric, nothing averaged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from shallower.evaluation.units import unit_of
from shallower.files import replacing


class Row(NamedTuple):
    """The value of a metric on one sample; `weight` is what a mean weighs it by."""

    dataset: str
    group: str
    sample: str
    metric: str
    value: float
    weight: float


class Part(NamedTuple):
    """Rows of a run in one form, under one intervention ('' is none)."""

    intervention: str
    form: str  # trained | folded | collapsed
    rows: list[Row]


COLUMNS = ("intervention", "form", *Row._fields)


def table_of(parts: Iterable[Part]) -> pd.DataFrame:
    """All rows, with columns `COLUMNS`. Raises KeyError for a metric without unit."""
    rows = [(part.intervention, part.form, *row) for part in parts for row in part.rows]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for metric in table["metric"].unique():
        unit_of(metric)
    return table


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write Parquet, all or nothing."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
