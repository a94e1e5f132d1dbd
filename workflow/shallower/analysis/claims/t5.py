"""Claims of S2 on T5: the thesis' parameter column, and what its variants reach.

Accuracy counts only if the plain T5 has learnt the task: it must beat a bag of words
(assay sensitivity), else two numbers near chance would be compared. The denoising loss
has the gates of `analysis.gates`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from shallower.analysis import thesis
from shallower.analysis.claims.base import Claim, Context, Fact, scaled
from shallower.analysis.estimates import Comparison, Estimate, mean_level
from shallower.analysis.verdicts import (
    Finding,
    absent,
    conjunction,
    exact,
    superiority,
)
from shallower.study.names import PAIR_BASELINES, ModelName
from shallower.study.study import Study

ACCURACY: dict[str, Any] = {"dataset": "pairs", "metric": "accuracy"}
BAG_OF_WORDS = "bag_of_words"
ROUNDED = 6e-4  # millions of parameters: the column has three decimals


def parameter_column(context: Context) -> Finding:
    """S2-9: the printed parameters, from the sizes as the thesis states them.

    In the note the readings that we found to fit best; they are not the thesis' own.
    """
    table = thesis.overview()
    stated = (table["parameters_stated"] - table["parameters"]).abs() < ROUNDED
    judged = exact(int((~stated).sum()), len(table), "rows fit the stated sizes")
    fits = table["parameters_printed"].notna()
    counts = table.loc[fits, "modules"].value_counts()
    parts = [f"{count} fit with {modules}" for modules, count in counts.items()]
    note = f"{judged.note}; by our reading {', '.join(parts)} attention modules"
    if not fits.all():
        note += f"; no number fits {'; '.join(table.loc[~fits, 'label'])}"
    return replace(judged, note=note)


def without_ffn(context: Context) -> Finding:
    """S2-10: T5 without FFNs answers fewer pairs right (the thesis: 2.7 points)."""
    return _compare(context, _pairs(context.study, "none", "default"), higher=False)


def three_over_one(context: Context) -> Finding:
    """S2-11: three matrices reach a higher accuracy than one, deployed alike."""
    pairs = _pairs(context.study, "three_matrices", "one_matrix")
    return _compare(context, pairs, higher=True)


def loses_denoising(context: Context) -> Finding:
    """S2-10b: pretrained without FFNs, T5 fills gaps with a higher cross-entropy."""
    pairs = _pairs(context.study, "none", "default", tuned=False)
    return _denoising(context, pairs, higher=True)


def three_denoise_better(context: Context) -> Finding:
    """S2-11b: pretrained with three matrices, with a lower one than with one."""
    pairs = _pairs(context.study, "three_matrices", "one_matrix", tuned=False)
    return _denoising(context, pairs, higher=False)


def _denoising(context: Context, pairs: list[tuple[str, str]], higher: bool) -> Finding:
    """Left above (or below) right in cross-entropy of the gaps, in nats."""
    if not pairs:
        return replace(absent(""), note="no such T5 in this study")
    found = [context.difference(*pair, dataset="spans") for pair in pairs]
    return conjunction([superiority(one, lower_is_better=not higher) for one in found])


def _compare(context: Context, pairs: list[tuple[str, str]], higher: bool) -> Finding:
    """Left above (or below) right in accuracy, if the plain model learnt the task."""
    if not pairs:
        return replace(absent(""), note="no such T5 in this study")
    parts = []
    for left, right in pairs:
        found = context.difference(left, right, **ACCURACY)
        parts.append(scaled(superiority(found, lower_is_better=not higher), 100))
    judged = conjunction(parts)
    if not has_learnt(context):
        note = "no T5 beats a bag of words"
        return replace(judged, verdict="not tested", note=note)
    return judged


def has_learnt(context: Context) -> bool:
    """Whether some plain T5 answers more pairs right than a bag of words does."""
    return any(
        superiority(found, False).verdict == "supported"
        for model in _tuned(context.study, "default")
        if (found := over_bag_of_words(context, model)) is not None
    )


def over_bag_of_words(context: Context, model: str) -> Estimate | None:
    """Accuracy of a T5 less that of the bag of words, which has no seeds."""
    rule = context.results.values(BAG_OF_WORDS, **ACCURACY)
    values = context.results.values(model, **ACCURACY)
    if rule.empty or values.empty:
        return None
    difference = (values - float(rule.iloc[0])).to_numpy()
    comparison = Comparison(model, BAG_OF_WORDS, **ACCURACY)
    return context.keep(mean_level(comparison, difference, "seeds"))


def _tuned(study: Study, ffn: str, tuned: bool = True) -> dict[str, ModelName]:
    """The fine-tuned T5s with an FFN in all places, by label; none has a teacher.

    Or those that are pretrained alone. Those of a search are not among them.
    """
    models = {model: study.models[model] for model in study.models_of("t5")}
    return {
        model: name
        for model, name in models.items()
        if name.ffn == ffn
        and (name.options.get("task") == "pairs") == tuned
        and not {"teacher", "where"} & set(name.options)
    }


def _pairs(
    study: Study, ffn: str, other: str, tuned: bool = True
) -> list[tuple[str, str]]:
    """The models with an FFN, each with the same model that has the other one."""
    pairs = []
    for model, name in _tuned(study, ffn, tuned).items():
        rival = name.without("ffn", "ratio")
        if other != "default":
            rival = rival.replace(ffn=other)
        if str(rival) in study.models:
            pairs.append((model, str(rival)))
    return pairs


def comparisons(study: Study) -> Iterator[Comparison]:
    """Levels of every T5: denoising loss, accuracy, and the rules' accuracy."""
    for model in study.models_of("t5"):
        pairs = study.models[model].options.get("task") == "pairs"
        where = ACCURACY if pairs else {"dataset": "spans"}
        yield Comparison(model, kind="level", **where)


def facts(context: Context) -> Iterator[Fact]:
    """Numbers of the thesis' arithmetic; accuracies of the rules and the best T5."""
    yield from thesis.facts()
    study = context.study
    tuned = [m for m, n in study.models.items() if n.t5_size and "task" in n.options]
    yield Fact("t5.models", len(tuned))
    for rule in PAIR_BASELINES:
        values = context.results.values(rule, **ACCURACY)
        if len(values):
            yield Fact(f"t5.accuracy.{rule}", 100 * float(values.iloc[0]), "percent")
    means = [context.results.values(model, **ACCURACY).mean() for model in tuned]
    if tuned:
        yield Fact("t5.accuracy.best", 100 * float(max(means)), "percent")
        counts = context.results.pairs["splits"]["train"]["counts"]
        yield Fact("t5.pairs", sum(counts.values()), "pairs")


def tables(context: Context) -> dict[str, pd.DataFrame]:
    """The thesis' tables beside what they come to."""
    return {"thesis": thesis.overview()}


CLAIMS = [
    Claim(
        "S2-9",
        "the thesis' parameter counts follow from its sizes",
        "rows that do not fit",
        parameter_column,
        *("S2", "identity", "original", "untrained"),
    ),
    Claim("S2-10", "T5: without FFNs accuracy is lost", "points", without_ffn, "S2"),
    Claim(
        "S2-11",
        "T5: FFNs of three matrices are better than of one",
        "points",
        three_over_one,
        "S2",
    ),
    Claim(
        "S2-10b",
        "T5: without FFNs the denoising loss is higher",
        "nats",
        loses_denoising,
        "S2",
    ),
    Claim(
        "S2-11b",
        "T5: three matrices reach a lower denoising loss than one",
        "nats",
        three_denoise_better,
        "S2",
    ),
]
