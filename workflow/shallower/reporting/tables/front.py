"""Tables of all methods: what each changes, costs and gains; of checkpoints too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from shallower.analysis.interventions import (
    AXES,
    against_curve,
    against_training,
    change,
    eliminations,
    skips,
)
from shallower.analysis.results import Results
from shallower.reporting.labels import SYSTEMS, applied, printed
from shallower.reporting.latex import (
    MISSING,
    absent_table,
    escape,
    number,
    separated,
    tabular,
)
from shallower.reporting.tables.interventions import gain_cells, value_cells

# Rules that are there to be compared with; their families come last.
CONTROLS = {"first", "random", "recent", "window", "linear", "uniform"}
ROWS = 30  # of the table, at most: what fits a page; methods.csv has all
MARKS = {"per_token": "t", "first_token": "f"}  # on the front of an axis


# --- which models are shown -----------------------------------------------------------


def shown(results: Results) -> pd.DataFrame:
    """Rows of methods.csv by system and cost; at most `ROWS` of them.

    Plain baselines, models on either front, and one model of each further family: the
    one that gains most over fewer blocks. Systems take turns, so that one with many
    families does not leave the others out.
    """
    table, names = results.methods, results.study.names
    table = table[[not names[label].pretrained for label in table.index]]
    pareto = results.pareto
    on_front = set(pareto.loc[pareto["on_front"].astype(bool), "label"])
    first = [m for m in table.index if m in on_front or names[m].is_depth_baseline]
    families: dict[str, list[str]] = {}
    for label in table.index:
        if label not in first:
            families.setdefault(family(results, label), []).append(label)
    best = [min(some, key=lambda m: rank(results, m)) for some in families.values()]
    best.sort(key=lambda m: (is_control(results, m), rank(results, m)))
    systems = table.loc[best, "system"]
    turns = systems.groupby(systems).cumcount().sort_values(kind="stable").index
    chosen = table.loc[[*first, *turns][:ROWS]]
    place = chosen["system"].map(list(SYSTEMS).index)
    methods = [not names[m].is_depth_baseline for m in chosen.index]
    study_order = [table.index.get_loc(m) for m in chosen.index]
    keys = pd.DataFrame({"place": place, "method": methods, "order": study_order})
    return chosen.loc[keys.sort_values(["place", "method", "order"]).index]


def family(results: Results, label: str) -> str:
    """What kind of method it is: without depths, numbers of blocks and speed-ups."""
    name, study = results.study.names[label], results.study
    keys = ("teacher", "healed", "by", "tuned", "heads", "head_size")
    parts = [name.head, name.ffn, *(key for key in keys if key in name.options)]
    if label in skips(study):
        skip = skips(study)[label]
        parts += [skip.part, skip.rule]
    if label in eliminations(study):
        parts.append(eliminations(study)[label].rule)
    return " ".join(parts)


def is_control(results: Results, label: str) -> bool:
    """Whether it follows a rule that only shows what another one is worth."""
    return bool(CONTROLS & set(family(results, label).split()))


def rank(results: Results, label: str) -> tuple[float, str]:
    """The best gain over fewer blocks on either axis."""
    found = [
        results.estimate(against_curve(label, "depth", axis)).effect for axis in AXES
    ]
    known = [value for value in found if not math.isnan(value)]
    return min(known, default=math.inf), label


# --- the table ------------------------------------------------------------------------


def methods(results: Results) -> str:
    """What each method changes, costs, reaches and gains; grouped by system."""
    table = shown(results)
    if table.empty:
        return absent_table()
    points = results.pareto.set_index(["label", "axis"])
    rows: list[list[str] | str] = []
    for system, part in table.groupby("system", sort=False):
        if rows:
            rows.append(r"\addlinespace")
        for index, row in enumerate(part.to_dict("records")):
            words = "S1--S4" if system == "combined" else str(system)
            rows.append([words if index == 0 else "", *_cells(results, points, row)])
    above = r"& & parameters & training & \multicolumn{2}{c}{latency} & "
    above += r"quality & on & \multicolumn{2}{c}{at equal latency (nats)} & "
    above += r"\multicolumn{2}{c}{at equal training (nats)} \\"
    header = ["", "model", "(millions)", "(share)"]
    header += [r"token (\textmu s)", "first (ms)", "(nats)", "front"]
    header += ["gain", r"95\,\%", "gain", r"95\,\%"]
    wide = r">{\raggedright\arraybackslash}p"
    return tabular(rf"l{wide}{{2.6cm}}rrrrrlrlrl", [above, header], rows)


def _cells(results: Results, points: pd.DataFrame, row: dict[str, Any]) -> list[str]:
    study, label, axis = results.study, str(row["label"]), str(row["axis"])
    at = {
        each: points.loc[label, each] for each in AXES if (label, each) in points.index
    }
    times = {each: float(point["latency"]) for each, point in at.items()}
    quality = [float(point["quality"]) for point in at.values()]
    gain = gain_cells(results, label, "depth", axis)
    if row["verdict"] == "supported":
        gain[0] = rf"\textbf{{{gain[0]}}}"
    return [
        printed(study.names[label]),
        number(results.size(label, "parameters_deployed") / 1e6, 2),
        number(float(row["training_share"]), 2),
        number(times.get("per_token", math.nan), 0),
        number(times.get("first_token", math.nan) / 1e3, 2),
        number(quality[0] if quality else math.nan, 3),
        ", ".join(MARKS[each] for each, point in at.items() if bool(point["on_front"])),
        *gain,
        *value_cells(results.estimate(against_training(label)), 3),
    ]


# --- a checkpoint ---------------------------------------------------------------------


def checkpoint(results: Results) -> str:
    """What was timed of the first checkpoint: costs, and gains over left out blocks."""
    base, points = results.study.timed_on, results.pareto.set_index(["label", "axis"])
    table = results.methods
    timed = {label for label, _ in points.index}
    of_base = (table["model"] == base) & table["label"].isin(timed)
    rows = table[of_base & (results.scale_of(base) == "pretrained")].to_dict("records")
    if not rows:
        return absent_table()
    lines = [_checkpoint_cells(results, points, row) for row in rows]
    above = r"& cache & \multicolumn{2}{c}{latency} & quality & on & "
    above += r"\multicolumn{3}{c}{over left out blocks, at equal latency} \\"
    header = ["what is done", r"(\%)", "token (ms)", "first (ms)", "(nats)", "front"]
    header += ["gain (nats)", r"95\,\%", "verdict"]
    layout = r">{\raggedright\arraybackslash}p{5.9cm}rrrrlrll"
    return tabular(layout, [above, header], lines)


def _checkpoint_cells(
    results: Results, points: pd.DataFrame, row: dict[str, Any]
) -> list[str]:
    label, verdict = str(row["label"]), row["verdict"]
    at = {
        each: points.loc[label, each] for each in AXES if (label, each) in points.index
    }
    times = {each: float(point["latency"]) / 1e3 for each, point in at.items()}
    quality = [float(point["quality"]) for point in at.values()]
    name = results.study.names[label]
    share = float(row["cache_share"]) if name.is_intervened else 1.0
    return [
        escape(applied(name)) or "unchanged",
        number(100 * share, 0),
        number(times.get("per_token", math.nan), 2),
        number(times.get("first_token", math.nan), 1),
        number(quality[0], 3),
        ", ".join(MARKS[each] for each, point in at.items() if bool(point["on_front"])),
        *gain_cells(results, label, "blocks", str(row["axis"])),
        escape(verdict if isinstance(verdict, str) else "") or MISSING,
    ]


def both(results: Results) -> str:
    """Skipping and elimination of a checkpoint, apart and together."""
    found = results.estimates_of(kind="interaction", scale="pretrained")
    names, rows = results.study.names, list[tuple[str, list[str]]]()
    for one in found:
        name = names[one.left]
        base, alone = str(name.run), [name.without("eliminate"), name.without("skip")]
        costs = [
            results.estimate(change(str(each), base)).effect for each in (*alone, name)
        ]
        cells = [printed(name.run)]
        cells += [escape(applied(each)) for each in alone]
        cells += [number(cost, 3) for cost in costs]
        rows.append((base, [*cells, *value_cells(one, 3)]))
    if not rows:
        return absent_table()
    above = r"& & & \multicolumn{3}{c}{change in cross-entropy (nats)} & "
    above += r"\multicolumn{2}{c}{beyond the sum} \\"
    header = ["model", "skipped", "eliminated", "skipped", "eliminated", "both"]
    header += ["(nats)", r"95\,\%"]
    wide = r">{\raggedright\arraybackslash}p"
    layout = rf"l{wide}{{3.6cm}}{wide}{{4.4cm}}rrrrl"
    return tabular(layout, [above, header], separated(rows))


TABLES: dict[str, Callable[[Results], str]] = {
    "front": methods,
    "front_pretrained": checkpoint,
    "both": both,
}
