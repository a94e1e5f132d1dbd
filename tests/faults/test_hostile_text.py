"""Text that would be run or break a page, wherever text of the user's is shown."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from browser import Browser
from counting import Tried
from project import ROOT
from shallower.analysis.results import Results
from shallower.reporting import tables
from shallower.reporting.latex import breakable, escape, tabular
from shallower.reporting.numbers.study import _sources
from shallower.reporting.page import write_page
from shallower.reporting.tables import study as study_tables

HOSTILE = [
    *(r"\input{/etc/passwd}", r"\write18{touch pwned}", r"\immediate\openout1=pwned"),
    *("}{", "{", "100% #1 $x$ _a^b & ~", "^^5cinput", r"\end{document}", r"\csname"),
    *("[x] first", "* starred", "?` !` ?‘", ",,low", "--- '' ``", "<<>>"),
    *(
        "你好，世界",
        "日本語",
        "שלום",
        "🙂👍🏽",
        "e\u0301",
        "a\u202eb",
        "\x00\x1b[2J",
        "\u2028x",
    ),
    *("<script>alert(1)</script>", '"}],"cells":[{"', "../../etc/passwd", "x" * 400),
    "https://example.org/" + "a" * 300,
]


def test_characters_are_kept_or_counted() -> None:
    assert escape("a,,,b") == "a,{},{},b"  # not a low quote
    assert "`" not in escape("?` !` ?‘x “q”")  # nor an inverted mark
    assert escape("你好 x") == r"\textit{[2 characters]} x"
    assert escape("🙂") == r"\textit{[1 character]}"
    assert escape("e\u0301") == "é"
    assert escape("\u0301a\u200db") == "ab"
    assert escape("a\x1bb") == r"a\textit{[1 character]}b"
    assert "?" not in escape("日本語, שלום")


def test_long_words_may_break() -> None:
    assert r"\allowbreak" in breakable("x" * 60)
    assert r"\allowbreak" not in breakable("x" * 20)
    assert breakable("日" * 60) == r"\textit{[60 characters]}"


def test_a_sample_without_spaces_is_shown() -> None:
    """Cut within the word, and not to nothing but an ellipsis."""
    shown = study_tables._clip("x" * 400).replace(r"\allowbreak{}", "")
    assert shown.count("x") > 140
    assert (
        study_tables._clip("日" * 400)
        == r"\footnotesize \textit{[149 characters]}\ldots{}"
    )
    end = study_tables._clip("a " * 100 + "the end", keep_end=True)
    assert end.endswith("the end")


@pytest.mark.slow
def test_hostile_text_is_typeset_as_text(tmp_path: Path, tried: Tried) -> None:
    """Each at the beginning of a row, where `[` and `*` mean something to LaTeX."""
    from test_latex import compile_latex

    rows = [[breakable(text), escape(text[:20])] for text in HOSTILE]
    wide = r">{\raggedright\arraybackslash}p{0.45\linewidth}"
    table = tabular(wide * 2, [["a", "b"]], rows)
    body = (
        r"\usepackage{array,booktabs,longtable}\begin{document}"
        + table.replace("{tabular}", "{longtable}")
        + r"\end{document}"
    )
    run = compile_latex(body, tmp_path)
    assert run.returncode == 0, run.stdout[-2000:]
    assert not (tmp_path / "pwned").exists()
    assert "Overfull" not in (tmp_path / "x.log").read_text(errors="replace")
    tried("a hostile text in the paper", len(HOSTILE), "typeset as text, nothing run")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_command_survives_in_what_the_paper_says_of_data(
    text: str, analysed: Results
) -> None:
    """As a data set's licence, domain, title, file name or name."""
    sets = analysed.corpus["datasets"]
    entry = sets["text"] | {"licence": text, "domain": text, "name": text}
    files = {"source": "files", "files": {f"data/{text.replace('/', '_')}.txt": "ab"}}
    for own in (entry, entry | files | {"name": None}):
        made = SimpleNamespace(
            corpus={"datasets": sets | {"text": own}}, study=analysed.study
        )
        told = dict(_sources(made))["corpus.text.sources"]  # type: ignore[arg-type]
        for written in (told, tables.all_tables()["corpus"](made)):
            for command in (r"\input", r"\write", r"\immediate", r"\csname", "^^"):
                assert command not in written
            unescaped = written.replace(r"\{", "").replace(r"\}", "")
            assert unescaped.count("{") == unescaped.count("}")


def test_lines_of_json_end_in_line_feeds_alone(tmp_path: Path) -> None:
    """U+2028, a piece of Llama's vocabulary, ends a line to `splitlines`."""
    folder = tmp_path / "evaluations" / "m"
    folder.mkdir(parents=True)
    item = {"dataset": "chat", "id": "1", "prompt": "a\u2028b\u0085c"}
    line = json.dumps(item, ensure_ascii=False)
    (folder / "seed0.samples.jsonl").write_text(f"{line}\n", encoding="utf-8")
    study = SimpleNamespace(seeds=[0])
    results = SimpleNamespace(directory=tmp_path, study=study)
    found = study_tables._samples(results, "m")  # type: ignore[arg-type]
    assert found["chat", "1"]["prompt"] == item["prompt"]


# Each would set `pwned`, load an image, or end the page's own elements.
SCRIPTS = [
    *("<script>pwned = 1</script>", "</script><script>pwned = 1</script>"),
    *("<img src=x onerror='pwned=1'>", "</style></td></table><svg onload=pwned=1>"),
    *('" onmouseover="pwned=1" autofocus onfocus="pwned=1', "' onclick='pwned=1"),
    *("javascript:pwned=1", "<a href=javascript:pwned=1>x</a>", "<!-- <script>"),
    *("{{ 7 * 7 }} {% raw %}", "&lt;b&gt; &amp;", "</title><script>pwned=1</script>"),
]
IN_THE_PAGE = {  # by table: columns whose text may be of a user's or a model's making
    "claims": ("id", "source", "claim", "kind", "scale", "replicates", "note", "unit"),
    "pareto": ("model", "system", "axis"),
    "gates": ("model", "gate", "note"),
    "parameters": ("model", "scale"),
    "estimates": ("kind", "left", "right", "scale", "form", "dataset", "unit"),
}


def test_the_page_shows_hostile_text_as_text(
    browser: Browser, analysed: Results, tmp_path: Path, tried: Tried
) -> None:
    """In every cell of a table, in what it was made with, and in a notebook's title."""
    from test_page import PROVENANCE, write_parts

    write_parts(analysed, tmp_path)
    for name, columns in IN_THE_PAGE.items():
        table = pd.read_csv(tmp_path / f"{name}.csv")
        table = pd.concat([table, table.tail(1)] * len(SCRIPTS)).head(len(SCRIPTS))
        # With numbers, so that the words beside them are shown.
        measured = {key: 3.0 for key in ("n", "effect") if key in table}
        table = table.assign(**measured, **dict.fromkeys(columns, SCRIPTS))
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    machine = {"device": SCRIPTS, "commit": SCRIPTS[0]}
    machine["versions"] = {"torch": SCRIPTS[1], "snakemake": SCRIPTS[2]}
    (tmp_path / "provenance.json").write_text(json.dumps(PROVENANCE | machine))
    cells = [{"cell_type": "markdown", "source": [f"# {SCRIPTS[0]}"]}]
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells}))
    write_page(tmp_path, ROOT / "report", [tmp_path / "x.ipynb"])
    browser.open(tmp_path / "report.html")
    for script in (
        "document.querySelectorAll('details').forEach((each) => { each.open = true; })",
        "document.querySelectorAll('td, b, dd, a').forEach((each) => {"
        " for (const name of ['mouseover', 'focus'])"
        " each.dispatchEvent(new Event(name, { bubbles: true })); })",
        "document.querySelectorAll('th button').forEach((each) => each.click())",
    ):
        browser.js(script)
    assert browser.js("typeof pwned") == "undefined"
    assert browser.js("document.scripts.length") == 1
    ours = "[...document.images].every((each) => /^(data:|$)/.test(each.src))"
    assert browser.js(ours)
    assert not browser.errors
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    for name, columns in IN_THE_PAGE.items():
        place = "#claims" if name == "claims" else f"#table-{name}"
        text = browser.js(f"document.querySelector('{place}').textContent")
        for hostile in SCRIPTS:
            due = len(columns) - (name == "claims")  # whose source is not in the table
            assert text.count(hostile) >= due, (name, hostile)
    made_with = browser.js("document.querySelector('#made-with').textContent")
    assert all(hostile in made_with for hostile in SCRIPTS)
    assert SCRIPTS[0] in browser.js("document.querySelector('nav').textContent")
    times = len(SCRIPTS) * sum(map(len, IN_THE_PAGE.values()))
    tried("a hostile text in the HTML report", times, "shown as text, nothing run")


@pytest.mark.parametrize("samples", [HOSTILE, []])
def test_the_notebook_shows_hostile_text_as_text(
    samples: list[str], tmp_path: Path
) -> None:
    """Its own cells, run on what a model may have written, or on nothing."""
    notebook = nbformat.read(ROOT / "notebooks" / "comparison.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    [written] = [source for source in cells if "def samples" in source]
    [imports] = [source for source in cells if source.startswith("import json")]
    for model in ("left", "right"):
        path = tmp_path / "evaluations" / model / "seed0.samples.jsonl"
        path.parent.mkdir(parents=True)
        lines = [
            json.dumps(
                {
                    **{"dataset": "chat", "id": str(number), "prompt": text},
                    **{"reference": text, "prediction": text},
                },
                ensure_ascii=False,
            )
            for number, text in enumerate(samples)
        ]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    names: dict = {"folder": tmp_path, "left": "left", "right": "right", "seed": 0}
    before = imports.split("folder =")[0]
    before = "\n".join(x for x in before.splitlines() if not x.startswith("%"))
    *statements, shown = written.rsplit("\n", 1)
    exec("\n".join([before, *statements, f"page = {shown}"]), names)
    page = names["page"].data
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == (4 if samples else 0)
