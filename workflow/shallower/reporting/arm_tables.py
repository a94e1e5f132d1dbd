"""Tables of the third and the fourth system: every arm, its cost and its speed."""

from __future__ import annotations

import math

from shallower.models.choices import SkipChoice
from shallower.reporting.arms import (
    AXES,
    NO_RATIO,
    Ratio,
    cache_share,
    change,
    deepest,
    eliminations,
    fact,
    gain,
    skips,
    speedup,
    tuned_runs,
    untouched,
)
from shallower.reporting.ffn import absent_table
from shallower.reporting.labels import printed
from shallower.reporting.latex import MISSING, interval, number, tabular
from shallower.reporting.measured import paper_speedup
from shallower.reporting.results import Results

# A column of models' names, which may take two lines.
WRAPPED = r">{\raggedright\arraybackslash\hangindent=1em}p{4.7cm}"
PARTS = ("attention", "ffn", "block")


def skipping_table(results: Results) -> str:
    """Every model with sublayers left out, against the model that has them."""
    arms = skips(results)
    if not arms:
        return absent_table()
    rows: list[list[str] | str] = []
    before = None
    for arm in sorted(arms, key=lambda arm: (untouched(arm.name), _order(arm.choice))):
        group = (untouched(arm.name), arm.choice.part)
        if before not in (None, group):
            rows.append(r"\addlinespace")
        before = group
        base = untouched(arm.name)
        rows.append(
            [
                printed(arm.name),
                *_change(results, arm.model, base),
                number(fact(results, arm.model, "predicted_decode"), 2),
                *ratio_cells(speedup(results, arm.model, base, AXES["per_token"])),
                number(_at_paper(results, arm.model, base).value, 2),
                _percent(cache_share(results, arm.model)),
                *gain_cells(results, "per_token", arm.model, "depth"),
                *gain_cells(results, "per_token", arm.model, "block"),
            ]
        )
    above = r"& \multicolumn{3}{c}{cross-entropy (nats)} & "
    above += r"\multicolumn{4}{c}{speed-up of a token} & cache & "
    above += r"\multicolumn{4}{c}{nats at equal time, against} \\"
    header = ["model", "seeds", "change", r"95\,\%", "predicted", "measured", r"95\,\%"]
    header += [
        "paper's size",
        r"(\%)",
        "fewer blocks",
        r"95\,\%",
        "skipping blocks",
        r"95\,\%",
    ]
    return tabular(f"{WRAPPED}rrlrrlrrrlrl", [above, header], rows)


def _order(choice: SkipChoice) -> tuple[int, str, int]:
    """Parts as the text has them, the rules of one together, by rising k."""
    return (
        PARTS.index(choice.part),
        (choice.rule != "latter" and choice.rule) or "",
        (choice.k),
    )


def elimination_table(results: Results) -> str:
    """Every arm with tokens eliminated, against the model that keeps them."""
    arms = eliminations(results)
    if not arms:
        return absent_table()
    rows: list[list[str] | str] = []
    before = None
    runs = [(m, untouched(results.study.models[m])) for m in tuned_runs(results)]
    entries = [(arm.model, untouched(arm.name), str(arm.name.run)) for arm in arms]
    entries += [(model, base, model) for model, base in runs]
    for model, base, run in sorted(entries, key=lambda e: (e[1], e[2], e[0] != e[2])):
        if before not in (None, run):
            rows.append(r"\addlinespace")
        before = run
        name = (results.study.models | results.study.arms)[model]
        measured = speedup(results, model, base, AXES["first_token"])
        found = change(results, model, base)
        perplexity = 100 * (math.exp(found["effect"]) - 1)
        rows.append(
            [
                printed(name),
                *_change(results, model, base),
                number(perplexity, 1),
                number(fact(results, model, "predicted_prefill"), 2),
                *ratio_cells(measured),
                _percent(cache_share(results, model)),
                *gain_cells(results, "first_token", model, "depth"),
            ]
        )
    above = r"& \multicolumn{3}{c}{cross-entropy (nats)} & perplexity & "
    above += r"\multicolumn{3}{c}{speed-up of the first token} & cache & "
    above += r"\multicolumn{2}{c}{nats against fewer blocks} \\"
    header = ["model", "seeds", "change", r"95\,\%", r"(\%)", "predicted", "measured"]
    header += [r"95\,\%", r"(\%)", "at equal time", r"95\,\%"]
    return tabular(f"{WRAPPED}rrlrrrlrrl", [above, header], rows)


def _at_paper(results: Results, model: str, base: str) -> Ratio:
    """The same left out of the deepest model of the paper's size, untrained."""
    if base != deepest(results):
        return NO_RATIO
    return paper_speedup(results, model.partition("__")[2])


def _change(results: Results, model: str, base: str) -> list[str]:
    """Seeds, mean and interval of the change in cross-entropy."""
    found = change(results, model, base)
    shown = interval(found["ci_low"], found["ci_high"], 3)
    return [str(found["n"]), number(found["effect"], 3), shown]


def ratio_cells(ratio: Ratio) -> list[str]:
    """A ratio and its interval."""
    return pair(ratio.value, interval(ratio.low, ratio.high, 2), 2)


def gain_cells(results: Results, axis: str, model: str, null: str) -> list[str]:
    """A gain and its interval over seeds and sessions."""
    row = gain(results, axis, model, null)
    shown = interval(row["total_low"], row["total_high"], 3)
    return pair(row["effect"], shown, 3)


def pair(value: float, shown: str, digits: int) -> list[str]:
    """A value and its interval as printed; one dash where there is neither."""
    return [number(value, digits), "" if math.isnan(value) else shown]


def _percent(share: float) -> str:
    return number(100 * share, 0) if not math.isnan(share) else MISSING
