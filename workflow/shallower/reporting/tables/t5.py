"""Tables of the encoder-decoder, and of the thesis' columns computed again."""

from __future__ import annotations

from collections.abc import Callable

from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.reporting.labels import printed
from shallower.reporting.latex import absent_table, escape, interval, number, tabular
from shallower.study.names import DISTILLED, PAIR_BASELINES

RULES = {"majority": "most frequent label", "bag_of_words": "bag of words"}


def t5(results: Results) -> str:
    """Denoising and accuracy of every fine-tuned T5, all seeds shown; and the rules."""
    models = results.study.models
    tuned = [m for m, n in models.items() if n.t5_size and "task" in n.options]
    if not tuned:
        return absent_table()
    rows: list[list[str] | str] = [_row(results, label) for label in tuned]
    rows.append(r"\midrule")
    for rule in PAIR_BASELINES:
        reached = number(results.fact(f"t5.accuracy.{rule}"), 1)
        rows.append([RULES[rule], "", "", "", "", reached, ""])
    header = ["model", "trained", "deployed", "denoising", "each seed", "mean"]
    header.append(r"95\,\% interval")
    above = r"& \multicolumn{2}{c}{millions} & CE (nats) & "
    above += r"\multicolumn{3}{c}{accuracy on pairs (\%)} \\"
    return tabular("lrrrrrl", [above, header], rows)


def _row(results: Results, label: str) -> list[str]:
    name = results.study.models[label]
    pretrained = str(name.without("task", *DISTILLED))
    denoising = Comparison(pretrained, dataset="spans", kind="level")
    accuracy = Comparison(label, "", "pairs", "accuracy", "level")
    reached, seeds = (
        results.estimate(accuracy),
        results.values(label, "pairs", "accuracy"),
    )
    return [
        printed(name),
        number(results.size(pretrained, "parameters_trained") / 1e6),
        number(results.size(pretrained, "parameters_deployed") / 1e6),
        number(results.estimate(denoising).effect, 3),
        ", ".join(number(100 * value, 1) for value in seeds),
        number(100 * reached.effect, 1),
        interval(100 * reached.ci_low, 100 * reached.ci_high, 1),
    ]


def thesis(results: Results) -> str:
    """Tables 4.1, 4.3, 4.4 and 4.5: published columns, and what arithmetic gives."""
    rows: list[list[str] | str] = []
    for table, part in results.table("thesis").groupby("table", sort=False):
        if rows:
            rows.append(r"\addlinespace")
        for row in part.to_dict("records"):
            columns = ["parameters", "parameters_printed", "parameters_stated"]
            columns += ["flops", "flops_stated"]
            shown = [str(table), escape(str(row["label"])), number(row["accuracy"], 1)]
            rows.append([*shown, *(number(row[column], 3) for column in columns)])
    above = r"&& accuracy & \multicolumn{3}{c}{parameters (millions)} & "
    above += r"\multicolumn{2}{c}{FLOPs (billions)} \\"
    header = ["", "row", "(best of 5)", "published", "fits", "as stated"]
    header += ["published", "as stated"]
    return tabular("llrrrrrr", [above, header], rows)


TABLES: dict[str, Callable[[Results], str]] = {"t5": t5, "thesis": thesis}
