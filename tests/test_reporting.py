"""LaTeX that always compiles, numbers as they should be printed, words that fit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from shallower.evaluation import metrics
from shallower.reporting import ffn, numbers, style
from shallower.reporting.contents import FIGURES, METRICS, TABLES
from shallower.reporting.figures import spread
from shallower.reporting.latex import (
    breakable,
    escape,
    interval,
    number,
    significant,
    tabular,
)
from shallower.reporting.numbers import direction, resolved
from shallower.reporting.verdicts import with_labels


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1234567, 0, "1{,}234{,}567"),
        (-0.125, 2, "$-$0.12"),
        (-0.0001, 2, "0.00"),  # no minus sign before a rounded zero
        (float("nan"), 2, "{--}"),
        (2.675, 1, "2.7"),
    ],
)
def test_number(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_significant_and_interval() -> None:
    assert significant(0.012345, 2) == "0.012"
    assert significant(1234.5, 2) == "1{,}234"
    assert significant(0) == "0"
    assert interval(-1, 2.5, 1) == "[$-$1.0, 2.5]"
    assert interval(float("nan"), 1) == "{--}"


def test_tabular_by_hand() -> None:
    text = tabular("lr", [["a", "b"]], [["1", "2"], r"\addlinespace", ["3", "4"]])
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a & b \\",
        r"\midrule",
        r"1 & 2 \\",
        r"\addlinespace",
        r"3 & 4 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@given(st.text())
def test_escaped_text_holds_no_live_command(text: str) -> None:
    escaped = escape(text)
    for command in (r"\input", r"\write", r"\def", "$", "^^"):
        assert command not in escaped.replace(r"\$", "")


def compile_latex(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "x.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{lmodern,textcomp}"
        f"\\usepackage{{shallower}}\\usepackage{{hyperref}}{body}"
    )
    environment = os.environ | {"TEXINPUTS": f"{ROOT / 'report'}:"}
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )


def test_any_generated_text_compiles(tmp_path: Path) -> None:
    """Every character up to U+2FFF and some beyond, controls and surrogates aside."""
    points = [*range(0x20, 0x3000), 0x4E2D, 0x1F600, 0xFFFD, 0x2047]
    lines = [
        escape("".join(map(chr, points[i : i + 60]))) for i in range(0, len(points), 60)
    ]
    nasty = (
        r"\input{/etc/passwd} $x^2$ #1 50% {a_b} ~ & <|eos|> ^^5c `'--- \end{document}"
    )
    lines.append(escape(nasty))
    text = "\n\n".join(lines)
    run = compile_latex(f"\\begin{{document}}{text}\\end{{document}}", tmp_path)
    assert run.returncode == 0, run.stdout[-1500:]
    out = subprocess.run(
        ["pdftotext", tmp_path / "x.pdf", "-"], capture_output=True, text=True
    )
    assert r"\input{/etc/passwd} $x^2$ #1 50% {a_b} ~ & <|eos|>" in " ".join(
        out.stdout.split()
    )


def test_results_by_key(tmp_path: Path) -> None:
    body = r"\setresult{a.b-5}{7}\setresult{one}{1}\begin{document}"
    body += r"A \result{a.b-5} \resultcount{one}{block}{blocks} "
    body += r"\resultcount{a.b-5}{block}{blocks}\end{document}"
    assert compile_latex(body, tmp_path).returncode == 0
    out = subprocess.run(["pdftotext", tmp_path / "x.pdf", "-"], capture_output=True)
    assert b"A 7 1 block 7 blocks" in out.stdout


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (r"\begin{document}\result{no.such}\end{document}", "no.such"),
        (r"\setresult{k}{1}\setresult{k}{2}\begin{document}\end{document}", "twice"),
    ],
)
def test_wrong_keys_stop_the_build(tmp_path: Path, body: str, message: str) -> None:
    run = compile_latex(body, tmp_path)
    assert run.returncode != 0
    assert message in run.stdout


def test_breakable_text_is_escaped() -> None:
    assert breakable("a_b|c") == r"a\_\allowbreak{}b\textbar{}\allowbreak{}c"


def test_words_follow_the_interval() -> None:
    assert direction(-0.3, -0.1) == "lower than"
    assert direction(0.1, 0.3) == "higher than"
    assert direction(-0.1, 0.1) == "not distinguishable from"
    assert "want of seeds" in direction(float("nan"), float("nan"))


def test_what_an_a_a_pair_resolves() -> None:
    assert resolved(1.3, 0.98, 1.02) == "larger"
    assert resolved(1.3, 0.6, 1.1) == "no larger"  # by the end that is further off
    assert resolved(0.75, 0.98, 1.02) == "larger"
    assert resolved(1.3, float("nan"), float("nan")).endswith("not known to be larger")


def test_differences_are_of_the_data_that_the_text_speaks_of() -> None:
    """The front's continuations are compared as well, under the same metrics."""
    row = {"left": "proposed-5", "right": "baseline-5", "scale": "study"}
    row |= {"form": "trained", "family": "ffn", "metric": "cross_entropy"}
    both = [row | {"dataset": name} for name in ("continuation", "text")]
    results = SimpleNamespace(comparisons=pd.DataFrame(both))
    found = numbers._compared(results, "proposed-5", "baseline-5", "cross_entropy")
    assert found["dataset"] == "text"
    assert list(ffn.compared(results, "ffn")["dataset"]) == ["text"]


def test_bars_span_the_seeds() -> None:
    assert spread(pd.Series([1.0, 2.0, 6.0])) == [[2.0], [3.0]]
    # The mean of three times 0.1 is larger than 0.1 in floating point.
    equal = spread(pd.Series([0.1, 0.1, 0.1]))
    assert min(equal[0][0], equal[1][0]) >= 0


def test_one_visual_language() -> None:
    variants = ["baseline", "proposed", "silu", "linear"]
    assert len({style.colour(v, variants) for v in variants}) == 4
    depths = [5, 6, 7, 8]
    assert len({style.marker(d, depths) for d in depths}) == 4
    assert style.dashes(8, depths) == "-"


def test_every_metric_has_a_printed_name() -> None:
    assert tuple(METRICS) == metrics.METRICS


def test_every_figure_has_a_caption_in_the_html_report() -> None:
    for name in FIGURES:
        assert (ROOT / "report" / "captions" / f"{name}.rst").read_text().strip()


def captions(text: str) -> list[str]:
    """Arguments of \\caption and \\captionof, braces balanced; no sub-captions."""
    text = re.sub(
        r"\\begin\{sub(figure|table)\}.*?\\end\{sub\1\}", "", text, flags=re.DOTALL
    )
    found = []
    for start in re.finditer(r"\\caption(?:of\{\w+\})?\{", text):
        depth, end = 1, start.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append(text[start.end() : end - 1])
    return found


def test_every_caption_ends_with_what_made_it() -> None:
    rules = "\n".join(p.read_text() for p in (ROOT / "workflow/rules").glob("*.smk"))
    made = {f"figures/{name}.pdf" for name in FIGURES}
    made |= {f"tables/{name}.tex" for name in TABLES}
    sources = (ROOT / "report" / "sections").glob("*.tex")
    found = [c for path in sources for c in captions(path.read_text())]
    assert len(found) > 20
    shown = set()
    for caption in found:
        end = re.search(r"\\madeby\{(\w+)\}\{([^}]+)\}\s*$", caption)
        assert end, caption[-200:]
        assert f"rule {end[1]}:" in rules
        shown |= set(end[2].split(", "))
    drawn = {"report/sections/architecture.tex"}
    assert shown == made | drawn


def test_the_text_knows_where_the_questions_come_from() -> None:
    own = dict(numbers._questions({"source": "text"}))
    assert "held-out articles" in own["corpus.qa.origin"]
    asked = {"source": "hub", "repository": "microsoft/wiki_qa"}
    theirs = dict(numbers._questions(asked))
    assert own.keys() == theirs.keys()
    assert r"wiki\_\allowbreak{}qa" in theirs["corpus.qa.origin"]


def test_notes_call_arms_by_their_labels() -> None:
    note = "inconclusive: baseline-8__tuned=0.1__eliminate=acc.2, silu-5; of baseline-8"
    words = "“baseline 8, tuned 10 %, ACC ×2”, silu-5; of baseline-8"
    assert with_labels(note) == f"inconclusive: {words}"
    assert with_labels("8 of 8 models") == "8 of 8 models"
