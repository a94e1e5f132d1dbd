"""Tables of the search over learning rates and of the budgets."""

from __future__ import annotations

import pandas as pd

from shallower.names import short
from shallower.reporting.latex import (
    MISSING,
    escape,
    interval,
    number,
    significant,
    tabular,
)
from shallower.reporting.results import Results

ABSENT = "not in this study"
STARTS = "rates and initialisations"  # see `search.envelope_table`


def search_table(results: Results) -> str:
    """Validation loss of every arm at every rate, and the arms at their best rates."""
    table, envelopes = results.learning_rate, results.envelopes
    if table.empty:
        return _absent()
    rates = sorted(table["learning_rate"].unique())
    rows: list[list[str] | str] = []
    start = None
    for (std, steps, arm), part in table.groupby(["init_std", "steps", "arm"]):
        if start not in (None, (std, steps)):
            rows.append(r"\addlinespace")
        start = (std, steps)
        against = envelopes[(envelopes["arm"] == arm) & (envelopes["steps"] == steps)]
        against = against[(against["over"] == "rates") & (against["init_std"] == std)]
        rows.append(
            [f"{std:g}", escape(arm), *_losses(part, rates), *_best(part, against)]
        )
    overall = envelopes[envelopes["over"] == STARTS]
    if len(overall):
        rows.append(r"\midrule")
    for row in overall.to_dict("records"):
        at = f"{short(row['learning_rate'])} at {row['init_std']:g}"
        empty = [""] * len(rates)
        rows.append(["best", escape(row["arm"]), *empty, at, "", "", "", _effect(row)])
    header = [
        *("start", "arm", *(short(float(rate)) for rate in rates)),
        *("best", "interior", "sensitivity", r"bad mode (\%)", "against baseline"),
    ]
    return tabular("ll" + "r" * len(rates) + "llrrl", [header], rows)


def _losses(part: pd.DataFrame, rates: list[float]) -> list[str]:
    """The arm's mean at every rate, the lowest in bold."""
    by_rate = part.set_index("learning_rate")
    cells = []
    for rate in rates:
        if rate not in by_rate.index:
            cells.append(MISSING)
            continue
        text = number(by_rate.loc[rate, "cross_entropy"], 3)
        cells.append(rf"\textbf{{{text}}}" if by_rate.loc[rate, "best"] else text)
    return cells


def _best(part: pd.DataFrame, against: pd.DataFrame) -> list[str]:
    """Best rate, whether it is interior, sensitivity, bad modes, difference."""
    best = part[part["best"].astype(bool)].iloc[0]
    bad = 100 * (part["bad_mode_share"] * part["n"]).sum() / part["n"].sum()
    return [
        short(float(best["learning_rate"])),
        "yes" if best["interior"] else "no",
        number(best["sensitivity"], 3),
        number(bad, 0),
        _effect(against.iloc[0].to_dict()) if len(against) else MISSING,
    ]


def budget_table(results: Results) -> str:
    """Every budget: what each model reaches, does depth pay, does the trade hold."""
    pairs = results.budget_pairs
    if pairs.empty:
        return _absent()
    losses = results.budget.set_index("model")["cross_entropy"]
    depths = results.study.depths
    rows: list[list[str] | str] = []
    groups = [
        (_deepest_ratio(part), width, tokens, part.set_index("question"))
        for (width, tokens), part in pairs.groupby(["width", "tokens"])
    ]
    for ratio, width, tokens, by_question in sorted(groups, key=lambda row: row[:3]):
        cells = [f"{width}", number(tokens, 0), significant(ratio, 2)]
        cells += [number(value, 3) for value in _levels(by_question, losses)]
        cells += [
            _effect(by_question.loc[question].to_dict())
            if question in by_question.index
            else MISSING
            for question in ("depth", "layer", "trade")
        ]
        rows.append(cells)
    shallow, deep = depths[0], depths[-1]
    models = [f"baseline-{shallow}", f"baseline-{deep}", f"proposed-{shallow}"]
    header = ["width", "tokens", "a parameter", *map(escape, models)]
    header += ["deep $-$ shallow", "proposed $-$ shallow", "proposed $-$ deep"]
    return tabular("rrrrrrlll", [header], rows)


def _deepest_ratio(part: pd.DataFrame) -> float:
    """Of the deep baseline, the largest of the models compared, if it is there."""
    return float(part["tokens_per_parameter"].min())


def _levels(by_question: pd.DataFrame, losses: pd.Series) -> list[float]:
    """Test losses of the shallow and deep baseline and the proposed model."""
    names = {
        "shallow": [("depth", "right"), ("layer", "right")],
        "deep": [("depth", "left"), ("trade", "right")],
        "proposed": [("layer", "left"), ("trade", "left")],
    }
    found = []
    for places in names.values():
        there = [p for p in places if p[0] in by_question.index]
        model = by_question.loc[there[0][0], there[0][1]] if there else None
        found.append(float(losses.get(model, float("nan"))))
    return found


def _effect(row: dict[str, float]) -> str:
    """An effect in nats with its interval."""
    bounds = interval(row["ci_low"], row["ci_high"], 3)
    return f"{number(row['effect'], 3)} {bounds}"


def _absent() -> str:
    return tabular("l", [[ABSENT]], [])
