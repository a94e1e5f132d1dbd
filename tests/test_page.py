"""report.html in a browser: what is shown, sorted and chosen, without a network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from browser import Browser
from project import ROOT, Project
from shallower.analysis.results import Results
from shallower.reporting import style
from shallower.reporting.contents import FIGURES, VERDICTS
from shallower.reporting.page import PLOT, claim_rows, heading, interval, write_page

NOTEBOOKS = [
    ROOT / "notebooks" / f"{name}.ipynb" for name in ("training", "comparison")
]
ABSENT = "ffn"  # a figure that the study of `page` does not have
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{}pt" height="80pt" '
    'viewBox="0 0 240 80"><rect width="200" height="60"/></svg>'
)
PROVENANCE = {
    "commit": "0123456789ab",
    "dirty": False,
    "device": ["a machine"],
    "versions": {"torch": "2", "snakemake": "9"},
}


def write_parts(results: Results, folder: Path) -> None:
    """What a page is made of, from a made-up study; figures are rectangles."""
    for path in results.directory.glob("*.[cj]s*"):
        shutil.copy(path, folder)
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE))
    (folder / "figures").mkdir()
    for number, name in enumerate(FIGURES):
        svg = SVG.format(504 if number % 2 else 244.8)
        (folder / "figures" / f"{name}.svg").write_text(svg)
    style.save(style.absent(ABSENT), folder / "figures", ABSENT, ["svg"])


@pytest.fixture(scope="module")
def page(analysed: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up study."""
    folder = tmp_path_factory.mktemp("page")
    write_parts(analysed, folder)
    write_page(folder, ROOT / "report", NOTEBOOKS)
    return folder / "report.html"


def column(browser: Browser, table: str, number: int) -> list[str]:
    """What the visible rows of a table have in a column."""
    return browser.js(
        f"[...document.querySelectorAll('{table} tbody tr:not([hidden])')]"
        f".map((row) => row.cells[{number}].innerText.trim())"
    )


def click(browser: Browser, selector: str) -> None:
    browser.js(f"document.querySelector({json.dumps(selector)}).click()")


def walk(browser: Browser, page: Path) -> list[str]:
    """Go to every section, as a reader does. Returns the figures that were seen."""
    browser.open(page)
    browser.js("document.documentElement.style.scrollBehavior = 'auto'")
    links = browser.js(
        "[...document.querySelectorAll('nav a[href^=\"#\"]')].map((a) => a.hash)"
    )
    assert len(links) >= 6
    for link in links:
        click(browser, f'nav a[href="{link}"]')
        top = browser.js(
            f"document.querySelector('{link}').getBoundingClientRect().top"
        )
        end = browser.js("scrollY + innerHeight >= document.body.scrollHeight - 2")
        assert -5 <= top <= 60 or end, (link, top)
        assert browser.js(f"document.querySelector('{link}').innerText.length > 20")
    seen = []
    for figure in browser.js(
        "[...document.querySelectorAll('#figures figure')].map((f) => f.id)"
    ):
        # Decoded, of some size, and on the page.
        shown = browser.js(
            "(async (f) => { f.scrollIntoView(); const image = f.querySelector('img');"
            " await image.decode(); const box = image.getBoundingClientRect();"
            " return image.naturalWidth > 0 && box.width > 200 && box.height > 50"
            " && f.querySelector('figcaption').innerText.length > 40; })"
            f"(document.getElementById('{figure}'))"
        )
        assert shown, figure
        seen.append(figure.removeprefix("figure-"))
    assert not browser.errors
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    return seen


def test_every_section_and_figure(browser: Browser, page: Path) -> None:
    assert sorted(walk(browser, page)) == sorted(set(FIGURES) - {ABSENT})
    title = FIGURES[ABSENT][1]
    assert f"Not in this study: {title}" in browser.js("document.body.innerText")


def test_claims_are_sorted_and_chosen(browser: Browser, page: Path) -> None:
    browser.open(page)
    claims = pd.read_csv(page.parent / "claims.csv")
    assert column(browser, "#claims", 0) == list(claims["id"])
    verdicts = "#claims th:nth-child(5) button"
    click(browser, verdicts)
    ordered = sorted(claims["verdict"], key=VERDICTS.index)
    assert column(browser, "#claims", 4) == ordered
    click(browser, verdicts)
    assert column(browser, "#claims", 4) == ordered[::-1]
    click(browser, "#claims th:nth-child(3) button")
    effects = claims.set_index("id")["effect"].sort_values(kind="stable")
    shown = column(browser, "#claims", 0)
    assert [effects[name] for name in shown[: effects.count()]] == list(
        effects.dropna()
    )

    name = claims["verdict"].mode()[0]
    click(browser, f'.bar [data-verdict="{name}"]')
    assert set(column(browser, "#claims", 4)) == {name}
    click(browser, f'.bar [data-verdict="{name}"]')
    browser.js("find.value = 'FFNs'; find.dispatchEvent(new Event('input'))")
    found = column(browser, "#claims", 1)
    assert 0 < len(found) < len(claims)
    assert all("ffns" in text.lower() for text in found)
    assert not browser.errors


def test_tables_and_a_figure_in_the_whole_window(browser: Browser, page: Path) -> None:
    browser.open(page)
    for name in ("pareto", "gates", "parameters", "estimates"):
        table = f"#table-{name}"
        click(browser, f"{table} summary")
        rows = len(pd.read_csv(page.parent / f"{name}.csv"))
        assert len(column(browser, table, 0)) == rows > 0
    click(browser, "#table-parameters th:nth-child(4) button")
    trained = [int(x.replace(",", "")) for x in column(browser, "#table-parameters", 3)]
    assert trained == sorted(trained)
    click(browser, "#figure-qa .zoom")
    assert browser.js("enlarged.open && enlarged.querySelector('img').naturalWidth > 0")
    click(browser, "#enlarged")
    assert not browser.js("enlarged.open")
    assert not browser.errors


def test_links_are_to_files_of_a_study(page: Path) -> None:
    links = re.findall(r'href="(?!#|data:)([^"]*)"', page.read_text())
    made = {"paper.pdf", "study.json", "provenance.json"}
    made |= {f"notebooks/{path.stem}.html" for path in NOTEBOOKS}
    made |= {f"figures/{name}.pdf" for name in FIGURES}
    assert set(links) - made == {path.name for path in page.parent.glob("*.csv")}
    assert [heading(path) for path in NOTEBOOKS] == [
        "Training curves of one run",
        "Two models compared",
    ]


def claim(**values: object) -> dict[str, object]:
    usual = {"id": "X", "source": "S1", "claim": "x", "kind": "quality", "note": None}
    usual |= {"scale": "study", "replicates": "seeds", "n": 3, "verdict": "supported"}
    usual |= {"effect": -0.02, "ci_low": -0.04, "ci_high": 0.0, "unit": "nats"}
    return {**usual, "threshold": 0.06, **values}


def test_where_an_interval_is_drawn() -> None:
    width, margin = PLOT
    drawn = interval(claim())
    assert drawn is not None
    assert (drawn.low, drawn.threshold) == (margin, width - margin)
    assert (
        drawn.high == drawn.null == pytest.approx(margin + 0.4 * (width - 2 * margin))
    )
    ratio = interval(
        claim(unit="ratio", effect=1.2, ci_low=1.1, ci_high=1.3, threshold=1)
    )
    assert ratio is not None
    assert (ratio.null, ratio.threshold) == (margin, None)
    assert interval(claim(ci_low=float("nan"))) is None


def test_how_a_claim_is_printed() -> None:
    (row,) = claim_rows(pd.DataFrame([claim()]))
    assert (row["effect"], row["interval"]) == ("−0.020 nats", "[−0.040, 0.000]")
    assert row["about"] == "quality, 3 seeds"
    (row,) = claim_rows(pd.DataFrame([claim(unit="ratio", scale="original")]))
    assert row["effect"].endswith("×")
    assert row["about"] == "quality, original size, 3 seeds"
    (row,) = claim_rows(pd.DataFrame([claim(effect=float("nan"), ci_low=float("nan"))]))
    assert (row["effect"], row["interval"], row["key"]) == ("", "", "")


@pytest.mark.smoke
def test_the_page_of_a_study_that_ran(browser: Browser, project: Project) -> None:
    page = project.results / "report.html"
    seen = walk(browser, page)
    absent = {n for n in FIGURES if n not in seen}
    for name in absent:
        svg = (project.results / "figures" / f"{name}.svg").read_text()
        assert style.NOT_IN_THIS_STUDY in svg
    assert {"perplexity_latency", "training_loss", "front_per_token"} <= set(seen)
    for link in re.findall(r'href="(?!#|data:)([^"]*)"', page.read_text()):
        assert (page.parent / link).is_file(), link
    for notebook in (project.results / "notebooks").glob("*.html"):
        browser.open(notebook)
    assert not browser.errors
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data", "blob"}
