"""`budget.csv`: quality by depth at every budget of training tokens."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shallower.analysis.evidence import Evidence
from shallower.analysis.statistics import t_interval
from shallower.config import Study
from shallower.files import write_text

COLUMNS = [
    *("model", "variant", "depth", "width", "tokens", "parameters"),
    *("tokens_per_parameter", "n", "cross_entropy", "ci_low", "ci_high"),
    *("deeper_effect", "deeper_low", "deeper_high", "depth_pays"),
]
ORIGINAL = 5.9  # tokens a parameter, at most: 768 million over 129 million


def write_budgets(results: Path, study: Study, output: Path | None = None) -> None:
    """Write `budget.csv` from by_seed.csv and parameters.csv."""
    evidence = Evidence(
        study,
        pd.read_csv(results / "by_seed.csv"),
        pd.read_csv(results / "parameters.csv"),
        results / "runs",
    )
    text = budget_table(evidence).to_csv(index=False, float_format="%.10g")
    write_text((output or results) / "budget.csv", text)


def budget_table(evidence: Evidence) -> pd.DataFrame:
    """One row per model of which nothing but tokens and width differs.

    `deeper_*` compares the deepest baseline with the shallowest at the same budget and
    width, seed by seed, and stands in the deepest baseline's row.
    """
    study, rows = evidence.study, []
    deep = {
        row[2]: row[1] for row in evidence.budgets((evidence.shallow, evidence.deep))
    }
    for model, name in study.models.items():
        values = evidence.values(model, "text", "cross_entropy")
        if not set(name.options) <= {"steps", "width"} or values.empty:
            continue
        training = study.training_of(model)
        tokens = training.steps * training.batch_size * study.model.context
        count = evidence.parameter_count(model)
        low, high = t_interval(values.to_numpy())
        row = {
            "model": model,
            "variant": name.variant,
            "depth": name.depth,
            "width": study.run(model, 0)["model"]["width"],
            "tokens": tokens,
            "parameters": count,
            "tokens_per_parameter": tokens / count,
            "n": len(values),
            "cross_entropy": values.mean(),
            "ci_low": low,
            "ci_high": high,
        }
        rows.append(row | _deeper(evidence, model, deep.get(model)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _deeper(evidence: Evidence, model: str, shallow: str | None) -> dict[str, object]:
    if shallow is None:
        return {}
    gaps = evidence.paired(model, shallow)
    low, high = t_interval(gaps)
    pays = "yes" if high < 0 else "no" if low > 0 else "undecided"
    return {
        "deeper_effect": gaps.mean(),
        "deeper_low": low,
        "deeper_high": high,
        "depth_pays": pays,
    }
