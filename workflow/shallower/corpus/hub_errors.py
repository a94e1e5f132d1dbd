"""What went wrong on the way to the hub, in one line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from shallower.corpus.settings import HubSource
from shallower.errors import UserError


class Lost(Exception):
    """The connection is lost or the hub is busy: trying again may help."""


def explained(error: Exception, source: HubSource, key: str) -> Exception:
    """A UserError for an error that stays, `Lost` for one that may pass.

    Libraries wrap errors in each other; the first that is recognised counts, from the
    outside in. What is not recognised is told by its own first line.
    """
    for each in _chain(error):
        found = _recognised(each, source, key)
        if found is not None:
            return found
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return UserError(f"{key}: {source.repository}: cannot be read: {said}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _recognised(
    error: BaseException, source: HubSource, key: str
) -> UserError | Lost | None:
    from huggingface_hub import errors

    name = f"{key}: {source.repository}"
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return UserError(
            f"{name}: no space left on the disk; free some and run again, complete "
            "parts are kept"
        )
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{name}: access is gated; ask for it on the repository's page, then "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        revision = source.revision or "main"
        return UserError(f"{key}.revision: {source.repository} has no {revision!r}")
    if isinstance(error, errors.HfHubHTTPError):
        known = not isinstance(error, errors.RepositoryNotFoundError)
        return _status(error.response.status_code, known, name)
    # HTTPError is that of the HTTP library, which is another one in older versions.
    if isinstance(error, errors.HTTPError | ConnectionError | TimeoutError):
        return Lost(f"{name}: connection lost ({type(error).__name__})")
    return _of_datasets(error, source, key)


def _status(status: int, known: bool, name: str) -> UserError | Lost:
    """By the hub's answer; `known`: it has the repository, whatever else it lacks."""
    if status == 429 or status >= 500:
        return Lost(f"{name}: the hub is busy (status {status})")
    if status in (401, 403) or not known:
        return UserError(
            f"{name}: the hub refuses (status {status}): the repository does not "
            "exist or is not yours to read; check its name, then `hf auth login` or "
            "set HF_TOKEN"
        )
    return UserError(f"{name}: the hub does not have it (status {status})")


def _of_datasets(error: BaseException, source: HubSource, key: str) -> UserError | None:
    """Errors that `datasets` tells by their text alone."""
    said = str(error)
    if "Dataset scripts are no longer supported" in said:
        return UserError(
            f"{key}: {source.repository}: the repository needs a loading script, "
            "which is never run; choose a revision with data files (such as "
            "refs/convert/parquet), or give the files with `source: files`"
        )
    if "BuilderConfig" in said or "Config name is missing" in said:
        told = " ".join(said.split())
        return UserError(f"{key}.configuration: {source.repository}: {told}")
    return None
