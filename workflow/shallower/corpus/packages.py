"""Data inside installed Python packages, read as files.

The package is found through its metadata and never imported: its code may have another
licence than its data, and needs of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from shallower.corpus.documents import clean
from shallower.corpus.settings import PackageFile, PackageSource
from shallower.errors import UserError
from shallower.files import sha256

_JOINED = re.compile(r"(?<=[a-z])(?<!Mc)(?=[A-Z])")  # VanBuren


class Raw(NamedTuple):
    """A record as our columns, or the reason why it is none."""

    row: dict[str, str] | None
    dropped: str = ""


class Located(NamedTuple):
    """Files of a package with their checksums, by path inside it."""

    paths: dict[str, Path]
    sha256: dict[str, str]

    @property
    def combined(self) -> str:
        """The one file's digest, or the digest of all files' digests in order."""
        digests = list(self.sha256.values())
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def locate(source: PackageSource | PackageFile, key: str) -> Located:
    """Find files of an installed package and check version and checksum.

    Raises UserError as `find`, or if a file has other content.
    """
    paths = find(source, key)
    located = Located(paths, {name: sha256(path) for name, path in paths.items()})
    if source.sha256 not in (None, located.combined):
        raise UserError(
            f"{key}.sha256: {source.file} of package {source.name} has "
            f"{located.combined}, expected {source.sha256}"
        )
    return located


def find(source: PackageSource | PackageFile, key: str) -> dict[str, Path]:
    """Files of an installed package of the right version, by path inside it.

    Raises UserError if the package is missing, has another version, or holds no such
    file.
    """
    try:
        distribution = importlib.metadata.distribution(source.name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{key}.name: {source.name} is not installed, "
            f"expected version {source.version}"
        ) from None
    if distribution.version != source.version:
        raise UserError(
            f"{key}.version: package {source.name} is installed as "
            f"{distribution.version}, expected {source.version}"
        )
    paths = {
        str(file): Path(str(distribution.locate_file(file)))
        for file in sorted(distribution.files or [], key=str)
        if _matches(file, source.file)
    }
    missing = [name for name, path in paths.items() if not path.is_file()]
    if not paths or missing:
        raise UserError(
            f"{key}.file: package {source.name} {source.version} has no file "
            f"{missing[0] if missing else source.file}"
        )
    return paths


def _matches(path: PurePosixPath, pattern: str) -> bool:
    """Like a shell: `*` stays within one folder, and the whole path must match."""
    depth = len(PurePosixPath(pattern).parts)
    return len(path.parts) == depth and path.match(pattern)


def read(source: PackageSource, located: Located) -> Iterator[Raw]:
    """Yield every record. Raises UserError if a file is not in the given format."""
    parse = _PARSERS[source.layout]
    for name, path in located.paths.items():
        try:
            yield from parse(path)
        except _parse_errors() as error:
            raise UserError(
                f"{name} of package {source.name}: not in the format "
                f"{source.layout} ({' '.join(str(error).split())})"
            ) from None


def _parse_errors() -> tuple[type[Exception], ...]:
    import yaml

    # Wrong shapes surface as the last three; ValueError covers JSON and UTF-8.
    return (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError)


def _wikipedia_summaries(path: Path) -> Iterator[Raw]:
    """One JSON object: title -> {title, extract, description, topic}."""
    for title, page in json.loads(path.read_text(encoding="utf-8")).items():
        # A summary is one paragraph; its newlines are left over from extraction.
        text = clean(page["extract"], collapse=True)
        yield Raw({"text": text, "title": title, "domain": page["topic"] or ""})


def _speeches(path: Path) -> Iterator[Raw]:
    """A speech a file, `<year>-<President>-<number>.txt`.

    Year and president are its title: a president who spoke and wrote in one year said
    the same, and what has one title stays in one split.
    """
    year, president, _ = path.stem.split("-")
    title = f"{_JOINED.sub(' ', president)} ({year})"
    yield Raw({"text": path.read_text(encoding="utf-8"), "title": title, "domain": ""})


def _chatterbot(path: Path) -> Iterator[Raw]:
    """YAML: {categories, conversations: [[turn, ...], ...]}, as hh-rlhf writes it."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), loader)
    for turns in content["conversations"]:
        if path.stem == "trivia":
            yield Raw(None, "trivia")  # quiz answers of a word or two: no chat
        elif not isinstance(turns, list):
            yield Raw(None, "malformed")
        else:
            conversation = as_conversation([str(turn) for turn in turns])
            yield Raw({"conversation": conversation, "group": path.stem})


def as_conversation(turns: list[str]) -> str:
    """Alternating turns in hh-rlhf's form; a last human turn has no answer and goes."""
    speakers = ("Human", "Assistant")
    kept = turns[: len(turns) // 2 * 2]
    return "".join(
        f"\n\n{speakers[number % 2]}: {clean(turn)}" for number, turn in enumerate(kept)
    )


_PARSERS: dict[str, Callable[[Path], Iterator[Raw]]] = {
    "wikipedia_summaries": _wikipedia_summaries,
    "speeches": _speeches,
    "chatterbot": _chatterbot,
}
