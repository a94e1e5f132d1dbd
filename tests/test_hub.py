"""Downloads from the hub, against a stand-in: resuming, the lock, and what can fail."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
import zstandard

from hub_stand_in import GATED, Downloads, hh_rlhf, lines, slimpajama, wiki_qa
from shallower.corpus import downloaded, hub_errors
from shallower.corpus.settings import Corpus, HubSource
from shallower.errors import UserError
from shallower.files import read_json, sha256

SLIM = "cerebras/SlimPajama-627B"
DOMAINS = ["RedPajamaC4", "RedPajamaGithub", "RedPajamaArXiv"]


def documents(count: int, seed: int, characters: int = 400) -> list[dict]:
    """Documents that hardly compress, so that bytes served tell what was read."""
    draw = random.Random(seed)
    return [
        {
            "text": f"{seed}/{number} {draw.randbytes(characters // 2).hex()}",
            "meta": {"redpajama_set_name": DOMAINS[number % 3]},
        }
        for number in range(count)
    ]


TRAIN = [row for n in range(6) for row in documents(600, n)]
TEST = documents(30, 99)
TEST_FILE = "test/chunk1/example_test_0.jsonl.zst"
SLIM_FILES = slimpajama(TRAIN, chunks=6) | slimpajama(TEST, "test", chunks=1)
SLIM_FILES["README.md"] = b"---\nlanguage: en\n---\n"
DIALOGUE = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: four"
DIALOGUES = [
    {"chosen": f"{DIALOGUE} {n}", "rejected": f"{DIALOGUE} no"} for n in range(9)
]
QUESTIONS = pd.DataFrame(
    {
        "question_id": ["Q0", "Q0", "Q1"],
        "question": ["how?", "how?", "who?"],
        "document_title": ["How", "How", "Who"],
        "answer": ["So.", "Thus.", "\N{SNOWMAN} me."],
        "label": [0, 1, 0],
    }
)


class Place:
    """A project's folder, and downloads into it."""

    def __init__(self, downloads: Downloads, folder: Path) -> None:
        self.downloads, self.hub, self.folder = downloads, downloads.hub, folder
        self.lock = folder / "config" / "hub.lock.yaml"
        self.output = folder / "resources"

    def arguments(self, kind: str = "documents", **source: object) -> list[str]:
        settings = {"source": "hub", "repository": SLIM} | source
        return [
            *("download", "--settings", json.dumps(settings), "--kind", kind),
            *("--key", "corpus.text", "--lock", str(self.lock)),
            *("--output", str(self.output)),
        ]

    def fetch(self, *changes: dict, **source: object) -> tuple[int, str]:
        return self.downloads.run(self.arguments(**source), **dict(*changes))

    def refused(self, *changes: dict, **source: object) -> str:
        """The one line that a failing download ends with."""
        before = (self.output / "manifest.json").exists()
        status, said = self.fetch(*changes, **source)
        *_, line = said.splitlines()
        assert status == 2, said
        assert "Traceback" not in said
        assert line.startswith("shallower download: ")
        assert (self.output / "manifest.json").exists() == before
        return line

    def rows(self) -> list[dict]:
        manifest = read_json(self.output / "manifest.json")
        parts = [self.output / part["name"] for part in manifest["parts"]]
        return pd.concat(map(pd.read_parquet, parts)).to_dict("records")

    def parts(self) -> dict[str, str]:
        return {path.name: sha256(path) for path in self.output.glob("*.parquet")}


@pytest.fixture
def place(downloads: Downloads, tmp_path: Path) -> Place:
    hub = downloads.hub
    hub.repositories.clear()
    hub.trouble = lambda line, sent: None
    hub.drop_after = None
    hub.repository(SLIM, SLIM_FILES)
    hub.requests.clear()
    hub.tokens.clear()
    hub.content_bytes = 0
    return Place(downloads, tmp_path)


def expected(rows: list[dict]) -> list[dict]:
    return [
        {
            "text": row["text"],
            "domain": row["meta"]["redpajama_set_name"],
            "title": "",
        }
        for row in rows
    ]


SMALL = {"PART_RECORDS": 500}
TRAIN_FILE = re.compile(r"GET /datasets/.*/example_train_(\d)").match


# --- what is downloaded -----------------------------------------------------------


def test_slimpajama_keeps_texts_and_domains_in_order(place: Place) -> None:
    assert place.fetch(SMALL, split="train")[0] == 0
    assert place.rows() == expected(TRAIN)
    manifest = read_json(place.output / "manifest.json")
    commit = place.hub.repositories[f"datasets/{SLIM}"].names["main"]
    assert manifest["repository"] == SLIM
    assert manifest["revision"] == commit
    assert manifest["split"] == "train"
    assert manifest["records"] == 3600
    assert [part["records"] for part in manifest["parts"]] == [500] * 7 + [100]
    assert {part["name"]: part["sha256"] for part in manifest["parts"]} == place.parts()
    lock = yaml.safe_load(place.lock.read_text())
    assert lock["datasets"][f"{SLIM}@main"]["revision"] == commit


def test_the_first_documents_are_all_that_is_read(place: Place) -> None:
    assert place.fetch(SMALL, limit=600)[0] == 0
    assert place.rows() == expected(TRAIN[:600])
    first = len(SLIM_FILES["train/chunk1/example_train_0.jsonl.zst"])
    assert place.hub.content_bytes < 3 * first  # of six


def test_a_part_also_ends_with_its_characters(place: Place) -> None:
    small = {"PART_CHARACTERS": 4100}
    assert place.fetch(small, split="test")[0] == 0
    assert place.rows() == expected(TEST)
    manifest = read_json(place.output / "manifest.json")
    assert {part["records"] for part in manifest["parts"][:-1]} == {10}


def test_hh_rlhf_dialogues_keep_their_turns(place: Place) -> None:
    place.hub.repository("Anthropic/hh-rlhf", hh_rlhf(DIALOGUES))
    source = {"repository": "Anthropic/hh-rlhf", "split": "test"}
    assert place.fetch(**source, kind="conversations")[0] == 0
    assert [row["conversation"] for row in place.rows()] == [
        row["chosen"] for row in DIALOGUES
    ]


def test_wiki_qa_from_parquet_with_a_configuration(place: Place) -> None:
    place.hub.repository("microsoft/wiki_qa", wiki_qa(QUESTIONS))
    source = {"repository": "microsoft/wiki_qa", "configuration": "default"}
    assert place.fetch(**source, split="test", kind="answers")[0] == 0
    wanted = QUESTIONS.rename(columns={"answer": "sentence", "document_title": "title"})
    wanted = wanted.astype({"label": str}).drop(columns="question_id")
    assert place.rows() == wanted[["question", "sentence", "label", "title"]].to_dict(
        "records"
    )


# --- interruptions ----------------------------------------------------------------


@pytest.fixture
def whole(place: Place) -> tuple[dict[str, str], int]:
    """Parts of an uninterrupted download, and the bytes it took."""
    other = Place(place.downloads, place.folder / "whole")
    assert other.fetch(SMALL)[0] == 0
    served, place.hub.content_bytes = place.hub.content_bytes, 0
    return other.parts(), served


def test_a_lost_connection_ends_with_a_line_and_goes_on_later(
    place: Place, whole: tuple[dict[str, str], int]
) -> None:
    parts, served = whole
    hub, limit = place.hub, int(0.9 * served)
    hub.drop_after = limit
    hub.trouble = lambda line, sent: "drop" if sent >= limit else None
    line = place.refused(SMALL)
    kept = sum(p["records"] for p in read_json(place.output / "progress.json")["parts"])
    assert f"run again: {kept:,} records are kept and it goes on from there" in line

    hub.drop_after, hub.trouble = None, lambda line, sent: None
    hub.requests.clear()
    assert place.fetch(SMALL)[0] == 0
    assert place.parts() == parts
    assert place.rows() == expected(TRAIN)
    # Beside a look at the first file, from the file before the last complete record.
    at = (kept - 1) // 600
    asked = {int(found[1]) for found in map(TRAIN_FILE, hub.requests) if found}
    assert at >= 3
    assert asked - {0, at - 1} == set(range(at, 6))


def test_a_connection_that_drops_in_between_is_taken_up_again(
    place: Place, whole: tuple[dict[str, str], int]
) -> None:
    parts, served = whole
    # One that the libraries take up by themselves, and one that lasts too long for it.
    drops = iter([(0.3, 1), (0.6, 8), (9, 0)])
    at, refusals = next(drops)
    place.hub.drop_after = int(at * served)

    def trouble(line: str, sent: int) -> str | None:
        nonlocal at, refusals
        if sent < place.hub.drop_after:
            return None
        refusals -= 1
        if refusals < 0:
            at, refusals = next(drops)
            place.hub.drop_after = int(at * served)
            return None
        return "drop"

    place.hub.trouble = trouble
    status, said = place.fetch(SMALL)
    assert status == 0, said
    assert at == 9  # all drops happened
    assert "connection lost (" in said
    assert "records are kept, trying again" in said
    assert place.parts() == parts


def test_a_busy_hub_is_asked_again(place: Place) -> None:
    answers = iter([503, 429, 500])
    place.hub.trouble = lambda line, sent: next(answers, None)
    assert place.fetch(split="test")[0] == 0
    assert place.rows() == expected(TEST)


def test_a_killed_download_goes_on_from_the_last_complete_part(
    place: Place, whole: tuple[dict[str, str], int]
) -> None:
    parts, served = whole
    reached, goes_on = threading.Event(), threading.Event()

    def hold(line: str, sent: int) -> None:
        if sent > 0.6 * served:
            reached.set()
            goes_on.wait(60)

    place.hub.trouble = hold
    run = place.downloads.start(place.arguments(), **SMALL)
    assert reached.wait(60)
    patience = time.monotonic() + 30
    while not (place.output / "progress.json").exists():
        assert time.monotonic() < patience
        time.sleep(0.01)
    line = place.refused(SMALL)  # while the first one is at it
    assert "another process is downloading this" in line
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()
    goes_on.set()
    place.hub.trouble = lambda line, sent: None

    first = read_json(place.output / "progress.json")["parts"]
    times = {p["name"]: (place.output / p["name"]).stat().st_mtime_ns for p in first}
    assert len(first) >= 2
    assert place.fetch(SMALL)[0] == 0
    assert place.parts() == parts
    for name, before in times.items():
        assert (place.output / name).stat().st_mtime_ns == before


def test_another_version_of_datasets_goes_on_by_counting(place: Place) -> None:
    assert place.fetch(SMALL)[0] == 0
    parts = place.parts()
    progress = read_json(place.output / "progress.json")
    kept = {"parts": progress["parts"][:3], "finished": False, "datasets": "4.0.0"}
    kept["state"] = {"of another": "version"}
    (place.output / "progress.json").write_text(json.dumps(progress | kept))
    (place.output / "manifest.json").unlink()
    assert place.fetch(SMALL)[0] == 0
    assert place.parts() == parts


# --- the lock ---------------------------------------------------------------------


def test_the_lock_holds_when_the_branch_moves_on(place: Place) -> None:
    assert place.fetch(split="test")[0] == 0
    newer = zstandard.compress(lines(documents(3, 5)))
    place.hub.repository(SLIM, {"test/a.jsonl.zst": newer})
    for path in place.output.iterdir():
        path.unlink()
    place.hub.requests.clear()
    assert place.fetch(split="test")[0] == 0
    assert place.rows() == expected(TEST)
    assert f"GET /api/datasets/{SLIM}" not in place.hub.requests  # for main's commit


def test_what_is_downloaded_needs_no_hub(place: Place) -> None:
    assert place.fetch(split="test")[0] == 0
    manifest = (place.output / "manifest.json").read_bytes()
    (place.output / "manifest.json").unlink()
    place.hub.requests.clear()
    assert place.fetch(split="test")[0] == 0
    assert place.hub.requests == []
    assert (place.output / "manifest.json").read_bytes() == manifest


def test_another_revision_than_the_locked_one_is_refused(place: Place) -> None:
    assert place.fetch(split="test")[0] == 0
    lock = place.lock.read_text()
    commit = place.hub.repositories[f"datasets/{SLIM}"].names["main"]
    line = place.refused(split="test", revision="0" * 40)
    assert f"{SLIM}@main is locked to {commit}" in line
    assert "delete the entry from the lock" in line
    place.lock.write_text(lock.replace(commit, "1" * 40))
    line = place.refused(split="test")
    assert f"holds revision {commit}" in line
    assert "delete the folder to download again, or restore the lock" in line
    place.lock.write_text(lock.replace(commit, "main"))
    assert "expected a revision of 40 hexadecimal digits" in place.refused(split="test")
    place.lock.unlink()
    assert "no entry for what lies in" in place.refused(split="test")


def test_a_tag_and_two_downloads_share_one_sorted_lock(place: Place) -> None:
    repository = place.hub.repositories[f"datasets/{SLIM}"]
    newest = repository.names["main"]
    older = repository.commit(
        {"test.jsonl": lines([{"text": "old"}]), "README.md": b""}, "v1"
    )
    assert place.fetch(split="test", revision="v1")[0] == 0
    assert place.rows() == [{"text": "old", "domain": "", "title": ""}]
    place.output = place.folder / "another"
    assert place.fetch(split="test")[0] == 0
    entries = yaml.safe_load(place.lock.read_text())["datasets"]
    assert {name: entry["revision"] for name, entry in entries.items()} == {
        f"{SLIM}@main": newest,
        f"{SLIM}@v1": older,
    }
    assert list(entries) == sorted(entries)


def test_a_folder_holds_one_download(place: Place) -> None:
    assert place.fetch(split="test")[0] == 0
    assert "progress.json: of another download" in place.refused(split="train")


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_part_that_is_not_as_downloaded_is_named(place: Place, harm: str) -> None:
    assert place.fetch(split="test")[0] == 0
    part = place.output / "part-00000.parquet"
    part.write_bytes(b"else") if harm == "changed" else part.unlink()
    line = place.refused(split="test")
    assert str(part) in line
    assert "delete the folder" in line


# --- what can fail ----------------------------------------------------------------


def test_no_remote_code_is_run(place: Place, tmp_path: Path) -> None:
    script = f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit(0)\n"
    name = SLIM.rpartition("/")[2]
    place.hub.repository(SLIM, SLIM_FILES | {f"{name}.py": script.encode()})
    assert "a loading script, which is never run" in place.refused()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (401, "", "`hf auth login` or set HF_TOKEN"),
        (401, "RepoNotFound", "`hf auth login` or set HF_TOKEN"),
        (403, GATED, "access is gated; ask for it on the repository's page"),
        (401, GATED, "access is gated; ask for it on the repository's page"),
        (404, "RepoNotFound", "does not exist or is not yours to read"),
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


def test_what_is_not_there_is_named_beside_what_is(place: Place) -> None:
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
    line = place.refused(SMALL, columns={"title": "source"})
    assert "corpus.text.columns.title: no record has 'source'" in line
    assert "no record has 'source'" in place.refused(SMALL, columns={"title": "source"})
    line = place.refused(repository="nobody/nothing")
    assert "nobody/nothing: the hub refuses (status 404)" in line


def test_an_empty_split_is_an_error(place: Place) -> None:
    nothing = zstandard.compress(b"")
    place.hub.repository(SLIM, SLIM_FILES | {TEST_FILE: nothing})
    assert "the split 'test' is empty" in place.refused(split="test")
    place.hub.repository("some/empty", {"README.md": b""})
    assert "some/empty" in place.refused(repository="some/empty")


def test_damaged_data_are_an_error(place: Place) -> None:
    files = {"test.jsonl": b'{"text": "good"}\n{"text": \n'}
    place.hub.repository("some/damaged", files)
    line = place.refused(repository="some/damaged", split="test")
    assert "corpus.text: some/damaged: cannot be read: " in line
    whole = SLIM_FILES["train/chunk1/example_train_0.jsonl.zst"]
    place.hub.repository("some/cut", {"test.jsonl.zst": whole[: len(whole) // 2]})
    line = place.refused(repository="some/cut", split="test")
    assert "corpus.text: some/cut: cannot be read: " in line


def test_offline_by_the_users_own_wish(place: Place) -> None:
    command = [sys.executable, "-m", "shallower", *place.arguments()]
    environment = os.environ | place.downloads.environment | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == (
        f"shallower download: corpus.text: {SLIM}: HF_HUB_OFFLINE is set; unset it to "
        "download\n"
    )
    assert place.hub.requests == []


def test_a_full_disk_says_that_parts_are_kept() -> None:
    source = HubSource(source="hub", repository=SLIM)
    with pytest.raises(OSError, match="space") as full:
        pd.DataFrame({"a": range(100_000)}).to_parquet("/dev/full")
    found = hub_errors.explained(full.value, source, "corpus.text")
    assert isinstance(found, UserError)
    assert "no space left on the disk; free some and run again" in str(found)


def test_the_token_is_sent_and_written_nowhere(place: Place) -> None:
    token = "hf_averysecrettoken"
    status, said = place.fetch({"HF_TOKEN": token}, split="test")
    assert status == 0
    assert place.hub.tokens == {token}
    assert token not in said
    for path in place.folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


def test_every_other_command_has_the_hub_offline() -> None:
    code = (
        "import sys\nfrom shallower import cli\n"
        "def run_publish(_):\n"
        "    import huggingface_hub.constants as hub\n"
        "    print(hub.HF_HUB_OFFLINE)\n"
        "cli.run_publish = run_publish\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "cli.main(['publish', '--results', 'x', '--output', 'x', '--readme', 'x'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.stdout == "True\n", run.stderr


# --- single files, names ----------------------------------------------------------


def test_one_file_of_a_model_at_its_locked_revision(place: Place) -> None:
    name, content = "meta-llama/Llama-2-7b-hf", b"a sentencepiece model"
    commit = place.hub.repository(name, {"tokenizer.model": content}, kind="models")
    path = place.folder / "resources" / "tokenizer.model"
    settings = {"repository": name, "file": "tokenizer.model", "revision": None}

    def fetch() -> tuple[int, str]:
        arguments = ["download-file", "--settings", json.dumps(settings)]
        arguments += ["--lock", str(place.lock), "--output", str(path)]
        return place.downloads.run(arguments)

    assert fetch() == (0, "")
    assert path.read_bytes() == content
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "manifest.json",
        "tokenizer.model",
    ]
    assert read_json(path.parent / "manifest.json") == {
        "repository": name,
        "file": "tokenizer.model",
        "revision": commit,
        "sha256": sha256(path),
    }
    lock = yaml.safe_load(place.lock.read_text())
    assert lock["models"][f"{name}@main"]["revision"] == commit
    place.hub.repository(name, {"tokenizer.model": b"newer"}, kind="models")
    assert fetch() == (0, "")
    assert path.read_bytes() == content
    settings["file"] = "tokenizer.json"
    status, said = fetch()
    assert status == 2
    assert f"tokenizer.hub: {name}: the hub does not have it (status 404)" in said


def test_every_hub_source_has_a_folder_of_its_own(configuration: dict) -> None:
    corpus = configuration["corpus"]
    assert downloaded.hub_sources(Corpus.model_validate(corpus)) == {}
    slim = {"source": "hub", "hub": {"repository": SLIM, "limit": 1_500_000}}
    corpus["text"] = slim
    corpus["completion"]["data"] = {
        "source": "hub",
        "hub": {"repository": SLIM, "split": "test"},
    }
    corpus["chat"]["data"] = {
        "source": "hub",
        "hub": {"repository": "Anthropic/hh-rlhf", "split": "test"},
    }
    corpus["qa"]["data"] = slim  # the same records, but as something else
    found = downloaded.hub_sources(Corpus.model_validate(corpus))
    assert [(key, kind) for key, kind, _ in found.values()] == [
        ("corpus.text", "documents"),
        ("corpus.completion.data", "documents"),
        ("corpus.chat.data", "conversations"),
        ("corpus.qa.data", "answers"),
    ]
    name, *_ = found
    assert name.startswith("cerebras-SlimPajama-627B-train-first1500000-")
