"""What was downloaded from the hub: its folder, and the locked revision.

Nothing here uses the network; `hub.py` does. A download is a folder with the data files
of a split, as the hub has them, and a `manifest.json`, which is written last. The lock
is a YAML file, meant to be committed, with the commit of each repository's branch or
tag at the time of its first download.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel

from shallower.corpus.settings import Corpus, HubSource, Kind
from shallower.errors import UserError
from shallower.files import read_json, sha256

# Relative to the project, like the paths of local files: shared by all studies.
FOLDER = Path("resources/hub")
LOCK = Path("config/hub.lock.yaml")
MANIFEST = "manifest.json"

Repositories = Literal["datasets", "models"]
COMMIT = re.compile(r"[0-9a-f]{40}")
_KINDS: dict[str, Kind] = {
    "chat": "conversations",
    "qa": "answers",
    "pairs": "pairs",
}


class Wanted(NamedTuple):
    """A hub source of the configuration, with its key."""

    key: str
    kind: Kind
    source: HubSource


def hub_sources(corpus: Corpus) -> dict[str, Wanted]:
    """Every hub source of a corpus, by the name of its folder, each once."""
    found: dict[str, Wanted] = {}
    for key, source in _walk(corpus, "corpus"):
        kind = _KINDS.get(key.split(".")[1], "documents")
        found.setdefault(name_of(source, kind), Wanted(key, kind, source))
    return found


def _walk(section: BaseModel, key: str) -> Iterator[tuple[str, HubSource]]:
    for name, value in section:
        for source in value if isinstance(value, list) else [value]:
            if isinstance(source, HubSource):
                yield f"{key}.{name}", source
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{key}.{name}")


def name_of(source: HubSource, kind: Kind) -> str:
    """A folder's name: readable, and another one for whatever changes the content."""
    first = f"first{source.limit}" if source.limit else None
    told = [source.repository, source.configuration, source.split, source.revision]
    content = source.model_dump(exclude={"licence", "columns", "domain"})
    content |= {"kind": kind}
    return _name([*told, first], content)


def file_path(repository: str, file: str, revision: str | None) -> Path:
    """Where a single file of a model's repository is downloaded to."""
    content = {"repository": repository, "file": file, "revision": revision}
    return FOLDER / _name([repository, revision], content) / Path(file).name


def checkpoint_name(repository: str, file: str | None, revision: str | None) -> str:
    """The name of the folder of a pretrained checkpoint, or of one GGUF file."""
    content = {"repository": repository, "file": file, "revision": revision}
    return _name([repository, file, revision], content | {"kind": "checkpoint"})


def _name(told: list[str | None], content: dict[str, Any]) -> str:
    readable = "-".join(part.replace("/", "-") for part in told if part)
    readable = re.sub(r"[^\w.-]", "_", readable)[:100]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{readable}-{digest[:8]}"


# --- the lock ---------------------------------------------------------------------


def lock_key(repository: str, revision: str | None) -> str:
    """How a repository's branch, tag or commit is called in the lock."""
    return f"{repository}@{revision or 'main'}"


def read_lock(lock: Path) -> dict[str, dict[str, Any]]:
    """The lock's entries by kind of repository; empty if there is no lock yet.

    Raises UserError for a lock that is not what `hub.py` writes.
    """
    try:
        content = yaml.safe_load(lock.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        content = {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{lock}: not valid YAML ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{lock}: expected datasets and models, found other content")
    found: dict[str, dict[str, Any]] = {}
    for section in ("datasets", "models"):
        found[section] = content.get(section) or {}
        for name, entry in found[section].items():
            commit = entry.get("revision") if isinstance(entry, dict) else entry
            if not COMMIT.fullmatch(str(commit)):
                raise UserError(
                    f"{lock}: {section}: {name}: expected a revision of 40 hexadecimal "
                    f"digits, found {commit!r}"
                )
    return found


def locked(
    lock: Path, section: Repositories, repository: str, revision: str | None
) -> str | None:
    """The commit that the lock holds a repository's revision to, None if not yet.

    Raises UserError if the configuration names another commit of the repository.
    """
    entries = read_lock(lock)[section]
    entry = entries.get(lock_key(repository, revision))
    if entry is not None:
        return str(entry["revision"])
    if revision and COMMIT.fullmatch(revision):
        for name, other in entries.items():
            if name.partition("@")[0] == repository and other["revision"] != revision:
                raise UserError(
                    f"{lock}: {name} is locked to {other['revision']}, but the "
                    f"configuration states {revision}: delete the entry from the lock "
                    "to move to that revision, or take `revision` out"
                )
    return None


# --- a finished download --------------------------------------------------------------


def combined(files: dict[str, str]) -> str:
    """One SHA-256 of the checksums of all files, in their order."""
    return hashlib.sha256("\n".join(files.values()).encode()).hexdigest()


def check(corpus: Corpus, folder: Path = FOLDER, lock: Path = LOCK) -> None:
    """Raise UserError if an existing download is not of its locked revision."""
    for name, (_, _, source) in hub_sources(corpus).items():
        _check_lock(folder / name, lock, "datasets", source.repository, source.revision)


def check_file(
    repository: str, file: str, revision: str | None, lock: Path = LOCK
) -> None:
    """The same for a single file of a model's repository."""
    folder = file_path(repository, file, revision).parent
    _check_lock(folder, lock, "models", repository, revision)


def check_checkpoint(
    repository: str, file: str | None, revision: str | None, lock: Path = LOCK
) -> None:
    """The same for a pretrained checkpoint."""
    folder = FOLDER / checkpoint_name(repository, file, revision)
    _check_lock(folder, lock, "models", repository, revision)


def _check_lock(
    folder: Path,
    lock: Path,
    section: Repositories,
    repository: str,
    revision: str | None,
) -> None:
    commit = locked(lock, section, repository, revision)
    if not (folder / MANIFEST).is_file():
        return
    found = read_json(folder / MANIFEST)["revision"]
    if commit is None:
        raise UserError(
            f"{lock}: no entry for {folder}, which holds revision {found}: "
            "restore the lock, or delete the folder to download again"
        )
    if found != commit:
        raise UserError(
            f"{folder}: holds revision {found}, the lock {lock} says {commit}: "
            "delete the folder to download again, or restore the lock"
        )


def check_folder(
    folder: Path,
    lock: Path,
    repository: str,
    revision: str | None,
    section: Repositories = "datasets",
) -> dict[str, Any]:
    """The manifest of a finished download, after comparing lock and checksums.

    Raises UserError for another revision than the locked one, and for the first file
    that is missing or changed.
    """
    _check_lock(folder, lock, section, repository, revision)
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{path}: missing, though it was downloaded; delete the folder "
                f"{folder} to download again"
            )
        found = sha256(path)
        if found != expected:
            raise UserError(
                f"{path}: sha256 {found}, expected {expected} as downloaded; "
                f"delete the folder {folder} to download again"
            )
    return manifest


def require(folder: Path, key: str, repository: str) -> None:
    """Raise UserError, saying what to do, unless a download is finished."""
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{key}: {repository} is not downloaded, no {folder / MANIFEST}: "
            f"run `snakemake {folder / MANIFEST}` where there is internet"
        )


def finished(
    source: HubSource, kind: Kind, key: str, folder: Path = FOLDER, lock: Path = LOCK
) -> tuple[dict[str, Any], list[Path]]:
    """A finished download's manifest and its data files, their checksums compared.

    Raises UserError, saying what to do, if it is missing or not as downloaded.
    """
    directory = folder / name_of(source, kind)
    require(directory, key, source.repository)
    manifest = check_folder(directory, lock, source.repository, source.revision)
    return manifest, [directory / name for name in manifest["files"]]
