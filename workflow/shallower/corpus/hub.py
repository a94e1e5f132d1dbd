"""Download from the Hugging Face hub: once, at a locked revision, and resumably.

`datasets` says which files make up a split, and `huggingface_hub` downloads them: it
tries again when a connection is lost, and keeps the files that are complete. The
access token is read by the library alone (HF_TOKEN, or its login). No code of a
repository is run: `datasets` 5 refuses scripts.
"""

from __future__ import annotations

import datetime
import fcntl
import itertools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from shallower.corpus import readers
from shallower.corpus.downloaded import (
    COMMIT,
    MANIFEST,
    Repositories,
    check_folder,
    combined,
    lock_key,
    locked,
    read_lock,
)
from shallower.corpus.settings import HubSource, Kind
from shallower.corpus.sources import Columns
from shallower.errors import UserError
from shallower.files import replacing, sha256, write_json, write_text

_HEADER = """\
# The commit of each branch or tag on the hub at the time of its first download. Commit
# this file: every later download takes the same data. Delete an entry to move on to
# what the hub has now.
"""


class Job(NamedTuple):
    """What is downloaded, its key in the configuration, and where to."""

    source: HubSource
    kind: Kind
    key: str
    lock: Path
    folder: Path


def download(job: Job) -> None:
    """Fill `job.folder` with the data files of a split and, last, `manifest.json`.

    With a limit, files are downloaded until they hold that many records. Files that
    are complete are kept, whatever interrupted an earlier download; if all are, the
    network is not used. Raises UserError, saying what to do, for whatever goes wrong.
    """
    if (job.folder / MANIFEST).is_file():
        check_folder(job.folder, job.lock, job.source.repository, job.source.revision)
        return
    source = job.source
    with one_line(f"{job.key}: {source.repository}", job.key, source.revision):
        commit = resolve(job.lock, "datasets", source.repository, source.revision)
        job.folder.mkdir(parents=True, exist_ok=True)
        files, records = _fetch(job, commit)
    if not records:
        raise UserError(
            f"{job.key}: {source.repository}: the split {source.split!r} is empty"
        )
    manifest = source.model_dump(exclude={"source", "columns", "licence", "domain"})
    manifest |= {"revision": commit, "records": records, "sha256": combined(files)}
    write_json(job.folder / MANIFEST, manifest | {"files": files})


def _fetch(job: Job, commit: str) -> tuple[dict[str, str], int]:
    """Download and read what is needed of a split; checksums by file, and records.

    Reading finds a damaged file or a wrong column now, and not when the corpus is
    built, perhaps on a machine without internet.
    """
    from huggingface_hub import hf_hub_download

    source = job.source
    columns, files, records = Columns(source.columns, job.kind, job.key), {}, 0
    for name in _data_files(source, commit, job.key):
        left = None if source.limit is None else source.limit - records
        if left == 0:
            break
        path = Path(
            hf_hub_download(
                source.repository,
                name,
                repo_type="dataset",
                revision=commit,
                local_dir=job.folder,
            )
        )
        found = readers.read(path, readers.format_of(path), columns.wanted)
        for record in itertools.islice(found, left):
            columns.row(record)
            records += 1
        columns.require_all_seen()
        files[name] = sha256(path)
        tell(f"{source.repository} {source.split}: {records:,} records")
    return files, records


def _data_files(source: HubSource, commit: str, key: str) -> list[str]:
    """The paths, inside the repository, of the files that make up the split."""
    # Before `datasets` is imported: it would import torch, to share a counter.
    os.environ.setdefault("USE_TORCH", "NO")
    import datasets

    builder = datasets.load_dataset_builder(
        source.repository, source.configuration, revision=commit
    )
    splits = {
        str(name): urls for name, urls in (builder.config.data_files or {}).items()
    }
    if source.split not in splits:
        raise UserError(
            f"{key}.split: {source.repository} has no split {source.split!r}; it has "
            f"{', '.join(sorted(splits)) or 'none'}"
        )
    own = f"hf://datasets/{source.repository}@{commit}/"
    for url in splits[source.split]:
        if not url.startswith(own):
            raise UserError(
                f"{key}: {source.repository}: {url}: expected files of the repository"
            )
    return [url.removeprefix(own) for url in splits[source.split]]


def download_file(
    repository: str, file: str, revision: str | None, lock: Path, path: Path
) -> None:
    """Download one file of a model's repository to `path`, at its locked revision.

    `manifest.json` beside it has repository, revision and checksum. Raises UserError.
    """
    key = "tokenizer.hub"
    with one_line(f"{key}: {repository}", key, revision):
        from huggingface_hub import hf_hub_download

        commit = resolve(lock, "models", repository, revision)
        found = Path(hf_hub_download(repository, file, revision=commit))
        with replacing(path) as temporary:
            temporary.write_bytes(found.read_bytes())
    manifest = {"repository": repository, "file": file, "revision": commit}
    write_json(path.with_name(MANIFEST), manifest | {"sha256": sha256(path)})


# --- revisions ------------------------------------------------------------------------


def resolve(
    lock: Path, section: Repositories, repository: str, revision: str | None
) -> str:
    """The locked commit; if there is none yet, the hub's, which is then locked."""
    if commit := locked(lock, section, repository, revision):
        return commit
    from huggingface_hub import HfApi

    kind = section.removesuffix("s")
    found = HfApi().repo_info(repository, revision=revision, repo_type=kind).sha
    if not found or not COMMIT.fullmatch(found):
        raise UserError(f"{repository}: the hub gave {found!r} as a commit")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _alone(lock.parent):
        # Another download may have locked it meanwhile: the first one counts.
        if commit := locked(lock, section, repository, revision):
            return commit
        entries = read_lock(lock)
        entries[section][lock_key(repository, revision)] = {
            "revision": found,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        filled = {name: entry for name, entry in entries.items() if entry}
        write_text(lock, _HEADER + yaml.safe_dump(filled, sort_keys=True))
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block with the same folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- errors ---------------------------------------------------------------------------


@contextmanager
def one_line(name: str, key: str, revision: str | None) -> Iterator[None]:
    """Turn whatever the libraries raise into a UserError that says what to do.

    They wrap errors in each other: the first that is known counts, from the outside in.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils.logging import set_verbosity
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{name}: HF_HUB_OFFLINE is set; unset it to download")
    disable_progress_bars()
    set_verbosity(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        each: BaseException | None = error
        while each is not None:
            if known := _explained(each, name, key, revision):
                raise UserError(known) from error
            each = each.__cause__ or each.__context__
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name}: {said}; files that are complete are kept: run again"
        ) from error


def _explained(
    error: BaseException, name: str, key: str, revision: str | None
) -> str | None:
    from huggingface_hub import errors

    said = " ".join(str(error).split())
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name}: access is gated; accept the licence on the repository's page, "
            "then `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{key}.revision: {name.split(': ')[1]} has no {revision or 'main'!r}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        unknown = isinstance(error, errors.RepositoryNotFoundError)
        if unknown or status in (401, 403):
            return (
                f"{name}: the hub refuses (status {status}): the repository does not "
                "exist or is not yours to read; check its name, then `hf auth login` "
                "or set HF_TOKEN"
            )
        if status == 404:
            return f"{name}: the hub does not have it (status 404)"
    if "Dataset scripts are no longer supported" in said:
        return (
            f"{name}: the repository needs a loading script, which is never run; "
            "choose a revision with data files (such as refs/convert/parquet), or "
            "give the files with `source: files`"
        )
    if "BuilderConfig" in said or "Config name is missing" in said:
        return f"{key}.configuration: {name.split(': ')[1]}: {said}"
    return None


def tell(line: str) -> None:
    """Say how far a download is."""
    print(line, file=sys.stderr, flush=True)
