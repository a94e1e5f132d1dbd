"""Numbers of the text about floors and gates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from shallower.analysis.gates import CLOSED, GATES
from shallower.analysis.results import Results
from shallower.evaluation.ngrams import ORDERS
from shallower.reporting.latex import number
from shallower.reporting.numbers.sentences import listed
from shallower.study.names import BUDGET

FAILURES = {  # gate -> what is said of a model that fails it, and of several
    "floor": (
        "predicts no better than a bigram of its training tokens",
        "predict no better than a bigram of their training tokens",
    ),
    "attention": (
        "attends uniformly in its first block",
        "attend uniformly in their first block",
    ),
    "sensitivity": (
        "has a depth that is no better than the smallest one",
        "have a depth that is no better than the smallest one",
    ),
    "rate": (
        "has its best learning rate at the edge of the search",
        "have their best learning rate at the edge of the search",
    ),
}


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """Floors in nats and as perplexities; models by gate; claims that gates close.

    `gates.failed` says in words which gates fail, if any; `gates.sentence` is a
    whole sentence for the abstract, empty where nothing is trained.
    """
    fact = results.fact
    yield "floors.tokens", number(fact("floors.tokens"), 0)
    for key in ("floors", "floors.corpus"):
        for floor in ORDERS:
            nats = fact(f"{key}.{floor}")
            yield f"{key}.{floor}", number(nats, 2)
            yield f"{key}.{floor}.perplexity", number(math.exp(nats), 0)
    table = main_models(results)
    yield "gates.models", str(table["model"].nunique())
    passed = table.astype({"passed": bool}).groupby("model")["passed"].all()
    yield "gates.passed", str(int(passed.sum()))
    notes = results.claims["note"].fillna("").astype(str)
    closed = results.claims.loc[notes.str.startswith(CLOSED), "id"].astype(str)
    yield "gates.claims", str(len(closed))
    yield "gates.claims.ids", listed(closed)
    failures = list(failed(table))
    yield "gates.failed", listed(failures)
    yield "gates.sentence", sentence(table, failures, len(closed))


def main_models(results: Results) -> pd.DataFrame:
    """The gates of the models at the study's own budget."""
    table, models = results.gates, results.study.models
    own = [not {*models[model].options} & {*BUDGET} for model in table["model"]]
    return table[np.array(own, bool)]


def failed(table: pd.DataFrame) -> Iterator[str]:
    """For each gate that models fail: `3 of 8 models predict no better than ...`."""
    for gate in GATES:
        passed = table.loc[table["gate"] == gate, "passed"].astype(bool)
        count, models = int((~passed).sum()), len(passed)
        if count:
            whose = f"{count} of {models}" if count < models else f"all {models}"
            subject = "the model" if models == 1 else f"{whose} models"
            yield f"{subject} {FAILURES[gate][count > 1]}"


def sentence(table: pd.DataFrame, failures: list[str], claims: int) -> str:
    """The first gate that fails, and what follows for claims about quality."""
    if table.empty:
        return ""
    if not failures:
        return (
            "All models predict better than a bigram of their training tokens, attend "
            "in their first block, gain from depth and have tuned learning rates."
        )
    first = failures[0][0].upper() + failures[0][1:]
    if not claims:
        return f"{first}."
    count = "one claim about quality is" if claims == 1 else ""
    count = count or f"{claims} claims about quality are"
    return f"{first}, so {count} not tested."
