"""Two models or runs side by side on the terminal: what differs, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shallower.analysis.pairs import Side, compare_models, compare_runs
from shallower.analysis.results import Results
from shallower.commands.places import RunPlace, run_place
from shallower.commands.terminal import say
from shallower.errors import UserError
from shallower.files import read_json
from shallower.study.inputs import changes
from shallower.study.runs import RunSpec
from shallower.terminal.numbers import number

# The data sets and metrics that are shown unless all are asked for.
QUALITY = {"cross_entropy", "perplexity", "bits_per_byte", "training_loss", "accuracy"}
SHORT = {"time per output token": "per token", "time to first token": "first token"}
UNITS = {"ratio": "", "us": ", µs", "bits per byte": ""}  # behind a metric's name
TIMES = {"time_per_output_token", "time_to_first_token"}
FACTS = {
    "tokens": "training tokens",
    "seconds": "training, s",
    "final_loss": "last training loss",
}


def show(
    left: str, right: str, results: Path, everything: bool, console: Console
) -> None:
    """Print what differs in the settings of two models or runs, and their results."""
    sides = run_place(left, results), run_place(right, results)
    seeds, table = _compared(*sides)
    say(console, f"left:  {sides[0]}\nright: {sides[1]}", "bold")
    folders = [s.folder(seeds[0] if s.seed is None else s.seed) for s in sides]
    specs = [RunSpec.read(folder / "spec.yaml") for folder in folders]
    for change in _differences(*specs):
        say(console, f"  {change}")
    console.print(_facts(folders))
    shown = table if everything else _usual(table)
    console.print()
    console.print(_table(shown))
    kinds = dict.fromkeys(shown.loc[shown["n"] > 0, "replicates"])
    notes = f"bold: the interval excludes no difference; 95 %, over {', '.join(kinds)}"
    if "ratio" in set(shown["kind"]):
        notes += "; / is a ratio of times; (original): untrained, at Table 1's size"
    say(console, notes, "dim")
    if len(seeds) == 1:
        say(console, "One run each: nothing here is about other seeds.", "dim")
    if len(shown) < len(table):
        say(console, f"{len(table) - len(shown)} more with --all", "dim")


def _compared(left: RunPlace, right: RunPlace) -> tuple[list[int], pd.DataFrame]:
    """The seeds that both have, and the comparison: over seeds if there are several."""
    seeds = [seed for seed in left.seeds if seed in right.seeds]
    if left.seed is not None and right.seed is not None:
        return [left.seed], compare_runs(
            _side(left, left.seed), _side(right, right.seed)
        )
    if not seeds:
        raise UserError(f"{left} and {right}: no seed that both were trained with")
    summarised = (left.study / "by_seed.csv").is_file() and left.study == right.study
    if len(seeds) > 1 and summarised:
        results = Results.read(left.study)
        return seeds, compare_models(results, left.model, right.model)
    seeds = seeds[:1]
    return seeds, compare_runs(_side(left, seeds[0]), _side(right, seeds[0]))


def _side(place: RunPlace, seed: int) -> Side:
    return Side(place.study, place.model, seed)


def _differences(left: RunSpec, right: RunSpec) -> Iterator[str]:
    """Settings that differ, as `depth 8 -> 5`."""
    hidden = {"name", "seed"}
    before = left.model_dump(mode="json", exclude=hidden)
    return changes(before, right.model_dump(mode="json", exclude=hidden))


def _facts(folders: list[Path]) -> Table:
    """Facts of training of two runs."""
    found: list[dict[str, Any]] = [read_json(f / "training.json") for f in folders]
    table = Table(box=None, pad_edge=False, show_header=False)
    for key, label in FACTS.items():
        cells = [number(facts[key]) for facts in found]
        table.add_row(Text(label, style="dim"), *cells)
    return table


def _usual(table: pd.DataFrame) -> pd.DataFrame:
    quality = table["metric"].isin(QUALITY)
    fixed = table["metric"].isin(TIMES) & table["dataset"].isin(["fixed", "decode"])
    chosen = table[quality | fixed]
    return chosen if len(chosen) else table


def _table(compared: pd.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", ratio=1)
    for name in ("left", "right"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("difference, interval", no_wrap=True)
    for row in compared.to_dict("records"):
        name = f"{row['dataset']} {row['metric'].replace('_', ' ')}"
        for long, short in SHORT.items():
            name = name.replace(long, short)
        if row["scale"] == "original":
            name += " (original)"
        unit = UNITS.get(row["unit"], f", {row['unit']}")
        sides = [number(row[side]) for side in ("left", "right")]
        table.add_row(Text(name + unit), *sides, _effect(row))
    return table


def _effect(row: dict[str, Any]) -> Text:
    """`−0.151 [−0.205, −0.097]`, bold where the interval excludes no difference."""
    if not row["n"]:
        return Text("")
    sign = "/ " if row["kind"] == "ratio" else ""
    ends = row["ci_low"], row["ci_high"]
    text = sign + number(row["effect"])
    if any(map(math.isnan, ends)):
        return Text(text)
    none = 1.0 if row["kind"] == "ratio" else 0.0
    style = "" if ends[0] <= none <= ends[1] else "bold"
    return Text(f"{text} [{number(ends[0])}, {number(ends[1])}]", style)
