"""A study's result files, read once and asked by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.deployed import deployed
from shallower.analysis.search import read_diagnostics
from shallower.config import Study
from shallower.files import read_json


def source_name(origin: dict[str, Any]) -> str:
    """What a source is called: a package, a repository of the hub, else its kind."""
    return str(origin.get("name") or origin.get("repository") or origin["source"])


@dataclass
class Results:
    """A study's files, read once."""

    directory: Path
    study: Study

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Rows of summary.csv."""
        return pd.read_csv(self.directory / "summary.csv")

    @cached_property
    def units(self) -> pd.DataFrame:
        """Rows of by_seed.csv."""
        return pd.read_csv(self.directory / "by_seed.csv")

    @property
    def variants(self) -> list[str]:
        """Variants of the depth experiment, in the configuration's order."""
        return self.study.experiments.depth[0].variants

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Rows of comparisons.csv."""
        return pd.read_csv(self.directory / "comparisons.csv")

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Rows of claims.csv."""
        return pd.read_csv(self.directory / "claims.csv")

    @cached_property
    def roofline(self) -> pd.DataFrame:
        """Rows of roofline.csv."""
        return pd.read_csv(self.directory / "roofline.csv")

    @cached_property
    def roofline_pairs(self) -> pd.DataFrame:
        """Rows of roofline_pairs.csv."""
        return pd.read_csv(self.directory / "roofline_pairs.csv")

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """Rows of pareto.csv."""
        return pd.read_csv(self.directory / "pareto.csv")

    @cached_property
    def gains(self) -> pd.DataFrame:
        """Rows of gains.csv."""
        return pd.read_csv(self.directory / "gains.csv")

    @cached_property
    def additivity(self) -> pd.DataFrame:
        """Rows of additivity.csv."""
        return pd.read_csv(self.directory / "additivity.csv")

    @cached_property
    def hypervolume(self) -> pd.DataFrame:
        """Rows of hypervolume.csv."""
        return pd.read_csv(self.directory / "hypervolume.csv")

    @cached_property
    def methods(self) -> pd.DataFrame:
        """Rows of methods.csv."""
        return pd.read_csv(self.directory / "methods.csv")

    @cached_property
    def profiles(self) -> pd.DataFrame:
        """Rows of profiles.csv."""
        return pd.read_csv(self.directory / "profiles.csv")

    @cached_property
    def arms(self) -> pd.DataFrame:
        """Rows of arms.csv."""
        return pd.read_csv(self.directory / "arms.csv", dtype={"counts": str})

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """Rows of parameters.csv, by (scale, model)."""
        table = pd.read_csv(self.directory / "parameters.csv")
        return table.set_index(["scale", "model"])

    @cached_property
    def learning_rate(self) -> pd.DataFrame:
        """Rows of learning_rate.csv."""
        return pd.read_csv(self.directory / "learning_rate.csv")

    @cached_property
    def budget(self) -> pd.DataFrame:
        """Rows of budget.csv."""
        return pd.read_csv(self.directory / "budget.csv")

    @cached_property
    def envelopes(self) -> pd.DataFrame:
        """Rows of learning_rate_envelope.csv."""
        return pd.read_csv(self.directory / "learning_rate_envelope.csv")

    @cached_property
    def budget_pairs(self) -> pd.DataFrame:
        """Rows of budget_pairs.csv."""
        return pd.read_csv(self.directory / "budget_pairs.csv")

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """The corpus' manifest."""
        return read_json(self.directory / "corpus" / "manifest.json")

    def corpus_documents(self, split: str) -> int:
        """Documents of a split of the text; `test` may have a source of its own."""
        sets = self.corpus["datasets"]
        return (sets["text"]["counts"] | sets.get("test", {}).get("counts", {}))[split]

    def tokens(self, split: str) -> dict[str, Any]:
        """The manifest of a split's token shards."""
        return read_json(self.directory / "tokens" / "text" / split / "manifest.json")

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """training.json of every run."""
        return [
            read_json(self.directory / "runs" / model / f"seed{seed}" / "training.json")
            for model, seed in self.study.runs
        ]

    def distinct(self, fact: str) -> list[str]:
        """The different values of a fact over all runs, sorted."""
        return sorted({str(facts[fact]) for facts in self.facts})

    @property
    def smoothing_window(self) -> int:
        """Logged points in Figure 2a's moving average: a tenth of the run.

        The original uses 1000 points of a run of unstated length.
        """
        training = self.study.training
        return max(1, training.steps // training.log_every // 10)

    def losses(self, model: str) -> pd.DataFrame:
        """Logged training losses, one column per seed, indexed by iteration."""
        folder = self.directory / "runs" / model
        return pd.DataFrame(
            {
                seed: pd.read_csv(
                    folder / f"seed{seed}" / "losses.csv", index_col="iteration"
                )["loss"]
                for seed in self.study.seeds
            }
        )

    def diagnostics(self, runs: list[tuple[str, int]], block: int = 0) -> pd.DataFrame:
        """Rows of diagnostics.csv of these runs and one block, with model and seed."""
        table = read_diagnostics(self.directory, runs)
        return table[table["block"] == block]

    def by_seed(self, model: str, dataset: str = "text") -> pd.Series:
        """Test cross-entropy of every seed, by seed."""
        rows = select(self.units, model, dataset, "cross_entropy", {})
        return rows.set_index("unit_id")["value"]

    def row(self, model: str, dataset: str, metric: str, **where: str) -> pd.Series:
        """The one summary row of a model and metric (study scale, as trained)."""
        return one(self.summary, model, dataset, metric, where)

    def has(self, model: str, dataset: str, metric: str, **where: str) -> bool:
        """Whether there is such a summary row."""
        return not select(self.summary, model, dataset, metric, where).empty

    def seeds(self, model: str, dataset: str, metric: str, **where: str) -> pd.Series:
        """The values of every seed (or session) behind that row."""
        return select(self.units, model, dataset, metric, where)["value"]

    def times(
        self, model: str, dataset: str, metric: str, scale: str = "study"
    ) -> pd.Series:
        """A time as deployed, by session, in microseconds; empty if not measured."""
        rows = self.units
        rows = rows[(rows["model"] == model) & (rows["metric"] == metric)]
        rows = rows[(rows["dataset"] == dataset) & (rows["scale"] == scale)]
        return deployed(rows[rows["mode"] == "eager"]).set_index("unit_id")["value"]


def select(
    table: pd.DataFrame, model: str, dataset: str, metric: str, where: dict[str, str]
) -> pd.DataFrame:
    """Rows of a model and metric; `where` overrides study scale, trained, eager."""
    # What leaves the fewest rows comes first.
    wanted = {"model": model, "metric": metric, "dataset": dataset}
    wanted |= {"scale": "study", "form": "trained", "mode": "eager"} | where
    chosen = table
    for column, value in wanted.items():
        chosen = chosen[chosen[column] == value]
    return chosen


def one(
    table: pd.DataFrame, model: str, dataset: str, metric: str, where: dict[str, str]
) -> pd.Series:
    """The one such row. Raises KeyError if there is none or more than one."""
    chosen = select(table, model, dataset, metric, where)
    if len(chosen) != 1:
        raise KeyError(f"{len(chosen)} summary rows of {model} {dataset} {metric}")
    return chosen.iloc[0]
