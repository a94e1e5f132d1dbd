"""Digests of code: what makes a result stale, and what does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from project import ROOT
from shallower import code
from shallower.models.config import HeadVariant, LlamaConfig, T5Config


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three modules: top imports middle, middle imports nothing; other."""
    root = tmp_path / "shallower"
    (root / "models").mkdir(parents=True)
    (root / "models" / "__init__.py").write_text("")
    (root / "top.py").write_text("from shallower.models import middle\n")
    (root / "models" / "middle.py").write_text('"""Doc."""\nx = 1  # why\n')
    (root / "other.py").write_text("y = 1\n")
    monkeypatch.setattr(code, "ROOT", root)
    return root


def current(*modules: str, aside: tuple[str, ...] = ()) -> dict[str, str]:
    code._read.cache_clear()
    return code.digests(modules, aside)


def test_the_closure_follows_imports(package: Path) -> None:
    assert list(current("top")) == ["models", "models.middle", "top"]
    assert list(current("top", aside=("models",))) == ["top"]
    (package / "top.py").write_text("def f():\n    import shallower.other\n")
    assert list(current("top")) == ["other", "top"]


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
    before = current("top")
    (package / "models" / "middle.py").write_text(text)
    after = current("top")
    changed = {module for module in before if before[module] != after[module]}
    assert changed == ({"models.middle"} if stale else set())


# --- the package itself ---------------------------------------------------------------

LLAMA = LlamaConfig(
    vocabulary=300, width=32, depth=2, heads=4, ffn_hidden=64, context=32
)
T5 = T5Config(
    vocabulary=402,
    width=24,
    encoder_depth=1,
    decoder_depth=1,
    heads=2,
    head_size=8,
    ffn_hidden=48,
    context=32,
)


@pytest.fixture(autouse=True)
def fresh() -> None:
    code._read.cache_clear()


def packages(modules: dict[str, str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("stage", ["summary", "estimates", "figures", "tables"])
def test_analysis_and_reporting_never_import_torch(stage: str) -> None:
    for module in code.stage_code(stage):
        tree = ast.parse(code.module_path(module).read_text())
        names = [
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        assert not [name for name in names if name.split(".")[0] == "torch"], module


def test_models_and_interventions_know_no_files_and_no_configuration() -> None:
    names = [
        f"{package}.{path.stem}"
        for package in ("models", "interventions")
        for path in (code.ROOT / package).glob("*.py")
    ]
    allowed = {"errors", "randomness", "models", "interventions"}
    assert packages(code.digests(names)) <= allowed


def test_a_decoder_depends_on_no_code_of_t5() -> None:
    name, llama = code.run_code("train", LLAMA)
    other, t5 = code.run_code("train", T5)
    assert (name, other) == ("train", "train-t5")
    assert "models.llama" in llama
    assert not [module for module in llama if "t5" in module]
    assert {"models.t5", "training.t5"} <= set(t5)


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_what_has_no_influence_is_left_out(stage: str) -> None:
    """Progress, peak rates, time limits, the registry, configuration."""
    _, modules = code.run_code(stage, LLAMA)
    assert not {"study", "analysis", "reporting", "cli"} & packages(modules)
    aside = {f"training.{part}" for part in ("progress", "peaks", "distributed")}
    assert not {"models.registry", *aside} & set(modules)
    loop = {"models.llama", "models.heads"}
    assert loop <= set(modules)


def test_a_layer_of_its_own_concerns_its_runs_alone() -> None:
    variant = HeadVariant(layer="head_scale.HeadScale")
    sizes = {k: v for k, v in vars(LLAMA).items() if k != "head"}
    name, modules = code.run_code("train", LlamaConfig(**sizes, head=variant))
    assert name == "train-head_scale"
    assert "models.layers.head_scale" in modules
    assert "models.layers.head_scale" not in code.run_code("train", LLAMA)[1]


def test_rules_depend_on_the_code_that_they_run() -> None:
    """Each rule's command, the modules that it runs, and its digests."""
    commands = {
        node.name.replace("_", "-"): {
            inner.module.removeprefix("shallower.")
            for inner in ast.walk(node)
            if isinstance(inner, ast.ImportFrom) and inner.module
        }
        for node in ast.parse((code.ROOT / "commands/stages.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    checked = 0
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"(?=^rule )", path.read_text(), flags=re.MULTILINE):
            command = re.search(r"python -m shallower ([\w-]+)", rule)
            named = re.search(r'code(?:_file|_of)\("(\w+)"\)', rule)
            if not command or command[1] in ("download", "verify", "copy", "archive"):
                continue
            assert named, rule.splitlines()[0]
            stage = named[1]
            if stage in ("train", "evaluate"):
                covered = {
                    **code.run_code(stage, LLAMA)[1],
                    **code.run_code(stage, T5)[1],
                }
                aside = code.OF_TRAINING_ASIDE
            else:
                covered, aside = code.stage_code(stage), code.STAGES[stage][1]
            missing = {
                module
                for module in commands[command[1]] - set(covered)
                if not code._within(module, {*aside, "study"})
            }
            # Launching several processes and telling of losses change no result.
            assert missing <= {"training.processes", "training.live"}, (
                rule.splitlines()[0],
                missing,
            )
            checked += 1
    assert checked >= 12
