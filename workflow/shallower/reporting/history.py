"""The verdicts of every published run, and their table in docs/protocol.md.

`publish` adds the rows of a run to a CSV file, which keeps those of earlier runs. The
table between MARKERS is made from that file alone. No number is typed.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shallower.analysis.verdicts import ABSENT
from shallower.files import read_json, write_text
from shallower.reporting.markdown import effect_of, markdown, marked_page, with_block
from shallower.study.study import Study

HISTORY = "verdicts-history.csv"
MARKERS = (
    "<!-- verdicts of published runs: begin -->",
    "<!-- verdicts of published runs: end -->",
)
RUN = ["date", "study", "commit", "runs", "tokens", "seeds"]
CLAIM = [
    *("id", "source", "claim", "scale", "weights", "effect", "unit"),
    *("ci_low", "ci_high", "verdict", "note"),
]
NUMBERS = ["effect", "ci_low", "ci_high"]


def add_run(folder: Path, protocol: Path) -> None:
    """Put the published run in `folder` into its history, and that into `protocol`.

    A run is known by its study and commit: published again, it replaces its old rows.
    """
    page, path = marked_page(protocol, MARKERS), protocol.parent / HISTORY
    found = rows_of(folder)
    if path.exists():
        table, own = _text(path), found.iloc[0]
        same = (table["study"] == own["study"]) & (table["commit"] == own["commit"])
        found = pd.concat([table[~same], found])
    write_text(path, found.to_csv(index=False))
    write_text(protocol, with_block(page, block(found), MARKERS))


def rows_of(folder: Path) -> pd.DataFrame:
    """A row for each claim of the run that `folder` has, all of them text."""
    about = read_json(folder / "about.json")
    study = Study.model_validate(about["configuration"])
    training = study.training
    run = {key: about[key] for key in ("date", "study", "commit", "runs")}
    run["tokens"] = training.steps * training.batch_size * study.model.context
    run["seeds"] = len(study.seeds)
    claims = _text(folder / "claims.csv")[CLAIM]
    return claims.assign(**{key: str(value) for key, value in run.items()})[RUN + CLAIM]


def _text(path: Path) -> pd.DataFrame:
    """A table as it is written: numbers keep their digits."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def block(history: pd.DataFrame) -> str:
    """Two tables: the runs, and what became of each claim in them, the newest last.

    Claims are worded as in the newest run that has them.
    """
    table = history.assign(**{key: pd.to_numeric(history[key]) for key in NUMBERS})
    keys = ["date", "study", "commit"]
    runs = [rows.set_index("id") for _, rows in table.groupby(keys, sort=False)]
    about = [["published", "study", "commit", "runs", "training tokens", "seeds"]]
    header = ["", "claim"]
    for run in runs:
        first = run.iloc[0]
        counts = [f"{int(first[key]):,}" for key in ("runs", "tokens", "seeds")]
        names = [first["date"], f"`{first['study']}`", f"`{first['commit']}`"]
        about.append([*names, *counts])
        header.append(f"{first['date']} `{first['commit'][:7]}`")
    claims = dict.fromkeys(claim for run in runs[::-1] for claim in run.index)
    rows = [_row(claim, runs) for claim in claims]
    return f"{markdown(about)}\n{markdown([header, *rows])}"


def _row(claim: str, runs: list[pd.DataFrame]) -> list[str]:
    """Verdict and effect of a claim in each run that has models for it.

    A verdict is bold where it is not that of the run before. What is judged on a
    pretrained checkpoint says so.
    """
    cells, words, before = [], "", ""
    for run in runs:
        if claim not in run.index:
            cells.append("")
            continue
        row = run.loc[claim].to_dict()
        verdict, words = row["verdict"], row["claim"]
        if row["note"].endswith(ABSENT):
            cells.append("no models")
            continue
        text = f"**{verdict}**" if before not in ("", verdict) else verdict
        if effect := effect_of(row, interval=False):
            text += f", {effect}"
        cells.append(text + " (checkpoint)" * (row["weights"] == "pretrained"))
        before = verdict
    return [claim, words, *cells]
