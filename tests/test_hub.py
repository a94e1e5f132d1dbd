"""Downloads from the hub, against a stand-in: resuming, the lock, and what can fail."""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from hub_stand_in import GATED, Downloads, lines, slimpajama
from project import TOKEN
from shallower.corpus.hub import Job, download, download_file
from shallower.corpus.settings import HubSource, Kind
from shallower.files import read_json, sha256
from shallower.pretrained.download import download as download_checkpoint
from shallower.pretrained.settings import HubCheckpoint

SLIM, HH, WIKI = "cerebras/SlimPajama-627B", "Anthropic/hh-rlhf", "microsoft/wiki_qa"


def documents(count: int, seed: int) -> list[dict]:
    """Documents that hardly compress, so that bytes served tell what was read."""
    draw = random.Random(seed)
    return [
        {
            "text": f"{seed}/{number} {draw.randbytes(200).hex()}",
            "meta": {
                "redpajama_set_name": ["RedPajamaC4", "RedPajamaBook"][number % 2]
            },
        }
        for number in range(count)
    ]


TRAIN = [row for n in range(6) for row in documents(200, n)]
FILES = slimpajama(TRAIN, chunks=6) | slimpajama(documents(30, 99), "test", chunks=1)
TRAIN_FILES = [name for name in FILES if name.startswith("train/")]
TEST_FILE = "test/chunk1/example_test_0.jsonl.zst"
DOWNLOADED = re.compile(r"GET /datasets/.*/example_train_(\d)").match


class Place:
    """A project's folder, and downloads of one data set into it."""

    def __init__(self, downloads: Downloads, folder: Path) -> None:
        self.downloads, self.hub = downloads, downloads.hub
        self.lock = folder / "config" / "hub.lock.yaml"
        self.output = folder / "resources"
        self.commit = self.hub.repository(SLIM, FILES)

    def job(self, kind: Kind = "documents", **source: Any) -> Job:
        settings = HubSource(**({"source": "hub", "repository": SLIM} | source))
        return Job(settings, kind, "corpus.text", self.lock, self.output)

    def fetch(self, **source: Any) -> None:
        self.downloads.run(download, self.job(**source))

    def refused(self, **source: Any) -> str:
        had = (self.output / "manifest.json").exists()
        line = self.downloads.refused(download, self.job(**source))
        assert (self.output / "manifest.json").exists() == had
        return line

    def manifest(self) -> dict[str, Any]:
        return read_json(self.output / "manifest.json")

    def served(self) -> list[int]:
        """Numbers of the training files whose content was asked for, in order."""
        return [int(found[1]) for found in map(DOWNLOADED, self.hub.requests) if found]


@pytest.fixture
def place(downloads: Downloads, tmp_path: Path) -> Place:
    return Place(downloads, tmp_path)


# --- what is downloaded ---------------------------------------------------------------


def test_a_split_is_downloaded_as_the_hub_has_it(place: Place) -> None:
    place.fetch()
    assert place.manifest() == {
        "repository": SLIM,
        "configuration": None,
        "split": "train",
        "revision": place.commit,
        "limit": None,
        "records": 1200,
        "sha256": place.manifest()["sha256"],
        "files": {name: sha256(place.output / name) for name in TRAIN_FILES},
    }
    for name in TRAIN_FILES:
        assert (place.output / name).read_bytes() == FILES[name]
    assert not (place.output / TEST_FILE).exists()
    lock = yaml.safe_load(place.lock.read_text())
    assert lock["datasets"][f"{SLIM}@main"]["revision"] == place.commit


def test_no_more_files_than_the_limit_needs(place: Place) -> None:
    place.fetch(limit=300)
    assert list(place.manifest()["files"]) == TRAIN_FILES[:2]
    assert place.manifest()["records"] == 300
    assert set(place.served()) <= {0, 1}


# --- interruptions --------------------------------------------------------------------


def test_a_connection_that_drops_is_taken_up_again(place: Place) -> None:
    size = len(FILES[TRAIN_FILES[0]])
    place.hub.drop_after = int(2.5 * size)

    def recover(line: str, sent: int) -> None:
        if place.hub.drop_after and sent >= place.hub.drop_after:
            place.hub.drop_after = None

    place.hub.trouble = recover
    place.fetch()
    assert place.hub.drop_after is None  # it happened
    assert place.manifest()["records"] == 1200
    # No complete file is served again.
    assert place.hub.content_bytes < sum(len(FILES[n]) for n in TRAIN_FILES) + size


def test_a_lost_connection_ends_with_a_line_and_goes_on_later(place: Place) -> None:
    """Twice in one download."""
    for files in (1.5, 4):  # half of a file is sent twice
        limit = int(files * len(FILES[TRAIN_FILES[0]]))
        place.hub.drop_after = limit
        place.hub.trouble = lambda line, sent, limit=limit: (
            "drop" if sent >= limit else None
        )
        line = place.refused()
        assert line.startswith(f"corpus.text: {SLIM}: ")
        assert line.endswith("files that are complete are kept: run again")
    place.hub.drop_after, place.hub.trouble = None, lambda line, sent: None
    place.hub.requests.clear()
    place.fetch()
    assert set(place.served()) == {3, 4, 5}
    assert place.manifest()["records"] == 1200


@pytest.mark.slow
def test_a_killed_download_repeats_no_complete_file(place: Place) -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def hold(line: str, sent: int) -> None:
        if (found := DOWNLOADED(line)) and found[1] == "3":
            reached.set()
            goes_on.wait(60)

    place.hub.trouble = hold
    run = place.downloads.start(download, place.job())
    assert reached.wait(60)
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()
    goes_on.set()
    place.hub.trouble = lambda line, sent: None
    assert not (place.output / "manifest.json").exists()
    place.hub.requests.clear()
    place.fetch()
    assert set(place.served()) == {3, 4, 5}
    assert place.manifest()["records"] == 1200


# --- the lock -------------------------------------------------------------------------


def test_the_lock_holds_when_the_branch_moves_on(place: Place) -> None:
    place.fetch(split="test")
    newer = zstandard.compress(lines(documents(3, 5)))
    place.hub.repository(SLIM, {"test/a.jsonl.zst": newer})
    shutil.rmtree(place.output)
    place.fetch(split="test")
    assert list(place.manifest()["files"]) == [TEST_FILE]
    assert place.manifest()["revision"] == place.commit


def test_what_is_downloaded_needs_no_hub(place: Place) -> None:
    place.fetch(split="test")
    place.hub.requests.clear()
    place.fetch(split="test")
    assert place.hub.requests == []


def test_another_revision_than_the_locked_one_is_refused(place: Place) -> None:
    place.fetch(split="test")
    lock = place.lock.read_text()
    line = place.refused(split="test", revision="0" * 40)
    assert f"{SLIM}@main is locked to {place.commit}" in line
    assert "delete the entry from the lock" in line
    place.lock.write_text(lock.replace(place.commit, "1" * 40))
    line = place.refused(split="test")
    assert f"holds revision {place.commit}" in line
    assert "delete the folder to download again, or restore the lock" in line
    place.lock.write_text(lock.replace(place.commit, "main"))
    assert "expected a revision of 40 hexadecimal digits" in place.refused(split="test")
    place.lock.unlink()
    assert "no entry for" in place.refused(split="test")


def test_a_tag_and_two_downloads_share_one_sorted_lock(place: Place) -> None:
    repository = place.hub.repositories[f"datasets/{SLIM}"]
    files = {"test.jsonl": lines([{"text": "old"}]), "README.md": b""}
    older = repository.commit(files, "v1")
    place.fetch(split="test", revision="v1")
    assert list(place.manifest()["files"]) == ["test.jsonl"]
    place.output = place.output / "another"
    place.fetch(split="test")
    entries = yaml.safe_load(place.lock.read_text())["datasets"]
    assert {name: entry["revision"] for name, entry in entries.items()} == {
        f"{SLIM}@main": place.commit,
        f"{SLIM}@v1": older,
    }
    assert list(entries) == sorted(entries)


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_file_that_is_not_as_downloaded_is_named(place: Place, harm: str) -> None:
    place.fetch(split="test")
    path = place.output / TEST_FILE
    path.write_bytes(b"else") if harm == "changed" else path.unlink()
    line = place.refused(split="test")
    assert str(path) in line
    assert "delete the folder" in line


def test_one_file_of_a_model_at_its_locked_revision(place: Place) -> None:
    name, content = "meta-llama/Llama-2-7b-hf", b"a sentencepiece model"
    commit = place.hub.repository(name, {"tokenizer.model": content}, kind="models")
    path = place.output / "tokenizer.model"
    arguments = name, "tokenizer.model", None, place.lock, path
    assert place.downloads.run(download_file, *arguments) == ""
    assert path.read_bytes() == content
    assert place.manifest() == {
        "repository": name,
        "file": "tokenizer.model",
        "revision": commit,
        "sha256": sha256(path),
    }
    lock = yaml.safe_load(place.lock.read_text())
    assert lock["models"][f"{name}@main"]["revision"] == commit
    place.hub.repository(name, {"tokenizer.model": b"newer"}, kind="models")
    place.downloads.run(download_file, *arguments)
    assert path.read_bytes() == content
    arguments = name, "tokenizer.json", None, place.lock, path
    said = place.downloads.refused(download_file, *arguments)
    assert f"tokenizer.hub: {name}: the hub does not have it (status 404)" in said


# --- what can fail --------------------------------------------------------------------


def test_no_remote_code_is_run(place: Place, tmp_path: Path) -> None:
    script = f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit(0)\n"
    name = SLIM.rpartition("/")[2]
    place.hub.repository(SLIM, FILES | {f"{name}.py": script.encode()})
    assert "a loading script, which is never run" in place.refused()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (401, "", "`hf auth login` or set HF_TOKEN"),
        (401, "RepoNotFound", "`hf auth login` or set HF_TOKEN"),
        (403, GATED, "access is gated; accept the licence on the repository's page"),
        (404, "RepoNotFound", "does not exist or is not yours to read"),
        (503, "", "files that are complete are kept: run again"),
    ],
)
def test_a_refusal_says_what_to_do(
    place: Place, status: int, code: str, told: str
) -> None:
    repository = place.hub.repositories[f"datasets/{SLIM}"]
    repository.status, repository.code = status, code
    line = place.refused()
    assert told in line
    assert f"corpus.text: {SLIM}" in line
    assert not place.lock.exists()


def test_missing_names_are_told_beside_existing_ones(place: Place) -> None:
    line = place.refused(split="training")
    assert "corpus.text.split: " in line
    assert "no split 'training'; it has test, train" in line
    assert "corpus.text.revision" in place.refused(revision="nowhere")
    line = place.refused(configuration="english")
    assert "corpus.text.configuration" in line
    assert "'default'" in line
    line = place.refused(columns={"text": "content"})
    assert "no column 'content', found text, meta" in line
    assert "corpus.text.columns.text" in line
    line = place.refused(columns={"title": "source"})
    assert "corpus.text.columns.title: no record has 'source'" in line


def test_empty_and_damaged_data_are_errors(place: Place) -> None:
    place.hub.repository(SLIM, FILES | {TEST_FILE: zstandard.compress(b"")})
    assert "the split 'test' is empty" in place.refused(split="test")
    for name, file, content, told in (
        ("some/empty", "README.md", b"", "some/empty"),
        ("some/damaged", "test.jsonl", b'{"text": "a"}\n{"text": \n', "test.jsonl:2: "),
        ("some/cut", "test.jsonl.zst", FILES[TEST_FILE][:-90], "test.jsonl.zst: "),
        ("some/text", "test.bin", b"text", "No (supported) data files found in"),
    ):
        place.hub.repository(name, {file: content})
        assert told in place.refused(repository=name, split="test")


def test_offline_by_the_users_own_wish(place: Place) -> None:
    code = "import sys, pickle; from shallower.corpus.hub import download\n"
    code += "download(pickle.load(sys.stdin.buffer))"
    environment = os.environ | place.downloads.environment | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        input=pickle.dumps(place.job()),
        capture_output=True,
    )
    assert b"HF_HUB_OFFLINE is set; unset it to download" in run.stderr
    assert place.hub.requests == []


def test_the_token_is_sent_and_written_nowhere(place: Place, tmp_path: Path) -> None:
    """Not of a data set, a file or a checkpoint, and not where one is refused."""
    token = TOKEN
    config = b'{"model_type": "llama"}'
    name = "someone/model"
    files = {"config.json": config, "tokenizer.json": b"{}"}
    place.hub.repository(name, files, kind="models")
    one = name, "config.json", None, place.lock, tmp_path / "one" / "config.json"
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 4, "rms_norm_eps": 1e-5}
    sizes |= {"max_position_embeddings": 64}
    given = {"source": "hub", "repository": name, "sizes": sizes}
    checkpoint = HubCheckpoint.model_validate(given)
    job = checkpoint, "pretrained.models.a", place.lock, tmp_path / "two"
    said = place.downloads.run(download, place.job(split="test"), HF_TOKEN=token)
    said += place.downloads.run(download_file, *one, HF_TOKEN=token)
    said += place.downloads.refused(download_checkpoint, *job, HF_TOKEN=token)
    place.hub.trouble = lambda line, sent: "drop" if "/resolve/" in line else None
    place.output = tmp_path / "refused"
    cut = place.job(split="train")
    said += place.downloads.refused(download, cut, HF_TOKEN=token)
    place.hub.trouble = lambda line, sent: 401
    said += place.downloads.refused(download, cut, HF_TOKEN=token)
    assert place.hub.tokens == {token}
    assert token not in said
    paths = [*tmp_path.rglob("*"), *place.downloads.folder.rglob("*")]
    found = [path for path in paths if path.is_file()]
    assert len(found) > 5
    assert [p for p in found if token.encode() in p.read_bytes()] == []


def test_every_other_command_has_the_hub_offline(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom shallower import cli\n"
        "try:\n    cli.main(['publish', '--results', sys.argv[1]])\n"
        "except SystemExit:\n    pass\n"
        "import huggingface_hub.constants as hub\nprint(hub.HF_HUB_OFFLINE)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "none"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.stdout.endswith("True\n"), run.stderr
