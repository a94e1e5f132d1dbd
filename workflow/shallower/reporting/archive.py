"""A study as one file, from which its paper can be made again without training.

The file is `<results>/shallower-<study>.tar.gz`. Unpacked, it is a checkout of the code
with the study's results: specifications, losses and scores of every run, raw times, all
tables, figures, the paper; without weights, texts and tokens. `manifest.json` has the
checksum of every file. `rebuild` makes all of it again from the raw rows, the PDF too.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shallower import __version__
from shallower.errors import UserError
from shallower.files import read_json, replacing, sha256
from shallower.reporting.provenance import MADE, given, remade
from shallower.study.study import read_study

MANIFEST = "manifest.json"
LEFT_OUT = ".safetensors"  # weights: nothing in the paper is made from them again
BESIDE = (  # what is in an archive beside results that others are made from
    *("provenance.json", "runs.json", "paper.pdf", "report.html"),
    *("figures/*.svg", "notebooks/*.html", "notebooks/*.ipynb"),
    *("evaluations/*/*.interventions.json", "evaluations/pairs.parquet"),
    "corpus/pairs/manifest.json",
)
OWN = ("workflow/", "config/", "report/", "notebooks/")  # where new files count as code


def write_archive(directory: Path, root: Path = Path()) -> Path:
    """Write the archive of the study in `directory`, and return its path.

    `root` is the checkout, below which `directory` is. The same files give the same
    bytes. Raises UserError if there is no finished paper.
    """
    if not (directory / "paper.pdf").is_file():
        raise UserError(f"{directory / 'paper.pdf'}: missing; run snakemake first")
    name = f"shallower-{read_study(directory / 'study.json').study}"
    files = sorted({*code_files(root), *result_files(directory, root)})
    content = about(directory, root)
    content["sha256"] = {path: sha256(root / path) for path in files}
    output = directory / f"{name}.tar.gz"
    with (
        replacing(output) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        manifest = (json.dumps(content, indent=2) + "\n").encode()
        _add(archive, f"{name}/{MANIFEST}", manifest)
        for path in files:
            mode = 0o755 if os.access(root / path, os.X_OK) else 0o644
            _add(archive, f"{name}/{path}", (root / path).read_bytes(), mode)
    return output


def about(directory: Path, root: Path) -> dict[str, Any]:
    """What the archive is, before its list of checksums."""
    provenance = read_json(directory / "provenance.json")
    return {
        "study": provenance["study"],
        "version": __version__,
        "results": str(directory.relative_to(root)),
        **{key: provenance[key] for key in ("commit", "dirty", "device", "versions")},
        "rebuild": "make verify-archive",
    }


def code_files(root: Path) -> Iterator[str]:
    """Files of the checkout: those that git knows, and new ones among its own folders.

    In an unpacked archive, where git knows none, those of its manifest.
    """
    if (root / MANIFEST).is_file():
        unpacked = read_json(root / MANIFEST)
        yield from (p for p in unpacked["sha256"] if not p.startswith("results/"))
        return
    for new in (False, True):
        for path in _git_files(root, new):
            if (not new or path.startswith(OWN)) and (root / path).is_file():
                yield path


def _git_files(root: Path, new: bool) -> list[str]:
    options = ["--others", "--exclude-standard"] if new else ["--cached"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=root, capture_output=True, check=False
    )
    if listed.returncode:
        raise UserError(f"{root.resolve()}: no git checkout, whose files are archived")
    return [name for name in listed.stdout.decode().split("\0") if name]


def result_files(directory: Path, root: Path) -> Iterator[str]:
    """Results that the paper is made from, or that are made with it; no weights."""
    for pattern in (*given(read_study(directory / "study.json")), *MADE, *BESIDE):
        if not pattern.endswith(LEFT_OUT):
            yield from (str(path.relative_to(root)) for path in directory.glob(pattern))


def _add(
    archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


# --- checks ---------------------------------------------------------------------------


def verify_archive(archive: Path) -> list[str]:
    """What is wrong with an archive, or with the folder that it was unpacked to.

    Its manifest is checked, then its own code makes the paper again, in a new process.
    """
    if archive.is_dir():
        return _verify_folder(archive)
    with tempfile.TemporaryDirectory() as name:
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(name, filter="data")
        except (OSError, tarfile.TarError, EOFError) as error:
            raise UserError(f"{archive}: not an archive: {error}") from None
        (folder,) = Path(name).iterdir()
        return _verify_folder(folder)


def _verify_folder(folder: Path) -> list[str]:
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder / MANIFEST}: missing; expected a file that `snakemake archive` "
            "wrote (ARCHIVE=...), or the folder of one"
        )
    manifest = read_json(folder / MANIFEST)
    problems = []
    for path, due in manifest["sha256"].items():
        if not (folder / path).is_file():
            problems.append(f"{path}: missing")
        elif sha256(folder / path) != due:
            problems.append(f"{path}: checksum differs from {MANIFEST}")
    if problems:
        return problems
    command = [sys.executable, "-m", "shallower", "rebuild"]
    ran = subprocess.run(
        [*command, "--results", manifest["results"]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str((folder / "workflow").resolve())},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = ran.stderr.strip().removeprefix("shallower rebuild: ") or "failed"
    return said.splitlines() if ran.returncode else []


def rebuild(directory: Path, processes: int = 1) -> list[str]:
    """Make everything from raw rows to the PDF again; what differs, a line each."""
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        problems = remade(directory, fresh, processes)
        return problems or papers_differ(directory / "paper.pdf", typeset(fresh))


def typeset(folder: Path) -> Path:
    """The paper of the figures, tables and numbers in a folder."""
    ran = subprocess.run(
        ["bash", "report/typeset.sh", folder],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ran.returncode:
        reason = (ran.stderr or ran.stdout).strip().splitlines()[-1:]
        raise UserError(f"report/typeset.sh: {' '.join(reason) or 'failed'}")
    return folder / "typeset" / "paper.pdf"


def papers_differ(ours: Path, fresh: Path) -> list[str]:
    """Nothing for equal bytes, or for equal words where another TeX typeset them."""
    if ours.read_bytes() == fresh.read_bytes() or words(ours) == words(fresh):
        return []
    return [f"{ours}: not what the current results give"]


def words(paper: Path) -> list[str]:
    """The words of a PDF, in their order."""
    text = subprocess.run(
        ["pdftotext", paper, "-"], capture_output=True, text=True, check=True
    )
    return text.stdout.split()
