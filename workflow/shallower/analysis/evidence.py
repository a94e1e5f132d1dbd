"""What the claims are judged by: a study's values by seed and by session."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis.arm_facts import read_arms
from shallower.analysis.front_data import measure
from shallower.analysis.pareto import METRICS, Axis, Measured
from shallower.config import Study
from shallower.names import ModelName, short

PER_TOKEN = ("fixed", "time_per_output_token")
LEAST_MARGIN = 0.01  # nats
MORE_TOKENS = 1.10  # the margin is what this many times the tokens would gain
TEXT_MARGIN = 0.25  # share of the half-trained -> trained difference of a text metric


@dataclass
class Evidence:
    """A study with its tables; every question is answered seed by seed."""

    study: Study
    units: pd.DataFrame  # rows of by_seed.csv
    parameters: pd.DataFrame  # rows of parameters.csv
    runs: Path  # the folder of the runs, for their training losses

    @cached_property
    def _by_key(self) -> dict[tuple[str, ...], pd.Series]:
        keys = ["model", "scale", "form", "mode", "dataset", "metric"]
        return {
            key: rows.set_index("unit_id")["value"]
            for key, rows in self.units.groupby(keys, sort=False)
        }

    def values(
        self,
        model: str,
        dataset: str,
        metric: str,
        scale: str = "study",
        form: str = "trained",
        mode: str = "eager",
    ) -> pd.Series:
        """A value per seed (or session), by its id; empty if there is none."""
        empty = pd.Series(dtype=float)
        key = (model, scale, form, mode, dataset, metric)
        return self._by_key.get(key, empty)

    def paired(
        self,
        left: str,
        right: str,
        dataset: str = "text",
        metric: str = "cross_entropy",
    ) -> np.ndarray:
        """left - right for every seed (or session) that both have."""
        a, b = (self.values(model, dataset, metric) for model in (left, right))
        return (a - b).dropna().to_numpy()

    @cached_property
    def axes(self) -> dict[Axis, Measured | None]:
        """Quality and time of continuations: what the front is made of."""
        order = [*self.study.models, *self.study.arms]
        return {axis: measure(self.units, order, axis) for axis in METRICS}

    @cached_property
    def arm_facts(self) -> list[dict[str, Any]]:
        """What the evaluation of arms chose and predicted, a run and seed each."""
        return read_arms(self.runs.parent / "evaluations", self.study.arm_runs)

    @property
    def shallow(self) -> int:
        """The study's smallest depth."""
        return self.study.depths[0]

    @property
    def deep(self) -> int:
        """The study's largest depth."""
        return self.study.depths[-1]

    def at_steps(self, variant: str, depth: int, share: float) -> str | None:
        """The model trained for a share of the usual steps, on its own schedule."""
        plain = str(ModelName(variant, depth))
        if plain not in self.study.models:
            return None
        if share == 1:
            return plain
        steps = round(share * self.study.training_of(plain).steps)
        name = f"{plain}__steps={short(steps)}"
        return name if name in self.study.models else None

    def budgets(self, depths: tuple[int, int]) -> list[tuple[int, str, str, float]]:
        """(tokens, shallow baseline, deep baseline, tokens per parameter), ascending.

        Every budget and width at which baselines of both depths were trained; tokens
        per parameter are those of the deep one.
        """
        found = []
        for name in self.study.models.values():
            if name.variant != "baseline" or name.depth != depths[1]:
                continue
            other = str(ModelName("baseline", depths[0], name.options))
            known = set(name.options) <= {"steps", "width"}
            if not known or other not in self.study.models:
                continue
            training = self.study.training_of(str(name))
            tokens = training.steps * training.batch_size * self.study.model.context
            count = self.parameter_count(str(name))
            found.append((tokens, other, str(name), tokens / count))
        return sorted(found, key=lambda row: row[3])

    def parameter_count(self, model: str, scale: str = "study") -> int:
        """Parameters as trained."""
        table = self.parameters
        rows = table[(table["model"] == model) & (table["scale"] == scale)]
        return int(rows["parameters_trained"].iloc[0])

    @cached_property
    def margin(self) -> float:
        """Cross-entropy that 10 % more tokens gain the deepest baseline, in nats.

        Measured between half of the budget and all of it, taken as linear in the
        logarithm of the tokens, and never below .01. NaN if it was not measured.
        """
        half = self.at_steps("baseline", self.deep, 0.5)
        whole = self.at_steps("baseline", self.deep, 1)
        if half is None or whole is None:
            return float("nan")
        gain = self.paired(half, whole)
        if not len(gain):
            return float("nan")
        return max(LEAST_MARGIN, gain.mean() * math.log(MORE_TOKENS) / math.log(2))
