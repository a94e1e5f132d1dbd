"""Download from the Hugging Face hub: once, at a locked revision, and resumably.

Records are streamed through `datasets` into Parquet parts with our own columns, so
memory does not grow with their number. `progress.json` says which parts are complete
and where the stream stands after them; whatever interrupts a download, the next one
goes on from there. The token is the hub's own business (HF_TOKEN, or its login) and
is never read here. A repository's code is never run: `datasets` 5 refuses scripts.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from shallower.corpus.downloaded import (
    COMMIT,
    MANIFEST,
    Repositories,
    check_lock,
    check_parts,
    lock_key,
    locked,
    read_lock,
)
from shallower.corpus.hub_errors import Lost, explained
from shallower.corpus.readers import Record
from shallower.corpus.settings import HubSource, Kind
from shallower.corpus.sources import COLUMNS, Columns
from shallower.errors import UserError
from shallower.files import read_json, replacing, sha256, write_json, write_text

PROGRESS = "progress.json"
# A part ends with whichever comes first; it is what an interruption can cost, and
# what is held in memory.
PART_RECORDS = 20_000
PART_CHARACTERS = 64_000_000
ATTEMPTS = 5  # in a row without a new part, seconds 1, 2, 4, 8 apart

_HEADER = """\
# The commit that each branch or tag on the hub stood for when it was first downloaded.
# Commit this file: it holds every later download to the same data. Delete an entry to
# move on to what the hub has now.
"""


class Job(NamedTuple):
    """What is downloaded, the key it stands under in the configuration, and where."""

    source: HubSource
    kind: Kind
    key: str
    lock: Path
    folder: Path


def download(job: Job) -> None:
    """Fill `job.folder` with Parquet parts and, last, `manifest.json`.

    What is complete is kept: parts of an interrupted download, or all of it, which
    needs no network. Raises UserError, saying what to do, for whatever goes wrong.
    """
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, wait=False):
        progress = _kept(job)
        if not progress["finished"]:
            _insist(lambda: _fetch(job, progress), job, progress)
        write_json(folder / MANIFEST, _manifest(job, progress))


def _kept(job: Job) -> dict[str, Any]:
    """The progress of an earlier download, checked; or that of one that begins."""
    source, folder = job.source, job.folder
    what = source.model_dump(exclude={"licence"}) | {"kind": job.kind}
    path = folder / PROGRESS
    if not path.is_file():
        return {"of": what, "parts": [], "state": None, "finished": False}
    progress: dict[str, Any] = read_json(path)
    commit = locked(job.lock, "datasets", source.repository, source.revision)
    if progress["of"] != what:
        raise UserError(f"{path}: of another download; choose another folder")
    check_lock(folder, progress["revision"], job.lock, commit)
    check_parts(folder, progress["parts"])
    return progress


def _manifest(job: Job, progress: dict[str, Any]) -> dict[str, Any]:
    """What a finished download is, without dates: the same data give the same file."""
    digests = "\n".join(part["sha256"] for part in progress["parts"])
    return {
        **job.source.model_dump(exclude={"source"}),
        "revision": progress["revision"],
        "kind": job.kind,
        "records": _records(progress),
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "parts": progress["parts"],
        "finished": True,
    }


def _records(progress: dict[str, Any]) -> int:
    return sum(part["records"] for part in progress["parts"])


def _insist(attempt: Callable[[], None], job: Job, progress: dict[str, Any]) -> None:
    """Run `attempt` again when the connection is lost, until it gains no more parts."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{job.key}: {job.source.repository}: HF_HUB_OFFLINE is set; unset it to "
            "download"
        )
    failures, before = 0, len(progress["parts"])
    while True:
        try:
            return attempt()
        except Exception as error:
            reason = explained(error, job.source, job.key)
            if not isinstance(reason, Lost):
                raise reason from error
            gained = len(progress["parts"]) > before
            failures, before = 1 if gained else failures + 1, len(progress["parts"])
            kept = f"{_records(progress):,} records are kept"
            if failures == ATTEMPTS:
                raise UserError(
                    f"{reason}; run again: {kept} and it goes on from there"
                ) from error
            _tell(f"{reason}; {kept}, trying again")
            time.sleep(2 ** (failures - 1))


def _fetch(job: Job, progress: dict[str, Any]) -> None:
    """Stream what is missing, part by part; `progress` is on disk after each."""
    # Before `datasets` is imported: it would import torch, to share a counter.
    os.environ.setdefault("USE_TORCH", "NO")
    import datasets

    _quiet()
    source = job.source
    commit = resolve(job.lock, "datasets", source.repository, source.revision)
    progress |= {"revision": commit}
    stream = _stream(source, commit, job.key)
    done = _records(progress)
    # Another version of `datasets` may keep its place in another way.
    if progress["state"] and progress.get("datasets") == datasets.__version__:
        stream.load_state_dict(progress["state"])
    elif done:
        stream = stream.skip(done)
    columns = Columns(source.columns, job.kind, job.key)
    left = None if source.limit is None else source.limit - done
    where = f"{source.repository} {source.split}: record "
    rows = (
        columns.row(Record(f"{where}{number}", values, values.keys()))
        for number, values in enumerate(itertools.islice(stream, left), done + 1)
    )
    while part := _write_part(job, len(progress["parts"]), rows):
        if not progress["parts"]:
            # Now rather than after a million records.
            columns.require_all_seen()
        progress["parts"].append(part)
        progress |= {"state": stream.state_dict(), "datasets": datasets.__version__}
        write_json(job.folder / PROGRESS, progress)
        _tell(f"{source.repository} {source.split}: {_records(progress):,} records")
    if not progress["parts"]:
        raise UserError(
            f"{job.key}: {source.repository}: the split {source.split!r} is empty"
        )
    write_json(job.folder / PROGRESS, progress | {"finished": True})


def _stream(source: HubSource, commit: str, key: str) -> Any:
    """The split as an IterableDataset; only its records are decoded, no code is run."""
    import datasets

    builder = datasets.load_dataset_builder(
        source.repository, source.configuration, revision=commit
    )
    splits = sorted(map(str, builder.config.data_files or {}))
    if source.split not in splits:
        raise UserError(
            f"{key}.split: {source.repository} has no split {source.split!r}; it has "
            f"{', '.join(splits) or 'none'}"
        )
    return builder.as_streaming_dataset(split=source.split)


def _write_part(
    job: Job, number: int, rows: Iterator[dict[str, str]]
) -> dict[str, Any] | None:
    """Take rows for one part and write it; None if there are none left."""
    batch, characters = [], 0
    for row in rows:
        batch.append(row)
        characters += sum(map(len, row.values()))
        if len(batch) == PART_RECORDS or characters >= PART_CHARACTERS:
            break
    if not batch:
        return None
    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS[job.kind]])
    path = job.folder / f"part-{number:05d}.parquet"
    with replacing(path) as temporary:
        table = pyarrow.Table.from_pylist(batch, schema)
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
    return {"name": path.name, "records": len(batch), "sha256": sha256(path)}


# --- revisions, single files ------------------------------------------------------


def resolve(
    lock: Path, section: Repositories, repository: str, revision: str | None
) -> str:
    """The locked commit; if there is none yet, the hub's, which is locked thereby."""
    if commit := locked(lock, section, repository, revision):
        return commit
    from huggingface_hub import HfApi

    kind = section.removesuffix("s")
    found = HfApi().repo_info(repository, revision=revision, repo_type=kind).sha
    if not found or not COMMIT.fullmatch(found):
        raise UserError(f"{repository}: the hub gave {found!r} for a commit")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _alone(lock.parent, wait=True):
        # Another download may have locked it meanwhile: the first one counts.
        if commit := locked(lock, section, repository, revision):
            return commit
        entries = read_lock(lock)
        entries[section][lock_key(repository, revision)] = {
            "revision": found,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        _write_lock(lock, entries)
    return found


def _write_lock(lock: Path, entries: dict[str, dict[str, Any]]) -> None:
    import yaml

    kept = {section: names for section, names in entries.items() if names}
    write_text(lock, _HEADER + yaml.safe_dump(kept, sort_keys=True))


def download_file(
    repository: str, file: str, revision: str | None, lock: Path, path: Path
) -> None:
    """Download one file of a model's repository to `path`, at its locked revision.

    `manifest.json` beside it tells repository, revision and checksum. Raises UserError.
    """
    source = HubSource(source="hub", repository=repository, revision=revision)
    job = Job(source, "documents", "tokenizer.hub", lock, path.parent)

    def attempt() -> None:
        from huggingface_hub import hf_hub_download

        _quiet()
        commit = resolve(lock, "models", repository, revision)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".file-") as folder:
            found = hf_hub_download(repository, file, revision=commit, local_dir=folder)
            with replacing(path) as temporary:
                temporary.write_bytes(Path(found).read_bytes())
        told = {"repository": repository, "file": file, "revision": commit}
        write_json(path.parent / MANIFEST, told | {"sha256": sha256(path)})

    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent, wait=False):
        _insist(attempt, job, {"parts": []})


# --- small things -----------------------------------------------------------------


@contextmanager
def _alone(folder: Path, wait: bool) -> Iterator[None]:
    """Keep other processes out of a folder until this one leaves it or ends.

    Raises UserError if another one is inside and `wait` is false: after a kill of the
    workflow its jobs may live on.
    """
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError:
        raise UserError(
            f"{folder}: another process is downloading this; wait for it or stop it"
        ) from None
    finally:
        os.close(held)


def _quiet() -> None:
    """No progress bars and warnings of libraries between our own lines."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars, logging

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    disable_progress_bars()
    logging.set_verbosity_error()
    # These would wait for minutes, silently; we wait ourselves and say so.
    datasets.config.STREAMING_READ_MAX_RETRIES = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
