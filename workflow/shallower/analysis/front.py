"""`shallower front`: the combined study's tables, from a study's result files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shallower.analysis.arm_facts import arm_table, profile_table, read_arms
from shallower.analysis.front_data import read_front
from shallower.analysis.front_tables import (
    additivity_table,
    dominance_table,
    gain_table,
    hypervolume_table,
    pareto_table,
)
from shallower.analysis.methods import method_table
from shallower.config import Study
from shallower.files import write_text


def write_front(results: Path, study: Study, output: Path | None = None) -> None:
    """Write pareto.csv and the other tables of the front (into `output`).

    A study without arms, or with models that were not timed, gives what it can: a table
    without rows has its header.
    """
    parameters = pd.read_csv(results / "parameters.csv")
    for name, table in front_tables(results, study, parameters).items():
        text = table.to_csv(index=False, float_format="%.10g")
        write_text((output or results) / f"{name}.csv", text)


def front_tables(
    results: Path, study: Study, parameters: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Every table by the name of its file; `parameters` are the rows of its csv."""
    data = read_front(results, study)
    facts = read_arms(results / "evaluations", study.arm_runs)
    tables = {
        "pareto": pareto_table(data),
        "gains": gain_table(data),
        "dominance": dominance_table(data),
        "additivity": additivity_table(data),
        "hypervolume": hypervolume_table(data),
        "profiles": profile_table(facts),
        "arms": arm_table(facts),
    }
    tables["methods"] = method_table(study, data, tables, parameters)
    return tables
