"""CONTRIBUTING.md followed literally: each recipe's code, in a copy of the package.

The first line of a code block says where it belongs: `# <module>` (a new one),
`# <module>, above <name>` or `# <module>, in <name>` (a new entry of a collection, or
of what a function returns).
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
import typer

from project import ROOT
from shallower import cli

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "workflow" / "shallower"
BLOCK = re.compile(
    r"^```python\n# (\S+\.py)(?:, (above|in) (\w+))?\n(.*?)^```", re.M | re.S
)


def recipes() -> list[tuple[str, str, str, str]]:
    """(module, above | in | '', name, code) of every code block, in order."""
    return BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def follow(package: Path, module: str, where: str, name: str, code: str) -> None:
    path = package / module
    if not where:
        assert not path.exists(), f"{module} exists: its recipe says it is new"
        path.write_text(code, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    node = definition(ast.parse(text), name)
    if where == "above":
        at = offset(text, node.lineno, 0)
        code = f"{code}\n\n"
    else:
        end = collection(node)
        at = offset(text, end.end_lineno, end.end_col_offset) - 1  # type: ignore[arg-type]
        last = max(ast.iter_child_nodes(end), key=position)
        rest = text[offset(text, *position(last)) : at]
        text = text[:at].rstrip() + ("" if "," in rest else ",") + text[at:]
        at += len(text) - len(path.read_text(encoding="utf-8"))
        code = "\n" + indent(code.rstrip("\n,") + ",\n", "    ")
    path.write_text(text[:at] + code + text[at:], encoding="utf-8")


def definition(tree: ast.AST, name: str) -> ast.stmt:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(
            isinstance(target, ast.Name) and target.id == name for target in targets
        ):
            return node
    raise AssertionError(f"nothing is called {name}")


def collection(node: ast.stmt) -> ast.expr:
    """The collection that a name stands for, or that a function returns at its end."""
    if isinstance(node, ast.FunctionDef):
        node = node.body[-1]
    value = getattr(node, "value", None)
    if value is None and isinstance(node, ast.AnnAssign):  # a field: Literal[...]
        value = node.annotation
    assert isinstance(value, ast.Dict | ast.List | ast.Tuple | ast.Subscript)
    return value


def position(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "end_lineno", 0), getattr(node, "end_col_offset", 0)


def offset(text: str, line: int, column: int) -> int:
    """Place in the text of a line, counted from 1, and a column, counted in bytes."""
    lines = text.splitlines(keepends=True)
    before = lines[line - 1].encode()[:column].decode()
    return sum(map(len, lines[: line - 1])) + len(before)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with everything that the recipes add."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "shallower", ignore=ignored)
    for recipe in recipes():
        follow(folder / "shallower", *recipe)
    return folder


def check(copy: Path, program: str) -> None:
    """Run a program on the copy, with this folder's helpers."""
    first = f"import shallower; assert shallower.__file__.startswith({str(copy)!r})\n"
    path = os.pathsep.join([str(copy), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", first + program],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": path, "ROOT": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


MODELS = """
import os
from pathlib import Path
import torch
import t5_models
from models_for_tests import build, cached, tiny, token_ids
from shallower.models.costs import forward_flops
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.t5 import T5LM
from shallower.models.transforms import deploy
from shallower.study.configuration import merge
from shallower.study.schema import Training
from shallower.study.study import load_study
from shallower.training.step import make_optimizer, training_step

settings = Training(steps=3, batch_size=3, learning_rate=1e-2)
tokens = token_ids()
for head, ffn in (
    ("tanh_gate", None), ("low_rank", None), ("baseline", FFNS["squared_relu"])
):
    model = initialise(LlamaLM(tiny(head, ffn)), 0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, settings)
    for _ in range(2):  # in the first, some gradients are zero by the start values
        training_step(model, optimizer, tokens[:, :-1], tokens[:, 1:], settings)
    for name, p in model.named_parameters():
        assert p.grad.abs().sum() > 0, name
        assert not torch.equal(p, before[name]), name
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        due = model(tokens)
        assert (cached(model, tokens) - due).abs().max() < 1e-10
        assert (deploy(model)(tokens) - due).abs().max() < 1e-10

added = 2 * 2 * 4 * 8 * 2  # blocks, matrices, heads, head_dim, rank
assert forward_flops(tiny("low_rank")) - forward_flops(tiny()) == 2 * added
block = build("low_rank").blocks[0].attention
assert block.parallel
fresh, plain = LlamaLM(tiny("low_rank")), LlamaLM(tiny())
assert torch.equal(initialise(fresh, 0)(tokens), initialise(plain, 0)(tokens))
fresh = initialise(T5LM(t5_models.tiny(FFNS["squared_relu"])), 0)
assert any(type(module).__name__ == "SquaredRelu" for module in fresh.modules())

root = Path(os.environ["ROOT"])
values = merge(root / "config.yaml", [root / "config" / "smoke.yaml"])
names = ["low_rank", "tanh_gate", "squared_relu"]
values["experiments"]["head"] += [{"variants": names, "depths": [5], "seeds": [0]}]
study = load_study(values)
assert study.spec("low_rank-5", 0).model.head == HEADS["low_rank"]
assert study.spec("squared_relu-5", 0).model.ffn == FFNS["squared_relu"]
"""

INTERVENTIONS = """
from shallower.interventions.base import Intervention
from shallower.interventions.eliminate import RULES, Eliminate, linear_profile
from shallower.interventions.skip import Skip

skip = Skip.parse("attention.middle.2")
assert str(skip) == "attention.middle.2" and not skip.needs_model
assert skip.blocks(8) == (3, 4)
rule = Eliminate.parse("linear_random.2")
found = rule.elimination((1.0,) * 4, 4)
assert (found.ranking, found.profile) == ("random", linear_profile(4))
assert Intervention.parse(str(skip), str(rule))
"""

ANALYSIS = """
from pathlib import Path
import pandas as pd
from made_up import FFNS, HEADS, MadeUp, default_configuration, study_of
from shallower.analysis.results import Results
from shallower.analysis.write import write_analysis
from shallower.reporting.contents import FIGURES, TABLES
from shallower.reporting.figures import all_figures
from shallower.reporting.tables import all_tables

folder = Path("study")
grids = [grid for grid in FFNS["ffn"] if "none" in grid["variants"]]
more = {"ffn": grids, "learning_rate": HEADS["learning_rate"]}
MadeUp(study_of(default_configuration(), **more), folder).results()
write_analysis(folder)
row = pd.read_csv(folder / "claims.csv").set_index("id").loc["S2-13"]
assert row["verdict"] in ("supported", "not supported", "inconclusive")
estimates = pd.read_csv(folder / "estimates.csv").set_index("id")
due = estimates.loc["difference one_matrix-4 - none-4 | text cross_entropy"]
assert abs(row["effect"] - due["effect"]) < 1e-9
results = Results.read(folder)
assert "one_matrix" in TABLES and "one_matrix" in FIGURES
table = all_tables()["one_matrix"](results)
assert f"{abs(due['effect']):.3f}" in table, table
points = all_figures()["one_matrix"](results).axes[0].lines[1].get_xdata()
assert abs(points[0] - due["effect"]) < 1e-9
"""

METRICS = """
from shallower.evaluation.metrics import METRICS, score_pair
from shallower.evaluation.table import Part, Row, table_of
from shallower.evaluation.units import unit_of

assert METRICS[-1] == "jaccard" and unit_of("jaccard.mismatched") == "ratio"
scores = score_pair("the cat sat", "the cat ran off")
assert tuple(scores) == METRICS and scores["jaccard"] == 2 / 5
rows = [Row("qa", "", "0", metric, score, 1) for metric, score in scores.items()]
assert len(table_of([Part("", "trained", rows)])) == len(METRICS)
"""

SOURCES = """
import sys
from pathlib import Path
from shallower.corpus import sources
from shallower.corpus.settings import PackageSource

info = Path("installed") / "fake_data-1.2.dist-info"
info.mkdir(parents=True)
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: fake-data\\nVersion: 1.2")
(info / "RECORD").write_text("texts.txt,,\\n")
(info.parent / "texts.txt").write_text("One text.\\nAnother text.\\n")
sys.path.insert(0, str(info.parent.resolve()))
source = PackageSource(source="package", name="fake-data", version="1.2",
                       file="texts.txt", layout="lines", licence="none")
rows = list(sources.load(source, "documents", "corpus.text").rows)
assert [row["text"] for row in rows] == ["One text.", "Another text."]
assert rows[1]["title"] == "texts 2"
"""


@pytest.mark.parametrize(
    "program",
    [MODELS, INTERVENTIONS, ANALYSIS, METRICS, SOURCES],
    ids=["models", "interventions", "analysis", "metrics", "sources"],
)
def test_what_the_recipes_add_works(copy: Path, program: str) -> None:
    check(copy, program)


def test_recipes_pass_the_linter(copy: Path) -> None:
    """They add nothing to what the linter finds in the package."""
    assert findings(copy / "shallower") == findings(PACKAGE)


def findings(package: Path) -> int:
    command = ["ruff", "check", "--config", ROOT / "pyproject.toml", "--quiet"]
    command += ["--output-format", "concise", "."]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True)
    assert done.returncode < 2, done.stderr
    return len(done.stdout.splitlines())


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_is_named_exists(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.M | re.S)
    made = {".sha256/", "results/", "figures/", "tables/", "numbers/"}
    made |= {"settings/", "code/"}
    for path in re.findall(r"`([\w./-]+(?:/|\.py|\.smk|\.tex|\.yaml))`", text):
        if path in made or path.endswith(("numbers.tex", "spec.yaml")):
            continue
        there = [folder / path for folder in (ROOT, PACKAGE, ROOT / "workflow/rules")]
        anywhere = [] if "/" in path else list(PACKAGE.rglob(path))
        assert anywhere or any(place.exists() for place in there), path


def test_the_rule_graph_has_every_rule() -> None:
    """The picture is made by `make rulegraph`."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"id\d+\[(\w+)\]", text))
    rules = set()
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        rules |= set(re.findall(r"^(?:rule|checkpoint) (\w+):", file.read_text(), re.M))
    # Targets by themselves, and what the default study has none of.
    assert rules - shown <= {
        *("verify", "archive", "notebooks", "download", "pretrained", "pairs")
    }


DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
]


MADE_UP = ("config/mine.yaml", "config/my-study.yaml")  # the reader's own


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_that_is_named_exists(path: Path) -> None:
    """Commands and options of `shallower`, targets of make, overlays, links."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"shallower ([a-z][a-z0-9-]*)\b([^`\n#]*)", text):
        if f"`shallower {name}" not in text and not rest.lstrip().startswith("--"):
            continue  # a word of a sentence
        known = {option for each in commands[name].params for option in each.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (name, rest)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M)) <= {*targets}
    for name in re.findall(r"config/[\w-]+\.yaml", text):
        made = f"```yaml\n# {name}\n" in text or name in MADE_UP
        assert (ROOT / name).is_file() or made, name
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (path.parent / link).exists(), link
