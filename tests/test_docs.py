"""The site of the documentation: every link leads somewhere, and nothing is fetched."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from project import ROOT
from shallower.code import ROOT as CODE

sys.path.insert(0, str(ROOT / "docs" / "site"))
import build


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; `make test` installs what builds it."""
    if not importlib.util.find_spec("mkdocstrings"):
        pytest.skip("mkdocs is not installed; `make docs` and `make test` install it")
    folder = tmp_path_factory.mktemp("site")
    assert build.build(folder) == []  # every link leads somewhere
    return folder


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#here">b</a> <img src="no.svg">')
    (tmp_path / "b.html").write_text('<h1 id="here"></h1> <a href="a.html#gone">a</a>')
    assert build.broken_links(tmp_path.resolve()) == [
        "a.html: no.svg",
        "b.html: a.html#gone",
    ]


@pytest.mark.slow
def test_nothing_is_fetched_from_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)"', text)
        fetched += re.findall(
            r'<link[^>]* rel="stylesheet"[^>]* href="(https?:[^"]*)"', text
        )
        assert not fetched, (page, fetched)


@pytest.mark.slow
def test_every_public_module_has_its_docstrings(site: Path) -> None:
    pages = "".join(p.read_text(encoding="utf-8") for p in site.glob("api/*.html"))
    places = set(re.findall(r'id="(shallower[^"]*)"', pages))
    for package in ("models", "interventions", "training", "evaluation", "analysis"):
        for path in (CODE / package).glob("*.py"):
            name = f"shallower.{package}.{path.stem}".removesuffix(".__init__")
            assert name in places
    assert "shallower.models.llama.Attention.forward" in places
    assert "All (batch, heads, tokens, head_dim)" in pages  # a shape in a docstring
