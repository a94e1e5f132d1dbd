"""Tables on heads (S1): sizes, quality, speed, text metrics, rates and budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from shallower.analysis.budgets import QUESTIONS
from shallower.analysis.claims.base import plain
from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.learning_rates import VALIDATION, plain_group
from shallower.analysis.results import Results
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation.ngrams import ORDERS
from shallower.reporting.contents import METRICS
from shallower.reporting.labels import printed
from shallower.reporting.latex import (
    MISSING,
    absent_table,
    escape,
    interval,
    number,
    separated,
    significant,
    tabular,
)
from shallower.study.names import short

SHOWN_METRICS = ("bleu1", "bleu4", "rouge1", "rougeL", "fuzzy")


# --- sizes and speed ------------------------------------------------------------------


def parameters(results: Results) -> str:
    """Table 1: parameters of the eight models at the original's size."""
    depths = results.study.original.depths
    kinds = {
        "Baseline": ("baseline", "parameters_trained"),
        "Proposed": ("proposed", "parameters_trained"),
        "Proposed, folded": ("proposed", "parameters_deployed"),
    }
    counts = {
        row: np.array([results.size(plain(v, d), column, "original") for d in depths])
        for row, (v, column) in kinds.items()
    }
    counts["Added"] = counts["Proposed"] - counts["Baseline"]
    rows = [
        [row, *(number(value, 0) for value in counts[row])]
        for row in ("Baseline", "Proposed", "Added", "Proposed, folded")
    ]
    header = ["", *(f"{depth} blocks" for depth in depths)]
    return tabular("l" + "r" * len(depths), [header], rows)


def latency(results: Results) -> str:
    """First-token and per-token times at both scales, trained and folded (us)."""
    study = results.study
    variants = dict.fromkeys(study.models[m].variant for m in study.depth_models)
    rows: list[list[str] | str] = []
    for variant in variants:
        at_original = variant in ("baseline", "proposed")
        depths = {
            "study": study.depths,
            "original": study.original.depths if at_original else [],
        }
        if rows:
            rows.append(r"\addlinespace")
        for index in range(max(map(len, depths.values()))):
            cells: list[str] = []
            for scale, levels in depths.items():
                there = index < len(levels)
                label = plain(variant, levels[index]) if there else ""
                cells += _times(results, label, scale)
            rows.append(cells)
    header = [
        r"\multicolumn{4}{c}{study scale (trained)}",
        r"\multicolumn{4}{c}{original scale (untrained)}",
    ]
    columns = ["model", "TTFT", "token", "folded"] * 2
    rules = r"\cmidrule(r){1-4} \cmidrule(l){5-8}"
    return tabular("lrrrlrrr", [header, rules, columns], rows)


def _times(results: Results, label: str, scale: str) -> list[str]:
    if not label:  # the scales may have different numbers of depths
        return ["", "", "", ""]
    cells = [escape(label)]
    for metric, form in (
        ("time_to_first_token", "trained"),
        ("time_per_output_token", "trained"),
        ("time_per_output_token", "folded"),
    ):
        asked = Comparison(label, "", "fixed", metric, "level", scale, form)
        measured = form in results.forms(label, "fixed", metric, scale)
        found = results.estimate(asked).effect if measured else float("nan")
        cells.append(number(found, 0))
    return cells


# --- quality --------------------------------------------------------------------------


def quality(results: Results) -> str:
    """Losses and perplexities of every model, means over seeds; and of n-grams."""
    rows: list[list[str]] = []
    for label in results.study.depth_models:
        nats = results.row(label, "text", "cross_entropy")
        loss, perplexity = (
            results.row(label, *where)
            for where in (("train", "training_loss"), ("text", "perplexity"))
        )
        if nats is None or loss is None or perplexity is None:
            continue
        rows.append(
            [
                escape(label),
                number(results.size(label, "parameters_trained") / 1e6, 2),
                number(loss["mean"], 3),
                str(nats["n_seeds"]),
                number(nats["mean"], 3),
                interval(nats["ci_low"], nats["ci_high"], 3),
                number(perplexity["mean"], 1),
                number(2 ** nats["mean"], 1),
            ]
        )
    header = ["model", "parameters", "training", r"\multicolumn{3}{c}{test}"]
    header += ["perplexity", "$2^{\\mathrm{CE}}$"]
    units = ["", "(millions)", "loss", "seeds", "CE (nats)", "95\\,\\% interval"]
    units += ["$e^{\\mathrm{CE}}$", "(as written)"]
    table = [*_grouped(rows, results), r"\midrule", *_floors(results)]
    return tabular("lrrrrcrr", [header, units], table)


def _floors(results: Results) -> list[list[str]]:
    """What n-grams of the models' training tokens, and of all, reach on test text."""
    rows = []
    for key, training in (("", "the same tokens"), (".corpus", "all training text")):
        for floor in ORDERS:
            nats = results.fact(f"floors{key}.{floor}")
            if not np.isnan(nats):
                cells = [f"{floor}, {training}", "", "", "", number(nats, 3), ""]
                rows.append([*cells, number(np.exp(nats), 1), number(2**nats, 1)])
    return rows


def metrics(results: Results, dataset: str) -> str:
    """Text metrics on one set, 0 to 100: mean over samples (spread of the seeds)."""
    rows = []
    for label in results.study.depth_models:
        cells = [escape(label)]
        for metric in SHOWN_METRICS:
            row = results.row(label, dataset, metric)
            if row is None:
                cells.append(MISSING)
                continue
            factor = 1.0 if row["unit"] == "percent" else 100.0
            mean, std = factor * row["mean"], factor * row["std_units"]
            cells.append(f"{number(mean, 1)} ({number(std, 1)})")
        rows.append(cells)
    header = ["model", *(METRICS[metric] for metric in SHOWN_METRICS)]
    return tabular("l" + "r" * len(SHOWN_METRICS), [header], _grouped(rows, results))


def _grouped(rows: list[list[str]], results: Results) -> list[Sequence[str] | str]:
    """Space between the variants."""
    depths = len(results.study.depths)
    return separated((index // depths, row) for index, row in enumerate(rows))


# --- learning rates and budgets -------------------------------------------------------


def search(results: Results) -> str:
    """Validation loss of every group of models at every rate, and at its best."""
    table = results.learning_rates
    if table.empty:
        return absent_table()
    rates = sorted(table["learning_rate"].unique())
    models = results.study.models
    names = {
        group: printed(models[model].without("lr", "init_std", "steps"))
        for group, model in zip(table["group"], table["model"], strict=True)
    }
    rows: list[list[str] | str] = []
    start = None
    for (std, steps, group), part in table.groupby(["init_std", "steps", "group"]):
        if start not in (None, (std, steps)):
            rows.append(r"\addlinespace")
        start = (std, steps)
        best = part[part["best"].astype(bool)].iloc[0]
        same_start = table[(table["init_std"] == std) & table["best"].astype(bool)]
        rows.append(
            [
                *(f"{std:g}", number(steps, 0), names[group], *_losses(part, rates)),
                short(float(best["learning_rate"])),
                "yes" if best["interior"] else "no",
                number(best["sensitivity"], 3),
                number(100 * best["bad_mode_share_of_group"], 0),
                _against_baseline(results, same_start, best),
            ]
        )
    if table["init_std"].nunique() > 1:
        best_of_all = table[table["best_of_all"].astype(bool)]
        rows.append(r"\midrule")
        for _, best in best_of_all.iterrows():
            at = f"{short(float(best['learning_rate']))} at {best['init_std']:g}"
            cells = ["best", number(best["steps"], 0), names[best["group"]]]
            cells += [*[""] * len(rates), at, "", "", ""]
            rows.append([*cells, _against_baseline(results, best_of_all, best)])
    header = [
        *("start", "steps", "model", *(short(float(rate)) for rate in rates)),
        *("best", "interior", "sensitivity", r"bad mode (\%)", "against baseline"),
    ]
    return tabular("lrl" + "r" * len(rates) + "llrrl", [header], rows)


def _losses(part: pd.DataFrame, rates: list[float]) -> list[str]:
    """A group's mean at every rate, the lowest in bold."""
    by_rate = part.set_index("learning_rate")
    cells = []
    for rate in rates:
        if rate not in by_rate.index:
            cells.append(MISSING)
            continue
        text = number(by_rate.loc[rate, "cross_entropy"], 3)
        cells.append(rf"\textbf{{{text}}}" if by_rate.loc[rate, "best"] else text)
    return cells


def _against_baseline(results: Results, table: pd.DataFrame, best: pd.Series) -> str:
    """A group at its best rate less the baseline of its depth at its own."""
    baseline = table[table["group"] == plain_group(best["variant"], best["depth"])]
    baseline = baseline[baseline["steps"] == best["steps"]]
    if baseline.empty or baseline["model"].iloc[0] == best["model"]:
        return MISSING
    pair = best["model"], baseline["model"].iloc[0]
    return _effect(results.estimate(Comparison(*pair, *VALIDATION)))


def budget(results: Results) -> str:
    """Every budget: what each model reaches, does depth pay, does the trade hold."""
    table, study = results.table("budget"), results.study
    ends = {"shallow": study.depths[0], "deep": study.depths[-1]}
    roles = [("baseline", "shallow"), ("baseline", "deep"), ("proposed", "shallow")]
    found: list[tuple[tuple[float, ...], list[str]]] = []
    for (width, tokens), part in table.groupby(["width", "tokens"]):
        by_model = part.set_index(["variant", "depth"])
        there = [role for role in roles if (role[0], ends[role[1]]) in by_model.index]
        rows = [by_model.loc[(variant, ends[end])] for variant, end in there]
        models = {role: row["model"] for role, row in zip(there, rows, strict=True)}
        answers = [
            results.estimate(Comparison(models.get(left, ""), models.get(right, "")))
            for left, right in (QUESTIONS[q] for q in ("depth", "layer", "trade"))
        ]
        if not any(answer.exists for answer in answers):
            continue
        ratio = min(row["tokens_per_parameter"] for row in rows)
        losses = {r: row["cross_entropy"] for r, row in zip(there, rows, strict=True)}
        cells = [f"{width}", number(tokens, 0), significant(ratio, 2)]
        cells += [number(losses.get(role, float("nan")), 3) for role in roles]
        found.append(((ratio, width), cells + [_effect(a) for a in answers]))
    if not found:
        return absent_table()
    header = ["width", "tokens", "per parameter"]
    header += [escape(plain(variant, ends[end])) for variant, end in roles]
    header += ["deep $-$ shallow", "proposed $-$ shallow", "proposed $-$ deep"]
    ordered = [cells for _, cells in sorted(found, key=lambda row: row[0])]
    return tabular("rrrrrrlll", [header], ordered)


def _effect(found: Estimate) -> str:
    """An effect in nats with its interval."""
    if not found.exists:
        return MISSING
    return f"{number(found.effect, 3)} {interval(found.ci_low, found.ci_high, 3)}"


TABLES: dict[str, Callable[[Results], str]] = {
    "parameters": parameters,
    "quality": quality,
    "latency": latency,
    **{f"metrics_{name}": partial(metrics, dataset=name) for name in EVALUATION_SETS},
    "search": search,
    "budget": budget,
}
