"""Build the documentation as a site: `make docs`, `python docs/site/build.py FOLDER`.

Pages are the repository's own Markdown files, in their places, and a page of each
package made from its docstrings. Files that pages link to come along. No network is
needed. The packages are in `envs/docs.lock`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "workflow" / "shallower"
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/*.md",
    "docs/**/*.md",
]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
HREF = re.compile(r'\b(?:href|src)="([^"]+)"')
PLACE = re.compile(r'\bid="([^"]+)"')
OUTSIDE = ("http:", "https:", "mailto:", "data:", "javascript:")
NOT_PAGES = {"404.html"}  # its links are those of a server's root
BESIDE = {"__main__", "cli", "commands", "terminal"}  # no library


def build(output: Path) -> list[str]:
    """Write the site to `output`. Returns what is wrong with it: broken links."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = yaml.safe_dump(gather(folder), sort_keys=False)
        (folder / "mkdocs.yml").write_text(content)
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet"]
        ran = subprocess.run(
            [*command, "--config-file", "mkdocs.yml", "--site-dir", output.resolve()],
            cwd=folder,
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
    said = ran.stderr.splitlines()
    if ran.returncode:
        return said
    warnings = [line for line in said if line.startswith(("WARNING", "ERROR"))]
    return warnings + broken_links(output.resolve())


def gather(folder: Path) -> dict[str, Any]:
    """All pages, in `folder`/pages, and the configuration of mkdocs for them."""
    configuration = yaml.safe_load((Path(__file__).parent / "mkdocs.yml").read_text())
    pages = folder / "pages"
    sources = sorted(path for pattern in PAGES for path in ROOT.glob(pattern))
    for source in sources:
        copy_page(source, pages)
    listed = str(configuration["nav"])
    more = [str(s.relative_to(ROOT)) for s in sources]
    more = [name for name in more if f"'{name}'" not in listed]
    if more:  # a new page needs no entry
        configuration["nav"][1]["Use it"] += more
    configuration["nav"].append({"Look it up": api_pages(pages)})
    python = configuration["plugins"][1]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT / "workflow")]
    return configuration


def copy_page(source: Path, pages: Path) -> None:
    """A page, and the files of the repository that it links to."""
    text = MERMAID.sub(needs, source.read_text(encoding="utf-8"))

    def target(match: re.Match[str]) -> str:
        link = match[1]
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        linked = (source.parent / link).resolve()
        if linked.is_file() and linked.suffix != ".md":
            copied = pages / linked.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            # Without an ending it would be no file of a site.
            copied = copied.with_suffix(copied.suffix or ".txt")
            shutil.copy(linked, copied)
            return match[0] if linked.suffix else f"]({link}.txt)"
        return match[0]

    page = pages / source.relative_to(ROOT)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(LINK.sub(target, text), encoding="utf-8")


def needs(graph: re.Match[str]) -> str:
    """A graph of rules as a table: to draw it takes a script from a network."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph[1]))
    rows: dict[str, list[str]] = {}
    for needed, by in re.findall(r"(id\d+) --> (id\d+)", graph[1]):
        rows.setdefault(names[by], []).append(f"`{names[needed]}`")
    lines = [f"| `{rule}` | {', '.join(sorted(of))} |\n" for rule, of in rows.items()]
    return "".join(["| rule | needs |\n|---|---|\n", *lines])


def api_pages(pages: Path) -> list[dict[str, str]]:
    """A page for each package with all of its public modules, from their docstrings."""
    modules: dict[str, list[str]] = {}
    for path in sorted(CODE.rglob("*.py")):
        parts = path.relative_to(CODE).with_suffix("").parts
        if parts[0] in BESIDE or parts == ("__init__",):
            continue
        package = parts[0] if len(parts) > 1 else "others"
        name = ".".join(("shallower", *parts)).removesuffix(".__init__")
        modules.setdefault(package, []).append(name)
    (pages / "api").mkdir()
    entries = []
    for package, names in modules.items():
        blocks = "\n".join(f"::: {name}\n" for name in sorted(names))
        page = f"# {package}\n\n{blocks}"
        (pages / "api" / f"{package}.md").write_text(page)
        entries.append({package: f"api/{package}.md"})
    return entries


def broken_links(site: Path) -> list[str]:
    """Links of all pages that lead to no file, or to no place in it."""
    pages = {
        path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))
    }
    places = {p: set(map(unescape, PLACE.findall(text))) for p, text in pages.items()}
    problems = []
    for page, text in pages.items():
        for link in HREF.findall(text) if page.name not in NOT_PAGES else ():
            if link.startswith(OUTSIDE):
                continue
            name, _, anchor = unquote(unescape(link)).partition("#")
            target = (page.parent / name).resolve() if name else page
            missing = not target.is_file()
            if missing or (
                anchor and target in places and anchor not in places[target]
            ):
                problems.append(f"{page.relative_to(site)}: {link}")
    return problems


if __name__ == "__main__":
    problems = build(Path(sys.argv[1]))
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    sys.exit(bool(problems))
