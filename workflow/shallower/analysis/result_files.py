"""The files of a study, each read once: tables, files of runs, the corpus' manifests.

`Results` (`results.py`) adds what is asked of them by name. A model, trained or
intervened on, goes by its label (see `study.names`); tables hold it in two columns,
`model` and `intervention`. Units: nats for cross-entropy, microseconds for times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from shallower.files import read_json
from shallower.study.names import SEPARATOR
from shallower.study.study import Run, Study


@dataclass
class ResultFiles:
    """What is under `results/<study>/` of one study."""

    directory: Path
    study: Study

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


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `label`, made of `model` and `intervention`."""
    if "model" not in table or "intervention" not in table:
        return table
    done = table["intervention"].astype(object).fillna("")
    label = table["model"].where(done == "", table["model"] + SEPARATOR + done)
    return table.assign(intervention=done, label=label)
