"""What code made a result: digests of modules and of the commit they came from.

Snakemake sees only a rule's command, so each rule carries the digest of the package
modules it runs as a parameter. The digest covers a module's import closure within the
package, over the syntax tree without docstrings: a comment or a line break does not
retrain anything, a changed expression does.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT.name
# Fields of a syntax tree's nodes that hold statements, or what does (`except`, `case`).
BLOCKS = {"body", "orelse", "finalbody", "handlers", "cases"}


def code_digest(*modules: str) -> str:
    """Digest (16 hexadecimal digits) of modules, e.g. 'training.loop', and imports."""
    digest = hashlib.sha256()
    for module in closure(*modules):
        digest.update(f"{module}\n{_read(module)[1]}\n".encode())
    return digest.hexdigest()[:16]


def closure(*modules: str) -> list[str]:
    """The modules and every module of the package they import, sorted."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(_read(module)[0])
    return sorted(found)


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _read(module: str) -> tuple[tuple[str, ...], str]:
    """Modules of this package that `module` imports, and its normalised text.

    One look at the syntax tree for both: Snakemake waits for it at every start.
    """
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
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
    return tuple(sorted(name for name in own if _path(name).is_file()))


@cache
def commit() -> str:
    """The checkout's commit, with '-dirty' if files differ from it; or 'unknown'."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        dirty = _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if dirty else head


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
