"""Tables of FFN variants, distillation, T5, and the thesis' columns computed again."""

from __future__ import annotations

from collections.abc import Callable

from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.reporting.labels import printed
from shallower.reporting.latex import (
    MISSING,
    absent_table,
    escape,
    interval,
    number,
    separated,
    tabular,
)
from shallower.study.names import DISTILLED, PAIR_BASELINES, ModelName

INTERVAL = r"95\,\% interval"
RULES = {"majority": "most frequent label", "bag_of_words": "bag of words"}


def ffn(results: Results) -> str:
    """What is trained, what is deployed, its speed and its quality."""
    pairs = dict(results.study.pairs["ffn"])
    if not pairs:
        return absent_table()
    rows = [
        [*_costs(results, label), *quality(results, label), *difference(results, *pair)]
        for pair in [
            *((base, "") for base in dict.fromkeys(pairs.values())),
            *pairs.items(),
        ]
        for label in pair[:1]
    ]
    header = ["model", "trained", "deployed", "MFLOPs", r"\textmu s"]
    header += [r"\textmu s at the original's size", "seeds", "CE (nats)"]
    header += ["difference", INTERVAL]
    timed = timed_at_original(results)
    if not timed:
        for row in (header, *rows):
            del row[5]
    above = r"& \multicolumn{2}{c}{parameters (millions)}"
    above += rf" & \multicolumn{{{2 + timed}}}{{c}}{{per token}} & & & &  \\"
    return tabular("l" + "r" * (7 + timed) + "l", [above, header], rows)


def timed_at_original(results: Results) -> bool:
    """Whether any model of the table has a time at the original's size."""
    labels = {label for pair in results.study.pairs["ffn"] for label in pair}
    return any(_costs(results, label)[5] != MISSING for label in labels)


def _costs(results: Results, label: str) -> list[str]:
    """Name, parameters, FLOPs, and times per token as deployed at both scales."""
    study, name = results.study, results.study.models[label]
    # The width inside a collapsed chain has no part in its time.
    same = set(name.options) <= {"ratio"} and name.depth == study.depths[-1]
    deep = study.original.depths[-1]
    original = str(ModelName(name.variant, deep)) if same else ""
    return [
        printed(name),
        number(results.size(label, "parameters_trained") / 1e6),
        number(results.size(label, "parameters_deployed") / 1e6),
        number(results.fact(f"ffn.decoding.{label}") / 1e6),  # of what is timed
        decoding_time(results, label, "study"),
        decoding_time(results, original, "original"),
    ]


def decoding_time(results: Results, label: str, scale: str) -> str:
    """Mean time per token (us) as deployed."""
    asked = Comparison(
        *(label, "", "fixed", "time_per_output_token", "level"),
        scale=scale,
        form="deployed",
    )
    return number(results.estimate(asked).effect, 0)


def quality(results: Results, label: str) -> list[str]:
    """Number of seeds, and mean cross-entropy of the test text."""
    row = results.row(label, "text", "cross_entropy")
    if row is None:
        return ["0", number(float("nan"))]
    return [str(row["n_seeds"]), number(row["mean"], 3)]


def difference(results: Results, left: str, right: str) -> list[str]:
    """Difference in test cross-entropy and its interval."""
    found = results.estimate(Comparison(left, right))
    return [number(found.effect, 3), interval(found.ci_low, found.ci_high, 3)]


def distillation(results: Results) -> str:
    """Every student beside its controls: equal tokens, and equal training FLOPs."""
    study = results.study
    if not study.students:
        return absent_table()
    controls = [dict(study.pairs[family]) for family in ("equal_tokens", "equal_flops")]
    rows = []
    for label in study.students:
        name, given = study.models[label], study.spec(label, 0).distillation
        assert given is not None
        rows.append(
            [
                printed(name.without(*DISTILLED)),
                printed(study.models[given.teacher]),
                f"{given.alpha:g}",
                f"{given.temperature:g}",
                number(results.fact(f"ffn.flops.{label}")),
                *quality(results, label),
                *(
                    c
                    for right in controls
                    for c in difference(results, label, right[label])
                ),
            ]
        )
    header = ["student", "teacher", r"$\alpha$", "$T$", "FLOPs", "seeds", "CE (nats)"]
    header += ["tokens", INTERVAL, "FLOPs", INTERVAL]
    above = r"&&&&&&& \multicolumn{4}{c}{difference from the model alone, at equal} \\"
    return tabular("llrrrrrrlrl", [above, header], rows)


def t5(results: Results) -> str:
    """Denoising and accuracy of every fine-tuned T5, all seeds shown; and the rules."""
    models = results.study.models
    tuned = [m for m, n in models.items() if n.t5_size and "task" in n.options]
    if not tuned:
        return absent_table()
    rows: list[list[str] | str] = [_t5_row(results, label) for label in tuned]
    rows.append(r"\midrule")
    for rule in PAIR_BASELINES:
        reached = number(results.fact(f"t5.accuracy.{rule}"), 1)
        rows.append([RULES[rule], "", "", "", "", reached, ""])
    header = ["model", "trained", "deployed", "denoising", "each seed", "mean"]
    header.append(INTERVAL)
    above = r"& \multicolumn{2}{c}{millions} & CE (nats) & "
    above += r"\multicolumn{3}{c}{accuracy on pairs (\%)} \\"
    return tabular("lrrrrrl", [above, header], rows)


def _t5_row(results: Results, label: str) -> list[str]:
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
    columns = ["parameters", "parameters_printed", "parameters_stated"]
    columns += ["flops", "flops_stated"]
    rows = []
    for row in results.table("thesis").to_dict("records"):
        table, name = str(row["table"]), escape(str(row["label"]))
        shown = [table, name, number(row["accuracy"], 1)]
        rows.append((table, shown + [number(row[column], 3) for column in columns]))
    above = r"&& accuracy & \multicolumn{3}{c}{parameters (millions)} & "
    above += r"\multicolumn{2}{c}{FLOPs (billions)} \\"
    header = ["", "row", "(best of 5)", "published", "fits", "as stated"]
    header += ["published", "as stated"]
    return tabular("llrrrrrr", [above, header], separated(rows))


TABLES: dict[str, Callable[[Results], str]] = {
    "ffn": ffn,
    "distillation": distillation,
    "t5": t5,
    "thesis": thesis,
}
