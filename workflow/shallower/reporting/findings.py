"""Numbers for the text about the experiments beside the depth study."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from shallower.analysis.statistics import ratio_interval
from shallower.reporting.latex import MISSING, number, scientific, significant
from shallower.reporting.results import Results, select

SEARCHED = ("baseline", "proposed", "silu")


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`margin`, `fold.quality`, `search.*`, `envelope.*` and `budget.*`."""
    claims = results.claims.set_index("id")
    yield "margin", number(claims.loc["C6", "threshold"], 3)
    yield "fold.quality", _fold_quality(results)
    yield from _search(results.search)
    yield from _budgets(results.budgets)
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


def _search(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for variant in SEARCHED:
        rows = table[table["variant"] == variant]
        # The usual start comes first; the other one is a control.
        rows = rows[rows["init_std"] == rows["init_std"].min()]
        if rows.empty:
            yield f"search.{variant}.rate", MISSING
            yield f"search.{variant}.place", "not searched"
            columns = [float("nan")] * 3
        else:
            best = rows[rows["best"]].iloc[0]
            yield f"search.{variant}.rate", f"{best['learning_rate']:g}"
            inside = "interior" if best["interior"] else "at the edge of the grid"
            yield f"search.{variant}.place", inside
            columns = [best[k] for k in ("envelope", "envelope_low", "envelope_high")]
        for suffix, value in zip(("", ".low", ".high"), columns, strict=True):
            yield f"envelope.{variant}{suffix}", number(value, 3)
    share = (table["bad_mode_share"] * table["n"]).sum() / max(1, table["n"].sum())
    yield "search.bad_mode", number(100 * share, 0) if len(table) else MISSING


def _budgets(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    both = table[table["depth_pays"].notna()].sort_values("tokens_per_parameter")
    pays = both[both["depth_pays"] == "yes"]["tokens_per_parameter"]
    places = [significant(value, 2) for value in pays]
    where = f"at {', '.join(places)} tokens a parameter" if places else ""
    yield "budget.count", str(len(both))
    yield "budget.pays", where or "at none of the budgets tried"
    ratios = both["tokens_per_parameter"]
    for key, value in (("smallest", ratios.min()), ("largest", ratios.max())):
        yield f"budget.{key}", significant(value, 2)
