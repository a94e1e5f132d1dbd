"""Which code makes a result: digests of modules, and the commit they come from.

Snakemake sees only a rule's command. So each stage's digests are written to a file,
`results/<study>/code/<stage>.json`, which is an input of its rules. They cover the
import closure of the stage within the package, over syntax trees without docstrings: a
comment or a line break makes nothing stale, a changed expression does.

Modules that have no influence on a result are left out: progress, clocks, launching,
peak rates, reading of files. So is what belongs to other runs: the other family, the
registries of variants (a run's specification carries its own), and layers that it does
not use.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from shallower.models.config import LlamaConfig, ModelConfig

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT.name
CHECKOUT = ROOT.parents[1]
CODE = (CHECKOUT / "Snakefile", CHECKOUT / "workflow", CHECKOUT / "report")
# Fields of a syntax tree's nodes that hold statements, or parts such as `except`,
# `case`.
BLOCKS = {"body", "orelse", "finalbody", "handlers", "cases"}

# No influence on any result: how files are read and written, how errors read.
ASIDE = {"errors", "files", "strict", "code", "machine"}
# Nor on weights and losses: how far a run is, how long it may take, who starts it.
OF_TRAINING_ASIDE = {
    *ASIDE,
    "study",  # what a specification says is in its file
    "models.registry",
    "models.memory",
    "training.peaks",
    "training.progress",
    # Several processes change the rounding, as their number does, which makes nothing
    # stale either.
    "training.distributed",
}
OF_T5 = {"models.t5", "training.t5", "evaluation.encoder_decoder"}
LAYERS = "models.layers"

# The stages of a study: the modules that their commands run, and what is left out.
STAGES: dict[str, tuple[tuple[str, ...], Collection[str]]] = {
    "corpus": (("corpus.build",), ASIDE),
    "pairs": (("corpus.pairs", "evaluation.pairs"), ASIDE),
    "tokenizer": (("tokens.source",), {*ASIDE, "study"}),
    "shards": (("tokens.shards",), ASIDE),
    "pretrained": (("evaluation.pretrained",), {*ASIDE, "study"} | OF_T5),
    "floors": (("evaluation.floors",), {*ASIDE, "study"}),
    "latency": (("evaluation.latency.job",), {*ASIDE, "study"}),
    "parameters": (("evaluation.sizes",), {*ASIDE, "study"}),
    "summary": (("analysis.summaries",), ASIDE),
    "estimates": (("analysis.write",), ASIDE),
    "figures": (("reporting.figures",), ASIDE),
    "tables": (("reporting.tables",), ASIDE),
    "provenance": (("reporting.provenance",), ASIDE),
    "page": (("reporting.page",), ASIDE),
}


def stage_code(stage: str) -> dict[str, str]:
    """Module -> digest, of everything that makes a stage's results."""
    roots, aside = STAGES[stage]
    return digests(roots, aside)


def run_code(stage: str, model: ModelConfig) -> tuple[str, dict[str, str]]:
    """The name and the digests of the code that trains or evaluates one run.

    `stage` is train or evaluate. A decoder does not depend on the code of T5, nor on
    layers that others use; one name stands for all runs with the same code.
    """
    root = {"train": "training.loop", "evaluate": "evaluation.evaluate"}[stage]
    aside, name = OF_TRAINING_ASIDE, f"{stage}-t5"
    layers = [model.ffn.layer]
    if isinstance(model, LlamaConfig):
        aside, name = aside | OF_T5, stage
        layers.append(model.head.layer)
    modules = sorted({layer.rpartition(".")[0] for layer in layers if layer})
    roots = (root, *(f"{LAYERS}.{module}" for module in modules))
    return "-".join([name, *modules]), digests(roots, aside)


def digests(roots: Collection[str], aside: Collection[str] = ()) -> dict[str, str]:
    """Digest (16 hexadecimal digits) of every module in the import closure.

    Modules go by their names in the package, e.g. 'training.loop'. `aside` are modules
    or packages that are left out, with what only they import.
    """
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in found and not _within(module, aside):
            found[module] = digest(module)
            waiting.extend(_read(module)[0])
    return dict(sorted(found.items()))


def digest(module: str) -> str:
    """Digest (16 hexadecimal digits) of one module, by its name in the package."""
    return hashlib.sha256(_read(module)[1].encode()).hexdigest()[:16]


def _within(module: str, packages: Collection[str]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages)


def module_path(module: str) -> Path:
    """The file of a module, by its name in the package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _read(module: str) -> tuple[tuple[str, ...], str]:
    """Modules of this package that `module` imports, and its normalised text.

    One pass over the syntax tree for both: Snakemake waits for it at every start.
    """
    tree = ast.parse(module_path(module).read_text(encoding="utf-8"))
    statements = list(_statements(tree))
    imports = _imports(statements)
    for node in statements:
        if (
            isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            )
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return imports, ast.dump(tree)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all statements in it; expressions, most of a tree, hold none."""
    yield node
    for field in node._fields:
        for child in getattr(node, field, None) or () if field in BLOCKS else ():
            yield from _statements(child)


def _imports(statements: list[ast.AST]) -> tuple[str, ...]:
    """Modules of this package that are imported, at the top or within a function."""
    names: list[str] = []
    for node in statements:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            # `from shallower.models import llama` names a module in the list.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    own = {
        name.removeprefix(f"{PACKAGE}.")
        for name in names
        if name.startswith(f"{PACKAGE}.")
    }
    return tuple(sorted(name for name in own if module_path(name).is_file()))


@cache
def commit() -> str:
    """The checkout's commit, with '-dirty' if files differ from it; or 'unknown'.

    It is unknown where the code is in no repository of its own: one around an unpacked
    archive is another project's. What is not tracked (data, overlays) counts as a
    difference among the code alone.
    """
    try:
        top = Path(_git("rev-parse", "--show-toplevel"))
        if top.resolve() != CHECKOUT:
            return "unknown"
        head = _git("rev-parse", "--short=12", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no")
        added = ("status", "--porcelain", "--", *map(str, CODE))
        dirty = dirty or _git(*added)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if dirty else head


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
