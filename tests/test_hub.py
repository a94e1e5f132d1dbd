"""Downloads from the hub, against a stand-in: resuming, the lock, and what can fail."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
import yaml
import zstandard

from hub_place import (
    DIALOGUES,
    QUESTIONS,
    SLIM,
    SLIM_FILES,
    SMALL,
    TEST,
    TRAIN,
    TRAIN_FILE,
    Place,
    documents,
    expected,
)
from hub_stand_in import hh_rlhf, lines, wiki_qa
from shallower.corpus import downloaded
from shallower.corpus.settings import Corpus
from shallower.files import read_json, sha256

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
