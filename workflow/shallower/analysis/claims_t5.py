"""Claims of the thesis about T5: its parameter column, and what its variants reach.

Accuracy counts only where the plain T5 has learnt the task: it must beat a bag of words
(assay sensitivity), else two numbers near chance would be compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shallower.analysis import thesis
from shallower.analysis.evidence import Evidence
from shallower.analysis.verdicts import Finding, Verdict, conjunction, superiority
from shallower.names import ModelName
from shallower.systems import ffn_of

NAN = float("nan")
ACCURACY = ("pairs", "accuracy")
FAMILY_OWN = "own"


def parameter_column(evidence: Evidence) -> Finding:
    """S2-9: the printed parameters, under one reading for all rows."""
    table = thesis.overview()
    fits = table["parameters_printed"].notna()
    counts = table.loc[fits, "modules"].value_counts()
    parts = [f"{count} fit {modules}" for modules, count in counts.items()]
    note = f"of {len(table)} rows {', '.join(parts)} attention modules"
    if not fits.all():
        note += f"; neither fits {'; '.join(table.loc[~fits, 'label'])}"
    wrong = len(table) - int(counts.max())
    verdict: Verdict = "not supported" if wrong else "supported"
    return Finding(float(wrong), NAN, NAN, 0.0, verdict, note)


def without_ffn(evidence: Evidence) -> Finding:
    """S2-10: T5 without FFNs answers fewer pairs right (the thesis: 2.7 points)."""
    return _judge(evidence, _pairs(evidence, "none", FAMILY_OWN), higher=False)


def three_over_one(evidence: Evidence) -> Finding:
    """S2-11: three matrices reach a higher accuracy than one, deployed alike."""
    pairs = _pairs(evidence, "three_matrices", "one_matrix")
    return _judge(evidence, pairs, higher=True)


def _pairs(evidence: Evidence, ffn: str, against: str) -> list[tuple[str, str]]:
    """The models with an FFN, each with the same model that has the other one."""
    return [
        (model, other)
        for model, name in _tuned(evidence, ffn).items()
        if (other := _with_ffn(evidence, name, against)) is not None
    ]


def _judge(evidence: Evidence, pairs: list[tuple[str, str]], higher: bool) -> Finding:
    """Left above (or below) right in accuracy, where the plain model can be told."""
    if not pairs:
        absent = "no such T5 in this study"
        return Finding(NAN, NAN, NAN, NAN, "not tested", absent)
    parts = []
    for left, right in pairs:
        found = 100 * evidence.paired(left, right, *ACCURACY)
        parts.append(superiority(found, lower_is_better=not higher))
    shown = conjunction(parts)
    if not learnt(evidence):
        return replace(shown, verdict="not tested", note="no T5 beats a bag of words")
    return shown


def learnt(evidence: Evidence) -> bool:
    """Whether some plain T5 answers more pairs right than a bag of words does."""
    rule = evidence.values("bag_of_words", *ACCURACY)
    return any(
        superiority(
            evidence.values(model, *ACCURACY).to_numpy() - float(rule.iloc[0]), False
        ).verdict
        == "supported"
        for model in _tuned(evidence, FAMILY_OWN)
        if len(rule) and np.size(evidence.values(model, *ACCURACY))
    )


def _tuned(evidence: Evidence, ffn: str) -> dict[str, ModelName]:
    """The fine-tuned T5s with an FFN in all places, by name; none has a teacher."""
    return {
        model: name
        for model, name in evidence.study.models.items()
        if name.t5_size
        and ffn_of(name) == ffn
        and name.options.get("task") == "pairs"
        and not {"teacher", "where"} & set(name.options)
    }


def _with_ffn(evidence: Evidence, name: ModelName, ffn: str) -> str | None:
    """The same model with another FFN, if the study has it."""
    plain = name.without("ffn", "ratio")
    options = plain.options | ({} if ffn == FAMILY_OWN else {"ffn": ffn})
    model = str(ModelName(name.variant, name.depth, options))
    return model if model in evidence.study.models else None
