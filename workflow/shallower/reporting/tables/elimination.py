"""Table of elimination: every model with tokens eliminated, its cost and its speed."""

from __future__ import annotations

import math
from collections.abc import Callable

from shallower.analysis.interventions import (
    change,
    eliminations,
    fine_tuned,
    source,
    speedup,
)
from shallower.analysis.results import Results
from shallower.reporting.labels import printed
from shallower.reporting.latex import absent_table, number, tabular
from shallower.reporting.tables.skipping import (
    WRAPPED,
    change_cells,
    cost,
    gain_cells,
    ratio_cells,
)


def elimination(results: Results) -> str:
    """Against the same model with its whole prompt, before it was fine-tuned."""
    study = results.study
    chosen = eliminations(study)
    if not chosen:
        return absent_table()
    labels = [*chosen, *fine_tuned(study)]

    def order(label: str) -> tuple[str, str, bool]:
        run = str(study.names[label].run)
        return source(study.names[label]), run, label != run

    rows: list[list[str] | str] = []
    before = None
    for label in sorted(labels, key=order):
        run = str(study.names[label].run)
        if before not in (None, run):
            rows.append(r"\addlinespace")
        before = run
        rows.append(_row(results, label))
    above = r"& \multicolumn{3}{c}{cross-entropy (nats)} & perplexity & "
    above += r"\multicolumn{3}{c}{speed-up of the first token} & cache & "
    above += r"\multicolumn{2}{c}{gain over fewer blocks (nats)} \\"
    header = ["model", "seeds", "change", r"95\,\%", r"(\%)", "predicted", "measured"]
    header += [r"95\,\%", r"(\%)", "at equal latency", r"95\,\%"]
    return tabular(f"{WRAPPED}rrlrrrlrrl", [above, header], rows)


def _row(results: Results, label: str) -> list[str]:
    name = results.study.names[label]
    base = source(name)
    found = results.estimate(change(label, base))
    return [
        printed(name),
        *change_cells(found),
        number(100 * math.expm1(found.effect), 1),
        number(cost(results, label, "predicted_prefill")),
        *ratio_cells(results.estimate(speedup(base, label, "first_token"))),
        number(100 * cost(results, label, "cache_share"), 0),
        *gain_cells(results, label, "depth", "first_token"),
    ]


TABLES: dict[str, Callable[[Results], str]] = {"elimination": elimination}
