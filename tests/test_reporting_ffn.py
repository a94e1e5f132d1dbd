"""Tables, numbers and the figure of S2 say what the study's files say."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from made_up import default_configuration, grid, study_of
from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.reporting.figures import ffn as figure
from shallower.reporting.labels import label
from shallower.reporting.latex import MISSING, number
from shallower.reporting.numbers import ffn as ffn_numbers
from shallower.reporting.numbers import story
from shallower.reporting.numbers import study as study_numbers
from shallower.reporting.tables import ffn
from shallower.reporting.tables import study as study_tables

STUDENT = "baseline-2__teacher=baseline-4"


def cells(table: str) -> dict[str, list[str]]:
    """Columns of every row by its first one."""
    rows = [line.removesuffix(r" \\").split(" & ") for line in table.splitlines()]
    return {row[0].replace("~", " "): row[1:] for row in rows if len(row) > 1}


def numbers(results: Results) -> dict[str, str]:
    return dict(ffn_numbers.numbers(results))


def effect(results: Results, left: str, right: str) -> list[str]:
    """As estimates.csv has it, read without the reporting."""
    table = pd.read_csv(results.directory / "estimates.csv").set_index("id")
    row = table.loc[f"difference {left} - {right} | text cross_entropy"]
    ends = f"[{number(row['ci_low'], 3)}, {number(row['ci_high'], 3)}]"
    return [number(row["effect"], 3), ends]


def test_the_table_of_ffns(analysed: Results) -> None:
    rows = cells(ffn.ffn(analysed))
    assert rows["no FFN 4"][-2:] == effect(analysed, "none-4", "baseline-4")
    assert rows["proposed 1W 4"][-2:] == effect(
        analysed, "proposed-4__ffn=one_matrix", "proposed-4"
    )
    assert rows["baseline 4"][-2:] == ["{--}", "{--}"]
    trained = analysed.size("none-4", "parameters_trained") / 1e6
    assert rows["no FFN 4"][0] == number(trained)
    # Times: a plain model of the largest depth has one at the original's size too.
    times = analysed.values("none-4", "fixed", "time_per_output_token").mean()
    assert rows["no FFN 4"][3] == number(times, 0)
    assert rows["no FFN 4"][4] != "{--}"
    assert rows["no FFN 2"][4] == rows["proposed 1W 4"][4] == "{--}"


def test_models_are_timed_as_deployed(analysed: Results) -> None:
    label = "proposed-4__ffn=one_matrix"
    trained, folded = (
        analysed.values(label, "fixed", "time_per_output_token", form=form).mean()
        for form in ("trained", "folded")
    )
    shown = cells(ffn.ffn(analysed))["proposed 1W 4"][3]
    assert shown == number(folded, 0) != number(trained, 0)


def test_the_table_of_students(analysed: Results) -> None:
    row = cells(ffn.distillation(analysed))["baseline 2"]
    work = number(analysed.fact(f"ffn.flops.{STUDENT}"))
    assert row[:4] == ["baseline 4", "0.5", "2", work]
    assert row[6:8] == effect(analysed, STUDENT, "baseline-2")
    alone = "baseline-2__equal_flops=baseline-4"
    assert row[8:] == effect(analysed, STUDENT, alone)


def test_the_table_of_t5(analysed: Results) -> None:
    rows = cells(ffn.t5(analysed))
    tuned = "t5_mini-2__ffn=three_matrices__task=pairs"
    values = 100 * analysed.values(tuned, "pairs", "accuracy")
    assert rows["T5 mini 3W"][3] == ", ".join(number(value, 1) for value in values)
    assert rows["T5 mini 3W"][4] == number(values.mean(), 1)
    spans = analysed.values("t5_mini-2", "spans", "cross_entropy").mean()
    assert rows["T5 mini"][2] == number(spans, 3)


def test_the_table_of_the_thesis(analysed: Results) -> None:
    rows = [line.split(" & ") for line in ffn.thesis(analysed).splitlines()]
    by_label = {row[1]: row[3:] for row in rows if len(row) == 8}
    assert by_label["Baseline"][:3] == ["15.351", "15.351", "14.171"]
    assert by_label["2x Head Size (d\\_kv = 64)"][1] == "{--}"
    assert by_label["3W"][0] == by_label["1W"][0] == "10.626"


def test_numbers(analysed: Results) -> None:
    found = numbers(analysed)
    mean, ends = effect(analysed, "none-4", "baseline-4")
    low, high = ends.strip("[]").split(", ")
    assert found["ffn.none"] == f"{mean}~nats ({low} to {high})"
    assert found["ffn.two_matrices"] == MISSING  # not trained in this study
    base = analysed.size("baseline-8", "parameters_trained", "original")
    none = analysed.size("none-8", "parameters_deployed", "original")
    assert found["ffn.original.none.less"] == number(100 * (1 - none / base), 0)
    assert found["collapse.float64"] == r"$1.0\cdot10^{-14}$"
    assert found["t5.pairs"] == "400"
    assert found["t5.accuracy.best"] == "70.0"
    assert found["thesis.base_mini.luck"] == "2.2"
    assert "S2-9" in found["S2.verdicts"]


def test_what_t5_reaches_in_gaps(analysed: Results) -> None:
    found = numbers(analysed)
    values = analysed.values("t5_mini-2", "spans", "cross_entropy")
    assert found["t5.denoising"] == number(values.mean(), 3)
    tokens = analysed.tokens_seen("t5_mini-2")
    assert found["t5.tokens"] == number(tokens, 0)
    assert found["t5.floor"] == number(analysed.floor("bigram", tokens, "spans"), 3)
    assert "inverse-square-root" in found["t5.schedule"]
    assert found["t5.relative"] == "yes"
    rate = analysed.study.t5.pretraining.learning_rate
    assert found["t5.rate"] == f"{rate:g}"
    # Neither is there in this study: only T5 as it is, and three matrices.
    assert found["t5.none"] == found["t5.chain"] == ""


def test_rates_of_their_own_are_told() -> None:
    configuration = default_configuration()
    assert study_numbers.own_rates(study_of(configuration)) == ""
    wide = grid("baseline proposed", 4, steps=[25, 50], width=[64])
    labels = [
        f"{v}-4__steps={s}__width=64"
        for v in ("baseline", "proposed")
        for s in (25, 50)
    ]
    overrides = {label: {"learning_rate": 0.002} for label in labels}
    overrides["baseline-4"] = {"learning_rate": 0.001}
    training = configuration["training"] | {"overrides": overrides}
    study = study_of(configuration | {"training": training}, budget=[wide])
    due = "0.001 for baseline 4; and "
    due += "0.002 for ``baseline 4, width 64'' and ``proposed 4, width 64''"
    assert study_numbers.own_rates(study).replace("~", " ") == due
    # A budget may name its rate itself; what it is a budget of has the common one.
    named = grid("baseline", 4, steps=[25, 50], lr=[0.002])
    study = study_of(configuration, budget=[named])
    due = "0.002 for ``baseline 4, steps 25'' and ``baseline 4, steps 50''"
    assert study_numbers.own_rates(study).replace("~", " ") == due
    # An override holds for all of a variant.
    rates = {"three_matrices-4": {"learning_rate": 0.002}}
    training = configuration["training"] | {"overrides": rates}
    chains = grid("three_matrices", 4, ratio=[1.2, 4.0])
    study = study_of(configuration | {"training": training}, ffn=[chains])
    due = "0.002 for ``3W 4, ratio 1.2'' and 3W 4"
    assert study_numbers.own_rates(study).replace("~", " ") == due


def test_claims_without_models_take_no_rows(depth_alone: Results) -> None:
    """The text names them instead."""
    claims = depth_alone.claims.fillna({"note": ""})
    absent = claims["note"].str.endswith("in this study")
    lacking, others = (claims.loc[rows, "id"].tolist() for rows in (absent, ~absent))
    assert {"S2-3", "S3-2", "S4-5"} <= {*lacking}
    tables = ["claims", "claims_others"]
    for names in (tables, ["claims_notes"]):
        written = [study_tables.TABLES[name](depth_alone) for name in names]
        rows = {row.replace("{-}", "-") for table in written for row in cells(table)}
        assert rows - {""} == {*others}
    found = dict(story.numbers(depth_alone))
    said = found["claims.absent.ids"]
    assert said.replace(" and ", ", ").split(", ") == lacking
    silent = [claim for claim in claims["id"] if not found[f"told.{claim}"]]
    assert silent == lacking


def test_a_column_that_nothing_is_in_is_left_out(
    analysed: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert numbers(analysed)["ffn.original.timed"] == "yes"
    whole = ffn.ffn(analysed)
    monkeypatch.setattr(ffn, "timed_at_original", lambda _: False)
    part = ffn.ffn(analysed)
    for text, columns in ((whole, 10), (part, 9)):
        assert rf"\begin{{tabular}}{{l{'r' * (columns - 2)}l}}" in text
        rows = [row for row in text.splitlines() if row.count("&") > 5]
        assert {row.count("&") for row in rows[1:]} == {columns - 1}
    assert "original" in whole
    assert "original" not in part


def test_a_study_without_these_experiments(depth_alone: Results) -> None:
    for table in (ffn.ffn, ffn.distillation, ffn.t5):
        assert "not in this study" in table(depth_alone)
    assert cells(ffn.thesis(depth_alone))  # arithmetic needs no experiment
    found = numbers(depth_alone)
    for key in ("ffn", "students", "t5", "collapse"):
        assert found[f"has.{key}"] == "", key
    assert not any(re.search("nan", text) for text in found.values())


def test_the_figure_has_a_row_per_model(
    analysed: Results, depth_alone: Results
) -> None:
    (axes,) = figure.forest(analysed).axes
    pairs = analysed.study.pairs
    shown = [text.get_text() for text in axes.get_yticklabels()]
    models = [left for left, _ in pairs["ffn"]] + [STUDENT]
    assert shown == [label(analysed.study.models[model]) for model in models]
    # A line at zero; an interval and a mean for each control, two for the student.
    means = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(means) == len(pairs["ffn"]) + 2
    assert means[0] == analysed.estimate(Comparison(*pairs["ffn"][0])).effect
    (text,) = figure.forest(depth_alone).axes[0].texts
    assert "not in this study" in text.get_text()
