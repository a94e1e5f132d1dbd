"""Gates: what models must have learnt before a claim about their quality is judged.

A claim about models that predict worse than token frequencies is not tested, whichever
way its interval lies. Each model that a claim compares must pass, by its run:

- `floor`: its mean test cross-entropy is below that of a bigram of the training tokens
  that it saw (see `evaluation.floors`);
- `attention`: attention of some block is no longer uniform at the end of training: the
  entropy of the block that attends most, the median over seeds, is `LEAST` nats or more
  below that of uniform attention (5 % fewer tokens that are attended to, in effect).
  The first block, which the gate asked for before, is told beside it: see
  docs/protocol.md;
- `sensitivity`: the study's shallowest plain baseline is worse than the plain baseline
  of the claim's largest depth, beyond the 95 % interval. What is as shallow itself is
  compared with the deepest. Claims about the depth of baselines need no such control;
- `rate`: the best learning rate of the search is neither the lowest nor the highest
  that was tried, and that of the model costs no more there than the study's margin; of
  one that was not tried, the nearest. A model that was not searched for inherits the
  search of the nearest one: with heads changed or not, by width, variant and depth.

An encoder-decoder that is pretrained alone has two gates, `floor` and `rate`: its floor
is a bigram of what the decoder writes. Where it is fine-tuned the floor is the bag of
words (see `claims.t5`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from shallower.analysis.claims.base import Context, Fact, plain
from shallower.analysis.learning_rates import search_table, uniform_entropy
from shallower.analysis.results import Results
from shallower.analysis.statistics import t_interval
from shallower.analysis.verdicts import NAN, Finding
from shallower.evaluation.ngrams import ORDERS
from shallower.study.names import BUDGET, ModelName, short

GATES = ("floor", "attention", "sensitivity", "rate")
OF_T5 = ("floor", "rate")
FLOOR = "bigram"
LEAST = 0.05  # nats
CLOSED = "gate: "  # begins the note of a claim that is not tested for a gate
# A decoder is scored on the first or else the second, a T5 on the third.
SETS = ("text", "continuation", "spans")


@dataclass(frozen=True)
class Check:
    """One gate of one model: a row of gates.csv."""

    model: str
    gate: str
    value: float  # nats; of a rate the best one
    low: float  # interval of the mean; of attention the seeds, of rates those tried
    high: float
    threshold: float  # nats
    passed: bool
    note: str
    first_block: float = NAN  # nats, of attention: the first block's entropy


def failed(model: str, gate: str, note: str) -> Check:
    """A gate for which there is nothing to judge by."""
    return Check(model, gate, NAN, NAN, NAN, NAN, False, note)


@dataclass
class Gates:
    """The gates of a study's trained models, each made when it is asked for."""

    context: Context

    def __post_init__(self) -> None:
        self._checks: dict[tuple[str, str], Check] = {}

    @property
    def _results(self) -> Results:
        return self.context.results

    def runs(self, labels: Iterable[str]) -> list[str]:
        """The runs on text behind these labels, each once."""
        study = self.context.study
        names = [study.names[label] for label in labels if label in study.names]
        runs = dict.fromkeys(str(name.run) for name in names)
        tasks = {run: study.models[run].options for run in runs if run in study.models}
        return [run for run, options in tasks.items() if "task" not in options]

    def asked(self, run: str) -> tuple[str, ...]:
        """The gates that a run must pass."""
        return OF_T5 if self.context.study.models[run].t5_size else GATES

    def gated(self, found: Finding) -> Finding:
        """The same, not tested where a model that was compared fails a gate."""
        closed = self.closed(found.models)
        if found.verdict == "not tested" or not closed:
            return found
        return replace(found, verdict="not tested", note=reason(closed))

    def closed(self, labels: Iterable[str]) -> list[Check]:
        """The gates that these models fail, in comparison with each other."""
        runs = self.runs(labels)
        if not runs:
            return []
        depths = {run: self.context.study.models[run].depth for run in runs}
        about_depth = all(map(self.is_baseline, runs)) and len({*depths.values()}) > 1
        whose = dict.fromkeys(GATES, runs)
        whose["sensitivity"] = (
            [] if about_depth else [max(runs, key=depths.__getitem__)]
        )
        checks = [
            self.check(run, gate)
            for gate in GATES
            for run in whose[gate]
            if gate in self.asked(run)
        ]
        return [check for check in checks if not check.passed]

    def check(self, run: str, gate: str) -> Check:
        """One gate of one run."""
        if (run, gate) not in self._checks:
            self._checks[run, gate] = getattr(self, f"_{gate}")(run)
        return self._checks[run, gate]

    def table(self) -> pd.DataFrame:
        """gates.csv: every gate of every run that was scored on test text."""
        rows = [
            asdict(self.check(run, gate))
            for run in self.scored
            for gate in self.asked(run)
        ]
        return pd.DataFrame(rows, columns=[*Check.__dataclass_fields__])

    @cached_property
    def scored(self) -> list[str]:
        """The runs on text that were scored on the test split."""
        study = self.context.study
        scored = {
            run for run, seed in study.runs if {*SETS} & {*study.scored_on(run, seed)}
        }
        return [run for run in self.runs(study.models) if run in scored]

    def _scored_on(self, run: str) -> str:
        """The test data that a model's quality is taken from; '' without any."""
        for name in SETS:
            if len(self._results.values(run, name, "cross_entropy")):
                return name
        return ""

    # --- the floor --------------------------------------------------------------------

    def _floor(self, run: str) -> Check:
        dataset = self._scored_on(run)
        if not dataset:
            return failed(run, "floor", "not scored on test text")
        values = self._results.values(run, dataset, "cross_entropy").to_numpy(float)
        floor = self._results.floor(FLOOR, self._results.tokens_seen(run), dataset)
        mean, ends = float(values.mean()), t_interval(values)
        note = f"{FLOOR} of the same tokens, {dataset}"
        return Check(run, "floor", mean, *ends, floor, bool(mean < floor), note)

    # --- attention --------------------------------------------------------------------

    @cached_property
    def _entropy(self) -> pd.DataFrame:
        """At the end of training, by (model, seed): `least` of all blocks, `first`."""
        runs = [
            run for run in self.context.study.runs if self.runs([run[0]]) == [run[0]]
        ]
        rows = self._results.diagnostics(runs)
        rows = rows[rows["quantity"] == "entropy"].sort_values(["iteration", "block"])
        last = rows.groupby(["model", "seed"])["iteration"].transform("max")
        blocks = rows[rows["iteration"] == last].groupby(["model", "seed"])["value"]
        return blocks.agg(least="min", first="first")

    def _attention(self, run: str) -> Check:
        # Fine-tuning with elimination measures no attention: then its parent's counts.
        name: ModelName | None = self.context.study.models[run]
        while name is not None and str(name) not in self._entropy.index:
            name = name.parent
        if name is None:
            return failed(run, "attention", "no statistics of attention")
        entropy = self._entropy.loc[str(name)]
        values, first = entropy["least"], float(entropy["first"].median())
        threshold = uniform_entropy(self.context.study.model.context) - LEAST
        found = (float(values.median()), float(values.min()), float(values.max()))
        passed = bool(found[0] <= threshold)
        note = "block that attends most, median over seeds"
        return Check(run, "attention", *found, threshold, passed, note, first)

    # --- assay sensitivity ------------------------------------------------------------

    def is_baseline(self, run: str) -> bool:
        """Whether a model is a plain baseline at some budget."""
        name = self.context.study.models[run]
        return name.variant == "baseline" and set(name.options) <= {*BUDGET}

    def controls(self, run: str) -> tuple[str, str]:
        """The shallowest plain baseline, and the one that it must be worse than.

        At the model's own budget where two depths were trained with it, else at the
        study's. Two empty labels where there are no two depths.
        """
        models, name = self.context.study.models, self.context.study.models[run]
        own = {key: name.options[key] for key in name.options if key in BUDGET}
        for options in (own, {}):
            depths = {
                each.depth: label
                for label, each in models.items()
                if each.variant == "baseline" and each.options == options
            }
            if len(depths) > 1:
                shallow, deep = min(depths), max(depths)
                depth = name.depth if shallow < name.depth in depths else deep
                return depths[shallow], depths[depth]
        return "", ""

    def _sensitivity(self, run: str) -> Check:
        pair = self.controls(run)
        for dataset in SETS:
            found = self.context.difference(*pair, dataset=dataset)
            if found.exists:
                ends = found.ci_low, found.ci_high
                passed, note = (
                    bool(found.ci_low > 0),
                    f"{pair[0]} - {pair[1]}, {dataset}",
                )
                return Check(run, "sensitivity", found.effect, *ends, 0.0, passed, note)
        return failed(run, "sensitivity", "no two plain baselines were scored")

    # --- learning rates ---------------------------------------------------------------

    @cached_property
    def _search(self) -> pd.DataFrame:
        return search_table(self._results)

    def _rate(self, run: str) -> Check:
        models, table = self.context.study.models, self._search
        if table.empty:
            return failed(run, "rate", "no search")
        name = models[run]
        while name.parent is not None:  # training on has a rate of its own
            name = name.parent
        spec = self.context.study.spec(str(name), 0)

        def distance(model: str) -> tuple[bool | int, ...]:
            other = models[model]
            families = [bool(each.t5_size) for each in (name, other)]
            widths = [each.options.get("width") for each in (name, other)]
            heads = [each.head == "baseline" for each in (name, other)]
            apart = abs(name.depth - other.depth)
            differ = [pair[0] != pair[1] for pair in (families, heads, widths)]
            variants = name.variant != other.variant, name.ffn != other.ffn
            return (*differ, *variants, apart, -other.depth)

        nearest = min(table["model"], key=distance)
        if bool(models[nearest].t5_size) != bool(name.t5_size):
            return failed(run, "rate", "no search")
        group = table.set_index("model").loc[nearest, "group"]
        rows = table[table["group"] == group]
        start = spec.initialisation or self.context.study.initialisation
        due = {"init_std": start.std, "steps": spec.training.steps}
        for column, value in due.items():
            apart = (rows[column] - value).abs()
            rows = rows[apart == apart.min()]
        best, rates = rows[rows["best"]].iloc[0], rows["learning_rate"]
        note = f"search of {group}, {int(best['steps'])} steps"
        used = spec.training.learning_rate
        near = rows.loc[(np.log(rates) - math.log(used)).abs().idxmin()]
        cost = float(near["cross_entropy"] - best["cross_entropy"])
        if used != best["learning_rate"]:
            note += f"; trained at {short(used)}, there {cost:.3f} nats above the best"
        found = (float(best["learning_rate"]), float(rates.min()), float(rates.max()))
        passed = bool(best["interior"]) and cost <= self.context.margin
        return Check(run, "rate", *found, NAN, passed, note)


def reason(closed: list[Check]) -> str:
    """Which gates are closed, and by which models: `gate: floor (baseline-5), ...`."""
    by_gate: dict[str, list[str]] = {}
    for check in closed:
        by_gate.setdefault(check.gate, []).append(check.model)
    parts = []
    for gate, models in by_gate.items():
        more = f" and {len(models) - 2} more" if len(models) > 2 else ""
        parts.append(f"{gate} ({', '.join(models[:2])}{more})")
    return CLOSED + ", ".join(parts)


def facts(context: Context) -> Iterator[Fact]:
    """Floors of the study's own training tokens and of the corpus; who passes."""
    gates, results = context.gates, context.results
    baseline = plain("baseline", context.deep)
    if baseline in context.study.models:
        tokens = results.tokens_seen(baseline)
        yield Fact("floors.tokens", tokens, "tokens")
        for floor in ("uniform", *ORDERS):
            yield Fact(f"floors.{floor}", results.floor(floor, tokens), "nats")
    for floor in ORDERS:
        yield Fact(f"floors.corpus.{floor}", results.floor(floor, None), "nats")
    if gates is None:
        return
    table = gates.table()
    yield Fact("gates.models", len(gates.scored))
    yield Fact("gates.passed", int(table.groupby("model")["passed"].all().sum()))
    for gate in GATES:
        passed = table.loc[table["gate"] == gate, "passed"]
        yield Fact(f"gates.{gate}.passed", int(passed.sum()))
    yield Fact("gates.attention.least", LEAST, "nats")


def tables(context: Context) -> dict[str, pd.DataFrame]:
    """gates.csv."""
    return {} if context.gates is None else {"gates": context.gates.table()}
