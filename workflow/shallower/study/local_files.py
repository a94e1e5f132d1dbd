"""The user's own files that stages read, and what they are as of now.

Snakemake is not told their names: in a path, braces are a wildcard to it, `<results>` a
folder, and a shell would read what else a name may hold. It is told of a list with
their sizes and times (or checksums, where they are small), which is written again when
one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shallower.corpus import readers
from shallower.corpus.settings import FilesSource
from shallower.errors import UserError
from shallower.files import expanded, sha256
from shallower.pretrained.settings import FilesCheckpoint
from shallower.study.study import Study

SMALL = 1_000_000  # bytes; a larger file is told by its size and time


def local_files(study: Study) -> dict[str, list[Path]]:
    """Files by the stage that reads them, or `checkpoint-<name>`; stages that have any.

    Raises UserError, naming the key, for one that is not there.
    """
    found: dict[str, list[Path]] = {"corpus": [], "pairs": []}
    for key, source in _sources(study.corpus, "corpus"):
        stage = "pairs" if key.startswith("corpus.pairs.") else "corpus"
        found[stage] += readers.expand(source.paths, f"{key}.paths")
    if study.tokenizer.model:
        path = expanded(study.tokenizer.model)
        if not path.is_file():
            raise UserError(f"tokenizer.model: {path}: no such file")
        found["tokenizer"] = [path]
    for name, checkpoint in study.pretrained.chosen.items():
        if isinstance(checkpoint, FilesCheckpoint):
            path = checkpoint.path(f"pretrained.models.{name}")
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            found[f"checkpoint-{name}"] = [file for file in files if file.is_file()]
    return {stage: paths for stage, paths in found.items() if paths}


def _sources(section: BaseModel, key: str) -> Iterator[tuple[str, FilesSource]]:
    for name, value in section:
        for source in value if isinstance(value, list) else [value]:
            if isinstance(source, FilesSource):
                yield f"{key}.{name}", source
        if isinstance(value, BaseModel):
            yield from _sources(value, f"{key}.{name}")


def described(paths: list[Path]) -> list[dict[str, Any]]:
    """What tells a changed file from the one before."""
    rows = []
    for path in dict.fromkeys(paths):
        about = path.stat()
        row: dict[str, Any] = {"file": str(path), "bytes": about.st_size}
        if about.st_size <= SMALL:
            row["sha256"] = sha256(path)
        else:
            row["modified"] = about.st_mtime_ns
        rows.append(row)
    return rows
