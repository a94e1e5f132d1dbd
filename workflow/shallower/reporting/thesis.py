"""The thesis' tables with ours beside them, and what T5 does in this study."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from shallower.analysis import thesis
from shallower.analysis.thesis_tables import RUNS
from shallower.names import PAIR_BASELINES, ModelName
from shallower.reporting.ffn import LABELS, absent_table
from shallower.reporting.latex import MISSING, escape, interval, number, tabular
from shallower.reporting.results import Results, select
from shallower.systems import ffn_of
from shallower.words import counted

NAN = float("nan")
CHANCE_NAMES = {"majority": "most frequent label", "bag_of_words": "bag of words"}


# --- the published tables -------------------------------------------------------------


def ablation_table(results: Results) -> str:
    """Tables 4.1, 4.3, 4.4 and 4.5: published columns, and what arithmetic gives."""
    rows: list[list[str] | str] = []
    table = thesis.overview()
    for number_, part in table.groupby("table", sort=False):
        if rows:
            rows.append(r"\addlinespace")
        for row in part.to_dict("records"):
            published = [number(row[k], 3) for k in ("parameters", "flops")]
            rows.append(
                [
                    str(number_),
                    escape(str(row["label"])),
                    number(row["accuracy"], 1),
                    published[0],
                    number(row["parameters_printed"], 3),
                    number(row["parameters_stated"], 3),
                    published[1],
                    number(row["flops_stated"], 3),
                ]
            )
    above = r"&& accuracy & \multicolumn{3}{c}{parameters (millions)} & "
    above += r"\multicolumn{2}{c}{FLOPs (billions)} \\"
    header = ["", "row", "(best of 5)", "published", "fits", "as stated"]
    header += ["published", "as stated"]
    return tabular("llrrrrrr", [above, header], rows)


def sizes_table(results: Results) -> str:
    """Table 3.1's sizes: which head size gives the parameters that it prints."""
    table = thesis.size_rows()
    rows = []
    for name, part in table.groupby("row", sort=False):
        by_size = part.set_index("head_size")
        stated = by_size.index[by_size["stated"]][0]
        counts = [number(by_size.loc[s, "value"] / 1e6, 2) for s in (32, 64)]
        fits = [str(s) for s in by_size.index[by_size["reproduces"]]]
        published = number(float(part["published"].iloc[0]), 0)
        rows.append(
            [str(name), published, str(stated), *counts, ", ".join(fits) or MISSING]
        )
    header = ["size", "published", "$d_{kv}$ stated", "32", "64", "$d_{kv}$ that fits"]
    above = r"& millions && \multicolumn{2}{c}{millions, with $d_{kv}$} & \\"
    return tabular("lrrrrr", [above, header], rows)


def maxima_table(results: Results) -> str:
    """Table 4.6: the best of five, and the mean that its spread leads one to expect."""
    rows = []
    for row in thesis.distillation_rows().to_dict("records"):
        teacher = row["teacher"] or "none"
        rows.append(
            [
                *(str(row["student"]), teacher, number(row["accuracy"], 1)),
                *(number(row["sd"], 2), number(row["mean"], 1)),
                *(number(row["gain"], 1), number(row["favour"], 1)),
                number(row["gain_of_means"], 1),
            ]
        )
    header = ["student", "teacher", "best of 5", "sd", "mean", "of the best"]
    header += ["luck", "of the means"]
    above = r"&&&& expected & \multicolumn{3}{c}{gain over no teacher} \\"
    return tabular("llrrrrrr", [above, header], rows)


# --- T5 in this study -----------------------------------------------------------------


def arms(results: Results) -> list[ModelName]:
    """The encoder-decoders of the study, as they are fine-tuned."""
    names = results.study.models.values()
    return [n for n in names if n.t5_size and n.options.get("task") == "pairs"]


def label(name: ModelName) -> str:
    """An arm in words: mini, 3W, encoder."""
    options = {k: v for k, v in name.options.items() if k not in ("task", "ffn")}
    ffn = LABELS.get(ffn_of(name), "own FFN")
    more = [f"{key.replace('_', ' ')} {value}" for key, value in options.items()]
    return ", ".join([f"T5 {name.t5_size}", ffn, *more])


def t5_table(results: Results) -> str:
    """Denoising and accuracy of every arm, all seeds shown; and the two rules."""
    if not arms(results):
        return absent_table()
    rows = []
    for name in arms(results):
        model = str(name)
        parent = str(name.without("task", "teacher", "alpha", "temperature"))
        sizes = results.parameters.loc[("study", parent)]
        nats = results.seeds(parent, "spans", "cross_entropy")
        rows.append(
            [
                escape(label(name)),
                number(sizes["parameters_trained"] / 1e6, 2),
                number(sizes["parameters_deployed"] / 1e6, 2),
                number(nats.mean(), 3),
                *_accuracies(results, model),
            ]
        )
    rows_below: list[list[str] | str] = [*rows, r"\midrule"]
    for rule in PAIR_BASELINES:
        value = 100 * results.row(rule, "pairs", "accuracy")["mean"]
        rows_below.append([CHANCE_NAMES[rule], *[""] * 4, number(value, 1), "", ""])
    header = ["arm", "trained", "deployed", "denoising", "each seed", "mean"]
    header += [r"95\,\% interval", "best"]
    above = r"& \multicolumn{2}{c}{millions} & CE (nats) & "
    above += r"\multicolumn{4}{c}{accuracy on pairs (\%)} \\"
    return tabular("lrrrrrlr", [above, header], rows_below)


def _accuracies(results: Results, model: str) -> list[str]:
    values = 100 * select(results.units, model, "pairs", "accuracy", {})["value"]
    row = results.row(model, "pairs", "accuracy")
    return [
        ", ".join(number(value, 1) for value in values),
        number(values.mean(), 1),
        interval(100 * row["ci_low"], 100 * row["ci_high"], 1),
        number(values.max(), 1),
    ]


# --- numbers --------------------------------------------------------------------------


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`thesis.*`: what reproduces and what a maximum hides; `t5.*`: the study's own."""
    overview = thesis.overview()
    yield "thesis.rows", str(len(overview))
    fits = overview["parameters_printed"].notna()
    modules = overview.loc[fits, "modules"].value_counts()
    yield "thesis.rows.reproduced", str(int(modules.max()))
    yield "thesis.rows.other", str(int(modules.sum() - modules.max()))
    yield "thesis.rows.unexplained", str(int((~fits).sum()))
    by_row = overview.set_index("row")
    for row in ("baseline", "none", "one_matrix", "heads"):
        for key in ("parameters", "parameters_printed", "parameters_stated"):
            yield f"thesis.{row}.{key}", number(by_row.loc[row, key], 3)
    for row in ("one_matrix", "none"):
        less = 1 - by_row.loc[row, "parameters_stated"] / by_row.loc["baseline"].get(
            "parameters_stated"
        )
        yield f"thesis.{row}.less", number(100 * less, 0)
        less = 1 - by_row.loc[row, "parameters"] / by_row.loc["baseline", "parameters"]
        yield f"thesis.{row}.less.published", number(100 * less, 0)
    for row in ("head_size", "heads_and_size"):
        yield f"thesis.{row}.parameters", number(by_row.loc[row, "parameters"], 3)
        stated = by_row.loc[row, "parameters_stated"]
        yield f"thesis.{row}.parameters_stated", number(stated, 3)
    sizes = thesis.size_rows()
    large = sizes[sizes["reproduces"] & (sizes["head_size"] == 64)]
    yield "thesis.sizes.fit64", str(len(large))
    yield "thesis.maximum", number(thesis.expected_maximum(RUNS), 3)
    yield "thesis.runs", str(RUNS)
    spread = thesis.distillation_rows().set_index("row")
    for row, key in (("Base→Mini", "base_mini"), ("Small→Mini", "small_mini")):
        yield f"thesis.{key}.gain", number(spread.loc[row, "gain"], 1)
        yield f"thesis.{key}.luck", number(spread.loc[row, "favour"], 1)
        yield f"thesis.{key}.means", number(spread.loc[row, "gain_of_means"], 1)
    noise = thesis.noise_rows().set_index(["left", "right"])
    for left in ("two_matrices", "three_matrices"):
        row = noise.loc[(left, "one_matrix")]
        yield f"thesis.noise.{left}", number(row["difference"], 1)
        yield f"thesis.noise.{left}.sigmas", number(row["sigmas"], 1)
    yield "thesis.noise.sd", number(float(noise["sd"].iloc[0]), 2)
    yield from _t5(results)


def _t5(results: Results) -> Iterator[tuple[str, str]]:
    values: dict[str, float] = dict.fromkeys(("best", *PAIR_BASELINES), NAN)
    if arms(results):
        means = [
            results.row(str(n), "pairs", "accuracy")["mean"] for n in arms(results)
        ]
        values["best"] = 100 * max(means)
        for rule in PAIR_BASELINES:
            values[rule] = 100 * results.row(rule, "pairs", "accuracy")["mean"]
    yield "t5.arms", str(len(arms(results)))
    sizes = dict.fromkeys(name.t5_size for name in arms(results) if name.t5_size)
    yield "t5.sizes", ", ".join(_t5_size(results, size) for size in sizes) or MISSING
    for key, value in values.items():
        yield f"t5.accuracy.{key}", number(value, 1)
    yield "t5.pairs", _pairs(results)


def _t5_size(results: Results, size: str) -> str:
    sizes = results.study.t5.sizes[size]
    blocks = counted(sizes.depth, "block")
    return f"{size} with {blocks} a side and a width of {sizes.width}"


def _pairs(results: Results) -> str:
    path = results.directory / "corpus" / "pairs" / "train.parquet"
    return number(len(pd.read_parquet(path)), 0) if path.is_file() else MISSING
