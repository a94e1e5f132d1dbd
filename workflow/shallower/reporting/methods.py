"""Tables of all methods: the methods, their gains, what to choose, what adds up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from shallower.names import ModelName, parse_name
from shallower.reporting.arm_tables import WRAPPED, gain_cells, pair
from shallower.reporting.arms import AXES, gain
from shallower.reporting.ffn import absent_table
from shallower.reporting.labels import SYSTEMS, printed
from shallower.reporting.latex import MISSING, escape, interval, number, tabular
from shallower.reporting.nulls import plain
from shallower.reporting.results import Results
from shallower.systems import ffn_of, head_of

# Rules that are there to be compared with; their families come last.
CONTROLS = {"early", "random", "recent", "window", "linear", "uniform"}
ROWS = 30  # of a table of models, at most: what fits a page; the csv has them all
UNITS = {"per_token": (1.0, 0), "first_token": (1e3, 2)}  # microseconds; digits
NULL_WORDS = {"depth": "fewer blocks", "flops": "as much training"}
MARKS = {"per_token": "t", "first_token": "f"}  # on the front of an axis


# --- which models are shown -----------------------------------------------------------


def chosen(results: Results) -> pd.DataFrame:
    """Rows of methods.csv to be shown, by system and time; at most `ROWS` of them.

    Plain baselines, models on either front, and one model of each further family: the
    one that gains most over depth at equal time. Systems take turns, so that one with
    many families does not leave the others out.
    """
    table = results.methods
    fronts = table[[f"on_front_{axis}" for axis in AXES]].eq(True).any(axis=1)
    first = table["model"].map(plain) | fronts
    rest = table[~first]
    groups = rest["model"].map(lambda model: family(parse_name(model)))
    best = [
        min(part["model"], key=lambda model: rank(results, model))
        for _, part in rest.groupby(groups, sort=False)
    ]
    best.sort(key=lambda model: (is_control(model), rank(results, model)))
    systems = table.set_index("model")["system"].loc[best]
    turns = systems.groupby(systems).cumcount().sort_values(kind="stable").index
    order = [*table.loc[first, "model"], *turns]
    kept = table[table["model"].isin(order[:ROWS])]
    place = list(SYSTEMS)
    keys = kept["system"].map(place.index), ~kept["model"].map(plain)
    kept = kept.assign(_system=keys[0], _plain=keys[1])
    kept = kept.sort_values(["_system", "_plain", "per_token", "model"])
    return kept.drop(columns=["_system", "_plain"])


def family(name: ModelName) -> str:
    """What kind of method it is: without depths, numbers of blocks and speed-ups."""
    options = name.options
    parts = [head_of(name), ffn_of(name)]
    parts += [key for key in ("teacher", "healed", "by", "tuned") if key in options]
    parts += [key for key in ("heads", "head_size") if key in options]
    if "skip" in options:
        parts.append(str(options["skip"]).rpartition(".")[0].rstrip("0123456789"))
    if "eliminate" in options:
        parts.append(str(options["eliminate"]).partition(".")[0])
    return " ".join(map(str, parts))


def is_control(model: str) -> bool:
    """Whether the arm follows a rule that only shows what another one is worth."""
    words = family(parse_name(model)).replace(".", " ").split()
    return bool(CONTROLS & set(words))


def rank(results: Results, model: str) -> tuple[float, float]:
    """The best gain over depth on either axis; without any, the cross-entropy."""
    gains = [gain(results, axis, model)["effect"] for axis in AXES]
    known = [value for value in gains if not math.isnan(value)]
    rows = results.methods.set_index("model")
    return min(known, default=math.inf), float(rows.loc[model, "quality"])


# --- the one table of all methods -----------------------------------------------------


def methods_table(results: Results) -> str:
    """What each method changes, costs and reaches; grouped by system."""
    table = chosen(results)
    if table.empty:
        return absent_table()
    rows: list[list[str] | str] = []
    for system, part in table.groupby("system", sort=False):
        if rows:
            rows.append(r"\addlinespace")
        rows += [_method(row) for row in part.to_dict("records")]
        rows[-len(part)][0] = _system(str(system))  # type: ignore[index]
    header = ["", "model", "what it changes", "parameters", "cache", "training"]
    header += [r"\multicolumn{2}{c}{time}", r"\multicolumn{2}{c}{cross-entropy}"]
    header += ["front", "verdict"]
    units = ["", "", "", "(millions)", "(kB)", "(share)", r"token (\textmu s)"]
    units += ["first (ms)", "nats", r"95\,\%", "", "on its gain"]
    wide = r">{\raggedright\arraybackslash}p"
    layout = rf"l{wide}{{3.4cm}}{wide}{{4.6cm}}rrrrrrlll"
    return tabular(layout, [header, units], rows)


def _system(system: str) -> str:
    return "S1--S4" if system == "combined" else system


def _method(row: dict[str, Any]) -> list[str]:
    numbers = {k: float(v) for k, v in row.items() if isinstance(v, float | int)}
    nan = float("nan")
    on = [
        mark
        for axis, mark in MARKS.items()
        if str(row.get(f"on_front_{axis}")) == "True"
    ]
    verdict = row["verdict"] if isinstance(row["verdict"], str) else ""
    return [
        "",
        printed(str(row["model"])),
        escape(str(row["changes"])),
        number(numbers.get("parameters", nan) / 1e6, 2),
        number(numbers.get("cache_bytes", nan) / 1e3, 0),
        number(numbers.get("training_share", nan), 2),
        *(
            number(numbers.get(axis, nan) / unit, digits)
            for axis, (unit, digits) in UNITS.items()
        ),
        number(numbers.get("quality", nan), 3),
        interval(
            numbers.get("quality_ci_low", nan), numbers.get("quality_ci_high", nan), 3
        ),
        ", ".join(on),
        escape(verdict) or MISSING,
    ]


# --- gains ----------------------------------------------------------------------------


def gains_table(results: Results) -> str:
    """Gains over depth at equal time, speed-ups at equal quality, equal FLOPs."""
    table = chosen(results)
    models = [model for model in table["model"] if not plain(model)]
    shown = [model for model in models if _has_gain(results, model)]
    if not shown:
        return absent_table()
    rows: list[list[str] | str] = []
    before = None
    systems = table.set_index("model")["system"]
    for model in shown:
        if before not in (None, systems[model]):
            rows.append(r"\addlinespace")
        before = systems[model]
        cells = [printed(model)]
        for axis in AXES:
            cells += gain_cells(results, axis, model, "depth")
            cells += faster_cells(gain(results, axis, model))
        cells += gain_cells(results, "training", model, "flops")
        rows.append(cells)
    above = r"& \multicolumn{4}{c}{per token} & \multicolumn{4}{c}{to the first token}"
    above += r" & \multicolumn{2}{c}{equal training} \\"
    rules = r"\cmidrule(lr){2-5} \cmidrule(lr){6-9} \cmidrule(l){10-11}"
    header = ["model", *["nats", r"95\,\%", "faster", r"95\,\%"] * 2, "nats", r"95\,\%"]
    return tabular(f"{WRAPPED}rlrlrlrlrl", [above, rules, header], rows)


def _has_gain(results: Results, model: str) -> bool:
    table = results.gains
    return bool(table.loc[table["model"] == model, "effect"].notna().any())


def faster_cells(row: pd.Series) -> list[str]:
    """A speed-up with its interval, whose ends may be open."""
    ends = [row["speedup_low"], row["speedup_high"]]
    if any(math.isnan(end) for end in ends):
        return pair(row["speedup"], MISSING, 2)
    shown = [r"$\infty$" if math.isinf(end) else number(end, 2) for end in ends]
    return pair(row["speedup"], f"[{shown[0]}, {shown[1]}]", 2)


# --- what to choose -------------------------------------------------------------------


def choice_per_token(results: Results) -> str:
    """By time per token."""
    return choice_table(results, "per_token")


def choice_first_token(results: Results) -> str:
    """By time to the first token."""
    return choice_table(results, "first_token")


def choice_table(results: Results, axis: str) -> str:
    """For each band of times the best model within it, and how sure that is."""
    bands = choices(results, axis)
    if not bands:
        return absent_table()
    unit, digits = UNITS[axis]
    rows = []
    for low, high, row in bands:
        ends = [number(low / unit, digits)]
        ends.append(r"$\infty$" if math.isinf(high) else number(high / unit, digits))
        found = gain(results, axis, row["model"])
        verdict = found["verdict"] if isinstance(found["verdict"], str) else MISSING
        rows.append(
            [
                "--".join(ends),
                printed(row["model"]),
                number(row["quality"], 3),
                number(row["on_front_probability"], 2),
                number(found["effect"], 3),
                verdict if not plain(row["model"]) else "the null",
            ]
        )
    words = r"\textmu s" if axis == "per_token" else "ms"
    header = [f"time ({words})", "best model", "nats", "probability", "gain", "verdict"]
    wide = r">{\raggedright\arraybackslash}p{3.2cm}"
    return tabular(f"l{wide}rrrl", [header], rows)


def choices(results: Results, axis: str) -> list[tuple[float, float, dict[str, Any]]]:
    """(from, to, row of pareto.csv): whoever can wait so long takes this model."""
    best = front_rows(results, axis)
    ends = [*best["latency"].iloc[1:], math.inf]
    rows = best.to_dict("records")
    return [
        (float(row["latency"]), float(end), row)
        for row, end in zip(rows, ends, strict=True)
    ]


def front_rows(results: Results, axis: str) -> pd.DataFrame:
    """Rows of pareto.csv that are on the front by their means, fastest first."""
    table = results.pareto[results.pareto["axis"] == axis]
    return table[table["on_front"].astype(bool)].sort_values("latency")


# --- what adds up ---------------------------------------------------------------------


def additivity_table(results: Results) -> str:
    """Whether two changes together do what the sum of either does."""
    table = results.additivity
    if table.empty:
        return absent_table()
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            [
                *(printed(row[key]) for key in ("both", "a", "b")),
                str(row["n"]),
                number(row["effect"], 3),
                interval(row["ci_low"], row["ci_high"], 3),
                sum_words(row["ci_low"], row["ci_high"], str(row["verdict"])),
                escape(str(row["verdict"])),
            ]
        )
    header = ["both changes", "one", "the other", "seeds", "beyond the sum", r"95\,\%"]
    header += ["together", "they add up"]
    wide = r">{\raggedright\arraybackslash}p"
    return tabular(
        f"{wide}{{4.2cm}}{wide}{{3.2cm}}{wide}{{3.2cm}}rrlll", [header], rows
    )


def sum_words(low: float, high: float, verdict: str) -> str:
    """What an interval around what is left of the sum says, in words."""
    if np.isnan(low) or np.isnan(high):
        return "not tested"
    if verdict == "supported":
        return "as the sum"
    if high < 0:
        return "better than the sum"
    return "worse than the sum" if low > 0 else "not told from the sum"


def listed(items: Iterable[str], comma: str = ",") -> str:
    """a, b and c; none. A semicolon as comma where the items have commas."""
    *front, last = list(items) or ["none"]
    if not front:
        return last
    return f"{f'{comma} '.join(front)}{comma if comma != ',' else ''} and {last}"
