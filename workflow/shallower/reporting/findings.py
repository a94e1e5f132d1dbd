"""Numbers for the text about the experiments beside the depth study."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from shallower.analysis.ablation import head_differences
from shallower.analysis.budgets import QUESTIONS
from shallower.analysis.search import BAD_MODE, uniform_entropy
from shallower.analysis.statistics import ratio_interval, t_interval
from shallower.reporting.latex import MISSING, number, scientific, significant
from shallower.reporting.results import Results, select

SEARCHED = ("baseline", "proposed", "silu")
PARTS = ("proposed", "silu", "linear", "silu_even")  # of the layer, in the text


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`margin`, `fold.quality`, `head.*`, `search.*`, `envelope.*`, `budget.*`."""
    claims = results.claims.set_index("id")
    yield "margin", number(claims.loc["C6", "threshold"], 3)
    yield "fold.quality", _fold_quality(results)
    yield from _parts(results)
    yield from _search(results)
    yield from _budgets(results)
    yield from _roofline(results)


def _roofline(results: Results) -> Iterator[tuple[str, str]]:
    """`compiled.ratio.*`, `floor.share.*`, `weights.share.*` (percent), `bandwidth`."""
    study = results.study
    ends = {"study": study.depths, "paper": study.paper_scale.depths}
    points, pairs = results.roofline, results.roofline_pairs
    for scale, depths in ends.items():
        deep, shallow = f"baseline-{depths[-1]}", f"proposed-{depths[0]}"
        times = [
            select(
                results.units,
                *(model, "decode", "time_per_output_token"),
                {"scale": scale, "mode": "compiled"},
            ).set_index("unit_id")["value"]
            for model in (deep, shallow)
        ]
        found = [float("nan")] * 3
        if len(times[0]):
            found = list(ratio_interval(*(part.to_numpy() for part in times)))
        for suffix, value in zip(("", ".low", ".high"), found, strict=True):
            yield f"compiled.ratio.{scale}{suffix}", number(value, 2)
        for mode, suffix in (("eager", ""), ("compiled", ".compiled")):
            rows = points[(points["scale"] == scale) & (points["mode"] == mode)]
            rows = rows[(rows["model"] == deep) & (rows["form"] == "trained")]
            yield f"floor.share.{scale}{suffix}", _percent(rows, "share_of_floor")
            rows = pairs[(pairs["scale"] == scale) & (pairs["mode"] == mode)]
            rows = rows[(rows["variant"] == "baseline") & (rows["form"] == "trained")]
            yield f"weights.share.{scale}{suffix}", _percent(rows, "weights_share")
    largest = points.loc[points["bytes_per_token"].idxmax()]
    yield "bandwidth", number(largest["bandwidth_gb_s"], 1)


def _percent(rows: pd.DataFrame, column: str) -> str:
    """Of the workload that is measured in both modes, if there is one."""
    if "decode" in set(rows["workload"]):
        rows = rows[rows["workload"] == "decode"]
    return number(100 * rows[column].iloc[0], 0) if len(rows) else MISSING


def _fold_quality(results: Results) -> str:
    """Largest difference in a run's test cross-entropy between the two forms."""
    largest = float("nan")
    for model in results.study.depth_models:
        keys = (results.units, model, "text", "cross_entropy")
        folded = select(*keys, {"form": "folded"}).set_index("unit_id")["value"]
        if len(folded):
            gaps = (folded - results.by_seed(model)).abs()
            largest = max(gaps.max(), -1 if pd.isna(largest) else largest)
    return scientific(largest)


def _parts(results: Results) -> Iterator[tuple[str, str]]:
    """Each part against the baseline and against the SiLU alone, at the least depth."""
    depth, found = (
        results.study.depths[0],
        head_differences(results.study, results.units),
    )
    silu = found.get(f"silu-{depth}", pd.Series(dtype=float))
    for variant in PARTS:
        own = found.get(f"{variant}-{depth}", pd.Series(dtype=float))
        pairs = [(variant, own), (f"{variant}.silu", own - silu)]
        for key, differences in pairs[: 1 if variant == "silu" else 2]:
            values = differences.dropna()
            low, high = t_interval(values.to_numpy())
            for suffix, value in (("", values.mean()), (".low", low), (".high", high)):
                yield f"head.{key}{suffix}", number(value, 3)


def _search(results: Results) -> Iterator[tuple[str, str]]:
    """Of the usual start; another one is a control, and has its panel in the figure."""
    table, envelopes = results.learning_rate, results.envelopes
    usual = results.study.initialisation.std
    depth = results.study.depths[0]
    for variant in SEARCHED:
        arm = f"{variant}-{depth}"
        rows = table[(table["arm"] == arm) & (table["init_std"] == usual)]
        best = rows[rows["best"].astype(bool)]
        if best.empty:
            yield f"search.{variant}.rate", MISSING
            yield f"search.{variant}.place", "not searched"
        else:
            inside = "interior" if best["interior"].iloc[0] else "at an end of the grid"
            yield f"search.{variant}.rate", f"{best['learning_rate'].iloc[0]:g}"
            yield f"search.{variant}.place", inside
        rows = envelopes[envelopes["arm"] == arm]
        # Each side at its own best rate and start, if more than one was tried.
        for key, column in (("", "effect"), (".low", "ci_low"), (".high", "ci_high")):
            value = rows[column].iloc[-1] if len(rows) else float("nan")
            yield f"envelope.{variant}{key}", number(value, 3)
        if variant == "proposed":
            known = len(rows) and not math.isnan(rows["ci_low"].iloc[-1])
            yield "envelope.proposed.there", "yes" if known else ""
    yield from _gains_by_rate(table[table["init_std"] == usual], depth)
    bad = (table["bad_mode_share"] * table["n"]).sum() / max(1, table["n"].sum())
    yield "search.bad_mode", number(100 * bad, 0) if len(table) else MISSING
    uniform = uniform_entropy(results.study.model.context)
    yield "bad_mode.uniform", number(uniform, 2)
    yield "bad_mode.limit", number(BAD_MODE * uniform, 2)


def _gains_by_rate(table: pd.DataFrame, depth: int) -> Iterator[tuple[str, str]]:
    """Proposed - baseline at the lowest and the highest rate that both have."""
    sides = [
        table[table["arm"] == f"{variant}-{depth}"].set_index("learning_rate")
        for variant in ("proposed", "baseline")
    ]
    gaps = (sides[0]["cross_entropy"] - sides[1]["cross_entropy"]).dropna().sort_index()
    for end, place in (("low", 0), ("high", -1)):
        yield f"gain.{end}", number(gaps.iloc[place], 3) if len(gaps) else MISSING
        yield f"gain.{end}.rate", f"{gaps.index[place]:g}" if len(gaps) else MISSING
    for variant, side in zip(("proposed", "baseline"), sides, strict=True):
        bad = side.index[side["bad_mode_share"] > 0]
        shown = ", ".join(f"{rate:g}" for rate in sorted(bad)) or "none"
        yield f"bad_mode.{variant}.rates", shown if len(side) else MISSING


def _budgets(results: Results) -> Iterator[tuple[str, str]]:
    """Where depth pays, and each question's answer at the largest budget."""
    pairs = results.budget_pairs.sort_values("tokens_per_parameter")
    both = pairs[pairs["question"] == "depth"]
    ratios = both["tokens_per_parameter"]
    pays = ratios[both["outcome"] == "better"]
    places = [significant(value, 2) for value in pays]
    where = f"at {', '.join(places)} tokens a parameter" if places else ""
    yield "budget.count", str(len(both))
    yield "budget.pays", where or "at none of the budgets tried"
    yield "budget.smallest", significant(ratios.min(), 2)
    yield "budget.largest", significant(ratios.max(), 2)
    for question in QUESTIONS:
        rows = pairs[pairs["question"] == question]
        for key, column in (("", "effect"), (".low", "ci_low"), (".high", "ci_high")):
            value = rows[column].iloc[-1] if len(rows) else float("nan")
            yield f"budget.{question}{key}", number(value, 3)
        ratio = rows["tokens_per_parameter"].max()
        yield f"budget.{question}.at", significant(ratio, 2)
