"""What the combined study is judged by: quality, time and training cost of all models.

Quality is the cross-entropy of continuations behind a prompt, the one thing that every
model can be scored on: elimination has no output where it dropped a token. Times are
of the same prompts and continuations, each model in the form that is deployed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from shallower.analysis.changes import is_plain
from shallower.analysis.deployed import deployed
from shallower.analysis.pareto import METRICS, Axis, Measured, by_model, measured
from shallower.config import Study
from shallower.files import read_json
from shallower.names import parse_name

DATASET = "continuation"  # of the quality, and the workload of the times


@dataclass
class FrontData:
    """A study's front, from the rows of by_seed.csv."""

    units: pd.DataFrame
    order: Sequence[str]  # runs and arms, as the study has them
    deepest: str  # the plain baseline that arms stand over
    flops: dict[str, float]  # of all training behind a model

    @cached_property
    def quality(self) -> pd.DataFrame:
        """Seeds x models, nats: of all that were scored, timed or not."""
        return quality_of(self.units, self.order)

    @cached_property
    def diverged(self) -> list[str]:
        """Models with a loss that is not finite: they have no place on a front."""
        scored = _quality_rows(self.units, self.order)["model"].unique()
        return [model for model in scored if model not in self.quality]

    @cached_property
    def axes(self) -> dict[Axis, Measured]:
        """Models with quality and time, on each axis that has any."""
        found = {axis: measure(self.units, self.order, axis) for axis in METRICS}
        return {axis: data for axis, data in found.items() if data is not None}

    @property
    def models(self) -> list[str]:
        """Those that stand on either axis, in the order of the study."""
        there = {model for data in self.axes.values() for model in data.models}
        return [model for model in self.order if model in there]


def read_front(results: Path, study: Study) -> FrontData:
    """The front of a study from its result files."""
    units = pd.read_csv(results / "by_seed.csv")
    order = [*study.models, *study.arms]
    deepest = f"baseline-{study.depths[-1]}"
    flops = total_flops(study, results / "runs", quality_of(units, order))
    return FrontData(units, order, deepest, flops)


def plain(models: Iterable[str]) -> list[str]:
    """The null of every method: baselines without anything, by depth."""
    found = {model: parse_name(model) for model in models}
    chosen = [model for model, name in found.items() if is_plain(name)]
    return sorted(chosen, key=lambda model: found[model].depth)


# --- measurements -------------------------------------------------------------------


def quality_of(units: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Seeds x models, nats, in the order given; without runs that diverged."""
    rows = _finite(_quality_rows(units, order))
    return pd.DataFrame(dtype=float) if rows.empty else by_model(rows)


def measure(units: pd.DataFrame, order: Sequence[str], axis: Axis) -> Measured | None:
    """The models with finite quality and with time; None if there is none."""
    quality = _finite(_quality_rows(units, order))
    times = _times(units, order, axis)
    both = set(quality["model"]) & set(times["model"])
    if not both:
        return None
    chosen = [rows[rows["model"].isin(both)] for rows in (quality, times)]
    return measured(chosen[0], chosen[1], axis)


def _finite(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the models all of whose values are finite."""
    bad = rows.loc[~np.isfinite(rows["value"].astype(float)), "model"]
    return rows[~rows["model"].isin(bad)]


def _quality_rows(units: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    rows = _rows(units, order, "cross_entropy")
    return rows[rows["form"] == "trained"]


def _times(units: pd.DataFrame, order: Sequence[str], axis: Axis) -> pd.DataFrame:
    return deployed(_rows(units, order, METRICS[axis]))


def _rows(units: pd.DataFrame, order: Sequence[str], metric: str) -> pd.DataFrame:
    """Rows of a metric of continuations, by model in the order given, then by unit."""
    wanted = {"dataset": DATASET, "metric": metric, "scale": "study", "mode": "eager"}
    chosen = units["model"].isin(order)
    for column, value in wanted.items():
        chosen &= units[column] == value
    rows = units[chosen].assign(unit_id=units.loc[chosen, "unit_id"].astype(int))
    place = {model: index for index, model in enumerate(order)}
    return rows.sort_values(
        ["model", "unit_id"],
        key=lambda column: column.map(place) if column.name == "model" else column,
    )


# --- training cost ------------------------------------------------------------------


def total_flops(study: Study, runs: Path, models: Iterable[str]) -> dict[str, float]:
    """FLOPs of all training behind a model: its run, and what that went on from.

    Parents and teachers are counted with theirs, each run once, and an arm costs what
    its run costs. Means over seeds; a model is left out if a run's facts are missing.
    """
    found: dict[str, float] = {}
    own: dict[str, float] = {}
    for model in models:
        line = lineage(study, str(parse_name(model).run))
        own |= {run: _own_flops(study, runs, run) for run in line - set(own)}
        total = float(sum(own[run] for run in line))
        if np.isfinite(total):
            found[model] = total
    return found


def lineage(study: Study, run: str) -> set[str]:
    """A run with its parent and its teacher, and theirs."""
    found: set[str] = set()
    waiting = [run]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            before = (study.parent_of(each), study.teacher_of(each))
            waiting += [name for name in before if name is not None]
    return found


def _own_flops(study: Study, runs: Path, run: str) -> float:
    """Mean over a run's seeds, of the facts that are there; NaN if none is."""
    paths = [runs / run / f"seed{s}" / "training.json" for s in study.seeds_of(run)]
    values = [read_json(path)["flops"] for path in paths if path.is_file()]
    return float(np.mean(values)) if values else float("nan")
