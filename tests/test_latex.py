"""LaTeX: numbers, tables, and that any generated text compiles."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project import ROOT
from shallower.reporting.latex import (
    MISSING,
    at_most,
    breakable,
    escape,
    interval,
    number,
    scientific,
    significant,
    tabular,
)


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


def test_scientific_has_one_digit_before_the_point() -> None:
    assert scientific(9.96e-9) == r"$1.0\cdot10^{-8}$"
    assert scientific(3.14e-7) == r"$3.1\cdot10^{-7}$"
    assert scientific(0) == r"$0.0\cdot10^{0}$"


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


def test_a_bound_is_not_rounded_down() -> None:
    assert [at_most(value) for value in (3.45, 3.0, 0.1)] == ["4", "3", "1"]
    assert at_most(0.0611, 2) == "0.07"
    assert at_most(float("nan")) == MISSING
