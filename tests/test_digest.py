"""Code digests: what makes a result stale, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shallower import digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three modules: top imports middle imports nothing; other."""
    root = tmp_path / "shallower"
    (root / "models").mkdir(parents=True)
    (root / "models" / "__init__.py").write_text("")
    (root / "top.py").write_text("from shallower.models import middle\n")
    (root / "models" / "middle.py").write_text('"""Doc."""\nx = 1  # why\n')
    (root / "other.py").write_text("y = 1\n")
    monkeypatch.setattr(digest, "ROOT", root)
    return root


def current(*modules: str) -> str:
    for cached in (digest._tree, digest._imports, digest._normalised):
        cached.cache_clear()
    return digest.code_digest(*modules)


def test_closure_follows_imports(package: Path) -> None:
    current("top")
    assert digest.closure("top") == ["models", "models.middle", "top"]


def test_imports_inside_functions_count(package: Path) -> None:
    (package / "top.py").write_text("def f():\n    import shallower.other\n")
    current("top")
    assert digest.closure("top") == ["other", "top"]


@pytest.mark.parametrize(
    ("text", "stale"),
    [
        ('"""Other words."""\n\nx = 1\n', False),
        ("x = (1)  # another comment\n", False),
        ('"""Doc."""\nx = 2\n', True),
        ('"""Doc."""\nx = 1\nz = 3\n', True),
    ],
)
def test_what_makes_stale(package: Path, text: str, stale: bool) -> None:
    before = current("top"), current("other")
    (package / "models" / "middle.py").write_text(text)
    assert (current("top") != before[0]) == stale
    assert current("other") == before[1]


def test_reporting_never_imports_torch() -> None:
    for cached in (digest._tree, digest._imports, digest._normalised):
        cached.cache_clear()
    modules = ["analysis.summary", "analysis.comparisons", "reporting.figures"]
    modules += ["reporting.tables", "reporting.numbers"]
    for module in digest.closure(*modules):
        text = digest._path(module).read_text()
        assert "import torch" not in text, module
        assert "from torch" not in text, module


def test_models_know_nothing_of_files_and_configuration() -> None:
    for cached in (digest._tree, digest._imports, digest._normalised):
        cached.cache_clear()
    names = [f"models.{p.stem}" for p in (digest.ROOT / "models").glob("*.py")]
    reached = digest.closure(*names)
    allowed = {"errors", "randomness", "models"}
    assert {m for m in reached if not m.startswith("models.")} <= allowed


def test_a_figures_code_is_not_trainings() -> None:
    assert not [m for m in digest.closure("training.loop") if "reporting" in m]
    assert "config" not in digest.closure("training.loop", "evaluation.latency")
