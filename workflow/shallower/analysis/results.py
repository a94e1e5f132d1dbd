"""A study's result files, read once: the only module that reads and slices tables.

Everything else in `analysis` and `reporting` asks here by name. A model, trained or
intervened on, goes by its label (see `study.names`); tables hold it in two columns,
`model` and `intervention`. Units: nats for cross-entropy, microseconds for times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.estimates import Comparison, Estimate
from shallower.evaluation.units import TIME, unit_of
from shallower.files import read_json
from shallower.study.names import SEPARATOR, ModelName, twin
from shallower.study.stages import original_spec
from shallower.study.study import Run, Study, read_study

FORMS = ("trained", "folded", "collapsed")  # in the order of deployment
_KEY = ["label", "scale", "form", "mode", "dataset", "metric"]


@dataclass
class Results:
    """The files under `results/<study>/` of one study."""

    directory: Path
    study: Study

    @classmethod
    def read(cls, directory: str | Path) -> Results:
        """From a study's folder, with its `study.json`."""
        return cls(Path(directory), read_study(Path(directory) / "study.json"))

    @cached_property
    def names(self) -> dict[str, ModelName]:
        """Every model that has results, by label (see `names_of`)."""
        return names_of(self.study)

    # --- tables -----------------------------------------------------------------------

    def table(self, name: str, **options: Any) -> pd.DataFrame:
        """Rows of `<name>.csv`, with a column `label` where there is a model."""
        table = pd.read_csv(
            self.directory / f"{name}.csv", keep_default_na=True, **options
        )
        return labelled(table)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per model, form, mode, data set and metric: mean, median, ..."""
        return self.table("summary")

    @cached_property
    def by_seed(self) -> pd.DataFrame:
        """A row per model, metric and replicate (`unit_id`: a seed, or a session)."""
        return self.table("by_seed")

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """Sizes, a row per model and scale."""
        return self.table("parameters").set_index(["scale", "label"], drop=False)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Predicted speed-ups of interventions at the original's size."""
        return self.table("predictions")

    @cached_property
    def sessions(self) -> pd.DataFrame:
        """A row per latency session and scale: A/A ratio and whether it is used."""
        return self.table("sessions")

    @cached_property
    def estimates(self) -> pd.DataFrame:
        """Every difference, ratio, level and correlation with its interval."""
        return self.table("estimates")

    @cached_property
    def claims(self) -> pd.DataFrame:
        """A row per claim, with its verdict."""
        return self.table("claims")

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """A row per model and axis of the quality-latency plots."""
        return self.table("pareto")

    @cached_property
    def methods(self) -> pd.DataFrame:
        """What every model of the front costs, with the verdict on its gain."""
        return self.table("methods").set_index("label", drop=False)

    @cached_property
    def profiles(self) -> pd.DataFrame:
        """Importance and contribution of each block: `model, seed, block, metric`."""
        return self.table("profiles")

    @cached_property
    def roofline(self) -> pd.DataFrame:
        """Decoding times beside the time in which the weights can be read."""
        return self.table("roofline")

    @cached_property
    def learning_rates(self) -> pd.DataFrame:
        """The search over learning rates: a row per group of models, and rate."""
        return self.table("learning_rate")

    @cached_property
    def floors(self) -> pd.DataFrame:
        """What n-grams of training tokens reach; without `tokens` of the corpus."""
        table = self.table("floors")
        return table.assign(domain=table["domain"].astype(object).fillna(""))

    @cached_property
    def gates(self) -> pd.DataFrame:
        """A row per trained decoder and gate, with whether it is passed."""
        return self.table("gates")

    @cached_property
    def latency(self) -> pd.DataFrame:
        """Raw times of every token, nanoseconds."""
        return labelled(pd.read_parquet(self.directory / "latency.parquet"))

    @cached_property
    def bandwidth(self) -> pd.DataFrame:
        """Raw times of reads, nanoseconds."""
        return pd.read_parquet(self.directory / "bandwidth.parquet")

    @cached_property
    def step_time(self) -> pd.DataFrame:
        """Raw times of training steps, nanoseconds."""
        return labelled(pd.read_parquet(self.directory / "step_time.parquet"))

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

    # --- files of runs ----------------------------------------------------------------

    def training(self, model: str, seed: int) -> dict[str, Any]:
        """training.json of a run: seconds, tokens, FLOPs, device, ..."""
        return dict(read_json(self._run(model, seed) / "training.json"))

    @cached_property
    def trainings(self) -> list[dict[str, Any]]:
        """training.json of every run."""
        return [self.training(*run) for run in self.study.runs]

    @property
    def made_on(self) -> list[dict[str, Any]]:
        """Device, commit and versions: of training, else of scoring checkpoints."""
        return self.trainings or self.choices

    def tokens_of(self, model: str) -> int:
        """Training tokens of a run of this model, as it was trained."""
        return int(self.training(model, self.study.seeds_of(model)[0])["tokens"])

    def tokens_seen(self, model: str) -> int:
        """The same with those of the run that it continues."""
        spec = self.study.spec(model, 0)
        before = spec.first_step * spec.training.batch_size * spec.model.context
        return before + self.tokens_of(model)

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

    def losses(self, model: str, seeds: Sequence[int] | None = None) -> pd.DataFrame:
        """Logged training losses (nats): iterations x seeds."""
        seeds = self.study.seeds_of(model) if seeds is None else seeds
        columns = {
            seed: pd.read_csv(
                self._run(model, seed) / "losses.csv", index_col="iteration"
            )["loss"]
            for seed in seeds
        }
        return pd.DataFrame(columns)

    def diagnostics(self, runs: Iterable[Run]) -> pd.DataFrame:
        """Activation statistics of these runs: rows of diagnostics.csv, model, seed."""
        tables = [
            pd.read_csv(self._run(model, seed) / "diagnostics.csv").assign(
                model=model, seed=seed
            )
            for model, seed in runs
        ]
        columns = ["iteration", "block", "quantity", "value", "model", "seed"]
        return pd.concat(tables) if tables else pd.DataFrame(columns=columns)

    def documents(self, label: str, form: str = "trained") -> pd.DataFrame:
        """Cross-entropy (nats) of test documents: `seed, sample, value, weight`.

        Empty where the model was not scored on them.
        """
        columns = ["seed", "sample", "value", "weight"]
        return self._text_rows.get((label, form), pd.DataFrame(columns=columns))

    @cached_property
    def _text_rows(self) -> dict[tuple[str, str], pd.DataFrame]:
        parts = []
        for model, seed in self.study.runs:
            if "text" not in self.study.scored_on(model, seed):
                continue
            rows = self.scores(model, seed)
            chosen = (rows["dataset"] == "text") & (rows["metric"] == "cross_entropy")
            parts.append(rows[chosen].assign(model=model, seed=seed))
        if not parts:
            return {}
        rows = labelled(pd.concat(parts, ignore_index=True))
        columns = ["seed", "sample", "value", "weight"]
        return {key: part[columns] for key, part in rows.groupby(["label", "form"])}

    def scores(self, model: str, seed: int) -> pd.DataFrame:
        """Every scored sample of a run and of the interventions on it."""
        return pd.read_parquet(self._evaluation(model, seed, ".parquet"))

    @cached_property
    def choices(self) -> list[dict[str, Any]]:
        """`seed<k>.interventions.json` of every run that is intervened on.

        What each intervention chose and saves; by which measurements (see
        `evaluation`).
        """
        return [
            read_json(self._evaluation(model, seed, ".interventions.json"))
            for model, seed in [*self.study.intervened_runs, *self.study.scored]
        ]

    # --- corpus -----------------------------------------------------------------------

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """The corpus' manifest."""
        return dict(read_json(self.directory / "corpus" / "manifest.json"))

    @cached_property
    def pairs(self) -> dict[str, Any]:
        """The manifest of the pairs of sentences that T5 is fine-tuned on."""
        return dict(read_json(self.directory / "corpus" / "pairs" / "manifest.json"))

    def shards(self, split: str) -> dict[str, Any]:
        """The manifest of a split's token shards."""
        path = self.directory / "tokens" / "text" / split / "manifest.json"
        return dict(read_json(path))

    def _run(self, model: str, seed: int) -> Path:
        return self.directory / "runs" / model / f"seed{seed}"

    def _evaluation(self, model: str, seed: int, end: str) -> Path:
        return self.directory / "evaluations" / model / f"seed{seed}{end}"


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


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `label`, made of `model` and `intervention`."""
    if "model" not in table or "intervention" not in table:
        return table
    done = table["intervention"].astype(object).fillna("")
    label = table["model"].where(done == "", table["model"] + SEPARATOR + done)
    return table.assign(intervention=done, label=label)
