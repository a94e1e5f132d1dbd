"""The second system in the decoder family: FFN variants and distillation."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from shallower.expansion import TAUGHT
from shallower.models.arithmetic import training_flops
from shallower.names import ModelName
from shallower.reporting.latex import MISSING, escape, interval, number, tabular
from shallower.reporting.results import Results, select
from shallower.systems import ffn_of, head_of

ABSENT = "not in this study"
LABELS = {
    "none": "no FFN",
    "one_matrix": "1W",
    "one_matrix_relu": "1W + ReLU",
    "two_matrices": "2W",
    "three_matrices": "3W",
}
FAMILIES = {"equal_tokens": "equal tokens", "equal_flops": "equal training FLOPs"}


def label(name: ModelName) -> str:
    """An arm in words: 3W, ratio 2, 8 blocks."""
    parts = [LABELS.get(ffn_of(name), name.variant)]
    if ffn_of(name) != "own" and head_of(name) != "baseline":
        parts = [f"{head_of(name)} {parts[0]}"]
    options = {k: v for k, v in name.options.items() if k != "ffn"}
    texts = (str(v) if k == "where" else f"{k} {v}" for k, v in options.items())
    parts += [text.replace("_", " ") for text in texts]
    return ", ".join([*parts, f"{name.depth} blocks"])


def student_label(name: ModelName) -> str:
    """A student in words: baseline-5 from baseline-8, alpha .1, T 2."""
    options = name.options
    more = [f"{k} {options[k]}" for k in ("alpha", "temperature") if k in options]
    return ", ".join([f"{name.without(*TAUGHT)} from {options['teacher']}", *more])


def arms(results: Results) -> list[str]:
    """The models of the experiment `ffn` that have something to be compared with."""
    return list(dict.fromkeys(left for left, _ in results.study.families["ffn"]))


def compared(results: Results, family: str) -> pd.DataFrame:
    """Differences in test cross-entropy of a family, by the left model's name."""
    table = results.comparisons
    rows = table[(table["family"] == family) & (table["metric"] == "cross_entropy")]
    rows = rows[rows["dataset"] == "text"]
    return rows[rows["form"] == "trained"].set_index("left")


# --- tables -------------------------------------------------------------------------


def ffn_table(results: Results) -> str:
    """Every arm: what is trained, what is deployed, its speed and its quality."""
    if not arms(results):
        return absent_table()
    table, rows = compared(results, "ffn"), []
    bases = list(dict.fromkeys(str(table.loc[m, "right"]) for m in arms(results)))
    for model in [*bases, *arms(results)]:
        found: list[str] = [MISSING, MISSING]
        if model in table.index:
            row = table.loc[model]
            found = [number(row["effect"], 3)]
            found.append(interval(row["ci_low"], row["ci_high"], 3))
        nats = results.row(model, "text", "cross_entropy")
        name = label(results.study.models[model])
        rows.append([escape(name), *_sizes(results, model), *_speed(results, model)])
        rows[-1] += [str(nats["n_seeds"]), number(nats["mean"], 3), *found]
    header = [
        *("arm", "trained", "deployed", "MFLOPs"),
        *(r"\textmu s", r"\textmu s at the paper's size"),
        *("seeds", "CE (nats)", "difference", r"95\,\% interval"),
    ]
    above = r"& \multicolumn{2}{c}{parameters (millions)}"
    above += r" & \multicolumn{3}{c}{a token} & & & &  \\"
    return tabular("lrrrrrrrrl", [above, header], rows)


def _sizes(results: Results, model: str) -> list[str]:
    row = results.parameters.loc[("study", model)]
    counts = [row["parameters_trained"], row["parameters_deployed"]]
    flops = row["flops_per_token_deployed"] / 1e6
    return [*(number(count / 1e6, 2) for count in counts), number(flops, 2)]


def _speed(results: Results, model: str) -> list[str]:
    """Microseconds a token as deployed: the trained model's scale, and the paper's."""
    name = results.study.models[model]
    depth = results.study.paper_scale.depths[-1]
    # Of a chain that is multiplied out, the ratio has no part in the time.
    plain = not set(name.options) - {"ratio"}
    same = plain and name.depth == results.study.depths[-1]
    at_paper = f"{name.variant}-{depth}" if same else ""
    return [
        deployed_time(results, model, "study"),
        deployed_time(results, at_paper, "paper"),
    ]


def deployed_time(results: Results, model: str, scale: str) -> str:
    """Mean time a token over the sessions, of the form in which it is deployed."""
    times = results.times(model, "fixed", "time_per_output_token", scale)
    return MISSING if times.empty else number(times.mean(), 0)


def distillation_table(results: Results) -> str:
    """Every student beside its controls: as many tokens, as many training FLOPs."""
    if not results.study.students:
        return absent_table()
    families = {family: compared(results, family) for family in FAMILIES}
    rows = []
    for model in results.study.students:
        name, spec = results.study.models[model], results.study.run(model, 0)
        teacher = results.study.run(spec["distillation"]["teacher"], 0)["model"]
        work = training_flops(spec["model"], teacher) / training_flops(spec["model"])
        nats = results.row(model, "text", "cross_entropy")
        rows.append(
            [
                escape(str(name.without(*TAUGHT))),
                escape(spec["distillation"]["teacher"]),
                f"{spec['distillation']['alpha']:g}",
                f"{spec['distillation']['temperature']:g}",
                number(work, 2),
                str(nats["n_seeds"]),
                number(nats["mean"], 3),
            ]
        )
        for table in families.values():
            row = table.loc[model]
            rows[-1].append(number(row["effect"], 3))
            rows[-1].append(interval(row["ci_low"], row["ci_high"], 3))
    header = ["student", "teacher", r"$\alpha$", "$T$", "FLOPs", "seeds", "CE (nats)"]
    header += ["tokens", r"95\,\%", "FLOPs", r"95\,\%"]
    above = r"&&&&&&& \multicolumn{4}{c}{difference to the model alone, at equal} \\"
    return tabular("llrrrrrrlrl", [above, header], rows)


def absent_table() -> str:
    """A table that says that the study has no such experiment."""
    return tabular("l", [], [[ABSENT]])


# --- numbers ------------------------------------------------------------------------


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`ffn.<variant>` with `.low`, `.high`; `ffn.time.*`; sizes at the paper's."""
    table = compared(results, "ffn")
    depth = results.study.depths[-1]
    parts = {"": "effect", ".low": "ci_low", ".high": "ci_high"}
    for variant in LABELS:
        model = f"{variant}-{depth}"
        row = table.loc[model] if model in table.index else None
        yield f"ffn.{variant}.there", "" if row is None else "yes"
        for part, column in parts.items():
            effect = float("nan") if row is None else float(row[column])
            yield f"ffn.{variant}{part}", number(effect, 3)
    yield "ffn.depth", str(depth)
    deep = results.study.paper_scale.depths[-1]
    base = results.parameters.loc[("paper", f"baseline-{deep}")]
    yield "ffn.paper.deep", str(deep)
    for variant in ("none", "three_matrices"):
        at = ("paper", f"{variant}-{deep}")
        text = {"trained": MISSING, "deployed": MISSING, "less": MISSING}
        if at in results.parameters.index:
            row = results.parameters.loc[at]
            for form in ("trained", "deployed"):
                text[form] = number(row[f"parameters_{form}"] / 1e6, 1)
            less = 1 - row["parameters_deployed"] / base["parameters_trained"]
            text["less"] = number(100 * less, 0)
        for suffix, value in text.items():
            yield f"ffn.paper.{variant}.{suffix}", value
    for variant in ("baseline", "none", "three_matrices"):
        yield (
            f"ffn.paper.{variant}.time",
            deployed_time(results, f"{variant}-{deep}", "paper"),
        )
    yield "distillation.students", str(len(results.study.students))
    units = results.units
    for metric in ("collapse_error_float64", "collapse_error_float32"):
        rows = units[units["metric"] == metric]
        key_ = metric.replace("_error_", ".")
        yield key_, MISSING if rows.empty else f"{rows['value'].max():.0e}"


def by_seed_table(results: Results) -> str:
    """Every seed of every arm, its mean and interval, and the maximum's counterpart.

    The thesis reports the best of five runs; the best here is the lowest.
    """
    models = [*arms(results), *results.study.students]
    if not models:
        return absent_table()
    rows = []
    for model in models:
        values = select(results.units, model, "text", "cross_entropy", {})["value"]
        row = results.row(model, "text", "cross_entropy")
        rows.append(
            [
                escape(label(results.study.models[model])),
                ", ".join(number(value, 3) for value in values),
                number(values.mean(), 3),
                interval(row["ci_low"], row["ci_high"], 3),
                number(values.std(ddof=1), 3),
                number(values.min(), 3),
            ]
        )
    header = ["arm", "seeds", "mean", r"95\,\% interval", "sd", "best"]
    layout = r"l>{\raggedright\arraybackslash}p{6cm}rlrr"
    return tabular(layout, [header], rows)
