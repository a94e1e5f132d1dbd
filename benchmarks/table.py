"""The table in `README.md`, from `results/*.csv`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmarks.goals import ROWS, Goal, Names
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
    lines = [*_about(), ""]
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


def fastest(names: Names, case: pd.DataFrame, higher_is_better: bool) -> str | None:
    """Of some implementations the one with the best median; None if one is missing."""
    medians = case.groupby("implementation")["value"].median()
    if not names or not set(names) <= set(medians.index):
        return None
    found = medians[list(names)]
    return str(found.idxmax() if higher_is_better else found.idxmin())


def ratios(goal: Goal, measured: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Of each repeat how many times as good ours is, or its own figure.

    With the names of what is compared, ours first.
    """
    case = measured[measured["case"] == goal.case]
    sides = [side for side in (goal.ours, goal.theirs) if side]
    found = [fastest(side, case, goal.higher_is_better) for side in sides]
    names = [name for name in found if name]
    if len(names) < len(sides):
        return pd.Series(dtype=float), []
    values = case.pivot(index="repeat", columns="implementation", values="value")
    if not goal.theirs:
        return values[names[0]].dropna(), names
    ratio = values[names[0]] / values[names[1]]
    return (ratio if goal.higher_is_better else 1 / ratio).dropna(), names


def line(goal: Goal, measured: pd.DataFrame) -> str:
    """One row of the table."""
    found, names = ratios(goal, measured)
    cells = [goal.work.replace("_", " "), goal.case]
    if found.empty:
        sides = map(_wanted, (goal.ours, goal.theirs))
        return _join([*cells, *sides, "not run", _due(goal), ""])
    case = measured[measured["case"] == goal.case]
    shown = []
    for name in names:
        part = case[case["implementation"] == name]
        shown.append(f"{name}: {part['value'].median():,.4g} {part['unit'].iloc[0]}")
    shown += [""] * (2 - len(shown))
    middle, low, high = found.median(), found.min(), found.max()
    spread = f"{middle:.3g} ({low:.3g} to {high:.3g})"
    return _join([*cells, *shown, spread, _due(goal), _reached(goal, middle)])


def _wanted(names: Names) -> str:
    """What is to be measured, in a cell."""
    if len(names) < 2:
        return "".join(names)
    return f"{names[0].split(', ')[0]}, fastest of {len(names)}"


def _due(goal: Goal) -> str:
    if goal.bound is None:
        return ""
    return f"{'>=' if _up(goal) else '<='} {goal.bound:g}"


def _reached(goal: Goal, middle: float) -> str:
    if goal.bound is None:
        return ""
    reached = middle >= goal.bound if _up(goal) else middle <= goal.bound
    return "yes" if reached else "**no**"


def _up(goal: Goal) -> bool:
    """Whether more is better of what the bound is of: a ratio, or the figure."""
    return bool(goal.theirs) or goal.higher_is_better


def _join(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _about() -> list[str]:
    """A line for each machine, day, commit and set of packages; then what is shown."""
    path = RESULTS / "about.json"
    if not path.is_file():
        return ["Nothing was measured yet."]
    works: dict[str, list[str]] = {}
    for work, about in json.loads(path.read_text(encoding="utf-8")).items():
        versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
        where = (
            f"{about['device']}, {about['cores']} cores; {about['date']}, commit "
            f"`{about['commit']}`; {versions}."
        )
        works.setdefault(where, []).append(work.replace("_", " "))
    lines = [f"- {', '.join(names)}: {where}" for where, names in works.items()]
    return [
        *lines,
        "",
        "Medians of the repeats, lowest and highest in parentheses; a ratio above 1 "
        "means that ours is better.",
    ]
