"""Downloads from the hub, against a stand-in: resuming, the lock, and what can fail."""

from __future__ import annotations

import copy
import json
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

import pandas as pd
import pytest
import yaml
import zstandard

from conftest import ROOT
from hub_stand_in import GATED, Downloads, Hub, hh_rlhf, lines, slimpajama, wiki_qa
from shallower.corpus import downloaded
from shallower.corpus.build import build
from shallower.corpus.hub import Job, download, download_file
from shallower.corpus.settings import Corpus, HubSource, Kind
from shallower.errors import UserError
from shallower.files import read_json, sha256

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
    limit = int(3.5 * len(FILES[TRAIN_FILES[0]]))
    place.hub.drop_after = limit
    place.hub.trouble = lambda line, sent: "drop" if sent >= limit else None
    line = place.refused()
    assert line.startswith(f"corpus.text: {SLIM}: ")
    assert line.endswith("files that are complete are kept: run again")
    place.hub.drop_after, place.hub.trouble = None, lambda line, sent: None
    place.hub.requests.clear()
    place.fetch()
    assert set(place.served()) == {3, 4, 5}
    assert place.manifest()["records"] == 1200


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
        (403, GATED, "access is gated; ask for it on the repository's page"),
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
        ("some/text", "test.txt", b"text", "unknown file type; expected .jsonl"),
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
    token = "hf_averysecrettoken"
    said = place.downloads.run(download, place.job(split="test"), HF_TOKEN=token)
    assert place.hub.tokens == {token}
    assert token not in said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


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


# --- the corpus, and the workflow -----------------------------------------------------

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())["corpus"]
WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu") for b in ("n", "rt", "sk")]


def prose(number: int) -> str:
    draw = random.Random(number)
    return f"{number}: " + " ".join(draw.choices(WORDS, k=80)) + "."


def from_hub() -> dict:
    """The default corpus with its three kinds of data taken from the hub."""
    settings = copy.deepcopy(DEFAULT)
    settings["text"] = {"source": "hub", "hub": {"repository": SLIM, "licence": "own"}}
    for name, repository in (("chat", HH), ("qa", WIKI)):
        hub = {"repository": repository, "split": "test"}
        settings[name]["data"] = {"source": "hub", "hub": hub}
    return settings


def from_files(folder: Path) -> dict:
    """The same out of `text.jsonl`, `chat.jsonl` and `qa.jsonl` in a folder."""
    settings = copy.deepcopy(DEFAULT)
    text, chat, qa = (
        {"source": "files", "paths": [str(folder / f"{name}.jsonl")]}
        for name in ("text", "chat", "qa")
    )
    settings["text"], settings["chat"]["data"] = text, chat
    settings["qa"]["data"] = qa
    return settings


def fetch_all(downloads: Downloads, settings: dict, root: Path) -> None:
    """What the workflow's download jobs do, in `root`."""
    corpus = Corpus.model_validate(settings)
    for name, (key, kind, source) in downloaded.hub_sources(corpus).items():
        folder = root / downloaded.FOLDER / name
        job = Job(source, kind, key, root / downloaded.LOCK, folder)
        downloads.run(download, job)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with local files of a small corpus of all three kinds."""
    rows = {
        "text": [
            {"text": prose(n), "meta": {"redpajama_set_name": f"RedPajama{n % 2}"}}
            for n in range(300)
        ],
        "chat": [
            {"chosen": f"\n\nHuman: {prose(n)}\n\nAssistant: {prose(n + 1)}"}
            for n in range(1000, 1040, 2)
        ],
        "qa": [
            {"question": f"{n}?", "document_title": "T", "answer": prose(n), "label": 1}
            for n in range(2000, 2020)
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_bytes(lines(content))
    return tmp_path


def serve(hub: Hub, records: Path) -> None:
    """The same records on the hub, in the forms that it has them."""
    text, chat, qa = (
        [json.loads(line) for line in (records / f"{name}.jsonl").open()]
        for name in ("text", "chat", "qa")
    )
    hub.repository(SLIM, slimpajama(text))
    hub.repository(HH, hh_rlhf(chat))
    hub.repository(WIKI, wiki_qa(pd.DataFrame(qa)))


def test_hub_and_files_give_the_same_corpus(
    downloads: Downloads, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(downloads.hub, records)
    monkeypatch.chdir(records)
    corpus = Corpus.model_validate(from_hub())
    with pytest.raises(UserError, match=r"corpus\.text: .* is not downloaded"):
        build(corpus, records / "hub")
    fetch_all(downloads, from_hub(), records)
    build(Corpus.model_validate(from_files(records)), records / "files")
    part = build(corpus, records / "hub")["datasets"]["text"]
    for path in (records / "files").rglob("*.parquet"):
        other = records / "hub" / path.relative_to(records / "files")
        assert other.read_bytes() == path.read_bytes()
    commit = downloads.hub.repositories[f"datasets/{SLIM}"].names["main"]
    assert (part["source"], part["repository"]) == ("hub", SLIM)
    assert (part["revision"], part["licence"]) == (commit, "own")
    assert part["records"] == 300
    assert {sha256(path) for path in part["files"]} == set(part["files"].values())

    Path(next(iter(part["files"]))).write_bytes(b"else")
    with pytest.raises(UserError, match=r"expected .* as downloaded; delete the"):
        build(corpus, records / "hub")
    lock = records / downloaded.LOCK
    lock.write_text(lock.read_text().replace(commit, "2" * 40))
    with pytest.raises(UserError, match=rf"the lock .* says {'2' * 40}: delete"):
        downloaded.check(corpus)


def test_every_hub_source_has_a_folder_of_its_own(configuration: dict) -> None:
    corpus = configuration["corpus"]
    assert downloaded.hub_sources(Corpus.model_validate(corpus)) == {}
    slim = {"source": "hub", "hub": {"repository": SLIM, "limit": 1_500_000}}
    hh = {"source": "hub", "hub": {"repository": HH, "split": "test"}}
    corpus["text"] = slim
    corpus["chat"]["data"] = hh
    corpus["qa"]["data"] = slim  # the same records, but as something else
    found = downloaded.hub_sources(Corpus.model_validate(corpus))
    assert [(key, kind) for key, kind, _ in found.values()] == [
        ("corpus.text", "documents"),
        ("corpus.chat.data", "conversations"),
        ("corpus.qa.data", "answers"),
    ]
    # A source's domain is given to its documents when they are read.
    second = slim["hub"] | {"split": "test", "domain": "second"}
    corpus["text"] = {"source": "hub", "hub": [slim["hub"] | {"domain": "a"}, second]}
    both = downloaded.hub_sources(Corpus.model_validate(corpus))
    assert next(iter(both)) == next(iter(found))
    assert [each.source.split for each in both.values()][:2] == ["train", "test"]
    assert next(iter(found)).startswith("cerebras-SlimPajama-627B-train-first1500000-")


def test_the_workflow_downloads_once_and_is_offline_afterwards(
    records: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = tmp_path_factory.mktemp("project")
    for name in ("workflow", "profiles", "config", "envs"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, project / name)
    overlay = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    settings = from_hub() | {"qa": from_files(records)["qa"]}  # one is no download
    overlay["corpus"] |= {name: settings[name] for name in ("text", "chat", "qa")}
    (project / "config/hub.yaml").write_text(yaml.safe_dump(overlay))
    target = "results/smoke/corpus/manifest.json"
    command = ["snakemake", "--configfile", "config/hub.yaml", "--cores", "2", target]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": "workflow"}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "USE_TORCH"):
        environment.pop(name, None)
    environment |= {"HF_HOME": str(project / "home"), "NO_PROXY": "127.0.0.1"}

    def snakemake() -> str:
        run = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-3000:]
        return run.stderr

    with Hub() as hub:
        environment["HF_ENDPOINT"] = hub.endpoint
        serve(hub, records)
        snakemake()
    built = read_json(project / target)["datasets"]
    assert (built["text"]["records"], built["chat"]["records"]) == (300, 20)
    lock = yaml.safe_load((project / downloaded.LOCK).read_text())
    assert sorted(lock["datasets"]) == [f"{HH}@main", f"{SLIM}@main"]
    assert "Nothing to be done" in snakemake()  # and the hub is gone
