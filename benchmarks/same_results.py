"""`python -m benchmarks.same_results OLD NEW`: do two studies say the same?

OLD and NEW are folders `results/<study>` that two versions of the code made of one
configuration. Compared to the last bit: final weights, logged losses, activation
statistics, every scored sample that both have; to ten digits, as CSV files are written:
effects, intervals and verdicts of the claims that do not depend on times. Values that
exist on one side alone are listed.

OLD may have the layout of versions before 0.2, in which an intervention had a folder of
its own, rules of skipping had other names, and an equal-FLOPs control had its number of
steps in its label.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from shallower.analysis.results import Results
from shallower.files import read_json, sha256
from shallower.study.names import joined

RENAMED = {
    ".last_but_one.": ".latter_keep_last.",
    ".last.": ".latter.",
    ".first.": ".early.",
    "ffn=default": "ffn=own",
}
KEYS = ["label", "form", "dataset", "group", "sample", "metric"]
TIMES = {"us", "s", "tokens/s"}
LOSSES = ["iteration", "tokens", "loss", "learning_rate"]


class Comparison:
    """Two folders of results, and what differs between them."""

    def __init__(self, old: Path, new: Path) -> None:
        self.old, self.new = old, Results.read(new)
        self.differences: list[str] = []
        self.equal = 0
        self.was_before = not (old / "study.json").is_file()

    def old_label(self, label: str) -> str:
        """The label of a model in the old results."""
        if not self.was_before:
            return label
        for now, before in RENAMED.items():
            label = label.replace(now, before)
        control = re.match(r"(.*)__equal_flops=", label)
        if control:
            steps = self.new.training(label, self.new.study.seeds_of(label)[0])["steps"]
            return f"{control[1]}__steps={steps}"
        return label

    def check(self, what: str, same: bool) -> None:
        """Note one comparison."""
        self.equal += same
        if not same:
            self.differences.append(what)

    def runs(self) -> None:
        """Weights, losses and activation statistics of every run."""
        for model, seed in self.new.study.runs:
            now = self.new.directory / "runs" / model / f"seed{seed}"
            before = self.old / "runs" / self.old_label(model) / f"seed{seed}"
            if not before.is_dir():
                self.differences.append(f"{model} seed {seed}: not in {self.old}")
                continue
            name = "model.safetensors"
            same = sha256(now / name) == sha256(before / name)
            self.check(f"{model} seed {seed}: weights", same)
            for name, columns in (("losses.csv", LOSSES), ("diagnostics.csv", None)):
                tables = [pd.read_csv(p / name, usecols=columns) for p in (now, before)]
                self.check(f"{model} seed {seed}: {name}", tables[0].equals(tables[1]))

    def scores(self) -> None:
        """Every scored sample of every run and intervention."""
        for model, seed in self.new.study.runs:
            now = self.new.scores(model, seed)
            labels = [joined(model, each) for each in now["intervention"]]
            now = now.assign(label=labels).set_index(KEYS)["value"]
            before = self._old_scores(model, seed, dict.fromkeys(labels))
            both = now.index.intersection(before.index)
            a, b = (
                t[~t.index.duplicated()].loc[both].to_numpy() for t in (now, before)
            )
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            for key in both[~same][:3]:
                self.differences.append(f"{key} seed {seed}: a score")
            self.equal += int(same.sum())
            alone = len(now.index.symmetric_difference(before.index))
            if alone:
                self.differences.append(f"{model} seed {seed}: {alone} scores alone")

    def _old_scores(self, model: str, seed: int, labels: dict[str, None]) -> pd.Series:
        folder = self.old / "evaluations"
        parts = []
        if self.was_before:
            for label in labels:
                path = folder / self.old_label(label) / f"seed{seed}.parquet"
                parts.append(pd.read_parquet(path).assign(label=label))
        else:
            table = pd.read_parquet(folder / model / f"seed{seed}.parquet")
            names = [joined(model, each) for each in table["intervention"]]
            parts.append(table.assign(label=names))
        return pd.concat(parts).set_index(KEYS)["value"]

    def claims(self) -> None:
        """Verdicts and effects of the claims that do not depend on times."""
        now = self.new.claims.set_index("id")
        before = pd.read_csv(self.old / "claims.csv").set_index("id")
        for key in now.index.union(before.index):
            if key not in now.index or key not in before.index:
                self.differences.append(f"claim {key}: on one side alone")
                continue
            a, b = now.loc[key], before.loc[key]
            cost = a["unit"] == "ratio" and a["kind"] == "cost"
            if cost or "at equal latency" in a["claim"]:
                continue
            self.check(f"claim {key}: verdict", a["verdict"] == b["verdict"])
            for column in ("effect", "ci_low", "ci_high"):
                same = np.isclose(a[column], b[column], rtol=1e-8, equal_nan=True)
                self.check(f"claim {key}: {column} {b[column]} -> {a[column]}", same)


def main(old: str, new: str) -> int:
    """Print what differs; the exit status says whether anything does."""
    comparison = Comparison(Path(old), Path(new))
    comparison.runs()
    comparison.scores()
    if (comparison.old / "claims.csv").is_file():
        comparison.claims()
    manifests = [Path(p) / "corpus" / "manifest.json" for p in (old, new)]
    same = read_json(manifests[0]) == read_json(manifests[1])
    comparison.check("the corpus' manifest", same)
    print(f"{comparison.equal:,} values are equal")
    for line in comparison.differences:
        print(line)
    return int(bool(comparison.differences))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
