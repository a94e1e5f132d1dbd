"""What is asked of a study's results by name: values by replicate, estimates, facts.

Everything else in `analysis` and `reporting` asks here. Labels and units are those of
`result_files.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.result_files import ResultFiles
from shallower.evaluation.units import TIME, unit_of
from shallower.study.names import ModelName, twin
from shallower.study.stages import original_spec
from shallower.study.study import Run, Study, read_study

FORMS = ("trained", "folded", "collapsed")  # in the order of deployment
_KEY = ["label", "scale", "form", "mode", "dataset", "metric"]


class Results(ResultFiles):
    """The results of one study."""

    @classmethod
    def read(cls, directory: str | Path) -> Results:
        """From a study's folder, with its `study.json`."""
        return cls(Path(directory), read_study(Path(directory) / "study.json"))

    @cached_property
    def names(self) -> dict[str, ModelName]:
        """Every model that has results, by label (see `names_of`)."""
        return names_of(self.study)

    # --- values by replicate ----------------------------------------------------------

    @cached_property
    def _by_key(self) -> dict[tuple[str, ...], pd.Series]:
        rows = self.by_seed.astype({"value": float})
        # Of a checkpoint's quality documents, else numbers of seeds and sessions.
        named = (rows["scale"] == "pretrained") & (rows["unit"] != TIME)
        found: dict[tuple[str, ...], pd.Series] = {}
        for part, kind in ((rows[~named], int), (rows[named], str)):
            values = part.astype({"unit_id": kind}).set_index("unit_id")["value"]
            keys = [part[column].to_numpy() for column in _KEY]
            found |= dict(iter(values.groupby(keys, sort=False)))
        return found | self._pooled(found)

    def _pooled(
        self, found: dict[tuple[str, ...], pd.Series]
    ) -> dict[tuple[str, ...], pd.Series]:
        """What all checkpoints have, by checkpoint: each one's mean over documents."""
        pooled: dict[tuple[str, ...], dict[str, float]] = {}
        rests = dict.fromkeys(key[1:] for key in found if key[1] == "pretrained")
        for label in self.study.pooled:
            for checkpoint in self.study.pretrained.chosen:
                one = self.study.of_checkpoint(label, checkpoint)
                for rest in rests:
                    values = found.get((one, *rest))
                    if values is not None and unit_of(rest[-1]) != TIME:
                        by_checkpoint = pooled.setdefault((label, *rest), {})
                        by_checkpoint[checkpoint] = float(values.mean())
        return {key: pd.Series(values) for key, values in pooled.items()}

    @cached_property
    def _forms(self) -> dict[tuple[str, ...], list[str]]:
        """Forms that were measured, by all other keys."""
        forms: dict[tuple[str, ...], list[str]] = {}
        for label, scale, form, *rest in self._by_key:
            forms.setdefault((label, scale, *rest), []).append(form)
        return forms

    def forms(
        self,
        label: str,
        dataset: str,
        metric: str,
        scale: str = "study",
        mode: str = "eager",
    ) -> list[str]:
        """The forms in which a metric of a model was measured."""
        return self._forms.get((label, scale, mode, dataset, metric), [])

    def values(
        self,
        label: str,
        dataset: str,
        metric: str,
        scale: str = "study",
        form: str = "trained",
        mode: str = "eager",
    ) -> pd.Series:
        """A metric of a model by replicate (seed, or session); empty if not measured.

        `form` may be `deployed`: the last form that was measured. A model that has no
        folded form is as fast as trained, and so on.
        """
        measured = self.forms(label, dataset, metric, scale, mode)
        if form == "deployed":
            form = max(measured, key=FORMS.index, default="trained")
        elif form not in measured:
            form = "trained"
        key = (label, scale, form, mode, dataset, metric)
        return self._by_key.get(key, pd.Series(dtype=float))

    def run_values(self, runs: Iterable[Run], dataset: str, metric: str) -> pd.Series:
        """A metric as trained, by (label, seed), of these runs that were scored.

        Experiments may share a model and not its seeds.
        """
        found = {
            (label, seed): values[seed]
            for label, seed in runs
            if seed in (values := self.values(label, dataset, metric)).index
        }
        index = pd.MultiIndex.from_tuples(found, names=["model", "seed"])
        return pd.Series(list(found.values()), index, dtype=float)

    # --- estimates --------------------------------------------------------------------

    @cached_property
    def _estimates(self) -> dict[str, Estimate]:
        return {
            row["id"]: Estimate.from_row(row)
            for row in self.estimates.to_dict("records")
        }

    def estimate(self, comparison: Comparison) -> Estimate:
        """The estimate of a comparison; one that was not made is NaN with n = 0."""
        comparison = self.placed(comparison)
        return self._estimates.get(comparison.id) or Estimate.missing(comparison)

    def placed(self, comparison: Comparison) -> Comparison:
        """The same at the scale of its models: a checkpoint has one of its own."""
        if comparison.scale != "study":
            return comparison
        return replace(comparison, scale=self.scale_of(comparison.left))

    def scale_of(self, label: str) -> str:
        """That a model of this study is measured at: `study` or `pretrained`."""
        name = self.study.names.get(label)
        return "pretrained" if name is not None and name.pretrained else "study"

    def replicates_of(self, label: str) -> str:
        """What a quality of a model has a value for each of."""
        if self.scale_of(label) == "study":
            return "seeds"
        return "checkpoints" if label in self.study.pooled else "documents"

    def estimates_of(self, **where: Any) -> list[Estimate]:
        """All estimates whose columns have these values, in the table's order."""
        rows = self.estimates
        for column, value in where.items():
            rows = rows[rows[column] == value]
        return [self._estimates[key] for key in rows["id"]]

    # --- one row, one fact ------------------------------------------------------------

    def row(
        self,
        label: str,
        dataset: str,
        metric: str,
        scale: str = "study",
        form: str = "trained",
        mode: str = "eager",
    ) -> pd.Series | None:
        """The row of summary.csv; None if it was not measured."""
        key = (label, scale, form, mode, dataset, metric)
        index = self._summary_index.get(key)
        return None if index is None else self.summary.loc[index]

    @cached_property
    def _summary_index(self) -> dict[tuple[str, ...], int]:
        columns = [self.summary[column] for column in _KEY]
        return {key: i for i, key in enumerate(zip(*columns, strict=True))}

    def size(self, label: str, column: str, scale: str = "study") -> float:
        """A column of parameters.csv; NaN for a model that it does not have."""
        if (scale, label) not in self.parameters.index:
            return float("nan")
        return float(self.parameters.loc[(scale, label), column])

    @cached_property
    def _facts(self) -> dict[str, float]:
        table = self.table("facts")
        return dict(zip(table["key"], table["value"].astype(float), strict=True))

    def fact(self, key: str) -> float:
        """A number of facts.csv; NaN for one that this study does not have."""
        return self._facts.get(key, float("nan"))

    # --- floors -----------------------------------------------------------------------

    def floor(
        self, name: str, tokens: int | None, dataset: str = "text", domain: str = ""
    ) -> float:
        """Cross-entropy (nats) of an n-gram of so many training tokens, NaN without it.

        None stands for the whole training split.
        """
        rows = self.floors
        seen = rows["tokens"].isna() if tokens is None else rows["tokens"] == tokens
        same = (rows["floor"] == name) & (rows["dataset"] == dataset)
        found = rows.loc[seen & same & (rows["domain"] == domain), "cross_entropy"]
        return float(found.iloc[0]) if len(found) else float("nan")


def names_of(study: Study) -> dict[str, ModelName]:
    """The study's models, those of the original's size, and A/A twins, by label."""
    names = study.names | original_names(study)
    deepest = [
        ModelName("baseline", d[-1]) for d in (study.depths, study.original.depths)
    ]
    deepest += [study.names[checkpoint] for checkpoint, _ in study.scored]
    return names | {twin(str(name)): name for name in deepest}


def original_names(study: Study) -> dict[str, ModelName]:
    """The models that are counted and timed at the original's size, by label."""
    spec = original_spec(study)
    deep = spec.depths[-1]
    names = [ModelName(head, depth) for head in spec.heads for depth in spec.depths]
    names += [ModelName(ffn, deep) for ffn in spec.ffns]
    names += [ModelName("baseline", deep, {"skip": text}) for text in spec.skips]
    linear = [f"linear.{speedup:g}" for speedup in spec.speedups]
    names += [ModelName("baseline", deep, {"eliminate": text}) for text in linear]
    return {str(name): name for name in names}
