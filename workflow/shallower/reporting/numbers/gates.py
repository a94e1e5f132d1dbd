"""Numbers of the text about floors and gates."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from shallower.analysis.gates import CLOSED, GATES
from shallower.analysis.results import Results
from shallower.reporting.labels import printed
from shallower.reporting.numbers.sentences import listed
from shallower.study.names import BUDGET

FAILURES = {  # gate -> what is said of a model that fails it, and of several
    "floor": (
        "predicts no better than a bigram of its training tokens",
        "predict no better than a bigram of their training tokens",
    ),
    "attention": (
        "attends uniformly in every block",
        "attend uniformly in every block",
    ),
    "sensitivity": (
        "has a depth that is not seen to be better than the smallest one",
        "have a depth that is not seen to be better than the smallest one",
    ),
    "rate": (
        "is not trained near the best learning rate inside a search",
        "are not trained near the best learning rate inside a search",
    ),
}


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """Models by gate; claims that gates close.

    `gates.failed` says in words which gates fail, if any; `gates.sentence` is a
    whole sentence for the abstract, empty where nothing is trained.
    """
    table = main_models(results)
    notes = results.claims["note"].fillna("").astype(str)
    closed = notes.str.startswith(CLOSED)
    yield "gates.claims.ids", listed(results.claims.loc[closed, "id"].astype(str))
    yield "gates.first_block", flat_first_block(results, table)
    yield "gates.failed", listed(failed(table).values())
    yield "gates.sentence", sentence(table, list(notes[closed]))


def main_models(results: Results) -> pd.DataFrame:
    """The gates of the models at the study's own budget."""
    table, models = results.gates, results.study.models
    own = [not {*models[model].options} & {*BUDGET} for model in table["model"]]
    shown = [printed(models[model]) for model in table["model"]]
    kind = "models" if all(own) else "main models"
    return table.assign(shown=shown, kind=kind)[np.array(own, bool)]


def flat_first_block(results: Results, table: pd.DataFrame) -> str:
    """Whose first block attends uniformly by the gate's limit; '' if nobody's.

    Plain baselines apart, since heads with a layer differ in this.
    """
    rows = table[table["gate"] == "attention"].dropna(subset="first_block")
    models = results.study.models
    plain = [models[model].variant == "baseline" for model in rows["model"]]
    kind = np.where(np.array(plain, bool), "baselines", "other models")
    flat = (rows["first_block"] > rows["threshold"]).groupby(kind)
    said = zip(flat.sum(), flat.size(), flat.groups, strict=True)
    return listed(f"{count} of {all_} {whose}" for count, all_, whose in said if count)


def failed(table: pd.DataFrame) -> dict[str, str]:
    """For each gate that models fail: `3 of 8 models predict no better than ...`."""
    said = {}
    for gate in GATES:
        passed = table.loc[table["gate"] == gate, "passed"].astype(bool)
        count, models = int((~passed).sum()), len(passed)
        if count:
            whose = f"{count} of {models}" if count < models else f"all {models}"
            subject = "the model" if models == 1 else f"{whose} {_kind(table)}"
            if count == 1 < models and "shown" in table:
                subject += f" ({table.loc[passed.index[~passed], 'shown'].item()})"
            said[gate] = f"{subject} {FAILURES[gate][count > 1]}"
    return said


def _kind(table: pd.DataFrame) -> str:
    """What the models of a table are called."""
    return str(table["kind"].iloc[0]) if "kind" in table else "models"


def _closes(table: pd.DataFrame, gate: str, note: str) -> bool:
    """Whether a claim's note names a model of the table that fails this gate."""
    failing = table.loc[
        (table["gate"] == gate) & ~table["passed"].astype(bool), "model"
    ]
    named = re.search(rf"\b{gate} \(([^)]*)\)", note)
    first, _, more = named[1].partition(" and ") if named else ("", "", "")
    return bool(more) or bool({*first.split(", ")} & {*failing})


def _of_others(claims: int) -> str:
    """That gates close claims by other models; the abstract has few numerals."""
    if not claims:
        return ""
    said = "one claim" if claims == 1 else "several claims"
    return f"; gates on other models leave {said} untested"


def sentence(table: pd.DataFrame, notes: list[str]) -> str:
    """The gate that closes most claims, and how many it closes.

    `notes` are those of the claims that gates close: they name every gate that does.
    """
    if table.empty:
        return ""
    failures, whose = failed(table), f"All {_kind(table)}"
    if not failures and table.groupby("model")["gate"].count().min() < len(GATES):
        return (
            f"{whose} predict better than a bigram of their training tokens and have "
            "tuned learning rates; all decoders attend and gain from depth"
            f"{_of_others(len(notes))}."
        )
    if not failures:
        return (
            f"{whose} predict better than a bigram of their training tokens, attend, "
            f"gain from depth and have tuned learning rates{_of_others(len(notes))}."
        )
    closes = {
        gate: sum(_closes(table, gate, note) for note in notes) for gate in failures
    }
    gate = max(closes, key=closes.__getitem__)  # the first one of several
    said = failures[gate][0].upper() + failures[gate][1:]
    if not closes[gate]:
        return f"{said}{_of_others(len(notes))}."
    are = "claim about quality is" if closes[gate] == 1 else "claims about quality are"
    count = "one" if closes[gate] == 1 else closes[gate]
    return f"{said}, so {count} {are} not tested."
