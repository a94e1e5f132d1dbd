"""Code digests: what makes a result stale, and what does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from conftest import ROOT
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
    digest._read.cache_clear()
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
    digest._read.cache_clear()
    modules = ["analysis.summary", "analysis.comparisons", "reporting.figures"]
    modules += ["reporting.tables", "reporting.numbers"]
    for module in digest.closure(*modules):
        text = digest._path(module).read_text()
        assert "import torch" not in text, module
        assert "from torch" not in text, module


def test_models_know_nothing_of_files_and_configuration() -> None:
    digest._read.cache_clear()
    names = [f"models.{p.stem}" for p in (digest.ROOT / "models").glob("*.py")]
    reached = digest.closure(*names)
    allowed = {"errors", "randomness", "models"}
    assert {m for m in reached if not m.startswith("models.")} <= allowed


def test_a_figures_code_is_not_trainings() -> None:
    assert not [m for m in digest.closure("training.loop") if "reporting" in m]
    stages = ("corpus.build", "tokens.shards", "training.loop")
    stages += ("evaluation.evaluate", "evaluation.arms", "evaluation.latency")
    # A new section of the configuration, or a new entry in the registry, is no
    # reason to do anything again: what a run needs of them is in its specification.
    assert not {"config", "models.registry"} & set(digest.closure(*stages))
    assert "training.progress" not in digest.closure("training.loop")
    # Shards are read through Parquet; how documents were cleaned is in their bytes.
    corpus = {m for m in digest.closure("training.loop") if m.startswith("corpus")}
    assert corpus <= {"corpus.parquet"}


def test_rules_carry_the_digest_of_what_they_run() -> None:
    """Each rule's command and the module that cli.py runs for it."""
    digest._read.cache_clear()
    runs = {
        node.name.removeprefix("run_").replace("_", "-"): {
            inner.module.removeprefix("shallower.")
            for inner in ast.walk(node)
            if isinstance(inner, ast.ImportFrom) and inner.module
        }
        for node in ast.parse((digest.ROOT / "cli.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("run_")
    }
    # What only checks or reports has no influence on the result.
    harmless = {"config", "sections", "wanted", "training.progress", "errors", "files"}
    checked = 0
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"(?=^rule )", path.read_text(), flags=re.MULTILINE):
            command = re.search(r"python -m shallower (\w+)", rule)
            if not command:
                continue
            named = re.search(r"code_digest\(([^)]*)\)", rule)
            assert named, rule.splitlines()[0]
            covered = set(digest.closure(*re.findall(r'"([\w.]+)"', named[1])))
            missing = runs[command[1]] - covered - harmless - {"tokens"}
            assert not missing, (rule.splitlines()[0], missing)
            checked += 1
    assert checked >= 9
