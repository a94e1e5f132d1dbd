"""The table in `README.md`, from `results/*.csv`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmarks.goals import ROWS, Goal
from benchmarks.harness import RESULTS

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def write() -> None:
    """Renew what stands between the marks of README.md."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


def table() -> str:
    """Where the figures were taken, and a row for each goal."""
    lines = [_about(), ""]
    lines += ["| work | case | ours | against | ratio or figure | goal | reached |"]
    lines += ["|---|---|--:|--:|--:|--:|---|"]
    for goal in ROWS:
        lines.append(line(goal, rows(goal.work)))
    return "\n".join(lines) + "\n"


def rows(work: str) -> pd.DataFrame:
    """What a work measured; nothing if it was not run."""
    path = RESULTS / f"{work}.csv"
    columns = ["case", "implementation", "repeat", "value", "unit"]
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=columns)


def ratios(goal: Goal, measured: pd.DataFrame) -> pd.Series:
    """Of each repeat how many times as good ours is, or its own figure."""
    case = measured[measured["case"] == goal.case]
    values = case.pivot(index="repeat", columns="implementation", values="value")
    needed = [name for name in (goal.ours, goal.theirs) if name]
    if not set(needed) <= set(values):
        return pd.Series(dtype=float)
    if goal.theirs is None:
        return values[goal.ours].dropna()
    ratio = values[goal.ours] / values[goal.theirs]
    return (ratio if goal.higher_is_better else 1 / ratio).dropna()


def line(goal: Goal, measured: pd.DataFrame) -> str:
    """One row of the table."""
    found = ratios(goal, measured)
    case = measured[measured["case"] == goal.case]
    names = [f"{goal.work}", goal.case]
    if found.empty:
        return _join([*names, goal.ours, goal.theirs or "", "not run", "", ""])
    shown = []
    for name in (goal.ours, goal.theirs):
        part = case[case["implementation"] == name]
        value = f"{part['value'].median():,.4g} {part['unit'].iloc[0]}" if name else ""
        shown.append(f"{name}: {value}" if name else "")
    middle, low, high = found.median(), found.min(), found.max()
    spread = f"{middle:.3g} ({low:.3g} to {high:.3g})"
    up = goal.theirs is not None or goal.higher_is_better
    reached = middle >= goal.bound if up else middle <= goal.bound
    due = f"{'>=' if up else '<='} {goal.bound:g}"
    return _join([*names, *shown, spread, due, "yes" if reached else "**no**"])


def _join(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _about() -> str:
    path = RESULTS / "about.json"
    if not path.is_file():
        return "Nothing was measured yet."
    about = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    return (
        f"{about['device']}, {about['cores']} cores; {about['date']}, commit "
        f"`{about['commit']}`; {versions}. Medians of the repeats, lowest and highest "
        "in parentheses; a ratio above 1 means that ours is better."
    )
