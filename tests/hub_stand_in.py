"""A stand-in for the Hugging Face hub: a small HTTP server on loopback.

It answers what `huggingface_hub` and `datasets` ask of the hub when they read a public
repository: its revision, its files, and their bytes with ranges. It counts the bytes
it serves and can misbehave: drop connections, refuse, be busy or be gone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd
import pytest
import zstandard

from shallower.errors import UserError

GATED = "GatedRepo"


@dataclass
class Repository:
    """Files by commit, the names of commits, and what is refused."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    status: int | None = None  # answered to everything, instead of content
    code: str = ""  # the hub's own name for why

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit, which `names` (main if none is given) now stand for."""
        digest = hashlib.sha1()
        for path, content in sorted(files.items()):
            digest.update(f"{path}\0{hashlib.sha1(content).hexdigest()}\0".encode())
        sha = digest.hexdigest()
        self.commits[sha] = files
        self.names |= dict.fromkeys(names or ("main",), sha)
        return sha


class Hub(ThreadingHTTPServer):
    """The server; `with Hub() as hub` serves at `hub.endpoint` until the end."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.content_bytes = 0  # of files, as sent
        # Called before each answer with the request line and the bytes of content
        # sent so far: a status to answer with, "drop" to break off, or None.
        self.trouble: Callable[[str, int], int | str | None] = lambda line, sent: None
        self.drop_after: int | None = None  # bytes of content until all is dropped
        # Where requests with a certain text in their path are sent to instead: text
        # and the beginning of an address, as the real hub does it with large files.
        self.elsewhere: tuple[str, str] | None = None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def repository(self, name: str, files: dict[str, bytes], kind="datasets") -> str:
        """Make or extend a repository with a commit `main`; return its hash."""
        found = self.repositories.setdefault(f"{kind}/{name}", Repository())
        return found.commit(files)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed break off; that is what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        hub, line = self.server, f"{self.command} {self.path}"
        hub.requests.append(line)
        if token := self.headers.get("Authorization"):
            hub.tokens.add(token.removeprefix("Bearer "))
        trouble = hub.trouble(line, hub.content_bytes)
        if trouble == "drop":
            self.close_connection = True
            self.connection.close()
        elif trouble is not None:
            self._refuse(int(trouble), "")
        elif hub.elsewhere and hub.elsewhere[0] in self.path:
            self._redirect(hub.elsewhere[1] + self.path)
        else:
            self._serve(body)

    def _redirect(self, address: str) -> None:
        """With what the real hub says of a large file beside its place."""
        found = re.search(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(self.path))
        about: dict[str, str] = {}
        if found:
            name, revision, path = found.groups()
            kind = "datasets" if self.path.startswith("/datasets/") else "models"
            repository = self.server.repositories[f"{kind}/{name}"]
            content = repository.commits[revision].get(path)
            if content is None:
                return self._refuse(404, "EntryNotFound")
            about = {"X-Repo-Commit": revision, "X-Linked-ETag": f'"{_oid(content)}"'}
            about["X-Linked-Size"] = str(len(content))
        self.send_response(302)
        for header, value in (about | {"Location": address}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _serve(self, body: bytes) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        api = re.fullmatch(
            r"/api/(datasets|models)/(.+?)(?:/(revision|tree|paths-info)/(.+))?", path
        )
        resolve = re.fullmatch(r"/(?:(datasets)/)?(.+?)/resolve/([^/]+)/(.+)", path)
        if resolve:
            kind, name, revision, rest = resolve.groups()
            found = self._repository(f"{kind or 'models'}/{name}", revision)
            if found:
                self._file(found[1], found[0], rest)
        elif api:
            kind, name, what, rest = api.groups()
            revision, _, folder = (rest or "main").partition("/")
            found = self._repository(f"{kind}/{name}", revision)
            if not found:
                return
            sha, files = found
            if what in (None, "revision"):
                self._json(self._information(name, sha, files))
            elif what == "tree":
                recursive = (
                    "true" in parse_qs(url.query).get("recursive", [""])[0].lower()
                )
                self._tree(files, folder, recursive)
            else:
                self._paths(files, body)
        else:
            self._refuse(404, "")

    def _repository(
        self, name: str, revision: str
    ) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        if repository.status:
            return self._refuse(repository.status, repository.code)
        sha = repository.names.get(revision, revision)
        if sha not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _information(self, name: str, sha: str, files: dict[str, bytes]) -> Any:
        return {
            "_id": sha[:24],
            "id": name,
            "sha": sha,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }

    def _tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, Any] = {}
        for path, content in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            rest = path.removeprefix(prefix).split("/")
            for depth in range(1, len(rest)):
                parent = prefix + "/".join(rest[:depth])
                entries[parent] = {"type": "directory", "path": parent, "size": 0}
                entries[parent]["oid"] = hashlib.sha1(parent.encode()).hexdigest()
                if not recursive:
                    break
            if recursive or len(rest) == 1:
                entries[path] = _entry(path, content)
        if entries or not folder:
            self._json(list(entries.values()))
        else:
            self._refuse(404, "EntryNotFound")

    def _paths(self, files: dict[str, bytes], body: bytes) -> None:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode())["paths"]
        paths = [paths] if isinstance(paths, str) else paths
        entries = [_entry(path, files[path]) for path in paths if path in files]
        for path in paths:
            if path not in files and any(name.startswith(f"{path}/") for name in files):
                oid = hashlib.sha1(path.encode()).hexdigest()
                entries.append({"type": "directory", "path": path, "oid": oid})
        self._json(entries)

    def _file(self, files: dict[str, bytes], sha: str, path: str) -> None:
        if path not in files:
            return self._refuse(404, "EntryNotFound")
        content = files[path]
        start, stop, status = 0, len(content), 200
        if found := re.fullmatch(
            r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "none"
        ):
            start = int(found[1])
            stop = min(int(found[2] or stop - 1) + 1, stop)
            if start >= stop:
                return self._refuse(416, "")
            status = 206
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", sha)
        if status == 206:
            self.send_header(
                "Content-Range", f"bytes {start}-{stop - 1}/{len(content)}"
            )
        self.end_headers()
        if self.command == "GET":
            self._send(content[start:stop])
        return None

    def _send(self, content: bytes) -> None:
        hub = self.server
        if hub.drop_after is not None:
            left = max(0, hub.drop_after - hub.content_bytes)
            if left < len(content):
                self.wfile.write(content[:left])
                hub.content_bytes += left
                self.close_connection = True
                return
        self.wfile.write(content)
        hub.content_bytes += len(content)

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"the stand-in says {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(content: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}


# --- files as the hub has them ----------------------------------------------------


def lines(rows: list[dict]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: pd.DataFrame) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


def slimpajama(rows: list[dict], split: str = "train", chunks: int = 2) -> dict:
    """Documents in compressed chunks, under the names that SlimPajama gives them."""
    size = -(-len(rows) // chunks)
    return {
        f"{split}/chunk1/example_{split}_{n}.jsonl.zst": zstandard.compress(
            lines(rows[n * size : (n + 1) * size])
        )
        for n in range(chunks)
    }


def hh_rlhf(rows: list[dict], split: str = "test") -> dict[str, bytes]:
    """Dialogues, under one of the names that hh-rlhf gives them, beside another set."""
    others = [{"transcript": "of no split", "tags": ["some"]}]
    return {
        f"helpful-base/{split}.jsonl.gz": gzip.compress(lines(rows)),
        "red-team-attempts/red_team_attempts.jsonl.gz": gzip.compress(lines(others)),
    }


def wiki_qa(table: pd.DataFrame, split: str = "test") -> dict[str, bytes]:
    """The table that the hub has of WikiQA, its splits told by the README."""
    readme = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: {split}\n    path: data/{split}-*\n---\n"
    )
    name = f"data/{split}-00000-of-00001.parquet"
    return {"README.md": readme.encode(), name: parquet(table)}


# --- downloads from it ----------------------------------------------------------------


class Downloads:
    """Runs functions of `corpus/hub.py` in processes of their own, with this hub.

    `huggingface_hub` reads its endpoint when it is imported, so downloads cannot run
    in a test's own process. A fork server imports the libraries, which takes seconds,
    once for all of them.
    """

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "USE_TORCH": "NO",
        }
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["hub_stand_in", *PRELOADED])
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN"):
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            # There is one fork server a process, which keeps this environment.
            forkserver.ensure_running()

    def start(self, function: Callable[..., None], *arguments: Any, **env: str) -> Run:
        """Start a function; `env` are variables of its environment."""
        stderr = self.folder / f"stderr-{uuid.uuid4().hex}"
        process = self._context.Process(
            target=_run, args=(function, arguments, env, stderr), daemon=True
        )
        process.start()
        return Run(process, stderr)

    def run(self, function: Callable[..., None], *arguments: Any, **env: str) -> str:
        """Run a function to its end: the lines it wrote. It must succeed."""
        status, said = self.start(function, *arguments, **env).end()
        assert status == 0, said
        return said

    def refused(self, function: Callable[..., None], *given: Any, **env: str) -> str:
        """The one line that a failing function ends with."""
        status, said = self.start(function, *given, **env).end()
        assert status == 2, said
        assert "Traceback" not in said
        return said.splitlines()[-1]


@dataclass
class Run:
    """One function under way."""

    process: Any
    stderr: Path

    def end(self) -> tuple[int, str]:
        self.process.join(100)
        assert self.process.exitcode is not None, self.stderr.read_text()
        return self.process.exitcode, self.stderr.read_text()


PRELOADED = ["datasets", "pyarrow.parquet", "zstandard", "shallower.corpus.hub"]


def _run(
    function: Callable[..., None], arguments: Any, env: dict[str, str], stderr: Path
) -> None:
    """In the forked process, as the command line does it, but impatient."""
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))
    os.environ.update(env)
    try:
        function(*arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@pytest.fixture(scope="session")
def _one_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Downloads]:
    with Hub() as hub:
        yield Downloads(hub, tmp_path_factory.mktemp("hub"))


@pytest.fixture
def downloads(_one_hub: Downloads) -> Downloads:
    """One stand-in for all tests, empty and well-behaved."""
    hub = _one_hub.hub
    hub.repositories.clear()
    hub.requests.clear()
    hub.tokens.clear()
    hub.trouble = lambda line, sent: None
    hub.drop_after = None
    hub.elsewhere = None
    hub.content_bytes = 0
    return _one_hub
