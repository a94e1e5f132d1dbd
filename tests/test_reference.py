"""The reference run that is kept in the repository, and what the README says of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from project import ROOT
from shallower.errors import UserError
from shallower.files import read_json, write_json
from shallower.reporting import reference

FOLDER = ROOT / "docs" / "reference-run"


def test_the_readme_quotes_the_reference_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert reference.with_block(text, reference.block(FOLDER, short=True)) == text
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page == reference.page(FOLDER)


def test_the_readme_quotes_perplexities_and_verdicts() -> None:
    """The same by another way: values looked up by hand."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(FOLDER / "text.csv")
    table = table[table["intervention"].isna()]
    summary = table.set_index(["model", "metric", "form"])
    for model in ("baseline-5", "proposed-5", "baseline-8", "proposed-8"):
        value = summary.loc[(model, "perplexity", "trained"), "mean"]
        assert f"{value:.1f}" in text
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for row in pd.read_csv(FOLDER / "claims.csv").itertuples():
        start, end = f"| {row.id} |", f"**{row.verdict}** |"
        line = next(x for x in page.splitlines() if x.startswith(start))
        assert line.endswith(end)
        if row.source == "S1" or "supported" in row.verdict:
            assert line in text
        else:
            assert start not in text
            said = next(
                x for x in text.splitlines() if x.startswith("The other systems")
            )
            assert row.id in said.partition(row.verdict)[2].partition(";")[0]


def test_the_reference_run_says_what_made_it() -> None:
    about = read_json(FOLDER / "about.json")
    assert not about["dirty"]
    assert all(len(name) == 12 for name in about["trained_by_commits"])
    assert about["device"]
    assert about["date"]


def test_the_front_is_quoted(tmp_path: Path) -> None:
    rows = [
        ("baseline-5", "skip=ffn.first.1", "per_token", 200.4, 5.0, 0.5, True),
        ("baseline-5", "", "per_token", 100.0, 5.5, 0.25, True),
        ("baseline-8", "", "per_token", 300.0, 5.6, 0.0, False),
        ("baseline-8", "", "first_token", 900.0, 5.6, 0.875, True),
    ]
    columns = ["model", "intervention", "axis", "latency", "quality"]
    columns.append("on_front_probability")
    table = pd.DataFrame(rows, columns=[*columns, "on_front"])
    table = table.assign(system="S1", scale="study")
    table.to_csv(tmp_path / "pareto.csv", index=False)
    lines = reference.front_table(tmp_path).splitlines()[2:]
    assert lines == [
        "| `baseline-5` | S1 | 100 | 5.500 | 0.25 | time per token |",
        "| `baseline-5__skip=ffn.first.1` | S1 | 200 | 5.000 | 0.50 | time per token |",
        "| `baseline-8` | S1 | 900 | 5.600 | 0.88 | time to the first token |",
    ]


@pytest.mark.parametrize("text", ["nothing", " ".join(reference.MARKERS * 2)])
def test_a_readme_without_marks_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected the lines"):
        reference.with_block(text, "new")


def test_a_study_of_uncommitted_code_is_not_published(tmp_path: Path) -> None:
    write_json(tmp_path / "provenance.json", {"dirty": True})
    with pytest.raises(UserError, match="differs from its commit"):
        reference.publish(tmp_path, tmp_path / "kept", tmp_path / "README.md")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.0004, 3, "0.000"), (-1234.5, 1, "−1,234.5"), (0.25, 2, "0.25")],
)
def test_numbers_for_people(value: float, digits: int, text: str) -> None:
    assert reference.printed(value, digits) == text
